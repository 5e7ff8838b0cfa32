//go:build kubernetes

package realkubernetes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfast-dev/holdfast/test/flink/flinkproc"
	"github.com/holdfast-dev/holdfast/test/kubernetes/flinkpod"
	"github.com/holdfast-dev/holdfast/test/kubernetes/node"
	"github.com/holdfast-dev/holdfast/test/kubernetes/rig"
)

// patience bounds one test. It is what a busy machine with two cores needs, several times over.
const patience = 5 * time.Minute

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) (code int) {
	if os.Getenv(crashing) != "" {
		return m.Run() // of one test, which boots its own node
	}
	var err error
	if cluster, err = rig.Open(context.Background(), os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		if err := cluster.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}()
	return m.Run()
}

// cluster is the one that all tests share. Each has a namespace of its own.
var cluster *rig.Rig

// bounded gives a context for one test.
func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// ownNode gives the node, and skips a test that would harm a cluster which is not ours.
func ownNode(t *testing.T) *node.Node {
	t.Helper()
	if cluster.Node == nil {
		t.Skip("this test needs the node itself, and KUBECONFIG names a cluster that we did not boot")
	}
	return cluster.Node
}

// newNamespace makes a namespace for this test.
func newNamespace(ctx context.Context, t *testing.T) string {
	t.Helper()
	name, err := cluster.NewNamespace(ctx, "rig", nil)
	must(t, err)
	t.Cleanup(func() { must(t, cluster.RemoveNamespace(context.WithoutCancel(ctx), name)) })
	return name
}

// newControl gives the end of a socket that steers a job.
func newControl(t *testing.T) *flinkproc.Control {
	t.Helper()
	control, err := cluster.NewControl()
	if errors.Is(err, rig.ErrNoWayBack) {
		t.Skip(err)
	}
	must(t, err)
	t.Cleanup(func() { control.Close() })
	return control
}

// eachFlink runs a test for each version of Flink.
func eachFlink(t *testing.T, test func(ctx context.Context, t *testing.T, dist *flinkproc.Dist)) {
	for _, dist := range cluster.Flinks {
		t.Run(dist.Version, func(t *testing.T) { test(bounded(t), t, dist) })
	}
}

// removed sees to it that a Flink cluster ends with the test.
func removed(t *testing.T, flink *flinkpod.Cluster) {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		must(t, flink.Remove(ctx))
	})
}

// podtool is a container that runs the small program with these words.
func podtool(name string, args ...string) corev1.Container {
	return corev1.Container{Name: name, Image: rig.PodtoolImage(), ImagePullPolicy: corev1.PullIfNotPresent, Args: args}
}

// createPod creates a pod.
func createPod(ctx context.Context, t *testing.T, namespace, name string, spec corev1.PodSpec) {
	t.Helper()
	createPodOn(ctx, t, cluster.Client, namespace, name, spec)
}

func createPodOn(ctx context.Context, t *testing.T, client *flinkpod.Client, namespace, name string, spec corev1.PodSpec) {
	t.Helper()
	zero := int64(0)
	if spec.TerminationGracePeriodSeconds == nil {
		spec.TerminationGracePeriodSeconds = &zero
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"name": name}}, Spec: spec}
	_, err := client.Set.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{})
	must(t, err)
}

func awaitPod(ctx context.Context, t *testing.T, namespace, name, what string, wanted func(*corev1.Pod) bool) *corev1.Pod {
	t.Helper()
	pod, err := cluster.AwaitPod(ctx, namespace, name, what, wanted)
	must(t, err)
	return pod
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
