package job

import "fmt"

// Answer is how a question ended. The zero value is Unanswered: "I could not ask" is not "no".
type Answer uint8

const (
	Unanswered Answer = iota
	Yes
	No
)

var answerNames = [...]string{"unknown", "yes", "no"}

func (a Answer) String() string { return name(answerNames[:], uint8(a)) }

func (a Answer) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

func (a *Answer) UnmarshalText(text []byte) error {
	return parse(answerNames[:], text, (*uint8)(a), "answer")
}

// Certainty is how a verdict is known. The greater is the stronger.
type Certainty uint8

const (
	// Held is the last known state, kept while its witnesses are silent.
	Held Certainty = iota
	// Inferred means that facts of Kubernetes, or of a JobManager about itself, leave no other conclusion.
	Inferred
	// Witnessed means that a JobManager said it.
	Witnessed
)

var certaintyNames = [...]string{"Held", "Inferred", "Witnessed"}

func (c Certainty) String() string { return name(certaintyNames[:], uint8(c)) }

func (c Certainty) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

func (c *Certainty) UnmarshalText(text []byte) error {
	return parse(certaintyNames[:], text, (*uint8)(c), "certainty")
}

// Via is the road by which a verdict's decisive evidence came.
type Via uint8

const (
	ViaNone Via = iota
	ViaREST
	ViaArchive
	ViaLastWords
	ViaProbe
	ViaExitCode
	ViaWorkload
)

var viaNames = [...]string{"", "REST", "Archive", "LastWords", "Probe", "ExitCode", "Workload"}

func (v Via) String() string { return name(viaNames[:], uint8(v)) }

func (v Via) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

func (v *Via) UnmarshalText(text []byte) error { return parse(viaNames[:], text, (*uint8)(v), "road") }

// Reason says in one word why a verdict is what it is.
type Reason uint8

const (
	// FlinkSaid: a JobManager gave this state.
	FlinkSaid Reason = iota
	// AgentSilent: the agent's beat is lost; nobody knows more.
	AgentSilent
	// AgentLeft: the agent left in order, with a goodbye, and nobody took over.
	AgentLeft
	// AgentStale: the report is of an earlier session of the agent, which has not asserted it again.
	AgentStale
	// JobManagerUnreachable: the agent lives, and cannot ask the JobManager beside it; or the pod never had an agent, and the JobManager cannot
	// be asked from outside.
	JobManagerUnreachable
	// JobUnanswered: the JobManager answers, but not about this job.
	JobUnanswered
	// JobMissing: the JobManager says that it does not know this job.
	JobMissing
	// Vanished: the attempt cannot run again, and nobody saw how it ended.
	Vanished
	// Replaced: like Vanished, and its pipeline runs a newer job.
	Replaced
	// AlreadyDone: a JobManager refused the job, since it ended in an earlier attempt; it does not say how.
	AlreadyDone
	// StoreUnreachable: the server that answers is cut off from etcd.
	StoreUnreachable
	// JobManagerDown: no JobManager of the cluster runs; a later one may take the job up again.
	JobManagerDown
	// ContainerExited: nobody saw how the job ended, and the JobManager's exit code tells.
	ContainerExited
	// NoSettler: no aggregator leads, or the one that does cannot judge, or cannot write what it judges.
	NoSettler
	// KubernetesSilent: the API server, which told of the cluster's pods, is not heard.
	KubernetesSilent

	numReasons
)

var reasonNames = [numReasons]string{
	"FlinkSaid", "AgentSilent", "AgentLeft", "AgentStale", "JobManagerUnreachable", "JobUnanswered", "JobMissing",
	"Vanished", "Replaced", "AlreadyDone", "StoreUnreachable", "JobManagerDown", "ContainerExited", "NoSettler",
	"KubernetesSilent",
}

// Reasons gives every reason, for whoever lists or checks them.
func Reasons() []Reason {
	all := make([]Reason, numReasons)
	for i := range all {
		all[i] = Reason(i)
	}
	return all
}

func (r Reason) String() string { return name(reasonNames[:], uint8(r)) }

func (r Reason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

func (r *Reason) UnmarshalText(text []byte) error {
	return parse(reasonNames[:], text, (*uint8)(r), "reason")
}

// Trouble is why a JobManager's container does not run.
type Trouble uint8

const (
	NoTrouble Trouble = iota
	// CrashLoop: it ended again and again, and the kubelet waits before it starts it once more.
	CrashLoop
	// ImagePull: its image cannot be had.
	ImagePull
	// CannotStart: the kubelet cannot create or start it, for another reason.
	CannotStart
)

var troubleNames = [...]string{"", "CrashLoop", "ImagePull", "CannotStart"}

func (t Trouble) String() string { return name(troubleNames[:], uint8(t)) }

func (t Trouble) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

func (t *Trouble) UnmarshalText(text []byte) error {
	return parse(troubleNames[:], text, (*uint8)(t), "trouble")
}

var kindNames = [...]string{"transition", "fold", "gap"}

func (k Kind) String() string { return name(kindNames[:], uint8(k)) }

func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

func (k *Kind) UnmarshalText(text []byte) error {
	return parse(kindNames[:], text, (*uint8)(k), "kind")
}

// Reach is how a question to Flink ended. The zero value is NotAsked.
type Reach uint8

const (
	NotAsked Reach = iota
	// Fine: Flink answered.
	Fine
	// Refused: nothing listens at the address.
	Refused
	// NoLeader: a JobManager answered 503, since no leader is known to it.
	NoLeader
	// TimedOut: no answer in time.
	TimedOut
	// Closed: the connection ended without an answer, as it does while a JobManager shuts down.
	Closed
	// Erred: an answer that says that something went wrong inside Flink.
	Erred
	// Malformed: an answer that is none of Flink's.
	Malformed

	numReaches
)

var reachNames = [numReaches]string{
	"not asked", "fine", "refused", "no leader", "timed out", "closed", "error", "malformed",
}

func (r Reach) String() string { return name(reachNames[:], uint8(r)) }

func (r Reach) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

func (r *Reach) UnmarshalText(text []byte) error {
	return parse(reachNames[:], text, (*uint8)(r), "reach")
}

func name(names []string, v uint8) string {
	if int(v) < len(names) {
		return names[v]
	}
	return fmt.Sprintf("(%d)", v)
}

func parse(names []string, text []byte, v *uint8, what string) error {
	for i, n := range names {
		if n == string(text) {
			*v = uint8(i)
			return nil
		}
	}
	return fmt.Errorf("unknown %s %q", what, clip(string(text)))
}
