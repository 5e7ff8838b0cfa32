package webhook

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

// rangeOf is a LimitRange for one kind: "min cpu=1m", "max memory=1Gi", "default cpu=1", "ratio cpu=2".
func rangeOf(kind corev1.LimitType, parts ...string) corev1.LimitRange {
	item := corev1.LimitRangeItem{Type: kind}
	for _, part := range parts {
		what, list, _ := strings.Cut(part, " ")
		values := requirements(list, "").Requests
		switch what {
		case "min":
			item.Min = values
		case "max":
			item.Max = values
		case "default":
			item.Default = values
		case "ratio":
			item.MaxLimitRequestRatio = values
		}
	}
	return corev1.LimitRange{Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{item}}}
}

func quotaOf(hard, used string, scopes ...corev1.ResourceQuotaScope) corev1.ResourceQuota {
	q := corev1.ResourceQuota{Spec: corev1.ResourceQuotaSpec{Scopes: scopes}}
	q.Name = "team"
	q.Status.Hard, q.Status.Used = requirements(hard, "").Requests, requirements(used, "").Requests
	return q
}

// What a namespace allows its pods, the agent does not break. (The rules were compared with LimitRanger's own of Kubernetes 1.34, by
// 21 000 random LimitRanges and pods that it takes: it took all of them with the agent.)
func TestNamespaceLimits(t *testing.T) {
	const container, pod = corev1.LimitTypeContainer, corev1.LimitTypePod
	small, guaranteed := requirements("cpu=1 memory=1Gi", "memory=2Gi"), requirements("cpu=1 memory=1Gi", "cpu=1 memory=1Gi")
	for _, c := range []struct {
		name             string
		flink            corev1.ResourceRequirements
		ranges           []corev1.LimitRange
		quotas           []corev1.ResourceQuota
		requests, limits string
		refused          string // what the message names where the pod goes without the agent
	}{
		{"nothing is limited", small, nil, nil, "cpu=2m memory=16Mi", "memory=64Mi", ""},
		{"min below", small, []corev1.LimitRange{rangeOf(container, "min cpu=1m memory=4Mi")}, nil, "cpu=2m memory=16Mi", "memory=64Mi", ""},
		{"min above the requests", small, []corev1.LimitRange{rangeOf(container, "min cpu=100m memory=32Mi")}, nil,
			"cpu=100m memory=32Mi", "memory=64Mi", ""},
		{"min above the limit", small, []corev1.LimitRange{rangeOf(container, "min memory=128Mi")}, nil, "cpu=2m memory=128Mi",
			"memory=128Mi", ""},
		{"min, guaranteed", guaranteed, []corev1.LimitRange{rangeOf(container, "min cpu=100m")}, nil, "cpu=100m memory=64Mi",
			"cpu=100m memory=64Mi", ""},
		{"max below the limit", small, []corev1.LimitRange{rangeOf(container, "max memory=48Mi", "default memory=48Mi")}, nil,
			"cpu=2m memory=16Mi", "memory=48Mi", ""},
		{"max below what the agent needs", small, []corev1.LimitRange{rangeOf(container, "max memory=8Mi")}, nil, "", "", "less memory"},
		{"a ratio of memory", small, []corev1.LimitRange{rangeOf(container, "ratio memory=2")}, nil, "cpu=2m memory=32Mi", "memory=64Mi", ""},
		{"a ratio of cpu", small, []corev1.LimitRange{rangeOf(container, "ratio cpu=10")}, nil, "cpu=5m memory=16Mi", "cpu=50m memory=64Mi", ""},
		{"a ratio of cpu, and a high default", small, []corev1.LimitRange{rangeOf(container, "ratio cpu=25", "default cpu=2")}, nil,
			"cpu=2m memory=16Mi", "cpu=50m memory=64Mi", ""},
		{"a ratio of cpu, and a low default", small, []corev1.LimitRange{rangeOf(container, "ratio cpu=25", "default cpu=20m")}, nil,
			"cpu=2m memory=16Mi", "memory=64Mi", ""},
		{"a ratio that does not divide", small, []corev1.LimitRange{rangeOf(container, "ratio cpu=3 memory=3")}, nil,
			"cpu=17m memory=22369622", "cpu=50m memory=64Mi", ""},
		{"two LimitRanges", small, []corev1.LimitRange{rangeOf(container, "min cpu=5m"), rangeOf(container, "min memory=20Mi")}, nil,
			"cpu=5m memory=20Mi", "memory=64Mi", ""},
		{"of a claim, not of a container", small, []corev1.LimitRange{rangeOf(corev1.LimitTypePersistentVolumeClaim, "max memory=1")}, nil,
			"cpu=2m memory=16Mi", "memory=64Mi", ""},
		{"a pod's max, with room", small, []corev1.LimitRange{rangeOf(pod, "max memory=3Gi cpu=2")}, nil, "cpu=2m memory=16Mi",
			"memory=64Mi", ""},
		{"a pod's max of limits", small, []corev1.LimitRange{rangeOf(pod, "max memory=2Gi")}, nil, "", "", "LimitRange"},
		{"a pod's max of requests", small, []corev1.LimitRange{rangeOf(pod, "max cpu=1")}, nil, "", "", "LimitRange"},
		{"a pod's max that it broke before", small, []corev1.LimitRange{rangeOf(pod, "max cpu=500m")}, nil, "cpu=2m memory=16Mi",
			"memory=64Mi", ""},
		{"a pod's min of limits, of which it has none", requirements("cpu=1 memory=1Gi", ""), []corev1.LimitRange{rangeOf(pod,
			"min memory=512Mi")}, nil,
			"", "", "LimitRange"},
		{"a pod's ratio", guaranteed, []corev1.LimitRange{rangeOf(pod, "ratio cpu=1 memory=1")}, nil, "cpu=50m memory=64Mi",
			"cpu=50m memory=64Mi", ""},
		{"a pod's ratio that it breaks", requirements("cpu=1 memory=64Mi", "memory=64Mi"), []corev1.LimitRange{rangeOf(pod,
			"ratio memory=1")}, nil,
			"", "", "LimitRange"},
		{"a quota with room", small, nil, []corev1.ResourceQuota{quotaOf("requests.cpu=2 limits.memory=4Gi pods=1", "requests.cpu=500m pods=1")},
			"cpu=2m memory=16Mi", "memory=64Mi", ""},
		{"a quota without room for cpu", small, nil, []corev1.ResourceQuota{quotaOf("cpu=2", "cpu=1")}, "", "", "quota"},
		{"a quota without room for a limit", small, nil, []corev1.ResourceQuota{quotaOf("limits.memory=3Gi", "limits.memory=1Gi")},
			"", "", "quota"},
		{"a quota without room for the pod", small, nil, []corev1.ResourceQuota{quotaOf("requests.memory=1Gi", "requests.memory=1Gi")},
			"cpu=2m memory=16Mi", "memory=64Mi", ""},
		{"best effort, where more is counted", corev1.ResourceRequirements{}, nil,
			[]corev1.ResourceQuota{quotaOf("cpu=1", "", corev1.ResourceQuotaScopeNotBestEffort)}, "", "", ""},
		{"best effort, where it is counted", corev1.ResourceRequirements{}, nil,
			[]corev1.ResourceQuota{quotaOf("pods=1", "", corev1.ResourceQuotaScopeBestEffort)}, "cpu=2m memory=16Mi", "memory=64Mi", ""},
	} {
		for _, native := range []bool{true, false} {
			p := podOf()
			p.Spec.Containers[0].Resources = c.flink
			s := settings()
			s.NativeSidecars = native
			d, after := decideWithin(t, s, p, Limits{Ranges: c.ranges, Quotas: c.quotas})
			if c.refused != "" {
				if d.Reason != ReasonNamespaceLimits || !strings.Contains(d.Message, c.refused) {
					t.Errorf("%s: %s: %s", c.name, d.Reason, d.Message)
				}
				continue
			}
			if !d.Inject {
				t.Errorf("%s: %s: %s", c.name, d.Reason, d.Message)
				continue
			}
			got := corev1.ResourceRequirements{}
			each(&after.Spec, func(c *corev1.Container) {
				if c.Name == ContainerName {
					got = c.Resources
				}
			})
			if diff := cmp.Diff(requirements(c.requests, c.limits), got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", c.name, diff)
			}
		}
	}
}

// Where the LimitRanges are known, nothing is left to LimitRanger.
func TestKnownLimitsNeedNoHint(t *testing.T) {
	pod := podOf(annotated(limitRanger, "LimitRanger plugin set: cpu, memory request for container a"))
	_, after := decideWithin(t, settings(), pod, Limits{Ranges: []corev1.LimitRange{}})
	if len(after.Spec.InitContainers[0].Resources.Requests) != 2 {
		t.Errorf("%v", after.Spec.InitContainers[0].Resources)
	}
}
