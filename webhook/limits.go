package webhook

import (
	"fmt"
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Limits are what a namespace allows its pods. A pod that Kubernetes would refuse only because of its agent goes without one.
type Limits struct {
	// Ranges are the namespace's LimitRanges; nil where they are not known, empty where there are none.
	Ranges []corev1.LimitRange
	// Quotas are its ResourceQuotas, with what is used of them.
	Quotas []corev1.ResourceQuota
}

// refuseMore says whether a pod without any requests may lose its place by having some: a quota for pods that have any demands them of
// each container.
func (l Limits) refuseMore() bool {
	return slices.ContainsFunc(l.Quotas, func(q corev1.ResourceQuota) bool {
		if slices.Contains(q.Spec.Scopes, corev1.ResourceQuotaScopeNotBestEffort) {
			return true
		}
		return q.Spec.ScopeSelector != nil && slices.ContainsFunc(q.Spec.ScopeSelector.MatchExpressions,
			func(s corev1.ScopedResourceSelectorRequirement) bool {
				return s.ScopeName == corev1.ResourceQuotaScopeNotBestEffort
			})
	})
}

// items are the limits of one kind.
func (l Limits) items(kind corev1.LimitType, visit func(item *corev1.LimitRangeItem)) {
	for i := range l.Ranges {
		for j := range l.Ranges[i].Spec.Limits {
			if item := &l.Ranges[i].Spec.Limits[j]; item.Type == kind {
				visit(item)
			}
		}
	}
}

// fit brings what a container asks of one resource to what the LimitRanges take: at least their min, at most their max, and a limit that is
// not above the request by more than their ratio (LimitRanger, 1.34). A limit that is not set, LimitRanger sets to its default; one
// that is asked for in a ratio and has no default becomes fallback. In a Guaranteed pod the request is the limit.
func (l Limits) fit(r *corev1.ResourceRequirements, name corev1.ResourceName, fallback resource.Quantity, guaranteed bool) {
	request, asked := r.Requests[name]
	if !asked {
		return
	}
	limit, limited := r.Limits[name]
	l.items(corev1.LimitTypeContainer, func(item *corev1.LimitRangeItem) {
		least, hasLeast := item.Min[name]
		most, hasMost := item.Max[name]
		inside := func(q resource.Quantity) resource.Quantity {
			if hasLeast && q.Cmp(least) < 0 {
				q = least
			}
			if hasMost && q.Cmp(most) > 0 {
				q = most
			}
			return q
		}
		request, limit = inside(request), inside(limit)
		standing := limit
		if !limited {
			standing = item.Default[name]
		}
		if ratio, has := item.MaxLimitRequestRatio[name]; has {
			if !limited && (standing.IsZero() || above(standing, request, ratio)) {
				limit, limited = inside(fallback), true
				standing = limit
			}
			if above(standing, request, ratio) {
				request = divided(standing, ratio, name)
			}
		}
		if !standing.IsZero() && request.Cmp(standing) > 0 {
			limit, limited = request, true
		}
	})
	if guaranteed && limited {
		request = limit
	}
	r.Requests[name] = request
	if limited {
		r.Limits[name] = limit
	}
}

// above says whether a limit is more than ratio times a request.
func above(limit, request, ratio resource.Quantity) bool {
	return limit.AsApproximateFloat64() > request.AsApproximateFloat64()*ratio.AsApproximateFloat64()
}

// divided is a request that a limit is not too far above, in what its resource is counted in: thousandths of a processor, or bytes.
func divided(limit, ratio resource.Quantity, name corev1.ResourceName) resource.Quantity {
	exact := limit.AsApproximateFloat64() / ratio.AsApproximateFloat64()
	if name == corev1.ResourceCPU {
		return *resource.NewMilliQuantity(int64(math.Ceil(exact*1000)), resource.DecimalSI)
	}
	return *resource.NewQuantity(int64(math.Ceil(exact)), resource.BinarySI)
}

// room says what stands in the way of a pod with an agent that asks for r, though not of the pod without it; "" if nothing does.
func (l Limits) room(spec *corev1.PodSpec, r corev1.ResourceRequirements, mode Mode) (why string) {
	agent := corev1.Container{Resources: r}
	with := spec.DeepCopy()
	if mode == Native {
		always := corev1.ContainerRestartPolicyAlways
		agent.RestartPolicy = &always
		with.InitContainers = append([]corev1.Container{agent}, with.InitContainers...)
	} else {
		with.Containers = append(with.Containers, agent)
	}
	requests, limits := requestsOf, limitsOf
	l.items(corev1.LimitTypePod, func(item *corev1.LimitRangeItem) {
		for name, most := range item.Max {
			for _, of := range []func(*corev1.Container) corev1.ResourceList{requests, limits} {
				without, now := total(spec, name, of), total(with, name, of)
				if without.Cmp(most) <= 0 && now.Cmp(most) > 0 {
					why = fmt.Sprintf("with the agent the pod would be above the %s that a LimitRange of the namespace allows a pod (%s)",
						name, shown(most.String()))
				}
			}
		}
		for name, least := range item.Min {
			// A limit that no container has is not held against the least of a pod; the agent's would be.
			if without, now := total(spec, name, limits), total(with, name, limits); without.IsZero() && !now.IsZero() && now.Cmp(least) < 0 {
				why = fmt.Sprintf("with the agent the pod would have a limit of %s, below what a LimitRange of the namespace asks of a pod (%s)",
					name, shown(least.String()))
			}
		}
		for name, ratio := range item.MaxLimitRequestRatio {
			before := above(total(spec, name, limits), total(spec, name, requests), ratio)
			if !before && above(total(with, name, limits), total(with, name, requests), ratio) {
				why = fmt.Sprintf("with the agent the pod's limit of %s would be further above its request than a LimitRange of the namespace "+
					"allows", name)
			}
		}
	})
	for _, quota := range l.Quotas {
		for name, hard := range quota.Status.Hard {
			counted, of := counts(name)
			if of == nil {
				continue
			}
			used := quota.Status.Used[name]
			without, now := used.DeepCopy(), used.DeepCopy()
			without.Add(total(spec, counted, of))
			now.Add(total(with, counted, of))
			if without.Cmp(hard) <= 0 && now.Cmp(hard) > 0 {
				why = fmt.Sprintf("the quota %s of the namespace has no room for the agent (%s)", shown(quota.Name), name)
			}
		}
	}
	return why
}

func requestsOf(c *corev1.Container) corev1.ResourceList { return c.Resources.Requests }
func limitsOf(c *corev1.Container) corev1.ResourceList   { return c.Resources.Limits }

// counts says what a quota's name counts; nil if it is nothing that an agent has.
func counts(name corev1.ResourceName) (corev1.ResourceName, func(*corev1.Container) corev1.ResourceList) {
	switch name {
	case corev1.ResourceCPU, corev1.ResourceRequestsCPU:
		return corev1.ResourceCPU, requestsOf
	case corev1.ResourceMemory, corev1.ResourceRequestsMemory:
		return corev1.ResourceMemory, requestsOf
	case corev1.ResourceLimitsCPU:
		return corev1.ResourceCPU, limitsOf
	case corev1.ResourceLimitsMemory:
		return corev1.ResourceMemory, limitsOf
	}
	return "", nil
}

// total is what a pod has of a resource, as Kubernetes sums it: containers and native sidecars run together, and while an init container
// runs, so do the sidecars before it.
func total(spec *corev1.PodSpec, name corev1.ResourceName, of func(*corev1.Container) corev1.ResourceList) resource.Quantity {
	var running, sidecars, most resource.Quantity
	for i := range spec.Containers {
		running.Add(of(&spec.Containers[i])[name])
	}
	for i := range spec.InitContainers {
		c := &spec.InitContainers[i]
		needed := sidecars.DeepCopy()
		needed.Add(of(c)[name])
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			sidecars = needed
			running.Add(of(c)[name])
		}
		if needed.Cmp(most) > 0 {
			most = needed.DeepCopy()
		}
	}
	if most.Cmp(running) > 0 {
		return most
	}
	return running
}
