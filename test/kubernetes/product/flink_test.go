//go:build kubernetes

package product

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/holdfast-dev/holdfast/test/flink/flinkproc"
	"github.com/holdfast-dev/holdfast/test/kubernetes/flinkpod"
	"github.com/holdfast-dev/holdfast/test/kubernetes/rig"
)

// eachVersion runs a test once for each version of Flink.
func eachVersion(t *testing.T, test func(t *testing.T, dist *flinkproc.Dist)) {
	for _, dist := range cluster.Flinks {
		t.Run(dist.Version, func(t *testing.T) { test(t, dist) })
	}
}

// limit is a context for one step of a test. It ends with the test, too, so nobody need end it. It is longer than what helm waits for by
// itself (site.install), since helm says what it waited for.
func limit(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	context.AfterFunc(ctx, cancel)
	return ctx
}

// running is a Flink cluster of a test, with the control of its job where it has one.
type running struct {
	*flinkpod.Cluster
	flink   *flinkproc.REST
	control *flinkproc.Control
	job     string // the id of an application's job
	at      time.Time
}

func (r *running) jobs() flinkJobs { return flinkJobs{r.Namespace(), r.ID()} }

func control(t *testing.T) *flinkproc.Control {
	t.Helper()
	c, err := cluster.NewControl()
	if errors.Is(err, rig.ErrNoWayBack) {
		t.Skip(err)
	}
	check(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// application starts a native application cluster and waits until Flink says that its job runs.
func application(t *testing.T, options flinkpod.Options, job flinkproc.Job) *running {
	t.Helper()
	c := control(t)
	job.Name = cmp.Or(job.Name, "orders")
	job.Sources = []string{c.Addr()}
	flink, err := cluster.StartApplication(limit(t), options, flinkpod.Application{Job: job})
	check(t, err)
	r := &running{Cluster: flink, control: c}
	r.removeAfter(t)
	r.await(t)
	return r
}

func (r *running) removeAfter(t *testing.T) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := r.Remove(ctx); err != nil {
			t.Error(err)
		}
	})
}

// await waits until Flink says that the application's job runs, and remembers when that was.
func (r *running) await(t *testing.T) {
	t.Helper()
	var err error
	r.flink, err = r.AwaitREST(limit(t))
	check(t, err)
	r.job, err = r.AwaitJob(limit(t), r.flink)
	check(t, err)
	r.at = time.Now()
}

// jobManager is the newest JobManager pod that is not going away.
func (r *running) jobManager(t *testing.T) corev1.Pod {
	t.Helper()
	pods, err := r.JobManagers(limit(t))
	check(t, err)
	pods = slices.DeleteFunc(pods, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil })
	if len(pods) == 0 {
		t.Fatalf("%s has no JobManager's pod", r.ID())
	}
	return slices.MaxFunc(pods, func(a, b corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
}

// isInjected says whether a pod has an agent, as a native sidecar.
func isInjected(pod corev1.Pod) bool {
	return pod.Labels["holdfast.dev/injected"] == "true" &&
		slices.ContainsFunc(pod.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == "holdfast-agent" })
}

// namespace makes a namespace for one test, in which Flink may make pods. Labels are such as those of Pod Security.
func namespace(t *testing.T, name string, labels map[string]string) string {
	t.Helper()
	ns, err := cluster.NewNamespace(limit(t), name, labels)
	check(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if t.Failed() {
			out, _ := cluster.Run(ctx, "kubectl", "get", "pods,events", "-n", ns, "-o", "wide")
			t.Log(out)
		}
		if err := cluster.RemoveNamespace(ctx, ns); err != nil {
			t.Error(err)
		}
	})
	return ns
}
