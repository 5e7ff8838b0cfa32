package webhook

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	kjson "k8s.io/apimachinery/pkg/util/json"
)

// Decide says what becomes of a pod. It never fails and never denies: what cannot be read is left alone, with the reason.
func Decide(s Settings, r Request) Decision {
	v, d := look(s, r)
	if v == nil {
		return d
	}
	archive, change := v.archive()
	d = Decision{
		Inject: true, Reason: ReasonJobManager, Mode: d.Mode, Archive: archive,
		Container: v.container.Name, ClusterID: d.ClusterID, RESTPort: d.RESTPort, Warnings: v.warnings,
		Message: fmt.Sprintf("container %s runs the JobManager of the Flink cluster %s, so its pod gets the agent", shown(v.container.Name),
			shown(d.ClusterID)),
	}
	d.Patch = v.patch(d, change, r.Pod)
	// Kubernetes refuses a pod whose patch does not apply, even though it ignores a webhook that fails. So it is tried here.
	if _, err := Apply(r.Pod, d.Patch); err != nil {
		d = leave(ReasonUnreadable, "the pod is written in a way that cannot be changed safely; apply it through Kubernetes' API server")
		d.Warnings = v.warnings
	}
	return d
}

// look reads a pod. What it gives beside a view is how far the decision has come; without a view, the decision to leave the pod alone.
func look(s Settings, r Request) (*view, Decision) {
	pod := new(corev1.Pod)
	if err := kjson.Unmarshal(r.Pod, pod); err != nil {
		return nil, leave(ReasonUnreadable, "this is not a pod that Kubernetes could read: "+shown(err.Error()))
	}
	v := &view{settings: s, pod: pod}
	stop := func(reason Reason, format string, args ...any) (*view, Decision) {
		d := leave(reason, fmt.Sprintf(format, args...))
		d.Warnings = v.warnings
		return nil, d
	}
	if kind := pod.Kind; kind != "" && kind != "Pod" {
		return stop(ReasonUnreadable, "this is a %s, and only pods are injected", shown(kind))
	}
	switch wish := v.injectWish(); {
	case wish != "":
		return stop(ReasonOptedOut, "%s; remove it if the pod is to have the agent", wish)
	case hasAgent(pod):
		return stop(ReasonAlreadyInjected, "the pod has a container %s already; remove it if it was copied from another pod", ContainerName)
	case pod.DeletionTimestamp != nil, pod.Status.Phase == corev1.PodSucceeded, pod.Status.Phase == corev1.PodFailed:
		return stop(ReasonEnding, "the pod is being deleted, or has ended")
	case pod.Annotations[corev1.MirrorPodAnnotationKey] != "":
		return stop(ReasonStaticPod, "the pod mirrors one that a kubelet runs from a file; a container would have to stand in that file")
	}
	if platform := v.platform(); platform != "" {
		return stop(ReasonPlatform, "%s", platform)
	}
	if other := v.otherRole(); other != "" {
		return stop(ReasonNotJobManager, "%s; only JobManagers get the agent", other)
	}
	if !v.find() {
		return stop(ReasonNoContainer, "none of the pod's %d containers is known to be a JobManager's: name it in the annotation %s",
			len(pod.Spec.Containers), AnnotationContainer)
	}
	v.container = &pod.Spec.Containers[v.index]
	if v.role = roleOf(v.container); v.role == otherRole {
		return stop(ReasonNotJobManager, "container %s starts another part of Flink; only JobManagers get the agent", shown(v.container.Name))
	}
	v.configs = configFiles(configSource(pod, v.container), r.FlinkConfig)

	d := Decision{Mode: Plain, ClusterID: v.clusterID()}
	if s.NativeSidecars && s.Mode != ModePlain {
		d.Mode = Native
	}
	if d.ClusterID == "" {
		return stop(ReasonNoClusterID, "neither a label nor an owner names the Flink cluster, and the pod's own name does not last: "+
			"name it in the annotation %s", AnnotationClusterID)
	}
	var sure bool
	d.RESTPort, sure = v.port()
	switch {
	case pod.Spec.HostNetwork && v.nativeFlink():
		return stop(ReasonPortUnknown, "on the network of the node native Flink takes any port that is free for REST, and the agent might "+
			"ask somebody else's JobManager there; without kubernetes.hostnetwork.enabled the pod gets the agent")
	case d.RESTPort == 0, pod.Spec.HostNetwork && !sure:
		return stop(ReasonPortUnknown, "it cannot be told at which port Flink's REST API listens: set rest.port, declare it as the container's "+
			"port named rest, or name it in the annotation %s", AnnotationRESTPort)
	case d.Mode == Plain && pod.Spec.RestartPolicy != "" && pod.Spec.RestartPolicy != corev1.RestartPolicyAlways:
		needed := "Kubernetes 1.29 or newer is needed"
		if s.NativeSidecars {
			needed = "native sidecars are needed, so the installation's agent.mode plain would have to be auto"
		}
		return stop(ReasonNeedsNativeSidecars, "the pod is over when its containers have ended, and an agent among them would keep it: %s", needed)
	case tooLarge(pod, len(r.Pod)):
		return stop(ReasonTooLarge, "the pod is so near to what Kubernetes allows for a pod or its annotations that the agent could make "+
			"it too large: make it smaller")
	}
	var why string
	if v.asks, why = v.resources(r.Limits, d.Mode); why != "" {
		return stop(ReasonNamespaceLimits, "%s: the pod would be refused", why)
	}
	return v, d
}

