//go:build kubernetes

package product

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfast-dev/holdfast/test/kubernetes/flinkpod"
	"github.com/holdfast-dev/holdfast/test/kubernetes/rig"
)

// An agent whose image is nowhere keeps one JobManager from starting, at most: that one is named, and the next start without an agent.
func TestAgentImageMissing(t *testing.T) {
	upgradeFor(t, "webhook.extraArgs={--agent-image=docker.io/local/none:1,--agent-pull-policy=Never}")
	first := documentedSession(t, "stuck-first")
	began := time.Now()
	var stuck corev1.Pod
	eventually(t, time.Minute, "the first pod's agent has no image", func(ctx context.Context) error {
		pods, err := first.JobManagers(ctx)
		if err == nil && len(pods) != 1 {
			err = fmt.Errorf("there are %d pods", len(pods))
		}
		if err != nil {
			return err
		}
		stuck = pods[0]
		for _, s := range stuck.Status.InitContainerStatuses {
			if s.State.Waiting != nil && s.State.Waiting.Reason == "ErrImageNeverPull" {
				return nil
			}
		}
		return errors.New(flinkpod.DescribePod(&stuck))
	})
	noticed := time.Now()
	t.Logf("the first pod is stuck %.1f s after its start", noticed.Sub(began).Seconds())
	create := creator(t, first.Namespace())
	eventually(t, 30*time.Second, "both replicas of the webhook have stopped injecting", func(ctx context.Context) error {
		for range 8 { // each of the two is asked, more likely than not
			if err := create(ctx, nativeJobManager(), false); err != nil {
				return err
			}
		}
		return nil
	})
	t.Logf("nothing is injected any more %.1f s later", time.Since(noticed).Seconds())
	if out, err := cluster.Run(limit(t), "kubectl", "logs", "-n", home, "-l", "app.kubernetes.io/component=webhook", "--tail=-1"); err != nil ||
		!strings.Contains(out, stuck.Name) || !strings.Contains(out, "ErrImageNeverPull") {
		t.Errorf("the webhook's log does not name pod %s: %v\n%s", stuck.Name, err, out)
	}

	// The next one starts, and so does the first one's successor.
	next := documentedSession(t, "stuck-next")
	if pod := ready(t, next); isInjected(pod) {
		t.Errorf("pod %s has an agent", pod.Name)
	}
	deletePod(t, first.Namespace(), stuck.Name)
	if pod := ready(t, first); isInjected(pod) || pod.Name == stuck.Name {
		t.Errorf("pod %s has an agent", pod.Name)
	}

	// The image is there again: so are the agents.
	check(t, holdfast.install(limit(t)))
	eventually(t, time.Minute, "agents are injected again", func(ctx context.Context) error {
		return create(ctx, nativeJobManager(), true)
	})
}

// documentedSession starts the session cluster of Flink's documentation, in a namespace of its own.
func documentedSession(t *testing.T, name string) *running {
	t.Helper()
	flink, err := cluster.StartDocumentedSession(limit(t), flinkpod.Documented{Dist: cluster.Flinks[0], Namespace: namespace(t, name, nil)})
	check(t, err)
	r := &running{Cluster: flink}
	r.removeAfter(t)
	return r
}

// ready waits until a cluster has a JobManager's pod that is ready and not going away, and gives it.
func ready(t *testing.T, r *running) (found corev1.Pod) {
	t.Helper()
	eventually(t, 90*time.Second, r.Namespace()+" has a JobManager that is ready", func(ctx context.Context) error {
		pods, err := r.JobManagers(ctx)
		if err == nil && len(pods) == 0 {
			err = errors.New("it has no pod")
		}
		for _, pod := range pods {
			if rig.Ready(&pod) && pod.DeletionTimestamp == nil {
				found = pod
				return nil
			}
			err = errors.New(flinkpod.DescribePod(&pod))
		}
		return err
	})
	return found
}

// upgradeFor upgrades the release with values for one test, and back after it.
func upgradeFor(t *testing.T, values ...string) {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		if err := holdfast.install(ctx); err != nil {
			t.Error(err)
		}
	})
	check(t, holdfast.install(limit(t), set(values...)...))
	// Those that leave serve on for a while.
	eventually(t, time.Minute, "only the new pods are there", func(ctx context.Context) error {
		pods, err := cluster.Set.CoreV1().Pods(home).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, pod := range pods.Items {
			if pod.DeletionTimestamp != nil {
				return fmt.Errorf("pod %s is still leaving", pod.Name)
			}
		}
		return nil
	})
}

// set makes helm's flags of values.
func set(values ...string) (flags []string) {
	for _, value := range values {
		flags = append(flags, "--set", value)
	}
	return flags
}
