package webhook

import corev1 "k8s.io/api/core/v1"

func container(name string) *corev1.Container { return &corev1.Container{Name: name} }
