package webhook

// Reason is why a pod is injected or left alone. The list is closed: metrics, audit annotations and people's scripts use the words.
type Reason string

const (
	// ReasonJobManager: the pod is a JobManager's, and gets the agent. All other reasons leave a pod alone.
	ReasonJobManager Reason = "JobManager"
	// ReasonNotSelected: no selector of the installation takes the pod, so the API server does not send it to the webhook.
	ReasonNotSelected Reason = "NotSelected"
	// ReasonNamespaceNotSelected: the installation leaves the pod's namespace out.
	ReasonNamespaceNotSelected Reason = "NamespaceNotSelected"
	// ReasonOptedOut: the pod says that it is to be left alone.
	ReasonOptedOut Reason = "OptedOut"
	// ReasonAlreadyInjected: the pod has a container of the agent's name.
	ReasonAlreadyInjected Reason = "AlreadyInjected"
	// ReasonUnreadable: what was sent is not a pod that Kubernetes could read.
	ReasonUnreadable Reason = "Unreadable"
	// ReasonEnding: the pod is being deleted, or has ended.
	ReasonEnding Reason = "Ending"
	// ReasonStaticPod: the pod mirrors one that a kubelet has from a file. It runs already, and cannot be changed.
	ReasonStaticPod Reason = "StaticPod"
	// ReasonPlatform: the pod is bound to nodes that the agent's image does not run on.
	ReasonPlatform Reason = "Platform"
	// ReasonNotJobManager: the pod's Flink is something else, such as a TaskManager.
	ReasonNotJobManager Reason = "NotJobManager"
	// ReasonNoContainer: it cannot be told which of the pod's containers the JobManager runs in.
	ReasonNoContainer Reason = "NoContainer"
	// ReasonNoClusterID: the pod has no name that would outlast it, neither its own nor an owner's.
	ReasonNoClusterID Reason = "NoClusterID"
	// ReasonPortUnknown: nobody can know beforehand where Flink listens for REST, and on the network of the node the agent might ask
	// somebody else's JobManager.
	ReasonPortUnknown Reason = "PortUnknown"
	// ReasonNeedsNativeSidecars: the pod ends when its containers have ended, and without native sidecars the agent would keep it.
	ReasonNeedsNativeSidecars Reason = "NeedsNativeSidecars"
	// ReasonTooLarge: the pod is so near to what Kubernetes allows that the agent could make it too large.
	ReasonTooLarge Reason = "TooLarge"
	// ReasonNamespaceLimits: a LimitRange or a quota of the namespace would refuse the pod with the agent, and not without it.
	ReasonNamespaceLimits Reason = "NamespaceLimits"
	// ReasonPaused: the webhook injects nothing at the moment, because an agent's image could not be pulled.
	ReasonPaused Reason = "Paused"
)

// Reasons are all there are.
func Reasons() []Reason {
	return []Reason{
		ReasonJobManager, ReasonNotSelected, ReasonNamespaceNotSelected, ReasonOptedOut, ReasonAlreadyInjected, ReasonUnreadable,
		ReasonEnding, ReasonStaticPod, ReasonPlatform, ReasonNotJobManager, ReasonNoContainer, ReasonNoClusterID, ReasonPortUnknown,
		ReasonNeedsNativeSidecars, ReasonTooLarge, ReasonNamespaceLimits, ReasonPaused,
	}
}

// ArchiveReason is why the archive folder is injected or not. The list is closed.
type ArchiveReason string

const (
	// ArchiveDecidedInPod injects: the container itself looks into Flink's configuration when it starts, and uses the folder only
	// where the configuration names none.
	ArchiveDecidedInPod ArchiveReason = "DecidedInPod"
	// ArchiveNotConfigured injects: Flink's configuration was read, and names no folder.
	ArchiveNotConfigured ArchiveReason = "NotConfigured"
	// ArchiveAskedFor injects: the pod's annotation asks for it.
	ArchiveAskedFor ArchiveReason = "AskedFor"
	// ArchiveNotInjected does not, like all reasons below: the pod gets no agent.
	ArchiveNotInjected ArchiveReason = "NotInjected"
	// ArchivePolicyOff: the installation has it switched off.
	ArchivePolicyOff ArchiveReason = "PolicyOff"
	// ArchiveAnnotationOff: the pod's annotation has it switched off.
	ArchiveAnnotationOff ArchiveReason = "AnnotationOff"
	// ArchiveSession: a session cluster outlives its jobs, and can be asked about them for an hour.
	ArchiveSession ArchiveReason = "SessionCluster"
	// ArchiveUserSet: the pod sets an archive folder of its own.
	ArchiveUserSet ArchiveReason = "UserSet"
	// ArchiveConfigUnknown: Flink's configuration may set one, and cannot be read here.
	ArchiveConfigUnknown ArchiveReason = "ConfigUnknown"
	// ArchiveCommandUnknown: the JobManager is not started in one of the ways that an option can safely be added to.
	ArchiveCommandUnknown ArchiveReason = "CommandUnknown"
	// ArchiveNameTaken: the pod uses the volume's name, or its path, for something else.
	ArchiveNameTaken ArchiveReason = "NameTaken"
)

// ArchiveReasons are all there are.
func ArchiveReasons() []ArchiveReason {
	return []ArchiveReason{
		ArchiveDecidedInPod, ArchiveNotConfigured, ArchiveAskedFor, ArchiveNotInjected, ArchivePolicyOff, ArchiveAnnotationOff,
		ArchiveSession, ArchiveUserSet, ArchiveConfigUnknown, ArchiveCommandUnknown, ArchiveNameTaken,
	}
}
