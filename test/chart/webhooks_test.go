package chart

import (
	"slices"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
)

// checkWebhooks asks the selectors about pods with all labels that matter, as the API server would.
func checkWebhooks(t *testing.T, c combination, all []object) {
	configurations := of[*admissionv1.MutatingWebhookConfiguration](all)
	if c.chose["webhook"] == "off" {
		if len(configurations) > 0 {
			t.Error("webhook.enabled is false, and there is a MutatingWebhookConfiguration")
		}
		return
	}
	if len(configurations) != 1 {
		t.Fatalf("%d MutatingWebhookConfigurations", len(configurations))
	}
	var names []string
	for _, w := range configurations[0].Webhooks {
		names = append(names, w.Name)
		checkWebhook(t, w, all)
	}
	want := []string{"jobmanager-component.holdfast.dev", "flink-deployment-type.holdfast.dev", "inject.holdfast.dev"}
	if !slices.Equal(names, want) {
		t.Errorf("webhooks %v, want %v", names, want)
	}

	selected := c.chose["webhook"] == "given" // by labels of the values
	for _, component := range []string{"", "jobmanager", "taskmanager"} {
		for _, kind := range []string{"", "jobmanager", "taskmanager"} {
			for _, inject := range []string{"", "true", "false", "perhaps"} {
				for _, team := range []string{"", "a", "a, old"} {
					pod := map[string]string{}
					for label, value := range map[string]string{
						"component": component, "flink-deployment-type": kind, "holdfast.dev/inject": inject, "team": team,
					} {
						if value != "" {
							pod[label] = value
						}
					}
					if team == "a, old" {
						pod["team"], pod["old"] = "a", ""
					}
					want := 0
					jobManager, taskManager := component == "jobmanager" || kind == "jobmanager", component == "taskmanager" || kind == "taskmanager"
					if (inject != "false" && jobManager || inject == "true" && !taskManager) && (!selected || team == "a") {
						want = 1
					}
					got := 0
					for _, w := range configurations[0].Webhooks {
						if selects(t, w.ObjectSelector, pod) {
							got++
						}
					}
					if got != want {
						t.Errorf("a pod with %v is sent to the webhook %d times, want %d", pod, got, want)
					}
				}
			}
		}
	}
	for name, home := range map[string]bool{
		"kube-system": false, "kube-node-lease": false, namespace: false, "team-a": true, "123": c.chose["rbac"] != "namespaces, ConfigMaps",
		"team-b": c.chose["rbac"] != "namespaces" && c.chose["rbac"] != "namespaces, ConfigMaps",
	} {
		for _, flink := range []bool{false, true} {
			labels := map[string]string{"kubernetes.io/metadata.name": name}
			if flink {
				labels["flink"] = ""
			}
			for _, w := range configurations[0].Webhooks {
				if got, want := selects(t, w.NamespaceSelector, labels), home && (flink || !selected); got != want {
					t.Errorf("%s counts for namespaces with %v: %t, want %t", w.Name, labels, got, want)
				}
			}
		}
	}
}

func checkWebhook(t *testing.T, w admissionv1.MutatingWebhook, all []object) {
	t.Helper()
	if *w.FailurePolicy != admissionv1.Ignore || *w.TimeoutSeconds != 5 || *w.MatchPolicy != admissionv1.Equivalent ||
		*w.SideEffects != admissionv1.SideEffectClassNone || *w.ReinvocationPolicy != admissionv1.NeverReinvocationPolicy {
		t.Errorf("%s: %+v", w.Name, w)
	}
	creates := []admissionv1.OperationType{admissionv1.Create}
	if len(w.Rules) != 1 || !slices.Equal(w.Rules[0].Operations, creates) || !slices.Equal(w.Rules[0].Resources, []string{"pods"}) {
		t.Errorf("%s is asked about %+v", w.Name, w.Rules)
	}
	to := w.ClientConfig.Service
	service := named[*corev1.Service](t, all, to.Name)
	known := slices.ContainsFunc(service.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == *to.Port })
	if to.Namespace != service.Namespace || *to.Path != "/mutate" || !known {
		t.Errorf("%s is at %+v", w.Name, to)
	}
}
