//go:build flink

package realflink

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/test/flink/flinkproc"
)

// patience bounds one test with its cluster. It is what a busy machine with two cores needs, several times over.
const patience = 3 * time.Minute

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	for _, version := range flinkproc.Versions() {
		dist, err := flinkproc.Distribution(context.Background(), version, os.Stderr)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		dists = append(dists, dist)
	}
	defer closeShared()
	return m.Run()
}

// dists are the versions to test with.
var dists []*flinkproc.Dist

// shared is the session cluster that tests share, nil if there is none now.
var shared *flinkproc.Cluster

// eachVersion runs a test for each version of Flink.
func eachVersion(t *testing.T, test func(ctx context.Context, t *testing.T, dist *flinkproc.Dist)) {
	for _, dist := range dists {
		t.Run(dist.Version, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			test(ctx, t, dist)
		})
	}
}

// sharedSession gives a session cluster that earlier tests may have used. A test that harms more than its own jobs
// starts one of its own.
func sharedSession(ctx context.Context, t *testing.T, dist *flinkproc.Dist) *flinkproc.Cluster {
	t.Helper()
	if shared != nil && shared.Version() == dist.Version {
		return shared
	}
	closeShared()
	cluster, err := flinkproc.StartSession(ctx, flinkproc.Options{Dist: dist})
	if err != nil {
		t.Fatal(err)
	}
	shared = cluster
	return cluster
}

func closeShared() {
	if shared != nil {
		shared.Close()
		shared = nil
	}
}

// startSession starts a session cluster for this test alone.
func startSession(ctx context.Context, t *testing.T, options flinkproc.Options) *flinkproc.Cluster {
	t.Helper()
	return own(t, &options, func() (*flinkproc.Cluster, error) { return flinkproc.StartSession(ctx, options) })
}

// startApplication starts an application cluster for this test alone.
func startApplication(ctx context.Context, t *testing.T, options flinkproc.Options, application flinkproc.Application) *flinkproc.Cluster {
	t.Helper()
	return own(t, &options, func() (*flinkproc.Cluster, error) {
		return flinkproc.StartApplication(ctx, options, application)
	})
}

// own makes room for a cluster, starts it, and ends it with the test. Its folder stays if the test fails.
func own(t *testing.T, options *flinkproc.Options, start func() (*flinkproc.Cluster, error)) *flinkproc.Cluster {
	t.Helper()
	closeShared()
	dir, err := os.MkdirTemp("", "holdfast-flink-")
	if err != nil {
		t.Fatal(err)
	}
	options.Dir = dir
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the cluster's configuration and logs are in %s", dir)
		} else if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	cluster, err := start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cluster.Close(); err != nil {
			t.Error(err)
		}
	})
	return cluster
}

// quickHeartbeat is for tests that restart a JobManager without high availability: the new one looks like the old one to
// its TaskManagers, which come to it only when heartbeat.timeout is over, 50 s by default.
var quickHeartbeat = map[string]string{"heartbeat.timeout": "5s"}

// newControl gives the end of a socket that steers a job.
func newControl(t *testing.T) *flinkproc.Control {
	t.Helper()
	control, err := flinkproc.NewControl()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { control.Close() })
	return control
}

// submit starts a job in a session cluster and waits until it runs and listens to its control.
func submit(ctx context.Context, t *testing.T, cluster *flinkproc.Cluster, control *flinkproc.Control, spec flinkproc.Job) (id string) {
	t.Helper()
	spec.Sources = []string{control.Addr()}
	id, err := cluster.Submit(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	awaitRunning(ctx, t, cluster, control, id)
	return id
}

func awaitRunning(ctx context.Context, t *testing.T, cluster *flinkproc.Cluster, control *flinkproc.Control, id string) {
	t.Helper()
	if err := cluster.WaitRunning(ctx, id); err != nil {
		t.Fatal(err)
	}
	if err := control.WaitConnected(ctx); err != nil {
		t.Fatal(err)
	}
}

func awaitState(ctx context.Context, t *testing.T, cluster *flinkproc.Cluster, id string, want job.State) {
	t.Helper()
	if err := cluster.WaitState(ctx, id, want); err != nil {
		t.Fatal(err)
	}
}

// jobInfo is what Flink lists of a job now.
func jobInfo(ctx context.Context, t *testing.T, cluster *flinkproc.Cluster, id string) flinkproc.JobInfo {
	t.Helper()
	info, err := cluster.Job(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// must fails the test at the first error.
func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}
