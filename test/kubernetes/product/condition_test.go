//go:build kubernetes

package product

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/test/flink/flinkproc"
	"github.com/holdfast-dev/holdfast/test/kubernetes/flinkpod"
)

// condition is what is shown of a Flink cluster as a whole.
type condition struct{ Condition, Certainty, Over, Reason, Message string }

func (c condition) String() string {
	return fmt.Sprintf("%s %s over=%s %s", c.Condition, c.Certainty, c.Over, c.Reason)
}

// conditionIs waits until a cluster's condition is shown as wanted (a beginning of condition.String), for as long as other tests may keep the
// aggregators from the API server: nothing is concluded meanwhile. What it may never be shown as on the way fails the test, and so does any job of
// the cluster: main() has submitted none.
func conditionIs(t *testing.T, r *running, want string, never ...string) (now condition) {
	t.Helper()
	begin := time.Now()
	eventually(t, 4*(outage(t)+time.Minute)+3*time.Minute, r.ID()+" is shown as "+want, func(ctx context.Context) error {
		var list struct{ Items []condition }
		err := fmt.Errorf("no replica can be asked")
		for _, replica := range holdfast.replicas(ctx) {
			if err = replica.ask(ctx, fmt.Sprintf("/api/v1/clusters?namespace=%s&cluster=%s", r.Namespace(), r.ID()), &list); err == nil {
				break
			}
		}
		if err != nil || len(list.Items) != 1 {
			return fmt.Errorf("%d clusters are shown: %w", len(list.Items), err)
		}
		if list.Items[0] != now {
			now = list.Items[0]
			t.Logf("%6.2f s  %s: %s (%s)", time.Since(begin).Seconds(), r.ID(), now, now.Message)
		}
		for _, other := range never {
			if strings.HasPrefix(now.String(), other) {
				t.Fatalf("%s is shown as %s (%s)", r.ID(), now, now.Message)
			}
		}
		if jobs, err := holdfast.jobs(ctx, r.jobs()); err == nil && len(jobs) > 0 {
			t.Fatalf("%s has a job all of a sudden: %v", r.ID(), jobs)
		}
		if !strings.HasPrefix(now.String(), want) {
			return fmt.Errorf("it is shown as %s (%s)", now, now.Message)
		}
		return nil
	})
	return now
}

// An application whose main() fails, or submits nothing, or whose pod cannot start has no job id, so there is no verdict to look at. What
// is shown of the cluster says what is wrong.
func TestConditionsOfClustersWithoutAJob(t *testing.T) {
	t.Parallel()
	start := func(t *testing.T, options flinkpod.Options, job flinkproc.Job) *running {
		t.Helper()
		options.Namespace = namespace(t, "condition", nil)
		flink, err := cluster.StartApplication(limit(t), options, flinkpod.Application{Job: job})
		check(t, err)
		r := &running{Cluster: flink}
		r.removeAfter(t)
		return r
	}
	newest := cluster.Flinks[len(cluster.Flinks)-1]

	t.Run("main throws", func(t *testing.T) {
		t.Parallel()
		r := start(t, flinkpod.Options{Dist: cluster.Flinks[0], ID: "throws"}, flinkproc.Job{Throws: true})
		conditionIs(t, r, "CrashLoop Inferred over=no", "JobManagerDown Inferred over=yes", "ImagePull")
	})
	t.Run("main throws and Flink goes", func(t *testing.T) {
		t.Parallel()
		// Flink 2.3 takes its Deployment away at once, within 10 s of its start.
		r := start(t, flinkpod.Options{Dist: newest, ID: "goes"}, flinkproc.Job{Throws: true})
		conditionIs(t, r, "JobManagerDown Inferred over=yes", "CrashLoop", "ImagePull")
	})
	t.Run("main submits nothing", func(t *testing.T) {
		t.Parallel()
		r := start(t, flinkpod.Options{Dist: newest, ID: "idle"}, flinkproc.Job{Idle: true})
		conditionIs(t, r, "NoJob Witnessed over=no", "CrashLoop", "ImagePull", "JobManagerDown Inferred over=yes")
		check(t, r.Remove(limit(t)))
		conditionIs(t, r, "JobManagerDown Inferred over=yes", "CrashLoop", "ImagePull")
	})
	t.Run("no image", func(t *testing.T) {
		t.Parallel()
		r := start(t, flinkpod.Options{Dist: newest, ID: "imageless", Config: map[string]string{
			"kubernetes.container.image.ref": "registry.invalid/flink:none",
		}}, flinkproc.Job{Idle: true})
		conditionIs(t, r, "ImagePull Inferred over=no", "CrashLoop", "NoJob", "Ready")
	})
}
