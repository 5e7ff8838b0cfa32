//go:build flink

// Package product holds the product against real Flink processes. What Flink itself says is the truth here.
package product

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/settle"
	"github.com/holdfast-dev/holdfast/test/flink/flinkproc"
)

// eachVersion runs a test with each version of Flink, one cluster at a time.
func eachVersion(t *testing.T, test func(t *testing.T, dist *flinkproc.Dist)) {
	for _, version := range flinkproc.Versions() {
		t.Run(version, func(t *testing.T) {
			dist, err := flinkproc.Distribution(t.Context(), version, t.Output())
			if err != nil {
				t.Fatal(err)
			}
			test(t, dist)
		})
	}
}

// limit bounds what a test waits for Flink to do.
func limit(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func session(t *testing.T, o flinkproc.Options) *flinkproc.Cluster {
	t.Helper()
	cluster, err := flinkproc.StartSession(limit(t), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { check(t, cluster.Close()) })
	return cluster
}

func application(t *testing.T, o flinkproc.Options, a flinkproc.Application) *flinkproc.Cluster {
	t.Helper()
	cluster, err := flinkproc.StartApplication(limit(t), o, a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { check(t, cluster.Close()) })
	return cluster
}

func control(t *testing.T) *flinkproc.Control {
	t.Helper()
	c, err := flinkproc.NewControl()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// submit starts a job and waits until it runs in earnest.
func submit(t *testing.T, cluster *flinkproc.Cluster, j flinkproc.Job) (id string, c *flinkproc.Control) {
	t.Helper()
	c = control(t)
	j.Sources = []string{c.Addr()}
	id, err := cluster.Submit(limit(t), j)
	check(t, err)
	check(t, cluster.WaitRunning(limit(t), id))
	return id, c
}

// only waits for the one job of an application cluster.
func only(t *testing.T, cluster *flinkproc.Cluster) string {
	t.Helper()
	ctx := limit(t)
	for ctx.Err() == nil {
		if jobs, err := cluster.Jobs(ctx); err == nil && len(jobs) == 1 {
			return jobs[0].ID
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatal("the application has no job")
	return ""
}

func TestSession(t *testing.T) {
	eachVersion(t, func(t *testing.T, dist *flinkproc.Dist) {
		cluster := session(t, flinkproc.Options{Dist: dist})
		p := startProduct(t, nil)
		p.attend(cluster, "session")

		runs, runsControl := submit(t, cluster, flinkproc.Job{Name: "runs", Restarts: 1000, Delay: 2 * time.Second})
		fails, failsControl := submit(t, cluster, flinkproc.Job{Name: "fails"})
		finishes, finishesControl := submit(t, cluster, flinkproc.Job{Name: "finishes"})
		for _, id := range []string{runs, fails, finishes} {
			p.until("session", id, "RUNNING Witnessed over=no attempt=1", "FAILED", "UNKNOWN")
		}

		check(t, failsControl.Boom())
		check(t, finishesControl.Finish())
		p.until("session", fails, "FAILED Witnessed over=yes attempt=1", "UNKNOWN", "FINISHED")
		p.until("session", finishes, "FINISHED Witnessed over=yes attempt=1", "UNKNOWN", "FAILED")

		// The JobManager hangs: it is held, and nothing more.
		check(t, cluster.JobManager().Pause())
		p.until("session", runs, "RUNNING Held over=no attempt=1 JobManagerUnreachable", "FAILED", "UNKNOWN")
		check(t, cluster.JobManager().Continue())
		p.until("session", runs, "RUNNING Witnessed over=no attempt=1", "FAILED", "UNKNOWN")

		// A TaskManager dies: the job restarts, and that is no failure and no new attempt.
		check(t, cluster.TaskManager(0).Kill())
		p.until("session", runs, "RESTARTING Witnessed over=no attempt=1", "FAILED", "UNKNOWN")
		check(t, cluster.TaskManager(0).Restart())
		check(t, cluster.WaitRunning(limit(t), runs))
		p.until("session", runs, "RUNNING Witnessed over=no attempt=1", "FAILED", "UNKNOWN")
		check(t, runsControl.WaitConnected(limit(t)))

		check(t, cluster.Cancel(limit(t), runs))
		p.until("session", runs, "CANCELED Witnessed over=yes attempt=1", "UNKNOWN", "FAILED")
		if got := p.history("session", runs); !slices.Contains(got, "RESTARTING") || got[len(got)-1] != "CANCELED" {
			t.Errorf("history: %v", got)
		}
		for id, state := range map[string]string{fails: "FAILED", finishes: "FINISHED"} {
			p.until("session", id, state+" Witnessed over=yes attempt=1")
		}
	})
}

// Without high availability a killed JobManager takes its jobs with it, and the next one knows nothing of them. The old job is
// not RUNNING for ever, and never FAILED: nobody saw how it ended.
func TestJobManagerKilledWithoutHighAvailability(t *testing.T) {
	eachVersion(t, func(t *testing.T, dist *flinkproc.Dist) {
		cluster := session(t, flinkproc.Options{Dist: dist})
		p := startProduct(t, nil)
		p.attend(cluster, "plain")
		old, _ := submit(t, cluster, flinkproc.Job{Name: "orders"})
		p.until("plain", old, "RUNNING Witnessed")

		check(t, cluster.JobManager().Kill())
		p.until("plain", old, "RUNNING Held over=no attempt=1 JobManagerUnreachable", "FAILED", "UNKNOWN")
		check(t, cluster.JobManager().Restart())
		check(t, cluster.AwaitJobManager(limit(t), 0))
		check(t, cluster.AwaitTaskManagers(limit(t), 1))
		replacement, _ := submit(t, cluster, flinkproc.Job{Name: "orders"})
		p.until("plain", replacement, "RUNNING Witnessed over=no attempt=1")
		v := p.until("plain", old, "UNKNOWN Inferred over=yes attempt=1", "FAILED", "FINISHED", "CANCELED")
		if v.Reason != "Replaced" && v.Reason != "Vanished" || !slices.Contains(v.Possible, "FAILED") || slices.Contains(v.Possible, "RUNNING") {
			t.Errorf("the old job is %s, possible %v", v, v.Possible)
		}
	})
}

func TestJobManagerKilledWithHighAvailability(t *testing.T) {
	eachVersion(t, func(t *testing.T, dist *flinkproc.Dist) {
		cluster := session(t, flinkproc.Options{Dist: dist, HA: true})
		p := startProduct(t, func(c *settle.Config) { c.Missing, c.Grace = time.Second, time.Second })
		p.attend(cluster, "ha")
		id, c := submit(t, cluster, flinkproc.Job{Name: "orders", Restarts: 1000, Delay: time.Second})
		p.until("ha", id, "RUNNING Witnessed over=no attempt=1")

		check(t, cluster.JobManager().Kill())
		p.until("ha", id, "RUNNING Held over=no attempt=1", "FAILED", "UNKNOWN")
		check(t, cluster.JobManager().Restart())
		check(t, cluster.WaitRunning(limit(t), id))
		p.until("ha", id, "RUNNING Witnessed over=no attempt=2", "FAILED", "UNKNOWN")
		check(t, c.WaitConnected(limit(t)))
		check(t, c.Finish())
		p.until("ha", id, "FINISHED Witnessed over=yes attempt=2", "FAILED", "UNKNOWN")
	})
}

// A standby's REST answers for the leader: the job is one, whoever is asked, and when the leader dies the standby takes it over.
func TestStandby(t *testing.T) {
	eachVersion(t, func(t *testing.T, dist *flinkproc.Dist) {
		cluster := session(t, flinkproc.Options{Dist: dist, HA: true, JobManagers: 2})
		p := startProduct(t, nil)
		p.attend(cluster, "standby")
		id, c := submit(t, cluster, flinkproc.Job{Name: "orders", Restarts: 1000, Delay: time.Second})
		p.until("standby", id, "RUNNING Witnessed over=no attempt=1", "FAILED", "UNKNOWN")
		var list struct{ Items []verdict }
		if p.get("/api/v1/jobs", &list); len(list.Items) != 1 {
			t.Errorf("one job is shown as %d", len(list.Items))
		}

		leader, err := cluster.Leader(limit(t))
		check(t, err)
		check(t, leader.Kill())
		p.until("standby", id, "RUNNING Witnessed over=no attempt=2", "FAILED", "UNKNOWN")
		check(t, c.WaitConnected(limit(t)))
		check(t, c.Finish())
		p.until("standby", id, "FINISHED Witnessed over=yes attempt=2", "FAILED", "UNKNOWN")
	})
}

// In application mode the JobManager stays after its job here, so that every ending must be witnessed.
func TestApplicationThatStays(t *testing.T) {
	eachVersion(t, func(t *testing.T, dist *flinkproc.Dist) {
		for state, end := range map[string]func(*flinkproc.Cluster, *flinkproc.Control, string) error{
			"FINISHED": func(_ *flinkproc.Cluster, c *flinkproc.Control, _ string) error { return c.Finish() },
			"FAILED":   func(_ *flinkproc.Cluster, c *flinkproc.Control, _ string) error { return c.Boom() },
			"CANCELED": func(f *flinkproc.Cluster, _ *flinkproc.Control, id string) error { return f.Cancel(limit(t), id) },
		} {
			t.Run(state, func(t *testing.T) {
				c := control(t)
				cluster := application(t, flinkproc.Options{
					Dist: dist, Config: map[string]string{"execution.shutdown-on-application-finish": "false"},
				}, flinkproc.Application{Job: flinkproc.Job{Name: "orders", Sources: []string{c.Addr()}}})
				p := startProduct(t, nil)
				p.attend(cluster, "app")
				id := only(t, cluster)
				check(t, cluster.WaitRunning(limit(t), id))
				p.until("app", id, "RUNNING Witnessed over=no attempt=1", "FAILED", "UNKNOWN")
				check(t, end(cluster, c, id))
				p.until("app", id, state+" Witnessed over=yes attempt=1", "UNKNOWN")
			})
		}
	})
}

// By default the JobManager goes with its job, 0 to 2 s later, so that asking it may come too late. Then the last thing known is
// held; another ending than the true one is never shown.
func TestApplicationThatGoes(t *testing.T) {
	eachVersion(t, func(t *testing.T, dist *flinkproc.Dist) {
		c := control(t)
		cluster := application(t, flinkproc.Options{Dist: dist}, flinkproc.Application{Job: flinkproc.Job{Name: "orders", Sources: []string{c.Addr()}}})
		p := startProduct(t, nil)
		p.attend(cluster, "app")
		id := only(t, cluster)
		check(t, cluster.WaitRunning(limit(t), id))
		p.until("app", id, "RUNNING Witnessed over=no attempt=1", "FAILED", "UNKNOWN")
		check(t, c.Finish())
		select {
		case <-cluster.JobManager().Ended():
		case <-limit(t).Done():
			t.Fatal("the JobManager does not end")
		}
		// Longer than the hold time: by then the silence has had its consequence, and no ending may be guessed from it.
		for end := time.Now().Add(12 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			if v := p.verdict("app", id); v.State != "RUNNING" && v.State != "FINISHED" {
				t.Fatalf("a job that finished is shown as %s", v)
			}
		}
		switch v := p.verdict("app", id); {
		case v.State == "FINISHED" && v.Certainty == "Witnessed" && v.Over == "yes":
		case v.State == "RUNNING" && v.Certainty == "Held" && v.Over == "no":
			t.Logf("the ending was missed, and the job is held: %s", v)
		default:
			t.Errorf("after its end the job is shown as %s", v)
		}
	})
}
