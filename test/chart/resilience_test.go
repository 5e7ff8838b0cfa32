package chart

import (
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// serving are the workloads whose pods serve somebody, and how many there shall be of each.
func serving(all []object) map[string]int32 {
	some := map[string]int32{}
	for _, d := range of[*appsv1.Deployment](all) {
		some[d.Name] = *d.Spec.Replicas
	}
	for _, s := range of[*appsv1.StatefulSet](all) {
		some[s.Name] = *s.Spec.Replicas
	}
	return some
}

// checkResilience holds that a drain of one node neither stops a component that has several pods, nor waits for ever for one that has
// one; and that pods of a component prefer different nodes.
func checkResilience(t *testing.T, _ combination, all []object) {
	pods := serving(all)
	budgets := of[*policyv1.PodDisruptionBudget](all)
	if len(budgets) != len(pods) {
		t.Errorf("%d budgets for %d workloads", len(budgets), len(pods))
	}
	for name, replicas := range pods {
		b := named[*policyv1.PodDisruptionBudget](t, all, name)
		switch {
		case b.Spec.MinAvailable != nil || b.Spec.MaxUnavailable == nil:
			t.Errorf("the budget %s does not say how many pods may go: %+v", name, b.Spec)
		case b.Spec.MaxUnavailable.IntValue() < 1:
			t.Errorf("no pod of %s may ever go: a drain waits for ever", name)
		case replicas > 1 && int(replicas)-b.Spec.MaxUnavailable.IntValue() < 1:
			t.Errorf("all %d pods of %s may go at once", replicas, name)
		}
	}
	for _, s := range of[*appsv1.StatefulSet](all) {
		b := named[*policyv1.PodDisruptionBudget](t, all, s.Name)
		members := int(*s.Spec.Replicas)
		if members > 1 && members-b.Spec.MaxUnavailable.IntValue() <= members/2 {
			t.Errorf("a drain may take %s its quorum: %d of %d members", s.Name, b.Spec.MaxUnavailable.IntValue(), members)
		}
		if !slices.ContainsFunc(s.Spec.Template.Spec.TopologySpreadConstraints, func(c corev1.TopologySpreadConstraint) bool {
			return c.TopologyKey == corev1.LabelHostname && c.MaxSkew == 1 && selects(t, c.LabelSelector, s.Spec.Template.Labels)
		}) {
			t.Errorf("the members of %s may all be on one node: %+v", s.Name, s.Spec.Template.Spec.TopologySpreadConstraints)
		}
	}
}

func TestBudgetsCanBeLeftOut(t *testing.T) {
	without := "{podDisruptionBudget: {enabled: false}}"
	all := render(t, "aggregator: "+without+"\nwebhook: "+without+"\netcd: "+without)
	if budgets := of[*policyv1.PodDisruptionBudget](all); len(budgets) > 0 {
		t.Errorf("there are %d budgets", len(budgets))
	}
}

// monitor is what counts of a ServiceMonitor, whose types are Prometheus' operator's.
type monitor struct {
	Spec struct {
		NamespaceSelector struct{ MatchNames []string }
		Selector          metav1.LabelSelector
		Endpoints         []struct{ Port, Path string }
	}
}

// checkMonitor holds that each component's metrics are scraped, once, where they are served.
func checkMonitor(t *testing.T, c combination, all []object) {
	var monitors []monitor
	for _, o := range all {
		if o.Kind != "ServiceMonitor" {
			continue
		}
		var m monitor
		if err := yaml.Unmarshal([]byte(o.text), &m); err != nil {
			t.Fatal(err)
		}
		monitors = append(monitors, m)
	}
	if want := c.chose["rest"] == "all"; len(monitors) != map[bool]int{true: 1}[want] {
		t.Fatalf("%d ServiceMonitors, and it is %t that there shall be one", len(monitors), want)
	}
	for _, m := range monitors {
		scraped := map[string]int{}
		for _, s := range of[*corev1.Service](all) {
			if !selects(t, &m.Spec.Selector, s.Labels) || !slices.Contains(m.Spec.NamespaceSelector.MatchNames, s.Namespace) {
				continue
			}
			for _, e := range m.Spec.Endpoints {
				if slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool { return p.Name == e.Port }) {
					scraped[s.Labels["app.kubernetes.io/component"]]++
				}
				if e.Path != "/metrics" {
					t.Errorf("metrics are asked for at %s", e.Path)
				}
			}
		}
		for name := range serving(all) {
			var component string
			for _, w := range workloads(all) {
				if w.meta.GetName() == name {
					component = w.template.Labels["app.kubernetes.io/component"]
				}
			}
			if scraped[component] != 1 {
				t.Errorf("the metrics of %s are scraped by way of %d Services", name, scraped[component])
			}
			delete(scraped, component)
		}
		if len(scraped) > 0 {
			t.Errorf("scraped without a workload: %v", scraped)
		}
	}
}
