package job

// Condition says how a Flink cluster is as a whole. Where main() throws, no job ever has an id, and this is all that there is to say. The
// zero value is ClusterUnknown.
type Condition uint8

const (
	// ClusterUnknown: there is a cluster, and nothing is known of it.
	ClusterUnknown Condition = iota
	// ClusterReady: a JobManager answers, and has a job or can take one.
	ClusterReady
	// ClusterNoJob: the JobManager of one application answers and has no job: main() has not submitted one yet, or has failed to.
	ClusterNoJob
	// ClusterDown: no JobManager runs.
	ClusterDown
	// ClusterCrashLoop: no JobManager stays up: its container ends again and again.
	ClusterCrashLoop
	// ClusterImagePull: no JobManager runs, since its image cannot be had.
	ClusterImagePull
)

var conditionNames = [...]string{"Unknown", "Ready", "NoJob", "JobManagerDown", "CrashLoop", "ImagePull"}

// Conditions gives every condition, for whoever lists or checks them.
func Conditions() []Condition {
	all := make([]Condition, len(conditionNames))
	for i := range all {
		all[i] = Condition(i)
	}
	return all
}

// Negative says whether the condition claims that something is wrong with the cluster's pods.
func (c Condition) Negative() bool {
	return c == ClusterDown || c == ClusterCrashLoop || c == ClusterImagePull
}

func (c Condition) String() string { return name(conditionNames[:], uint8(c)) }

func (c Condition) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

func (c *Condition) UnmarshalText(text []byte) error {
	return parse(conditionNames[:], text, (*uint8)(c), "condition")
}

// Cluster is what Holdfast says of a Flink cluster as a whole, and why.
type Cluster struct {
	Key       ClusterKey
	Condition Condition
	// Over is Yes once what makes the cluster's JobManagers is gone. Another of the same name makes it No again.
	Over      Answer
	Certainty Certainty
	Reason    Reason
	// Since is when the condition was first seen, by the settler's clock.
	Since Stamp
	// LastSeen is when somebody last vouched for it. As with a verdict, what is more than Held is vouched for at this moment.
	LastSeen Stamp
	// Pods are those that the condition speaks of, at most PodsLimit.
	Pods []PodStatus
	// Workload makes the pods; its zero value means that it is not known.
	Workload Workload
	// Sequence counts what was written of the cluster, from 1: a store that was set back is behind.
	Sequence int64
	// IdleAt is since when nobody has seen the cluster live, by the settler's wall clock in milliseconds since 1970; 0 while somebody does.
	// Only retention reads it.
	IdleAt int64
}

// PodStatus is what is known of one JobManager's pod.
type PodStatus struct {
	Name string `json:"name"`
	// Running says whether the JobManager's container runs, Restarts how often it was started anew, and ExitCode how it last ended, as far as
	// that is known; nil if it has not.
	Running  Answer `json:"running"`
	Restarts int    `json:"restarts"`
	ExitCode *int   `json:"exitCode,omitempty"`
	// Waiting is the kubelet's word for why the container does not run, and Message says more, both bounded.
	Waiting string `json:"waiting,omitempty"`
	Message string `json:"message,omitempty"`
	// Reach is how the last question to the JobManager ended.
	Reach Reach `json:"reach"`
}

// PodsLimit bounds the pods of a cluster's record, and WaitingLimit the kubelet's word, in bytes.
const (
	PodsLimit    = 8
	WaitingLimit = 64
)
