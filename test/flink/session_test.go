//go:build flink

package realflink

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/test/flink/flinkproc"
)

// What changes nothing but jobs happens in one session cluster.
func TestSession(t *testing.T) {
	eachVersion(t, func(ctx context.Context, t *testing.T, dist *flinkproc.Dist) {
		t.Run("JobEnds", func(t *testing.T) { testJobEnds(ctx, t, dist) })
		t.Run("NobodyListens", func(t *testing.T) { testNobodyListens(ctx, t, dist) })
		t.Run("UnknownJob", func(t *testing.T) { testUnknownJob(ctx, t, dist) })
		t.Run("JobRestarts", func(t *testing.T) { testJobRestarts(ctx, t, dist) })
		t.Run("JobManagerPaused", func(t *testing.T) { testJobManagerPaused(ctx, t, dist) })
	})
}

// Every way in which a job of a session cluster ends, and that Flink goes on telling of it afterwards.
func testJobEnds(ctx context.Context, t *testing.T, dist *flinkproc.Dist) {
	ends := []struct {
		name string
		end  func(context.Context, *flinkproc.Cluster, *flinkproc.Control, string) error
		want job.State
	}{
		{"finished", func(_ context.Context, _ *flinkproc.Cluster, control *flinkproc.Control, _ string) error {
			return control.Finish()
		}, job.Finished},
		{"failed", func(_ context.Context, _ *flinkproc.Cluster, control *flinkproc.Control, _ string) error {
			return control.Boom()
		}, job.Failed},
		{"canceled", func(ctx context.Context, cluster *flinkproc.Cluster, _ *flinkproc.Control, id string) error {
			return cluster.Cancel(ctx, id)
		}, job.Canceled},
	}
	for _, end := range ends {
		t.Run(end.name, func(t *testing.T) {
			cluster, control := sharedSession(ctx, t, dist), newControl(t)
			id := submit(ctx, t, cluster, control, flinkproc.Job{Name: end.name})
			if info := jobInfo(ctx, t, cluster, id); info.Name != end.name || info.EndTime != -1 {
				t.Errorf("Flink lists a running job as %+v", info)
			}
			must(t, end.end(ctx, cluster, control, id))
			awaitState(ctx, t, cluster, id, end.want)
			if info := jobInfo(ctx, t, cluster, id); info.State != end.want || info.EndTime < info.StartTime {
				t.Errorf("Flink lists a job that has ended as %+v", info)
			}
		})
	}
}

// A job that cannot reach its source is known to Flink, as a failed one.
func testNobodyListens(ctx context.Context, t *testing.T, dist *flinkproc.Dist) {
	cluster, control := sharedSession(ctx, t, dist), newControl(t)
	must(t, control.Close())
	id, err := cluster.Submit(ctx, flinkproc.Job{Sources: []string{control.Addr()}})
	must(t, err)
	awaitState(ctx, t, cluster, id, job.Failed)
}

func testUnknownJob(ctx context.Context, t *testing.T, dist *flinkproc.Dist) {
	cluster := sharedSession(ctx, t, dist)
	const id = "deadbeefdeadbeefdeadbeefdeadbeef"
	if state, err := cluster.State(ctx, id); !errors.Is(err, flinkproc.ErrNoJob) {
		t.Errorf("State of a job that never was: %v, %v, want ErrNoJob", state, err)
	}
	if info, err := cluster.Job(ctx, id); !errors.Is(err, flinkproc.ErrNoJob) {
		t.Errorf("Job that never was: %+v, %v, want ErrNoJob", info, err)
	}
}

// A restart by the restart strategy is no new attempt: the JobMaster lives on, and with it the start-time.
func testJobRestarts(ctx context.Context, t *testing.T, dist *flinkproc.Dist) {
	cluster, control := sharedSession(ctx, t, dist), newControl(t)
	id := submit(ctx, t, cluster, control, flinkproc.Job{Restarts: 1, Delay: time.Second})
	before := jobInfo(ctx, t, cluster, id)

	must(t, control.Boom())
	awaitState(ctx, t, cluster, id, job.Restarting)
	awaitRunning(ctx, t, cluster, control, id)
	if after := jobInfo(ctx, t, cluster, id); after.StartTime != before.StartTime {
		t.Errorf("the start-time went from %d to %d by a restart", before.StartTime, after.StartTime)
	}
	if _, ever := control.Connections(); ever != 2 {
		t.Errorf("the job has connected %d times, want 2", ever)
	}

	must(t, control.Boom())
	awaitState(ctx, t, cluster, id, job.Failed)
}

