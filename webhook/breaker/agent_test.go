package breaker

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

var identity = Identity{Container: "holdfast-agent", Image: "holdfast:1", PullPolicy: "IfNotPresent"}

var created = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// podOf is a pod as the webhook makes it: the agent is its first init container.
func podOf(name string, edits ...func(*corev1.Pod)) *corev1.Pod {
	always := corev1.ContainerRestartPolicyAlways
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "team-a", Name: name, UID: types.UID("uid-" + name), CreationTimestamp: metav1.NewTime(created),
			Labels: map[string]string{"holdfast.dev/injected": "true", "component": "jobmanager"},
		},
		Spec: corev1.PodSpec{
			NodeName: "node-1",
			InitContainers: []corev1.Container{
				{Name: "holdfast-agent", Image: "holdfast:1", ImagePullPolicy: corev1.PullIfNotPresent, RestartPolicy: &always},
				{Name: "fetch", Image: "curl"},
			},
			Containers: []corev1.Container{{Name: "flink-main-container", Image: "flink", Env: []corev1.EnvVar{{Name: "X", Value: "y"}}}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodPending},
	}
	for _, edit := range edits {
		edit(pod)
	}
	return pod
}

// plain makes the agent the last of the ordinary containers, as before Kubernetes 1.29.
func plain(pod *corev1.Pod) {
	agent := pod.Spec.InitContainers[0]
	agent.RestartPolicy = nil
	pod.Spec.InitContainers = pod.Spec.InitContainers[1:]
	pod.Spec.Containers = append(pod.Spec.Containers, agent)
}

// says sets the kubelet's status of the agent.
func says(s corev1.ContainerStatus) func(*corev1.Pod) {
	s.Name = "holdfast-agent"
	return func(pod *corev1.Pod) {
		other := corev1.ContainerStatus{Name: "another",
			State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "PodInitializing"}}}
		if len(pod.Spec.InitContainers) == 2 {
			pod.Status.InitContainerStatuses = []corev1.ContainerStatus{other, s}
		} else {
			pod.Status.ContainerStatuses = []corev1.ContainerStatus{other, s}
		}
	}
}

func waiting(reason string) corev1.ContainerStatus {
	return corev1.ContainerStatus{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason,
		Message: "because of " + reason}}}
}

func running(started *bool) corev1.ContainerStatus {
	return corev1.ContainerStatus{Started: started, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
}

func ended(reason string, code int32) corev1.ContainerStatus {
	return corev1.ContainerStatus{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: reason,
		ExitCode: code, Message: "it ended"}}}
}

// after adds how the container ended before.
func after(s corev1.ContainerStatus, last corev1.ContainerStatus) corev1.ContainerStatus {
	s.LastTerminationState = last.State
	return s
}

// goesOn says that the pod need not wait for its init containers any more.
func goesOn(pod *corev1.Pod) {
	pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: corev1.PodInitialized, Status: corev1.ConditionTrue})
}

func notYet(pod *corev1.Pod) {
	pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: corev1.PodInitialized, Status: corev1.ConditionFalse})
}

func yes() *bool { b := true; return &b }

