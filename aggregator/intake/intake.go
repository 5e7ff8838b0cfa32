// Package intake turns what etcd tells of a source into the settler's events. It decides nothing.
package intake

import (
	"errors"
	"log/slog"
	"runtime"
	"sync"

	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/record"
	"github.com/holdfast-dev/holdfast/settle"
)

// Intake is that of one source. It holds no state but its notes on records that cannot be read: such a record is neither what it was
// nor absent, its neighbours are unharmed, and nothing is deleted.
type Intake struct {
	Site   string
	Source settle.Source
	// Unreadable counts a record that cannot be read: "corrupt", "newer" or "foreign".
	Unreadable func(kind string)
	Log        *slog.Logger

	mu    sync.Mutex
	noted map[string]int64 // unreadable keys, and the revision at which each was logged
}

// notedLimit bounds the unreadable keys that are remembered, and so logged only once.
const notedLimit = 1000

// Prefix is what is followed for the source.
func (in *Intake) Prefix() string {
	return record.SitePrefix(in.Site) + in.Source.String() + "/"
}

// Events gives the events of one update, in order.
func (in *Intake) Events(u etcd.Update) []settle.Input {
	switch u.Kind {
	case etcd.Listed:
		events := make([]settle.Input, 0, len(u.Pairs)+3)
		events = append(events, settle.Listing{Source: in.Source, Epoch: u.Epoch})
		events = append(events, in.decodeAll(u.Pairs)...)
		return append(events, settle.Synced{Source: in.Source, Revision: u.Revision}, in.progress(u))
	case etcd.Changed:
		events := make([]settle.Input, 0, len(u.Pairs)+1)
		for _, pair := range u.Pairs {
			if event := in.decode(pair); event != nil {
				events = append(events, event)
			}
		}
		return append(events, in.progress(u))
	case etcd.Lost:
		return []settle.Input{settle.Lost{Source: in.Source, Why: u.Err.Error()}}
	default:
		return []settle.Input{in.progress(u)}
	}
}

func (in *Intake) progress(u etcd.Update) settle.Input {
	return settle.Progress{Source: in.Source, Revision: u.Revision, Term: u.Term}
}

// decodeAll decodes a whole list on every processor: after a restart this is most of the way to being ready.
func (in *Intake) decodeAll(pairs []etcd.Pair) []settle.Input {
	events := make([]settle.Input, len(pairs))
	workers := min(runtime.GOMAXPROCS(0), len(pairs)/256+1)
	var all sync.WaitGroup
	for w := range workers {
		from, to := len(pairs)*w/workers, len(pairs)*(w+1)/workers
		all.Go(func() {
			for i := from; i < to; i++ {
				events[i] = in.decode(pairs[i])
			}
		})
	}
	all.Wait()
	known := events[:0]
	for _, event := range events {
		if event != nil {
			known = append(known, event)
		}
	}
	return known
}

// decode gives the event that a pair stands for, or nil for a key that is none of the source's.
func (in *Intake) decode(pair etcd.Pair) settle.Input {
	place, err := record.ParseKey(in.Site, pair.Key)
	if err != nil {
		in.note("foreign", pair, err)
		return nil
	}
	switch place.Kind {
	case record.Beat:
		if pair.Deleted {
			return settle.Silent{Agent: place.Agent}
		}
		beat, err := record.DecodeBeat(place.Agent, pair.Value)
		if err != nil {
			in.unreadable(pair, err)
			return settle.UnreadableBeat{Agent: place.Agent}
		}
		return settle.Beat{Beat: beat}
	case record.Report:
		if pair.Deleted {
			return settle.Unreported{Agent: place.Agent, JobID: place.Job.ID}
		}
		report, err := record.DecodeReport(place.Agent, place.Job.ID, pair.Value)
		if err != nil {
			in.unreadable(pair, err)
			return settle.UnreadableReport{Agent: place.Agent, JobID: place.Job.ID}
		}
		return settle.Reported{Report: &report, Revision: pair.ModRevision}
	case record.Verdict:
		if pair.Deleted {
			return settle.Erased{Key: place.Job}
		}
		account, err := record.DecodeAccount(place.Job, pair.Value)
		if err != nil {
			in.unreadable(pair, err)
			return settle.UnreadableVerdict{Key: place.Job}
		}
		return settle.Stored{Account: account, Revision: pair.ModRevision}
	case record.Cluster:
		if pair.Deleted {
			return settle.Erased{Key: place.Job}
		}
		cluster, err := record.DecodeCluster(place.Job.ClusterKey(), pair.Value)
		if err != nil {
			in.unreadable(pair, err)
			return settle.UnreadableVerdict{Key: place.Job}
		}
		return settle.StoredCluster{Cluster: cluster, Revision: pair.ModRevision}
	}
	in.note("foreign", pair, record.ErrForeign)
	return nil
}

func (in *Intake) unreadable(pair etcd.Pair, err error) {
	kind := "corrupt"
	if errors.Is(err, record.ErrNewer) {
		kind = "newer"
	}
	in.note(kind, pair, err)
}

// note counts a record that cannot be read, and logs it once.
func (in *Intake) note(kind string, pair etcd.Pair, err error) {
	in.Unreadable(kind)
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.noted[pair.Key] == pair.ModRevision || len(in.noted) >= notedLimit {
		return
	}
	if in.noted == nil {
		in.noted = map[string]int64{}
	}
	in.noted[pair.Key] = pair.ModRevision
	in.Log.Warn("a record in etcd cannot be read; it counts as unanswered, and nothing is deleted",
		"kind", kind, "key", pair.Key, "revision", pair.ModRevision, "error", err,
		"remedy", "upgrade Holdfast if the record is newer; otherwise look at it with etcdctl get, and delete it if it is worthless")
}
