package kube

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/job"
)

// troubles are the reasons for which the kubelet lets a container wait (kuberuntime, images and container events of Kubernetes 1.29 to 1.34).
var troubles = map[string]job.Trouble{
	"CrashLoopBackOff": job.CrashLoop,
	"ErrImagePull":     job.ImagePull, "ImagePullBackOff": job.ImagePull, "InvalidImageName": job.ImagePull, "ErrImageNeverPull": job.ImagePull,
	"ImageInspectError": job.ImagePull, "RegistryUnavailable": job.ImagePull, "SignatureValidationFailed": job.ImagePull,
	"CreateContainerError": job.CannotStart, "CreateContainerConfigError": job.CannotStart, "RunContainerError": job.CannotStart,
	"PreCreateHookError": job.CannotStart, "PreStartHookError": job.CannotStart, "PostStartHookError": job.CannotStart,
}

// state is what a pod's status says, for a pod that is identified.
func state(pod *corev1.Pod, id Identity) evidence.Pod {
	p := id.Pod
	p.Agent.Namespace, p.Agent.PodUID, p.Name = pod.Namespace, string(pod.UID), pod.Name
	p.Address, p.Leaving = pod.Status.PodIP, pod.DeletionTimestamp != nil
	p.Running, p.Restarts, p.Exited, p.ExitCode, p.Trouble, p.Waiting, p.Message = false, 0, false, 0, job.NoTrouble, "", ""
	over := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	for i := range pod.Status.ContainerStatuses {
		s := &pod.Status.ContainerStatuses[i]
		if s.Name != id.Container {
			continue
		}
		p.Restarts = int(s.RestartCount)
		ended := s.State.Terminated
		if ended == nil && s.State.Running == nil {
			ended = s.LastTerminationState.Terminated
		}
		if ended != nil {
			p.Exited, p.ExitCode = true, int(ended.ExitCode)
		}
		p.Running = s.State.Running != nil && !over
		if w := s.State.Waiting; w != nil {
			p.Trouble, p.Waiting, p.Message = troubles[w.Reason], clip(w.Reason, job.WaitingLimit), clip(w.Message, job.CauseLimit)
		}
	}
	if pod.Status.Message != "" && p.Message == "" && !p.Running {
		p.Message = clip(pod.Status.Message, job.CauseLimit) // such as why it was evicted
	}
	return p
}

func clip(text string, limit int) string {
	if len(text) > limit {
		return text[:limit]
	}
	return text
}
