package board

import (
	"math"
	"strings"
	"time"

	"github.com/holdfast-dev/holdfast/job"
)

// Job is one verdict as the board keeps it: packed, with most of its JSON made in advance, so that a hundred thousand
// of them fit into little memory and showing one is copying. It is immutable.
type Job struct {
	// text holds, one after the other, the pieces that the ends below delimit.
	text     string
	pipeline string
	revision int64
	// seen is when a witness last vouched for the state, in Unix milliseconds by the witness's clock; 0 if it does not
	// say. Nothing is decided by it: it only turns into an age for people.
	seen int64
	ends [numPieces]uint32

	namespace, cluster uint8 // lengths, within the path
	state              job.State
	over               job.Answer
	certainty          job.Certainty
	reason             job.Reason
	via                job.Via
	unreadable         Unreadable
}

// The pieces of a job's text.
const (
	// piecePath is the job's key as it stands in etcd's keys and in URLs: namespace/cluster/jobID.
	piecePath = iota
	// pieceCause is Flink's word for a failure, and piecePossible the names of the possible states; both are escaped for JSON.
	pieceCause
	piecePossible
	// pieceHead is the JSON from the pipeline to the opening quote of the certainty.
	pieceHead
	pieceSince
	pieceSeen
	// pieceTail is the JSON from the attempt to the opening quote of the version.
	pieceTail
	pieceEvidence

	numPieces
)

func (j *Job) piece(i int) string {
	start := uint32(0)
	if i > 0 {
		start = j.ends[i-1]
	}
	return j.text[start:j.ends[i]]
}

// Path is the job's key, namespace/cluster/jobID. The board is sorted by it.
func (j *Job) Path() string { return j.text[:j.ends[piecePath]] }

// Key is the job's key.
func (j *Job) Key() job.Key {
	path, cluster := j.Path(), int(j.namespace)+1
	return job.Key{
		Namespace: path[:j.namespace], Cluster: path[cluster : cluster+int(j.cluster)], ID: path[cluster+int(j.cluster)+1:],
	}
}

// Pipeline is what the job's owner calls it; the job's name, where nobody called it anything.
func (j *Job) Pipeline() string { return j.pipeline }

func (j *Job) State() job.State { return j.state }

func (j *Job) Over() job.Answer { return j.over }

// Revision is the one of etcd at which the verdict last changed.
func (j *Job) Revision() int64 { return j.revision }

// Lowerable says whether the verdict is more than Held, so that rule S13 can lower it.
func (j *Job) Lowerable() bool { return j.certainty > job.Held }

// Unreadable says whether the newest record of the job could not be read. What the job says otherwise is then from an
// earlier record, or nothing.
func (j *Job) Unreadable() Unreadable { return j.unreadable }

// pack makes a job of a verdict. It copies everything, so nothing keeps the record from which the verdict came.
func pack(key job.Key, v job.Verdict, revision int64, bad Unreadable) *Job {
	name, pipeline := v.Name, v.Pipeline
	if name == "" {
		name = key.ID
	}
	if pipeline == "" {
		pipeline = name
	}
	var scratch [1024]byte
	p := packer{text: scratch[:0]}
	p.end(piecePath, append(append(append(append(append(p.text, key.Namespace...), '/'), key.Cluster...), '/'), key.ID...))
	p.end(pieceCause, appendEscaped(p.text, v.Cause))
	p.end(piecePossible, appendNames(p.text, v.Possible, "", ", "))
	p.end(pieceHead, appendHead(p.text, key.ID, name, pipeline, &v))
	p.end(pieceSince, appendEscaped(p.text, string(v.Since)))
	p.end(pieceSeen, appendEscaped(p.text, string(v.LastSeen)))
	p.end(pieceTail, appendTail(p.text, &v))
	p.end(pieceEvidence, appendEvidence(p.text, v.Evidence))

	j := &Job{
		text: string(p.text), revision: revision, seen: millis(v.LastSeen), ends: p.ends,
		namespace: uint8(len(key.Namespace)), cluster: uint8(len(key.Cluster)),
		state: v.State, over: v.Over, certainty: v.Certainty, reason: v.Reason, via: v.Via, unreadable: bad,
	}
	// A name that needs no escapes stands in the text already; then it needs no memory of its own.
	const before = len(`","pipeline":"`)
	if head := j.piece(pieceHead)[before:]; strings.HasPrefix(head, pipeline) && head[len(pipeline)] == '"' {
		j.pipeline = head[:len(pipeline)]
	} else {
		j.pipeline = strings.Clone(pipeline)
	}
	return j
}

type packer struct {
	text []byte
	ends [numPieces]uint32
}

func (p *packer) end(piece int, text []byte) {
	p.text = text
	p.ends[piece] = uint32(min(len(text), math.MaxUint32))
}

// weakened is the job after its newest record turned out to be unreadable: what was known, and no more than Held.
func (j *Job) weakened(revision int64, bad Unreadable) *Job {
	weak := *j
	weak.revision, weak.unreadable = revision, bad
	if weak.certainty > job.Held {
		weak.certainty, weak.reason = job.Held, job.StoreUnreachable
	}
	return &weak
}

// unknown is a job of which there is a record, and nothing that can be read. To leave it out would say that there is
// no such job.
func unknown(key job.Key, revision int64, bad Unreadable) *Job {
	return pack(key, job.Verdict{
		State: job.Unknown, Possible: job.AllStates, Certainty: job.Held, Reason: job.StoreUnreachable,
	}, revision, bad)
}

func millis(s job.Stamp) int64 {
	if t, err := time.Parse(time.RFC3339, string(s)); err == nil {
		return t.UnixMilli()
	}
	return 0
}
