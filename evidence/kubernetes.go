package evidence

import "github.com/holdfast-dev/holdfast/job"

// Pod is what the API server says of a JobManager's pod, with or without an agent in it: the kubelet's word, as far as it came.
type Pod struct {
	// Agent is whom an agent in this pod would be.
	Agent Agent
	Name  string
	// Address is the pod's own, "" while it has none, and Port where its JobManager's REST API should listen.
	Address string
	Port    int
	// FlinkID is kubernetes.cluster-id, where the pod tells; Flink knows its cluster by that.
	FlinkID string
	// Injected says that an agent was put into the pod.
	Injected bool
	// Application says whether the JobManager runs one application and ends with it.
	Application job.Answer
	// Workload is the outermost owner that is known: who makes such pods. Its zero value means that none is known yet.
	Workload job.Workload
	// Leaving says that the pod is being deleted.
	Leaving bool

	// Running says whether the JobManager's container runs, and Restarts how often it was started anew.
	Running  bool
	Restarts int
	// Exited says whether the container's last life has ended, and ExitCode how.
	Exited   bool
	ExitCode int
	// Trouble is why the container does not run, Waiting the kubelet's own word for it, bounded by job.WaitingLimit, and Message what it
	// says more, bounded by job.CauseLimit.
	Trouble job.Trouble
	Waiting string
	Message string
}

// Workload is the API server's answer to the question for one workload by its name.
type Workload struct {
	Cluster  job.ClusterKey
	Workload job.Workload
	// There is No if there is none of that name, or one with another uid; Unanswered if the API server could not be asked, or may not be.
	There job.Answer
	// Forbidden says that Holdfast may not ask for workloads of its kind here, so that the question will never be answered.
	Forbidden bool
	// Ended says that it will make no pods any more: a Job that is Complete or Failed.
	Ended bool
}

// HARecord is what Flink keeps in Kubernetes' ConfigMaps, so that a later JobManager takes the cluster's jobs up again.
type HARecord struct {
	Cluster job.ClusterKey
	// There is No if there is none; Unanswered if it could not be asked for.
	There job.Answer
	// Forbidden says that Holdfast may not read ConfigMaps here, so that the question will never be answered.
	Forbidden bool
	// Jobs are the ids of the jobs that it names. All says that it names something else than jobs, which may be any of them.
	Jobs []string
	All  bool
}

// Names says whether the record names a job.
func (r HARecord) Names(id string) bool {
	if r.There != job.Yes {
		return false
	}
	for _, named := range r.Jobs {
		if named == id {
			return true
		}
	}
	return r.All
}

// SessionJob is a FlinkSessionJob of the Flink operator: what its owner calls a job of a session cluster.
type SessionJob struct {
	Key  job.Key
	Name string
	// Gone says that it names the job no more: another, or it was deleted.
	Gone bool
}
