package kube

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/job"
)

func waiting(reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
}

func ended(code int32) corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code}}
}

func TestState(t *testing.T) {
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	main := func(s corev1.ContainerState) corev1.ContainerStatus {
		return corev1.ContainerStatus{Name: "main", State: s}
	}
	again := func(s corev1.ContainerState, restarts int32, last int32) corev1.ContainerStatus {
		return corev1.ContainerStatus{Name: "main", State: s, RestartCount: restarts, LastTerminationState: ended(last)}
	}
	now := metav1.Now()
	for _, c := range []struct {
		name string
		pod  corev1.Pod
		want evidence.Pod
	}{
		{"nothing yet", corev1.Pod{}, evidence.Pod{}},
		{"scheduled", corev1.Pod{Status: corev1.PodStatus{PodIP: "10.0.0.1", ContainerStatuses: []corev1.ContainerStatus{main(waiting("ContainerCreating", ""))}}},
			evidence.Pod{Address: "10.0.0.1", Waiting: "ContainerCreating"}},
		{"runs", corev1.Pod{Status: corev1.PodStatus{PodIP: "10.0.0.1", ContainerStatuses: []corev1.ContainerStatus{
			{Name: "other", State: ended(1)}, main(running),
		}}}, evidence.Pod{Address: "10.0.0.1", Running: true}},
		{"runs again", corev1.Pod{Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{again(running, 2, 1)}}},
			evidence.Pod{Running: true, Restarts: 2}},
		{"ended", corev1.Pod{Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{main(ended(163))}}},
			evidence.Pod{Exited: true, ExitCode: 163}},
		{"waits to be started again", corev1.Pod{Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{
			again(waiting("CrashLoopBackOff", "back-off 5m0s"), 4, 2),
		}}}, evidence.Pod{Exited: true, ExitCode: 2, Restarts: 4, Trouble: job.CrashLoop, Waiting: "CrashLoopBackOff", Message: "back-off 5m0s"}},
		{"no image", corev1.Pod{Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{main(waiting("ImagePullBackOff", "no such image"))}}},
			evidence.Pod{Trouble: job.ImagePull, Waiting: "ImagePullBackOff", Message: "no such image"}},
		{"no ConfigMap", corev1.Pod{Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{
			main(waiting("CreateContainerConfigError", strings.Repeat("x", 5000))),
		}}}, evidence.Pod{Trouble: job.CannotStart, Waiting: "CreateContainerConfigError", Message: strings.Repeat("x", job.CauseLimit)}},
		{"evicted, and its containers are not told of", corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodFailed, Message: "low on memory"}},
			evidence.Pod{Message: "low on memory"}},
		{"failed, and the kubelet said no more", corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodFailed, ContainerStatuses: []corev1.ContainerStatus{main(running)}}},
			evidence.Pod{}},
		{"leaves", corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &now}, Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{main(running)}}},
			evidence.Pod{Leaving: true, Running: true}},
	} {
		c.pod.Namespace, c.pod.Name, c.pod.UID = "team", "orders-1", "u1"
		c.want.Name, c.want.Agent = "orders-1", evidence.Agent{Namespace: "team", Cluster: "orders", PodUID: "u1"}
		c.want.Port, c.want.Injected = 8081, true
		id := Identity{Container: "main"}
		id.Agent.Cluster, id.Port, id.Injected = "orders", 8081, true
		// What was known of an earlier state does not stay.
		id.Running, id.Exited, id.ExitCode, id.Waiting, id.Message = true, true, 9, "Old", "old"
		if diff := cmp.Diff(c.want, state(&c.pod, id)); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", c.name, diff)
		}
	}
}
