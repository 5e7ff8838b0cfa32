//go:build flink

package realflink

import (
	"context"
	"fmt"
	"testing"

	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/test/flink/flinkproc"
)

const jobID = "0123456789abcdef0123456789abcdef"

// An application's JobManager ends with its job, and tells how by its exit code: 163 for a failed one, 0 otherwise.
func TestApplicationEnds(t *testing.T) {
	ends := []struct {
		name string
		end  func(context.Context, *flinkproc.Cluster, *flinkproc.Control) error
		want int
	}{
		{"finished", func(_ context.Context, _ *flinkproc.Cluster, control *flinkproc.Control) error {
			return control.Finish()
		}, 0},
		{"failed", func(_ context.Context, _ *flinkproc.Cluster, control *flinkproc.Control) error { return control.Boom() }, 163},
		{"canceled", func(ctx context.Context, cluster *flinkproc.Cluster, _ *flinkproc.Control) error {
			return cluster.Cancel(ctx, jobID)
		}, 0},
	}
	eachVersion(t, func(ctx context.Context, t *testing.T, dist *flinkproc.Dist) {
		for i, end := range ends {
			attached := i%2 == 0 // each way at least once
			t.Run(fmt.Sprintf("%s attached=%v", end.name, attached), func(t *testing.T) {
				control := newControl(t)
				cluster := startApplication(ctx, t, flinkproc.Options{Dist: dist}, flinkproc.Application{
					JobID:    jobID,
					Job:      flinkproc.Job{Sources: []string{control.Addr()}},
					Attached: attached,
				})
				awaitRunning(ctx, t, cluster, control, jobID)
				must(t, end.end(ctx, cluster, control))
				select {
				case <-cluster.JobManager().Ended():
				case <-ctx.Done():
					t.Fatal("the JobManager outlives its job")
				}
				if code, _ := cluster.JobManager().ExitCode(); code != end.want {
					t.Errorf("the JobManager ended with exit code %d, want %d", code, end.want)
				}
			})
		}
	})
}

// One program may run several jobs.
func TestApplicationWithTwoJobs(t *testing.T) {
	eachVersion(t, func(ctx context.Context, t *testing.T, dist *flinkproc.Dist) {
		first, second := newControl(t), newControl(t)
		cluster := startApplication(ctx, t, flinkproc.Options{Dist: dist}, flinkproc.Application{
			Job: flinkproc.Job{Sources: []string{first.Addr(), second.Addr()}, Async: true},
		})
		must(t, first.WaitConnected(ctx), second.WaitConnected(ctx))
		jobs, err := cluster.Jobs(ctx)
		must(t, err)
		names := map[string]string{}
		for _, info := range jobs {
			names[info.Name] = info.ID
		}
		if len(jobs) != 2 || names["controlled"] == "" || names["controlled-2"] == "" {
			t.Fatalf("Flink lists %+v, want controlled and controlled-2", jobs)
		}
		must(t, first.Finish())
		awaitState(ctx, t, cluster, names["controlled"], job.Finished)
		awaitRunning(ctx, t, cluster, second, names["controlled-2"])
	})
}

// Without high availability a restarted application runs its program again: a job with a fixed id is a new attempt
// of that id.
func TestApplicationRunsAgain(t *testing.T) {
	eachVersion(t, func(ctx context.Context, t *testing.T, dist *flinkproc.Dist) {
		testApplicationRestart(ctx, t, flinkproc.Options{Dist: dist, Config: quickHeartbeat})
	})
}

// With high availability it recovers the job that it finds in ZooKeeper.
func TestApplicationTakesOver(t *testing.T) {
	eachVersion(t, func(ctx context.Context, t *testing.T, dist *flinkproc.Dist) {
		testApplicationRestart(ctx, t, flinkproc.Options{Dist: dist, HA: true})
	})
}

func testApplicationRestart(ctx context.Context, t *testing.T, options flinkproc.Options) {
	control := newControl(t)
	cluster := startApplication(ctx, t, options, flinkproc.Application{
		JobID: jobID,
		Job:   flinkproc.Job{Sources: []string{control.Addr()}},
	})
	awaitRunning(ctx, t, cluster, control, jobID)
	before := jobInfo(ctx, t, cluster, jobID)
	must(t, cluster.JobManager().Restart())
	awaitRunning(ctx, t, cluster, control, jobID)
	if after := jobInfo(ctx, t, cluster, jobID); after.StartTime == before.StartTime {
		t.Errorf("the start-time is still %d after a restart", before.StartTime)
	}
	if _, ever := control.Connections(); ever != 2 {
		t.Errorf("the job has connected %d times, want 2", ever)
	}
}

// A standby takes the job over when the leader is killed, and answers for it before and after.
func TestStandbyTakesOver(t *testing.T) {
	eachVersion(t, func(ctx context.Context, t *testing.T, dist *flinkproc.Dist) {
		control := newControl(t)
		cluster := startApplication(ctx, t, flinkproc.Options{Dist: dist, HA: true, JobManagers: 2}, flinkproc.Application{
			JobID: jobID,
			Job:   flinkproc.Job{Sources: []string{control.Addr()}},
		})
		awaitRunning(ctx, t, cluster, control, jobID)
		before := jobInfo(ctx, t, cluster, jobID)
		must(t, cluster.JobManager().Kill())
		awaitRunning(ctx, t, cluster, control, jobID)
		if after := jobInfo(ctx, t, cluster, jobID); after.StartTime == before.StartTime {
			t.Errorf("the start-time is still %d after a take-over", before.StartTime)
		}
		must(t, control.Finish())
		select {
		case <-cluster.JobManagers()[1].Ended():
		case <-ctx.Done():
			t.Fatal("the standby outlives the job that it took over")
		}
		if code, _ := cluster.JobManagers()[1].ExitCode(); code != 0 {
			t.Errorf("the standby ended with exit code %d, want 0", code)
		}
	})
}