// A JobManager that stands still answers nobody, and that is all: its jobs run on.
func testJobManagerPaused(ctx context.Context, t *testing.T, dist *flinkproc.Dist) {
	cluster, control := sharedSession(ctx, t, dist), newControl(t)
	id := submit(ctx, t, cluster, control, flinkproc.Job{})
	before := jobInfo(ctx, t, cluster, id)

	must(t, cluster.JobManager().Pause())
	t.Cleanup(func() { cluster.JobManager().Continue() })
	if state, err := cluster.State(ctx, id); err == nil || errors.Is(err, flinkproc.ErrNoJob) {
		t.Errorf("a paused JobManager says %v, %v, want no answer", state, err)
	}
	if live, _ := control.Connections(); live != 1 {
		t.Errorf("%d tasks are connected while the JobManager is paused, want 1", live)
	}

	must(t, cluster.JobManager().Continue())
	awaitRunning(ctx, t, cluster, control, id)
	if after := jobInfo(ctx, t, cluster, id); after.StartTime != before.StartTime {
		t.Errorf("the start-time went from %d to %d by a pause", before.StartTime, after.StartTime)
	}
	must(t, control.Finish())
	awaitState(ctx, t, cluster, id, job.Finished)
}

// Without a TaskManager a job that may not restart is over.
func TestTaskManagerKilled(t *testing.T) {
	eachVersion(t, func(ctx context.Context, t *testing.T, dist *flinkproc.Dist) {
		cluster, control := startSession(ctx, t, flinkproc.Options{Dist: dist}), newControl(t)
		id := submit(ctx, t, cluster, control, flinkproc.Job{})
		must(t, cluster.TaskManager(0).Kill())
		awaitState(ctx, t, cluster, id, job.Failed)

		// The same one comes back, and takes the next job.
		must(t, cluster.TaskManager(0).Restart(), cluster.AwaitTaskManagers(ctx, 1))
		next := newControl(t)
		id = submit(ctx, t, cluster, next, flinkproc.Job{Restarts: 100, Delay: time.Second})

		// A job that may restart waits for another TaskManager, whichever it is.
		must(t, cluster.TaskManager(0).Kill())
		awaitState(ctx, t, cluster, id, job.Restarting)
		_, err := cluster.StartTaskManager()
		must(t, err)
		awaitRunning(ctx, t, cluster, next, id)
		must(t, next.Finish())
		awaitState(ctx, t, cluster, id, job.Finished)
	})
}

// A session JobManager without high availability forgets its jobs when it is killed.
func TestJobManagerForgets(t *testing.T) {
	eachVersion(t, func(ctx context.Context, t *testing.T, dist *flinkproc.Dist) {
		cluster, control := startSession(ctx, t, flinkproc.Options{Dist: dist, Config: quickHeartbeat}), newControl(t)
		id := submit(ctx, t, cluster, control, flinkproc.Job{})
		url := cluster.URL()
		must(t, cluster.JobManager().Kill())
		if state, err := cluster.State(ctx, id); !errors.Is(err, flinkproc.ErrNotRunning) {
			t.Errorf("a killed JobManager says %v, %v, want ErrNotRunning", state, err)
		}
		must(t, cluster.JobManager().Restart(), cluster.AwaitJobManager(ctx, 0))
		if cluster.URL() != url {
			t.Errorf("the JobManager came back at %s, not at %s", cluster.URL(), url)
		}
		if state, err := cluster.State(ctx, id); !errors.Is(err, flinkproc.ErrNoJob) {
			t.Errorf("a new JobManager says %v, %v of an old job, want ErrNoJob", state, err)
		}
		must(t, cluster.AwaitTaskManagers(ctx, 1))
		next := newControl(t)
		submit(ctx, t, cluster, next, flinkproc.Job{})
	})
}

// With high availability a session JobManager that comes back takes its jobs over: the same ids, each a new attempt.
func TestJobManagerTakesOver(t *testing.T) {
	eachVersion(t, func(ctx context.Context, t *testing.T, dist *flinkproc.Dist) {
		cluster, control := startSession(ctx, t, flinkproc.Options{Dist: dist, HA: true}), newControl(t)
		id := submit(ctx, t, cluster, control, flinkproc.Job{})
		before := jobInfo(ctx, t, cluster, id)
		must(t, cluster.JobManager().Restart())
		awaitRunning(ctx, t, cluster, control, id)
		if after := jobInfo(ctx, t, cluster, id); after.StartTime == before.StartTime {
			t.Errorf("the start-time is still %d after a take-over", before.StartTime)
		}
		must(t, control.Finish())
		awaitState(ctx, t, cluster, id, job.Finished)
	})
}
