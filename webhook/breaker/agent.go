package breaker

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Condition is how far the agent of one pod has come.
type Condition uint8

const (
	// Waiting: nothing speaks against the agent, and it has not started yet.
	Waiting Condition = iota
	// Doubtful: the container runs, but whoever runs it does not say that its pod can go on, and it does not: a kubelet before 1.28 takes a
	// native sidecar for an ordinary init container, and waits for its end.
	Doubtful
	// Started: the agent's image was there and its container ran, now or before.
	Started
	// Stuck: the kubelet says that the agent's container cannot start. A native sidecar holds its pod back as long.
	Stuck
)

// Agent is what is known of one injected pod's agent.
type Agent struct {
	UID             types.UID
	Namespace, Name string
	Node            string
	Created         time.Time
	Condition       Condition
	// Reason and Message are the kubelet's, or of this package's own, of an agent that is stuck. The message is cut off at messageLimit.
	Reason, Message string
}

// Pod is the pod's name, for people.
func (a Agent) Pod() string { return a.Namespace + "/" + a.Name }

// messageLimit bounds what is kept of a kubelet's message, in bytes.
const messageLimit = 256

// stuckReasons are why a container waits when its image cannot be had or it cannot be made: the kubelet's words (pkg/kubelet/images/types.go
// and pkg/kubelet/kuberuntime/kuberuntime_container.go of Kubernetes).
var stuckReasons = map[string]bool{
	"ErrImagePull":               true,
	"ImagePullBackOff":           true,
	"ErrImageNeverPull":          true,
	"InvalidImageName":           true,
	"ImageInspectError":          true,
	"RegistryUnavailable":        true,
	"SignatureValidationFailed":  true,
	"CreateContainerConfigError": true,
	"CreateContainerError":       true,
	"PreCreateHookError":         true,
	"PreStartHookError":          true,
	"RunContainerError":          true,
}

// crashed is the kubelet's word for a container that ends again and again.
const crashed = "CrashLoopBackOff"

// neverRan are the reasons of a container's end when its program could not even begin, as one for another processor cannot: containerd's
// word, and that of older runtimes.
func neverRan(ended *corev1.ContainerStateTerminated) bool {
	return ended != nil && (ended.Reason == "StartError" || ended.Reason == "ContainerCannotRun")
}

// Reasons of this package's own.
const (
	// reasonDropped: the API server does not know native sidecars, or has them turned off, and left the restart policy out. The agent became
	// an ordinary init container, whose end the pod would wait for.
	reasonDropped = "RestartPolicyDropped"
	// reasonDoubtful: a Doubtful agent has been so for too long.
	reasonDoubtful = "SidecarUnknownToKubelet"
	// reasonForbidden is the kubelet's, 1.28 to 1.32, for a pod that it refuses since it has native sidecars turned off.
	reasonForbidden = "InitContainerRestartPolicyForbidden"
)

// agentOf reads a pod that Holdfast injected. counts is false for a pod that says nothing of the agent that is injected now: it has no
// such container, is being deleted, is over, or has another agent than the one wanted.
func agentOf(pod *corev1.Pod, o Identity) (a Agent, counts bool) {
	container, native := find(pod.Spec.InitContainers, o.Container), true
	statuses := pod.Status.InitContainerStatuses
	if container == nil {
		container, native = find(pod.Spec.Containers, o.Container), false
		statuses = pod.Status.ContainerStatuses
	}
	forbidden := native && pod.Status.Reason == reasonForbidden
	over := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed && !forbidden
	if container == nil || pod.DeletionTimestamp != nil || over || !o.same(container) {
		return Agent{}, false
	}
	a = Agent{
		UID: pod.UID, Namespace: pod.Namespace, Name: pod.Name, Node: pod.Spec.NodeName, Created: pod.CreationTimestamp.Time,
	}
	switch {
	case forbidden:
		a.Condition, a.Reason, a.Message = Stuck, reasonForbidden, clip(pod.Status.Message)
		return a, true
	case native && (container.RestartPolicy == nil || *container.RestartPolicy != corev1.ContainerRestartPolicyAlways):
		a.Condition, a.Reason, a.Message = Stuck, reasonDropped, "the API server has native sidecars turned off"
		return a, true
	}
	for i := range statuses {
		if statuses[i].Name == o.Container {
			a.Condition, a.Reason, a.Message = conditionOf(&statuses[i], native && !initialized(pod))
		}
	}
	return a, true
}

// conditionOf reads the kubelet's status of the agent's container. holds says that the pod's own containers wait for it.
//
// An agent that ended again and again counts as stuck only while its pod waits for it, or if its program could never begin. One that ran
// and then ended, for want of memory in one pod, say, is that pod's trouble, and no reason to leave all the others without an agent.
func conditionOf(s *corev1.ContainerStatus, holds bool) (c Condition, reason, message string) {
	last := s.LastTerminationState.Terminated
	switch {
	case s.State.Running != nil && holds && s.Started == nil:
		return Doubtful, "", ""
	case s.State.Running != nil:
		return Started, "", ""
	case neverRan(s.State.Terminated):
		return Stuck, s.State.Terminated.Reason, clip(s.State.Terminated.Message)
	case s.State.Terminated != nil:
		if holds {
			return Waiting, "", "" // it may have ended before its pod noticed that it had begun
		}
		return Started, "", ""
	case s.State.Waiting != nil && stuckReasons[s.State.Waiting.Reason]:
		return Stuck, s.State.Waiting.Reason, clip(s.State.Waiting.Message)
	case s.State.Waiting != nil && s.State.Waiting.Reason == crashed:
		if neverRan(last) {
			return Stuck, last.Reason, clip(last.Message)
		}
		if holds {
			return Stuck, crashed, clip(s.State.Waiting.Message)
		}
		return Started, "", ""
	case last != nil && !neverRan(last) && !holds:
		return Started, "", ""
	}
	return Waiting, "", ""
}

// initialized says that the pod's own containers need not wait for init containers, sidecars among them, any more.
func initialized(pod *corev1.Pod) bool {
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == corev1.PodInitialized {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func find(containers []corev1.Container, name string) *corev1.Container {
	for i := range containers {
		if containers[i].Name == name {
			return &containers[i]
		}
	}
	return nil
}

// clip keeps the beginning of a message, as one line of its own memory.
func clip(message string) string {
	if len(message) > messageLimit {
		message = message[:messageLimit] + "…"
	}
	return strings.Join(strings.Fields(strings.ToValidUTF8(message, "")), " ")
}
