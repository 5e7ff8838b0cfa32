// Package job holds the words that every other package speaks: a job's state, how sure we are of it, and who it
// belongs to. It is pure vocabulary. It asks nobody, stores nothing and decides nothing.
package job

import "time"

// Key names one Flink job for ever: job ids are unique inside a cluster only as long as nobody fixes them by hand,
// so the cluster belongs to the key.
type Key struct {
	Namespace string
	Cluster   string
	ID        string
}

// ClusterKey is the key of the job's Flink cluster.
func (k Key) ClusterKey() ClusterKey { return ClusterKey{Namespace: k.Namespace, Cluster: k.Cluster} }

func (k Key) String() string { return k.Namespace + "/" + k.Cluster + "/" + k.ID }

// ClusterKey names one Flink cluster of a site: a Kubernetes namespace and Flink's cluster id.
type ClusterKey struct {
	Namespace string
	Cluster   string
}

func (k ClusterKey) String() string { return k.Namespace + "/" + k.Cluster }

// Stamp is a moment on somebody else's clock, in RFC 3339 with milliseconds and Z, or "" where it is not known. It is
// shown to people and compared for equality. It is never subtracted: only local clocks measure.
type Stamp string

// StampOf is the stamp of a moment given in milliseconds since 1970, as Flink and the local wall clock give it. A moment before 1970,
// as Flink's -1 for "not yet", has none.
func StampOf(milliseconds int64) Stamp {
	if milliseconds < 0 {
		return ""
	}
	return Stamp(time.UnixMilli(milliseconds).UTC().Format("2006-01-02T15:04:05.000Z"))
}

// Attempt is one life of a job. Flink's start-time tells attempts apart (a JobMaster that is created anew, after a
// fail-over for example, starts a new one: JobDetails.java, Dispatcher.java of Flink 1.16 to 2.3). It is compared by equality only.
type Attempt struct {
	// Number counts the attempts in the order in which the settler first saw them, from 1.
	Number int `json:"number"`
	// StartTime is Flink's start-time.
	StartTime Stamp `json:"startTime"`
}

// Tasks counts the subtasks of a job as /jobs/overview gives them.
type Tasks struct {
	Total    int `json:"total"`
	Running  int `json:"running"`
	Finished int `json:"finished,omitempty"`
	Failed   int `json:"failed,omitempty"`
	Canceled int `json:"canceled,omitempty"`
}

// Verdict is what Holdfast says of a job, and why.
type Verdict struct {
	Name     string
	Pipeline string
	State    State
	// Possible are the states that the job may be in; empty unless State is Unknown.
	Possible States
	// Over says whether this attempt will never run again.
	Over      Answer
	Certainty Certainty
	Reason    Reason
	// Cause is Flink's own word for why a job failed, bounded by CauseLimit; "" otherwise.
	Cause string
	// Since is when the job came into State, as its best witness told it.
	Since Stamp
	// LastSeen is when a witness last vouched for State. A Witnessed verdict of a job that is not over is vouched
	// for at this moment, so there it only tells when the verdict was written.
	LastSeen Stamp
	Attempt  Attempt
	Tasks    Tasks
	Via      Via
	Evidence []Statement
}

// CauseLimit bounds a failure's cause, in bytes; NameLimit a job's name and a pipeline's.
const (
	CauseLimit = 512
	NameLimit  = 512
)

// Statement is one piece of evidence as people read it: who said what, when.
type Statement struct {
	// Source is the kind of the witness: "agent".
	Source string `json:"source"`
	// Subject is whom the witness speaks for: "pod/orders-7d".
	Subject string `json:"subject"`
	// Says is the claim: a state, or how the question ended.
	Says string `json:"says"`
	At   Stamp  `json:"at"`
}

// Transition is one entry of a job's history.
type Transition struct {
	// Sequence numbers the entries of a job without a hole, from 1.
	Sequence int64
	Kind     Kind
	Attempt  Attempt
	State    State
	// Possible are the states that the job may be in; empty unless State is Unknown.
	Possible  States
	Over      Answer
	Certainty Certainty
	Reason    Reason
	Cause     string
	Via       Via
	// At is when the job came to State. Since and Count speak of a fold: its first moment, and how many
	// transitions it stands for. Count of a gap is how many were missed.
	At    Stamp
	Since Stamp
	Count int64
	// Folded are the states of a fold.
	Folded States
	// Correction says that a witness put right what had been inferred.
	Correction bool
}

// Kind tells the entries of a history apart.
type Kind uint8

const (
	// Change is one transition.
	Change Kind = iota
	// Fold stands for a flap: two or three states over and over.
	Fold
	// Gap says that an agent saw transitions that nobody recorded.
	Gap
)

// Account is a verdict with the books that the settler needs to go on from it after a restart. What is in memory and
// what is stored is this one thing.
type Account struct {
	Key     Key
	Verdict Verdict
	Books   Books
}

// Books are the settler's notes on one job. Each list is bounded.
type Books struct {
	// Sequence is that of the newest history entry.
	Sequence int64
	// Past are the start-times of superseded attempts, newest last, at most PastLimit: none of them returns.
	Past []Stamp
	// Marks tell how far each witness's transitions are in the history, at most MarkLimit.
	Marks []Mark
	// Recent are the states of the newest transitions of this attempt, newest last, at most RecentLimit: a flap shows
	// in them.
	Recent []State
	// Fold is the newest history entry where that is a fold: it grows in place.
	Fold *Transition
	// Weighed is the store's revision up to which the agents' records had been weighed when this was written. A silent agent's
	// record that is not newer has had its say.
	Weighed int64
	// Workload makes the pods of the job's JobManager; nil while it is not known.
	Workload *Workload
	// OverAt is when the verdict became over by the settler's wall clock, in milliseconds since 1970; 0 before. Only retention reads it.
	OverAt int64
}

// Workload names what makes pods: a Deployment, a Job, a StatefulSet, or who owns it.
type Workload struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
	UID  string `json:"uid"`
}

// Mark says up to which number the transitions of one witness have been taken over.
type Mark struct {
	// Witness is the uid of the agent's pod; for a look from outside with "/" and its session.
	Witness string
	Number  int64
}

// Bounds of the books.
const (
	PastLimit    = 8
	MarkLimit    = 8
	RecentLimit  = 6
	HistoryLimit = 200
)