// leave is the decision to do nothing.
func leave(reason Reason, message string) Decision {
	return Decision{
		Reason: reason, Message: message,
		Archive: ArchiveDecision{Reason: ArchiveNotInjected, Message: "the pod gets no agent"},
	}
}

// injectWish says how a pod asks to be left alone; "" if it does not. The API server's selectors know the label "false" only; whoever
// says it in another way is understood here.
func (v *view) injectWish() string {
	for _, place := range []struct {
		name   string
		values map[string]string
	}{{"label", v.pod.Labels}, {"annotation", v.pod.Annotations}} {
		text, set := place.values[LabelInject]
		if !set {
			continue
		}
		switch strings.ToLower(strings.TrimSpace(text)) {
		case "true":
		case "false", "no", "off", "0", "disabled", "never":
			return "the " + place.name + " " + LabelInject + " says " + shown(text)
		default:
			v.warn("%s %s is %s, and neither true nor false: it is not used", place.name, LabelInject, shown(text))
		}
	}
	return ""
}

func hasAgent(pod *corev1.Pod) bool {
	found := false
	each(&pod.Spec, func(c *corev1.Container) { found = found || c.Name == ContainerName })
	return found || slices.ContainsFunc(pod.Spec.EphemeralContainers,
		func(c corev1.EphemeralContainer) bool { return c.Name == ContainerName })
}

// otherRole says by which label the pod is something else than a JobManager; "" if by none.
func (v *view) otherRole() string {
	for _, label := range []string{labelComponent, labelDeployment} {
		if v.pod.Labels[label] == taskManager {
			return "the label " + label + " says that this is a TaskManager"
		}
	}
	return ""
}

// nativeFlink says whether Flink itself made the pod, by its own Kubernetes integration.
func (v *view) nativeFlink() bool {
	return v.role.native() || v.role == unknownRole && v.pod.Labels[labelType] == "flink-native-kubernetes"
}

const (
	// mostAnnotations and mostPod are what a pod may have in bytes before the agent comes. Kubernetes allows 256 KiB of annotations, and
	// etcd 1.5 MiB of an object; an agent adds less than 1 KiB to the former, and its certificates to the latter.
	mostAnnotations = 255 << 10
	mostPod         = 1 << 20
)

func tooLarge(pod *corev1.Pod, size int) bool {
	annotations := 0
	for name, value := range pod.Annotations {
		annotations += len(name) + len(value)
	}
	return annotations > mostAnnotations || size > mostPod
}