func TestAgentOfAPod(t *testing.T) {
	for _, c := range []struct {
		name  string
		edits []func(*corev1.Pod)
		want  Condition
		why   string
	}{
		{"not scheduled", nil, Waiting, ""},
		{"nothing said of it", []func(*corev1.Pod){says(corev1.ContainerStatus{})}, Waiting, ""},
		{"being made", []func(*corev1.Pod){notYet, says(waiting("PodInitializing"))}, Waiting, ""},
		{"being made, plain", []func(*corev1.Pod){plain, says(waiting("ContainerCreating"))}, Waiting, ""},
		{"runs", []func(*corev1.Pod){notYet, says(running(yes()))}, Started, ""},
		{"runs, plain", []func(*corev1.Pod){plain, goesOn, says(running(yes()))}, Started, ""},
		{"runs, on a kubelet that knows no sidecars", []func(*corev1.Pod){notYet, says(running(nil))}, Doubtful, ""},
		{"runs, and its pod goes on", []func(*corev1.Pod){goesOn, says(running(nil))}, Started, ""},
		{"image", []func(*corev1.Pod){notYet, says(waiting("ErrImagePull"))}, Stuck, "ErrImagePull"},
		{"image, later", []func(*corev1.Pod){notYet, says(waiting("ImagePullBackOff"))}, Stuck, "ImagePullBackOff"},
		{"image, plain", []func(*corev1.Pod){plain, goesOn, says(waiting("ImagePullBackOff"))}, Stuck, "ImagePullBackOff"},
		{"image's name", []func(*corev1.Pod){says(waiting("InvalidImageName"))}, Stuck, "InvalidImageName"},
		{"image never pulled", []func(*corev1.Pod){says(waiting("ErrImageNeverPull"))}, Stuck, "ErrImageNeverPull"},
		{"container", []func(*corev1.Pod){says(waiting("CreateContainerError"))}, Stuck, "CreateContainerError"},
		{"container's configuration", []func(*corev1.Pod){says(waiting("CreateContainerConfigError"))}, Stuck, "CreateContainerConfigError"},
		{"start", []func(*corev1.Pod){says(waiting("RunContainerError"))}, Stuck, "RunContainerError"},
		{"image gone at a restart", []func(*corev1.Pod){goesOn, says(after(waiting("ErrImagePull"), ended("Error", 1)))}, Stuck, "ErrImagePull"},
		{"wrong processor", []func(*corev1.Pod){notYet, says(ended("StartError", 128))}, Stuck, "StartError"},
		{"wrong processor, again", []func(*corev1.Pod){notYet, says(after(waiting("CrashLoopBackOff"), ended("StartError", 128)))}, Stuck,
			"StartError"},
		{"wrong processor, plain", []func(*corev1.Pod){plain, goesOn, says(after(waiting("CrashLoopBackOff"), ended("StartError", 128)))},
			Stuck, "StartError"},
		{"wrong processor, made anew", []func(*corev1.Pod){plain, goesOn,
			says(after(waiting("ContainerCreating"), ended("StartError", 128)))}, Waiting, ""},
		{"ends at once", []func(*corev1.Pod){notYet, says(ended("OOMKilled", 137))}, Waiting, ""},
		{"ends at once, again", []func(*corev1.Pod){notYet, says(after(waiting("CrashLoopBackOff"), ended("OOMKilled", 137)))}, Stuck,
			"CrashLoopBackOff"},
		{"killed later", []func(*corev1.Pod){goesOn, says(ended("OOMKilled", 137))}, Started, ""},
		{"killed later, again", []func(*corev1.Pod){goesOn, says(after(waiting("CrashLoopBackOff"), ended("OOMKilled", 137)))}, Started, ""},
		{"killed later, plain", []func(*corev1.Pod){plain, goesOn, says(after(waiting("CrashLoopBackOff"), ended("OOMKilled", 137)))},
			Started, ""},
		{"made anew after a kill", []func(*corev1.Pod){goesOn, says(after(waiting("ContainerCreating"), ended("OOMKilled", 137)))}, Started, ""},
		{"sidecars turned off", []func(*corev1.Pod){func(p *corev1.Pod) { p.Spec.InitContainers[0].RestartPolicy = nil }}, Stuck,
			"RestartPolicyDropped"},
		{"sidecars turned off on the node", []func(*corev1.Pod){func(p *corev1.Pod) {
			p.Status.Phase, p.Status.Reason = corev1.PodFailed, "InitContainerRestartPolicyForbidden"
		}}, Stuck, "InitContainerRestartPolicyForbidden"},
	} {
		// What the feed makes of a pod must say the same.
		pod := podOf("p", c.edits...)
		small, err := shrink(pod)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range []*corev1.Pod{pod, small.(*corev1.Pod)} {
			a, counts := agentOf(p, identity)
			if !counts {
				t.Errorf("%s: does not count", c.name)
				continue
			}
			if a.Condition != c.want || a.Reason != c.why {
				t.Errorf("%s: condition %d because of %q, want %d because of %q", c.name, a.Condition, a.Reason, c.want, c.why)
			}
			want := Agent{UID: "uid-p", Namespace: "team-a", Name: "p", Node: "node-1", Created: created, Condition: a.Condition,
				Reason: a.Reason, Message: a.Message}
			if diff := cmp.Diff(want, a); diff != "" {
				t.Errorf("%s: -want +got\n%s", c.name, diff)
			}
		}
	}
}

func TestPodsThatSayNothing(t *testing.T) {
	stuck := says(waiting("ErrImagePull"))
	for name, edit := range map[string]func(*corev1.Pod){
		"no agent":            func(p *corev1.Pod) { p.Spec.InitContainers = nil },
		"an earlier image":    func(p *corev1.Pod) { p.Spec.InitContainers[0].Image = "holdfast:0" },
		"another pull policy": func(p *corev1.Pod) { p.Spec.InitContainers[0].ImagePullPolicy = corev1.PullNever },
		"being deleted":       func(p *corev1.Pod) { now := metav1.Now(); p.DeletionTimestamp = &now },
		"evicted":             func(p *corev1.Pod) { p.Status.Phase, p.Status.Reason = corev1.PodFailed, "Evicted" },
		"succeeded":           func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded },
	} {
		if a, counts := agentOf(podOf("p", stuck, edit), identity); counts {
			t.Errorf("%s: counts as %+v", name, a)
		}
	}
}

// Of a large pod, little is kept.
func TestPodsAreMadeSmall(t *testing.T) {
	pod := podOf("p", says(waiting("ErrImagePull")))
	pod.Annotations = map[string]string{"kubectl.kubernetes.io/last-applied-configuration": strings.Repeat("x", 100_000)}
	pod.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubectl", FieldsV1: metav1.NewFieldsV1(strings.Repeat("w", 10_000))}}
	pod.Spec.Containers[0].Args = []string{strings.Repeat("y", 100_000)}
	pod.Status.Message = strings.Repeat("z", 1000)
	small, err := shrink(pod)
	if err != nil {
		t.Fatal(err)
	}
	if n := small.(*corev1.Pod).Size(); n > 2500 {
		t.Errorf("%d bytes are left of %d", n, pod.Size())
	}
	long := waiting("ErrImagePull")
	long.State.Waiting.Message = "one\ntwo \xff" + strings.Repeat("é", 10_000)
	a, _ := agentOf(podOf("p", says(long)), identity)
	if len(a.Message) > messageLimit+len("…") || !strings.HasPrefix(a.Message, "one two é") {
		t.Errorf("a message of %d bytes is kept: %.20q", len(a.Message), a.Message)
	}
}
