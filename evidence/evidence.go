// Package evidence holds what one source said, once, as plain values: no verdict, no trust, no clock. Whether a piece of
// evidence counts, and against which other, is for package settle to say.
package evidence

import "github.com/holdfast-dev/holdfast/job"

// Agent names a witness by the JobManager pod that it sits in. A pod's name returns after a restart; its uid does not.
type Agent struct {
	Namespace string
	Cluster   string
	PodUID    string
	// Probe says that nobody sits in the pod: the settler asks its JobManager from outside. Such a witness has nothing in the store.
	Probe bool
}

// ClusterKey is the key of the agent's Flink cluster.
func (a Agent) ClusterKey() job.ClusterKey {
	return job.ClusterKey{Namespace: a.Namespace, Cluster: a.Cluster}
}

func (a Agent) String() string {
	name := a.Namespace + "/" + a.Cluster + "/" + a.PodUID
	if a.Probe {
		name += " (probe)"
	}
	return name
}

// Beat is an agent's sign of life, and what it knows of the JobManager as a whole. It lies under a lease: that it is
// there proves keepalives; what it says was true when it was last written.
type Beat struct {
	Agent Agent
	// Session names one life of the agent's process.
	Session string
	// Version is the agent's own.
	Version string
	// Pod is the pod's name, for people.
	Pod string
	// Incarnation names one life of the JobManager's process; "" until Flink has been asked.
	Incarnation  string
	FlinkVersion string
	// HighAvailability says whether the JobManager takes its jobs over from a predecessor.
	HighAvailability job.Answer
	// Application says whether the cluster runs one application, and so is itself what its owner calls "my job".
	Application job.Answer
	// Reach is how the last question to the JobManager ended, and ReachSince since when it has ended so.
	Reach      job.Reach
	ReachSince job.Stamp
	// Goodbye is written last by an agent that leaves in order, just before its beat goes.
	Goodbye bool
	// At is when the agent wrote this.
	At job.Stamp
}

// Report is what an agent saw of one job. It is durable: it stays when its agent is gone.
type Report struct {
	Agent   Agent
	JobID   string
	Session string
	// Pod is the name of the agent's pod, for people: the report outlives the beat that has it too.
	Pod string
	// Sequence orders the reports of one session; a write whose outcome was unknown may land after a newer one.
	Sequence int64
	// Incarnation is that of the JobManager process that gave State.
	Incarnation string

	Name      string
	Pipeline  string
	StartTime job.Stamp
	EndTime   job.Stamp
	State     job.State
	Tasks     job.Tasks
	// Via is the road by which State came.
	Via job.Via

	// Reach is how the last question about this job ended, where the JobManager as a whole could be asked.
	Reach job.Reach
	// LastAnswer is when Flink last gave State. It is not written anew while State stays and Reach is Fine.
	LastAnswer job.Stamp
	// Known is No once Flink has said twice that it could not find the job, and Denier is the JobManager process that said so.
	Known  job.Answer
	Denier string

	// Transitions are the newest that the agent saw, oldest first, at most TransitionLimit.
	Transitions []Transition
}

// TransitionLimit bounds the transitions that one report carries.
const TransitionLimit = 32

// Key is the key of the job that the report is about.
func (r *Report) Key() job.Key {
	return job.Key{Namespace: r.Agent.Namespace, Cluster: r.Agent.Cluster, ID: r.JobID}
}

// Transition is one change of a job's state as one agent saw it.
type Transition struct {
	// Number counts an agent's transitions of one job without a hole, from 1, over all its sessions.
	Number    int64
	State     job.State
	StartTime job.Stamp
	At        job.Stamp
	Cause     string
	// CauseAsked is Yes for a FAILED whose cause Flink was asked for and gave, even if it gave none.
	CauseAsked job.Answer
	Via        job.Via
}
