//go:build kubernetes

package product

import (
	"context"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfast-dev/holdfast/test/flink/flinkproc"
	"github.com/holdfast-dev/holdfast/test/kubernetes/flinkpod"
)

// As StreamPark starts them: nobody but the label says that there is a Holdfast.
func TestNativeApplication(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, dist *flinkproc.Dist) {
		ns := namespace(t, "native", nil)
		r := application(t, flinkpod.Options{Dist: dist, Namespace: ns, ID: "orders"}, flinkproc.Job{})
		v := holdfast.until(t, r.jobs(), 5*time.Second, "RUNNING Witnessed over=no attempt=1", "FAILED", "UNKNOWN")
		t.Logf("shown %.1f s after Flink's own RUNNING", time.Since(r.at).Seconds())
		if v.JobID != r.job || v.Name != "orders" {
			t.Errorf("job %s (%s) is shown, and Flink's is %s", v.JobID, v.Name, r.job)
		}
		if pod := r.jobManager(t); !isInjected(pod) {
			t.Errorf("pod %s has no agent", pod.Name)
		}

		// Canceled, and started again under the same cluster id.
		check(t, r.flink.Cancel(limit(t), r.job))
		holdfast.until(t, r.jobs(), time.Minute, "CANCELED Witnessed over=yes", "FAILED", "UNKNOWN")
		check(t, r.Remove(limit(t)))
		again := application(t, flinkpod.Options{Dist: dist, Namespace: ns, ID: "orders"}, flinkproc.Job{})
		holdfast.until(t, again.jobs(), 5*time.Second, "RUNNING Witnessed over=no", "FAILED")
	})
}

// Without high availability a JobManager that is replaced begins its job anew, under another id.
func TestPodDeleted(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, dist *flinkproc.Dist) {
		ns := namespace(t, "deleted", nil)
		r := application(t, flinkpod.Options{Dist: dist, Namespace: ns, ID: "orders"}, flinkproc.Job{})
		first := holdfast.until(t, r.jobs(), 10*time.Second, "RUNNING Witnessed over=no attempt=1", "FAILED", "UNKNOWN")
		record := holdfast.record(t, r.jobs())
		deletePod(t, ns, r.jobManager(t).Name)
		eventually(t, 2*time.Minute, "another job runs and is shown", func(ctx context.Context) error {
			return another(ctx, r, first.JobID, "RUNNING Witnessed over=no attempt=1")
		})
		record.never(t, "FAILED")
	})
}

func TestPodDeletedWithHighAvailability(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, dist *flinkproc.Dist) {
		ns := namespace(t, "deleted-ha", nil)
		r := application(t, flinkpod.Options{Dist: dist, Namespace: ns, ID: "orders", HA: true}, flinkproc.Job{Restarts: 1000, Delay: time.Second})
		holdfast.until(t, r.jobs(), 10*time.Second, "RUNNING Witnessed over=no attempt=1", "FAILED", "UNKNOWN")
		record := holdfast.record(t, r.jobs())
		deletePod(t, ns, r.jobManager(t).Name)
		holdfast.until(t, r.jobs(), 2*time.Minute, "RUNNING Witnessed over=no attempt=2", "FAILED", "UNKNOWN")
		record.never(t, "FAILED", "UNKNOWN")
	})
}

func deletePod(t *testing.T, namespace, name string) {
	t.Helper()
	check(t, cluster.Set.CoreV1().Pods(namespace).Delete(limit(t), name, metav1.DeleteOptions{}))
}
