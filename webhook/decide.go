package webhook

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	kjson "k8s.io/apimachinery/pkg/util/json"
)

// Decide says what becomes of a pod. It never fails and never denies: what cannot be read is left alone, with the reason.
func Decide(s Settings, r Request) Decision {
	var pod corev1.Pod
	if err := kjson.Unmarshal(r.Pod, &pod); err != nil {
		return leave(ReasonUnreadable, "this is not a pod")
	}
	return leave(ReasonNoContainer, "no container of the pod is known to be a JobManager's")
}

// ConfigMapNeeded names the ConfigMap that the decision about the archive folder wants to read, in the pod's namespace.
func ConfigMapNeeded(s Settings, pod []byte) (name string, needed bool) {
	return "", false
}

func leave(reason Reason, message string) Decision {
	return Decision{
		Reason: reason, Message: message,
		Archive: ArchiveDecision{Reason: ArchiveNotInjected, Message: "the pod gets no agent that would read the archive"},
	}
}

// quantity parses what Validate has seen; anything else is nothing.
func quantity(text string) resource.Quantity {
	q, err := resource.ParseQuantity(text)
	if err != nil {
		return resource.Quantity{}
	}
	return q
}
