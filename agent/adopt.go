package agent

import (
	"errors"

	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/record"
)

// adopt takes over what an earlier session left below the agent's prefix. The look that follows asks Flink about each job, and
// what it answers is written under this session.
func (a *Agent) adopt(r reading) {
	adopted := 0
	for id, pair := range r.reports(a.o) {
		if report, ok := a.readable(id, pair); ok && a.view.Adopt(report) {
			adopted++
		}
	}
	a.adopted = true
	a.log.Info("reports adopted", "reports", adopted, "revision", r.revision)
}

// readable decodes a report of a key of our own. One of a newer Holdfast is left alone, key and all: an older agent would take
// away what it cannot know of. A corrupt one says nothing, and stays until there is something to say in its place. Each is
// logged when it is first read, not at every reading.
func (a *Agent) readable(id string, pair etcd.Pair) (evidence.Report, bool) {
	report, err := record.DecodeReport(a.o.Agent, id, pair.Value)
	isNew := pair.ModRevision > a.readTo
	switch newer := errors.Is(err, record.ErrNewer); {
	case newer:
		a.post.yield(id)
		if isNew {
			a.log.Error("a newer Holdfast wrote this report, so this agent does not write it: upgrade the agent, or delete the key",
				"key", pair.Key, "error", err)
		}
	case err != nil && isNew:
		a.log.Warn("a report cannot be read: it is replaced once Flink has said something of its job", "key", pair.Key, "error", err)
	}
	return report, err == nil
}

// isJobID wants what Flink prints (JobID.java). A key of another form is none that an agent wrote.
func isJobID(id string) bool {
	if len(id) != 32 {
		return false
	}
	for _, c := range []byte(id) {
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f') {
			return false
		}
	}
	return true
}
