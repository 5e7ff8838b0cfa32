package sim

import (
	"slices"
	"strings"

	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
)

// history is what lies in etcd of what a job went through.
func (w *world) history(key job.Key) (entries []job.Transition) {
	for _, k := range w.etcd.below(record.HistoryPrefix(site, key)) {
		if entry, err := record.DecodeTransition(key, w.etcd.pairs[k].Value); err == nil {
			entries = append(entries, entry)
		}
	}
	return entries
}

// checkHistory holds a job's history against its verdict (invariant 9, and of 17 that it is bounded).
func (w *world) checkHistory(key job.Key) {
	account, there := w.watched.stored[key]
	if !there {
		return
	}
	keys := w.etcd.below(record.HistoryPrefix(site, key))
	if len(keys) == 0 || len(keys) > job.HistoryLimit {
		w.breach(17, "%s has a history of %d entries", key, len(keys))
		return
	}
	sequence := int64(0)
	for _, k := range keys {
		place, err := record.ParseKey(site, k)
		if err != nil || sequence != 0 && place.Sequence != sequence+1 {
			w.breach(9, "%s: entry %d of the history comes after %d", key, place.Sequence, sequence)
			return
		}
		sequence = place.Sequence
	}
	last, err := record.DecodeTransition(key, w.etcd.pairs[keys[len(keys)-1]].Value)
	v := account.Verdict
	if err != nil || last.Sequence != account.Books.Sequence || last.State != v.State || last.Over != v.Over || last.Attempt != v.Attempt ||
		last.Certainty != v.Certainty {
		w.breach(9, "%s: the history ends in %s %s over=%s, and the verdict is %s %s over=%s (%v)",
			key, last.State, last.Certainty, last.Over, v.State, v.Certainty, v.Over, err)
	}
}

// recorded holds what an agent saw of jobs against their histories, where nobody else told of them (invariant 10).
func (w *world) recorded(s *session) {
	who := s.a.pod.who()
	for id, l := range s.letters {
		key := job.Key{Namespace: who.Namespace, Cluster: who.Cluster, ID: id}
		account, there := w.watched.stored[key]
		if marks := account.Books.Marks; !there || len(marks) != 1 || marks[0].Witness != who.PodUID || w.watched.vandalized[key] || w.watched.damaged[key] {
			continue
		}
		entries := w.history(key)
		if len(entries) == 0 || entries[0].Sequence > 1 {
			continue // what is not there may have been pushed out
		}
		missed, missing := int64(0), []evidence.Transition{}
		for _, entry := range entries {
			if entry.Kind == job.Gap {
				missed += entry.Count
			}
		}
		for _, t := range l.report.Transitions {
			if t.Number <= account.Books.Marks[0].Number && !echoes(t) && !slices.ContainsFunc(entries, func(entry job.Transition) bool { return tells(entry, t) }) {
				missing = append(missing, t)
			}
		}
		if int64(len(missing)) > missed {
			w.breach(10, "%s: %s saw %v, of which the history tells nothing (it is said to miss %d)", key, who, missing, missed)
		}
	}
}

// echoes says that a transition is an earlier ending, told once more.
func echoes(t evidence.Transition) bool { return strings.Contains(t.Cause, "JobAlreadyDoneException") }

// tells says whether a history's entry is, or stands for, a transition.
func tells(entry job.Transition, t evidence.Transition) bool {
	if entry.Attempt.StartTime != t.StartTime {
		return false
	}
	if entry.Kind == job.Fold {
		return entry.Folded.Has(t.State) && entry.Since <= t.At && t.At <= entry.At
	}
	return entry.State == t.State && (entry.At == t.At || t.Number == 1) // what an agent finds when it begins may stand already
}
