// Package settle turns evidence into verdicts. It is the specification of what Holdfast says of a job, as pure code: it
// asks nobody, stores nothing, starts nothing and reads no clock. Evidence and the passing of time come in as events,
// and what is to be done goes out as effects.
//
// The contract:
//
//   - Step proposes. A verdict counts only once Stored: when the driver has brought it back from the store.
//   - Each Write ends in one Stored of its revision or one NotWritten; and in an Erased, or a list that shows that the verdict is
//     gone, since it is refused then. Until its end the core proposes nothing more for that job. The driver never retries; a later
//     Tick proposes again. An outcome that the driver does not know is NotWritten: the if-revision makes a repetition safe.
//   - A source tells its whole truth between Listing and Synced; what it did not tell in between is gone. While a source is not
//     synced nothing is proposed.
//   - Events of one source come in the store's order. Between sources there is no order.
//
// The rules have numbers, S1 to S13; ARCHITECTURE.md lists them. rules.go has those that judge one job, and conclude.go what is concluded where no
// JobManager speaks for it any more; cluster.go judges a cluster as a whole, health.go has the rules that judge the observer (S9 to S11),
// conserve.go the last word of every judgement of a job.
package settle

import (
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/job"
)

// Config bounds the settler's patience. Every duration is measured on the driver's monotonic clock.
type Config struct {
	// Hold is how long a verdict stays Witnessed after its last proof.
	Hold time.Duration
	// Lease is the time of the agents' leases: a beat that is lost was last proven this long ago.
	Lease time.Duration
	// Grace is how long a negative fact must stand, with healthy sources, before it is concluded from.
	Grace time.Duration
	// Missing is Grace for a job that its JobManager does not know, where nothing newer runs in its place.
	Missing time.Duration
	// FreezeLimit is the longest a freeze may last.
	FreezeLimit time.Duration
	// Tick is how far apart the driver sends Ticks; Late is by how much one may be late before the observer distrusts itself.
	Tick, Late time.Duration
	// Silence is how long a source may show no progress before nothing negative is concluded from it.
	Silence time.Duration
	// PodSilence is Silence for what the API server tells, whose watches show less often that they live.
	PodSilence time.Duration
	// Retain is how long the verdict of a job that is over is kept.
	Retain time.Duration
	// Absent is how long an agent must be silent whose pod is gone, until its reports are removed.
	Absent time.Duration
	// Namespaces are those of which the API server tells; nil means all.
	Namespaces []string
}

// DefaultConfig gives the figures of a site that nobody tuned.
func DefaultConfig() Config {
	return Config{
		Hold: 30 * time.Second, Lease: 20 * time.Second, Grace: 30 * time.Second, Missing: 10 * time.Minute,
		FreezeLimit: 10 * time.Minute, Tick: time.Second, Late: 2 * time.Second, Silence: 15 * time.Second,
		PodSilence: time.Minute, Retain: 7 * 24 * time.Hour, Absent: time.Hour,
	}
}

// Validate names the first field that makes no sense.
func (c Config) Validate() error {
	for _, d := range []struct {
		name string
		is   time.Duration
	}{
		{"hold", c.Hold}, {"lease", c.Lease}, {"grace", c.Grace}, {"missing", c.Missing}, {"freeze limit", c.FreezeLimit},
		{"tick", c.Tick}, {"late", c.Late}, {"silence", c.Silence}, {"pod silence", c.PodSilence}, {"retain", c.Retain},
		{"absent", c.Absent},
	} {
		if d.is <= 0 {
			return fmt.Errorf("the %s time is %s: it must be more than 0", d.name, d.is)
		}
	}
	if c.Tick >= c.Hold {
		return errors.New("the tick is not shorter than the hold time: nothing would be held in time")
	}
	return nil
}

// SweptReport is a report that is to be removed.
type SweptReport struct {
	JobID      string
	IfRevision int64
}

// Source is where evidence comes from. Each is listed, followed and lost by itself.
type Source uint8

const (
	// Agents are the beats and reports in etcd.
	Agents Source = iota
	// Verdicts are what was settled before, in etcd.
	Verdicts
	// Clusters are what was said of clusters before, in etcd. Jobs do not wait for them.
	Clusters
	// Pods are the JobManagers' pods, told by the API server. A site without Kubernetes never lists them, and nothing waits for them.
	Pods
	// Probes are the looks at JobManagers from outside that Ask asked for. They are never listed; Lost ends them all.
	Probes

	numSources
	numStores = Clusters // agents and verdicts, without which nothing is judged
)

func (s Source) String() string {
	return [numSources]string{"agents", "verdicts", "clusters", "pods", "probes"}[s]
}

// Event is something that happened, and when.
type Event struct {
	// At is on the driver's monotonic clock and never falls. All elapsed time is measured on it.
	At time.Duration
	// Wall is the driver's wall clock in milliseconds since 1970. It is shown to people, and decides nothing but what
	// Retain decides, under guard.
	Wall  int64
	Input Input
}

// Input is one of the types below.
type Input interface{ input() }

