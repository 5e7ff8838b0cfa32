package webhook

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// limitRanger is the annotation in which Kubernetes' LimitRanger says which requests and limits it had to set.
const limitRanger = "kubernetes.io/limit-ranger"

// resources are what the agent's container asks for. It must never be the reason for which a pod is refused, or put into another class of
// service, so they follow what the pod's other containers have:
//
//   - Where the pod has resources as a whole, the agent lives on them: the sum of the containers' may not exceed those.
//   - A Guaranteed pod stays Guaranteed: limits, and requests that equal them.
//   - A quota may demand a request or a limit of every container. Then all the others have it, or the pod would be refused without the
//     agent too. Requests and the memory limit are always set; the cpu limit is where all the others have one.
//   - What the LimitRanger had to set for another container is left to it, where the namespace's LimitRanges are not known: it runs
//     again after a webhook has changed a pod, and what it sets fits the namespace's least and most.
//   - Where they are known, all of it is made to fit; see fit. What cannot be made to fit is said in why.
func (v *view) resources(known Limits, mode Mode) (r corev1.ResourceRequirements, why string) {
	spec := &v.pod.Spec
	if spec.Resources != nil && len(spec.Resources.Requests)+len(spec.Resources.Limits) > 0 {
		return r, ""
	}
	if isBestEffort(spec) && known.refuseMore() {
		return r, ""
	}
	set := v.settings.Resources
	cpu, memory := corev1.ResourceCPU, corev1.ResourceMemory
	r = corev1.ResourceRequirements{
		Requests: corev1.ResourceList{cpu: quantity(set.CPURequest), memory: quantity(set.MemoryRequest)},
		Limits:   corev1.ResourceList{memory: quantity(set.MemoryLimit)},
	}
	guaranteed := isGuaranteed(spec)
	if guaranteed || allLimit(spec, cpu) {
		r.Limits[cpu] = quantity(set.CPULimit)
	}
	if known.Ranges == nil {
		for _, name := range leftToLimitRanger(v.pod.Annotations[limitRanger]) {
			delete(r.Requests, name)
			delete(r.Limits, name)
		}
	}
	for _, name := range []corev1.ResourceName{cpu, memory} {
		known.fit(&r, name, quantity(set.CPULimit), guaranteed)
	}
	if limit, set := r.Limits[memory]; set && limit.Cmp(quantity(v.settings.Resources.MemoryRequest)) < 0 {
		return r, "a LimitRange of the namespace allows a container less memory than the agent's " + v.settings.Resources.MemoryRequest
	}
	return r, known.room(spec, r, mode)
}

// leftToLimitRanger reads what the LimitRanger had to set: "LimitRanger plugin set: cpu, memory request for container a; cpu limit for …".
func leftToLimitRanger(text string) (names []corev1.ResourceName) {
	_, text, _ = strings.Cut(text, ":")
	for part := range strings.SplitSeq(text, ";") {
		what, _, _ := strings.Cut(part, " for ")
		for _, word := range strings.FieldsFunc(what, func(r rune) bool { return r == ' ' || r == ',' || r == '\n' }) {
			switch name := corev1.ResourceName(word); name {
			case corev1.ResourceCPU, corev1.ResourceMemory:
				names = append(names, name)
			}
		}
	}
	return names
}

// each gives every container of a pod, init containers too.
func each(spec *corev1.PodSpec, visit func(c *corev1.Container)) {
	for i := range spec.InitContainers {
		visit(&spec.InitContainers[i])
	}
	for i := range spec.Containers {
		visit(&spec.Containers[i])
	}
}

// isGuaranteed says whether a pod is of the class Guaranteed, as Kubernetes computes it (ComputePodQOS, 1.34): each container, init
// containers too, has limits for cpu and memory above zero, and requests that equal them. A request that is not set is the limit.
func isGuaranteed(spec *corev1.PodSpec) bool {
	is := true
	each(spec, func(c *corev1.Container) {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			limit, limited := c.Resources.Limits[name]
			request, requested := c.Resources.Requests[name]
			is = is && limited && !limit.IsZero() && (!requested || request.Cmp(limit) == 0)
		}
	})
	return is
}

// isBestEffort says whether a pod is of the class BestEffort: no container has a request or a limit for cpu or memory.
func isBestEffort(spec *corev1.PodSpec) bool {
	is := true
	each(spec, func(c *corev1.Container) {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			limit, request := c.Resources.Limits[name], c.Resources.Requests[name]
			is = is && limit.IsZero() && request.IsZero()
		}
	})
	return is
}

// allLimit says whether every container has a limit.
func allLimit(spec *corev1.PodSpec, name corev1.ResourceName) bool {
	all := true
	each(spec, func(c *corev1.Container) {
		_, limited := c.Resources.Limits[name]
		all = all && limited
	})
	return all
}

// quantity parses what Validate has seen; anything else is nothing.
func quantity(text string) resource.Quantity {
	q, err := resource.ParseQuantity(text)
	if err != nil {
		return resource.Quantity{}
	}
	return q
}
