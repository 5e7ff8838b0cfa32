package webhook

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Labels by which Flink's own ways of deploying name a JobManager's pod.
const (
	labelComponent  = "component"             // Flink native, the Flink operator, Flink's docs, Spotify's operator
	labelDeployment = "flink-deployment-type" // Lyft's operator
	jobManager      = "jobmanager"
	taskManager     = "taskmanager"
)

// NamedSelector is one entry of the MutatingWebhookConfiguration. The name is the entry's, which Kubernetes wants fully qualified.
type NamedSelector struct {
	Name string
	// Namespaces and Selector are what the entry asks of a namespace's labels and of a pod's; nil Namespaces takes all.
	Namespaces *metav1.LabelSelector
	Selector   metav1.LabelSelector
}

// Selectors are the pods that the API server sends to the webhook. A selector knows no "or", so there is one for each way of naming a
// JobManager, and no pod passes two of them: it would be sent twice.
func Selectors() []NamedSelector {
	not := func(key string, values ...string) metav1.LabelSelectorRequirement {
		return metav1.LabelSelectorRequirement{Key: key, Operator: metav1.LabelSelectorOpNotIn, Values: values}
	}
	// Nobody's JobManager runs where a cluster's own machinery does.
	namespaces := &metav1.LabelSelector{
		MatchExpressions: []metav1.LabelSelectorRequirement{not(LabelNamespaceName, "kube-system", "kube-node-lease")},
	}
	return []NamedSelector{{
		Name: "jobmanager-component.holdfast.dev", Namespaces: namespaces,
		Selector: metav1.LabelSelector{
			MatchLabels:      map[string]string{labelComponent: jobManager},
			MatchExpressions: []metav1.LabelSelectorRequirement{not(LabelInject, "false")},
		},
	}, {
		Name: "flink-deployment-type.holdfast.dev", Namespaces: namespaces,
		Selector: metav1.LabelSelector{
			MatchLabels:      map[string]string{labelDeployment: jobManager},
			MatchExpressions: []metav1.LabelSelectorRequirement{not(labelComponent, jobManager), not(LabelInject, "false")},
		},
	}, {
		// Whoever labels a FlinkDeployment's common pod template labels its TaskManagers too.
		Name: "inject.holdfast.dev", Namespaces: namespaces,
		Selector: metav1.LabelSelector{
			MatchLabels: map[string]string{LabelInject: "true"},
			MatchExpressions: []metav1.LabelSelectorRequirement{
				not(labelComponent, jobManager, taskManager), not(labelDeployment, jobManager, taskManager),
			},
		},
	}}
}

// LabelNamespaceName is the label by which selectors know a namespace's name. Kubernetes sets it.
const LabelNamespaceName = "kubernetes.io/metadata.name"

// Select finds the entry that takes a pod, as the API server does. Where none does, the reason is ReasonNamespaceNotSelected or
// ReasonNotSelected, and the message says what to do. The error is about a selector that Kubernetes would not take either.
func Select(entries []NamedSelector, namespace, pod map[string]string) (entry string, reason Reason, message string, err error) {
	inNamespace := false
	for _, e := range entries {
		if e.Namespaces != nil {
			selector, err := metav1.LabelSelectorAsSelector(e.Namespaces)
			if err != nil {
				return "", "", "", fmt.Errorf("%s: the selector of namespaces: %w", e.Name, err)
			}
			if !selector.Matches(labels.Set(namespace)) {
				continue
			}
		}
		inNamespace = true
		selector, err := metav1.LabelSelectorAsSelector(&e.Selector)
		if err != nil {
			return "", "", "", fmt.Errorf("%s: the selector of pods: %w", e.Name, err)
		}
		if selector.Matches(labels.Set(pod)) {
			return e.Name, "", "", nil
		}
	}
	switch name := shown(namespace[LabelNamespaceName]); {
	case !inNamespace:
		return "", ReasonNamespaceNotSelected, fmt.Sprintf("the installation leaves the namespace %s out: its labels do not pass "+
			"webhook.namespaceSelector, or it is one of those that always are (kube-system, kube-node-lease, Holdfast's own)", name), nil
	case strings.EqualFold(pod[LabelInject], "false"):
		return "", ReasonOptedOut, fmt.Sprintf("the label %s says %s; remove it if the pod is to have the agent", LabelInject,
			shown(pod[LabelInject])), nil
	}
	return "", ReasonNotSelected, fmt.Sprintf("no selector takes the pod's labels: if it is a JobManager's, label it %s: \"true\" "+
		"(%s: jobmanager and %s: jobmanager do as well)", LabelInject, labelComponent, labelDeployment), nil
}