type (
	// Tick says that time has passed. The driver sends one each Config.Tick.
	Tick struct{}
	// Listing says that a source begins to tell its whole truth. Epoch grows when the store lost its past.
	Listing struct {
		Source Source
		Epoch  int64
	}
	// Synced says that the source has told all, as of the store's revision, and will tell every change from now on.
	Synced struct {
		Source   Source
		Revision int64
	}
	// Progress proves that the source lives and has told all up to the store's revision. Term is that of etcd's leader: a change
	// of it means that leases may have been lost in between.
	Progress struct {
		Source   Source
		Revision int64
		Term     uint64
	}
	// Lost says that the source cannot be followed any more, and why.
	Lost struct {
		Source Source
		Why    string
	}

	// Beat is an agent's sign of life, new or changed.
	Beat struct{ evidence.Beat }
	// Silent says that an agent's beat is gone.
	Silent struct{ Agent evidence.Agent }
	// UnreadableBeat says that an agent's beat is there and cannot be read.
	UnreadableBeat struct{ Agent evidence.Agent }
	// Reported is an agent's report, new or changed, and the store's revision at which it was written. The core keeps it.
	Reported struct {
		Report   *evidence.Report
		Revision int64
	}
	// Unreported says that a report is gone.
	Unreported struct {
		Agent evidence.Agent
		JobID string
	}
	// UnreadableReport says that a report is there and cannot be read.
	UnreadableReport struct {
		Agent evidence.Agent
		JobID string
	}

	// Pod is what the API server says of a JobManager's pod, new or changed.
	Pod struct{ evidence.Pod }
	// PodGone says that there is no such pod: the API server was asked for it by name, so that it did not only leave a selector's view.
	PodGone struct{ Agent evidence.Agent }
	// SessionJob is what a FlinkSessionJob names, new or changed. A name is no evidence of a state: it belongs to no source, and what was told
	// stays until it is gone.
	SessionJob struct{ evidence.SessionJob }
	// Workload answers a Check, or the half of it that could be asked.
	Workload struct{ evidence.Workload }
	// HARecord answers the other half.
	HARecord struct{ evidence.HARecord }

	// Stored is a verdict as it lies in the store, and its revision there: by this core's Write, or anybody else's.
	Stored struct {
		Account  job.Account
		Revision int64
	}
	// StoredCluster is what is said of a cluster as a whole, as it lies in the store. The three below speak of that where their key has no ID.
	StoredCluster struct {
		Cluster  job.Cluster
		Revision int64
	}
	// Erased says that a verdict is not in the store any more.
	Erased struct{ Key job.Key }
	// UnreadableVerdict says that a verdict is there and cannot be read. It is never written over.
	UnreadableVerdict struct{ Key job.Key }
	// NotWritten says that a Write was refused, failed, or ended without an answer. Lost is nil, or what etcd had carried out and does not show any
	// more: a Stored or a StoredCluster that was never told. It may have been served.
	NotWritten struct {
		Key  job.Key
		Lost Input
	}
	// Found says what lies in the store in truth: a Stored, an UnreadableVerdict or an Erased, where Recall says something else though the core was
	// told everything.
	Found struct{ Is Input }
)

func (Tick) input()              {}
func (Listing) input()           {}
func (Synced) input()            {}
func (Progress) input()          {}
func (Lost) input()              {}
func (Beat) input()              {}
func (Silent) input()            {}
func (UnreadableBeat) input()    {}
func (Reported) input()          {}
func (Unreported) input()        {}
func (UnreadableReport) input()  {}
func (Pod) input()               {}
func (PodGone) input()           {}
func (SessionJob) input()        {}
func (Workload) input()          {}
func (HARecord) input()          {}
func (Stored) input()            {}
func (StoredCluster) input()     {}
func (Erased) input()            {}
func (UnreadableVerdict) input() {}
func (NotWritten) input()        {}
func (Found) input()             {}

// Effect is one of the types below.
type Effect interface{ effect() }

type (
	// Write asks for one transaction: the verdict, its new history entries, and the pruning of those that fall out of
	// job.HistoryLimit; if the verdict's revision in the store is still IfRevision, 0 for a verdict that must not be there.
	Write struct {
		Account    job.Account
		Entries    []job.Transition
		IfRevision int64
	}
	// Sweep asks for the removal of reports of an agent whose pod is gone, each if its revision is still IfRevision, and all if the agent does not
	// beat. Nobody needs to say how it ended: what is still there is asked for again.
	Sweep struct {
		Agent   evidence.Agent
		Reports []SweptReport
	}
	// Forget asks for the removal of a job that has been over for Config.Retain: first the reports of the agents, none of which
	// lives and knows the job, or may come back, then the verdict if its revision is still IfRevision, with its history.
	Forget struct {
		Key        job.Key
		Reports    []evidence.Agent
		IfRevision int64
	}
	// WriteCluster asks for the record of a cluster as a whole, if its revision in the store is still IfRevision. It ends as a Write does.
	WriteCluster struct {
		Cluster    job.Cluster
		IfRevision int64
	}
	// ForgetCluster asks for the removal of that record, of a cluster that nobody has seen for Config.Retain and of which no job is left.
	ForgetCluster struct {
		Key        job.ClusterKey
		IfRevision int64
	}
	// Ask asks for looks at a JobManager from outside: what they see is told as the beats and reports of Agent, whose Probe is set. Stop
	// ends them. Another Ask for the same agent takes the place of the first. Should no look have ended for Config.Hold, the driver says Silent.
	Ask struct {
		Agent   evidence.Agent
		Pod     string
		Address string
		Port    int
		// FlinkID is kubernetes.cluster-id, where the pod tells.
		FlinkID string
		Stop    bool
	}
	// Check asks the API server for a cluster's workload, if one is known, and for its high-availability record, once. It is asked for again
	// while an answer is missing.
	Check struct {
		Cluster  job.ClusterKey
		Workload job.Workload
	}
	// Condition is the site's, not a cluster's: it says whether negative conclusions are frozen, and how many agents are heard. It is told whenever
	// that changes.
	Condition struct {
		Frozen            bool
		Source, Why       string
		Since             job.Stamp
		Expected, Beating int
	}
)

func (Write) effect()         {}
func (Forget) effect()        {}
func (Sweep) effect()         {}
func (WriteCluster) effect()  {}
func (ForgetCluster) effect() {}
func (Ask) effect()           {}
func (Check) effect()         {}
func (Condition) effect()     {}
