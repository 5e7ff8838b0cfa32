package webhook

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Labels by which Flink's own ways of deploying name a JobManager's pod.
const (
	labelComponent  = "component"             // Flink native, the Flink operator, Flink's docs, Spotify's operator
	labelDeployment = "flink-deployment-type" // Lyft's operator
	jobManager      = "jobmanager"
	taskManager     = "taskmanager"
)

// NamedSelector is one entry of the MutatingWebhookConfiguration. The name is the entry's, which Kubernetes wants fully qualified.
type NamedSelector struct {
	Name     string
	Selector metav1.LabelSelector
}

// Selectors are the pods that the API server sends to the webhook. A selector knows no "or", so there is one for each way of naming a
// JobManager, and no pod passes two of them: it would be sent twice.
func Selectors() []NamedSelector {
	not := func(key string, values ...string) metav1.LabelSelectorRequirement {
		return metav1.LabelSelectorRequirement{Key: key, Operator: metav1.LabelSelectorOpNotIn, Values: values}
	}
	return []NamedSelector{{
		Name: "component.holdfast.dev",
		Selector: metav1.LabelSelector{
			MatchLabels:      map[string]string{labelComponent: jobManager},
			MatchExpressions: []metav1.LabelSelectorRequirement{not(LabelInject, "false")},
		},
	}, {
		Name: "flink-deployment-type.holdfast.dev",
		Selector: metav1.LabelSelector{
			MatchLabels:      map[string]string{labelDeployment: jobManager},
			MatchExpressions: []metav1.LabelSelectorRequirement{not(labelComponent, jobManager), not(LabelInject, "false")},
		},
	}, {
		// Whoever labels a FlinkDeployment's common pod template labels its TaskManagers too.
		Name: "inject.holdfast.dev",
		Selector: metav1.LabelSelector{
			MatchLabels: map[string]string{LabelInject: "true"},
			MatchExpressions: []metav1.LabelSelectorRequirement{
				not(labelComponent, jobManager, taskManager), not(labelDeployment, jobManager, taskManager),
			},
		},
	}}
}
