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

// An agent whose image is nowhere keeps one JobManager from starting, at most: that one is named, and the next start without an agent, as
// fast as ever. Every replica of the webhook knows.
func TestAgentImageMissing(t *testing.T) {
	begin := time.Now()
	if pod := ready(t, documentedSession(t, "usual")); !isInjected(pod) {
		t.Fatalf("pod %s has no agent", pod.Name)
	}
	usual := time.Since(begin)

	upgradeFor(t, "webhook.extraArgs={--agent-image=docker.io/local/none:1}")
	first := documentedSession(t, "stuck-first")
	begin = time.Now()
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
			if w := s.State.Waiting; w != nil && (w.Reason == "ErrImagePull" || w.Reason == "ImagePullBackOff") {
				return nil
			}
		}
		return errors.New(flinkpod.DescribePod(&stuck))
	})
	noticed := time.Now()
	t.Logf("the first pod is stuck %.1f s after its start", noticed.Sub(begin).Seconds())
	name := stuck.Namespace + "/" + stuck.Name
	allWebhooks(t, 10*time.Second, "/readyz", "breaker: open since", "stuck: "+name+" (")
	t.Logf("no replica injects any more, and each names the pod, %.1f s later", time.Since(noticed).Seconds())
	if out, err := cluster.Run(limit(t), "kubectl", "logs", "-n", home, "-l", "app.kubernetes.io/component=webhook", "--tail=-1"); err != nil ||
		strings.Count(out, `msg="no agents are injected for now: new pods start without one" pod=`+name) != replicasOf(t, "webhook") {
		t.Errorf("not every replica's log says once that pod %s is stuck: %v\n%s", name, err, out)
	}

	// The next one starts, and so does the first one's successor.
	begin = time.Now()
	next := documentedSession(t, "stuck-next")
	if pod := ready(t, next); isInjected(pod) {
		t.Errorf("pod %s has an agent", pod.Name)
	}
	took := time.Since(begin)
	t.Logf("the next one is ready after %.1f s, and one with an agent was after %.1f s", took.Seconds(), usual.Seconds())
	if took > 3*usual+10*time.Second {
		t.Error("the next one waited for something")
	}
	allWebhooks(t, 10*time.Second, "/metrics", "\nholdfast_webhook_stuck_pods 1\n", `holdfast_webhook_breaker_state{state="open"} 1`)
	deletePod(t, first.Namespace(), stuck.Name)
	if pod := ready(t, first); isInjected(pod) || pod.Name == stuck.Name {
		t.Errorf("pod %s has an agent", pod.Name)
	}

	// The image is there again: so are the agents.
	check(t, holdfast.install(limit(t)))
	parts(t) // those that leave serve on for a while
	allWebhooks(t, 10*time.Second, "/metrics", "\nholdfast_webhook_stuck_pods 0\n", `holdfast_webhook_breaker_state{state="closed"} 1`)
	deletePod(t, next.Namespace(), next.jobManager(t).Name)
	if pod := ready(t, next); !isInjected(pod) {
		t.Errorf("pod %s has no agent", pod.Name)
	}
}

// allWebhooks waits until what each replica of the webhook answers has all the given words.
func allWebhooks(t *testing.T, limit time.Duration, path string, words ...string) {
	t.Helper()
	want := replicasOf(t, "webhook")
	eventually(t, limit, fmt.Sprintf("every replica of the webhook says %q", words), func(ctx context.Context) error {
		pods, err := cluster.Set.CoreV1().Pods(home).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=webhook"})
		if err != nil {
			return err
		}
		if len(pods.Items) != want {
			return fmt.Errorf("there are %d replicas, want %d", len(pods.Items), want)
		}
		for _, pod := range pods.Items {
			text, err := cluster.Set.CoreV1().Pods(home).ProxyGet("http", pod.Name, "7071", path, map[string]string{"verbose": ""}).DoRaw(ctx)
			if err != nil {
				return err
			}
			for _, word := range words {
				if !strings.Contains(string(text), word) {
					return fmt.Errorf("%s does not say %q: %.2000s", pod.Name, word, text)
				}
			}
		}
		return nil
	})
}

// replicasOf is how many pods a part of Holdfast is to have.
func replicasOf(t *testing.T, part string) int {
	t.Helper()
	d, err := cluster.Set.AppsV1().Deployments(home).Get(limit(t), "holdfast-"+part, metav1.GetOptions{})
	check(t, err)
	return int(*d.Spec.Replicas)
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
	parts(t) // those that leave serve on for a while
}

// set makes helm's flags of values.
func set(values ...string) (flags []string) {
	for _, value := range values {
		flags = append(flags, "--set", value)
	}
	return flags
}
