package etcd

import (
	"context"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// UpdateKind says what an Update is.
type UpdateKind uint8

const (
	// Listed: Pairs is everything below the prefix. It replaces all that was known; a key that is not in it is gone.
	Listed UpdateKind = iota + 1
	// Changed: Pairs are the events since, in order.
	Changed
	// Progressed: nothing below the prefix has changed up to Revision. It is also the proof that etcd and the watch live.
	Progressed
	// Lost: what was known is as of Revision, and changes are no longer seen. A Listed follows when etcd can be asked
	// again; until then further Losts say why not. The first update of all may be a Lost.
	Lost
)

func (k UpdateKind) String() string {
	switch k {
	case Listed:
		return "Listed"
	case Changed:
		return "Changed"
	case Progressed:
		return "Progressed"
	case Lost:
		return "Lost"
	}
	return fmt.Sprintf("UpdateKind(%d)", uint8(k))
}

// Update is one step of what Follow knows of a prefix.
type Update struct {
	Kind UpdateKind
	// Epoch counts, from 1, the histories that were seen. It grows with a Listed of another cluster id, or of a revision or
	// raft term below the highest seen, or of pairs that cannot have followed the last event: etcd's data was replaced, and
	// revisions of different epochs do not compare. It is 0 before the first Listed.
	Epoch int64
	// Revision is up to where the prefix is known.
	Revision int64
	// Term is the raft term of the answer; a change means that etcd changed its leader. Zero, like ClusterID, before the
	// first Listed.
	Term      uint64
	ClusterID uint64
	// Pairs are sorted by key in a Listed, and in the order of their revisions in a Changed, which holds each revision
	// whole: what one transaction changed below the prefix is never split over two updates.
	Pairs []Pair
	// Err says why, in a Lost. It is nil otherwise.
	Err error
}

// FollowOptions say what is followed and how closely. Zero values mean the defaults.
type FollowOptions struct {
	// Prefix selects the keys; "" selects all.
	Prefix string
	// PageSize bounds the keys of one request of the list. Default 2 000.
	PageSize int64
	// Progress is how often etcd is asked for a proof of life. Default 5 s.
	Progress time.Duration
	// Silence is how long a proof of life, or the answer to one page of the list, may be missing. Default 15 s; at
	// least twice Progress.
	Silence time.Duration
	// MinBackoff and MaxBackoff bound the wait after a loss, which is random, and doubles from one to the other until a
	// watch lives. Defaults 250 ms and 10 s.
	MinBackoff, MaxBackoff time.Duration
}

// Follow delivers everything below a prefix, and then its changes, until ctx ends, and returns ctx's error.
//
// It lists at one revision, linearizably, and watches from there. Whatever ends the watch (an error, a compaction, a
// change of cluster, a proof of life that does not come) is a Lost, and Follow begins again with a list. It never resumes
// a watch from the last event it saw: deletes that were compacted, or a history that was replaced, would go unnoticed.
//
// deliver is called from one goroutine, in order. While it works, etcd's answers wait.
func Follow(ctx context.Context, c *clientv3.Client, o FollowOptions, deliver func(Update)) error {
	f := &follower{client: c, o: o.withDefaults(), deliver: deliver}
	f.wait = backoff{min: f.o.MinBackoff, max: f.o.MaxBackoff}
	for {
		err := f.round(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		f.tell(Lost, nil, err)
		if !sleep(ctx, f.wait.next()) {
			return ctx.Err()
		}
	}
}

func (o FollowOptions) withDefaults() FollowOptions {
	if o.PageSize <= 0 {
		o.PageSize = defaultPageSize
	}
	if o.Progress <= 0 {
		o.Progress = defaultProgress
	}
	if o.Silence <= 0 {
		o.Silence = defaultSilence
	}
	o.Silence = max(o.Silence, 2*o.Progress)
	if o.MinBackoff <= 0 {
		o.MinBackoff = minBackoff
	}
	if o.MaxBackoff <= 0 {
		o.MaxBackoff = maxBackoff
	}
	o.MaxBackoff = max(o.MaxBackoff, o.MinBackoff)
	return o
}

// A follower is the state of one Follow.
type follower struct {
	client  *clientv3.Client
	o       FollowOptions
	deliver func(Update)
	wait    backoff

	epoch int64
	past  Past // of this epoch
}

// round is one list and the watch that follows it. It returns what ended it, never nil.
func (f *follower) round(ctx context.Context) error {
	pairs, header, err := list(ctx, f.client, f.o.Prefix, f.o.PageSize, f.o.Silence)
	if err != nil {
		return err
	}
	f.enter(header, pairs)
	f.tell(Listed, pairs, nil)

	from, end := bounds(f.o.Prefix)
	w := watch{from: from, end: end, known: f.past.Revision, progress: f.o.Progress, silence: f.o.Silence}
	return w.run(ctx, f.client, func(answer *pb.WatchResponse) (bool, error) { return f.see(header, answer) })
}

// enter takes over the position of a new list.
func (f *follower) enter(header *pb.ResponseHeader, pairs []Pair) {
	if follows := f.past.List(positionOf(header), pairs); f.epoch == 0 || !follows {
		f.epoch++
	}
}

// see takes one answer of the watch that follows a list. It reports whether the answer proves that the watch lives.
func (f *follower) see(listed *pb.ResponseHeader, answer *pb.WatchResponse) (alive bool, err error) {
	header := answer.Header
	if header.GetClusterId() != f.past.ClusterID {
		return false, fmt.Errorf("follow %q: the watch is answered by cluster %x, the list was by %x",
			f.o.Prefix, header.GetClusterId(), f.past.ClusterID)
	}
	// A member that lags behind the list may answer before it has caught up; it has no events for us before it has. An
	// etcd that was set back since the list answers like that for ever. Neither is a proof of life.
	behind := header.GetRevision() < listed.Revision || header.GetRaftTerm() < listed.RaftTerm
	if len(answer.Events) == 0 {
		if behind || header.GetRevision() < f.past.Revision {
			return false, nil
		}
		f.past.Term = max(f.past.Term, header.GetRaftTerm())
		if !answer.Created {
			f.wait.reset()
			f.past.Revision = header.GetRevision()
			f.tell(Progressed, nil, nil)
		}
		return true, nil
	}
	last := f.past.Revision
	pairs := make([]Pair, 0, len(answer.Events))
	for i, event := range answer.Events {
		at := event.Kv.ModRevision
		if at == listed.Revision {
			continue // it is in the list
		}
		if at < last || at == f.past.Revision || behind {
			return false, fmt.Errorf("follow %q: event %d of revision %d came after revision %d", f.o.Prefix, i, at, last)
		}
		last = at
		pair := pairOf(event.Kv)
		if event.Type == mvccpb.Event_DELETE {
			pair = Pair{Key: pair.Key, ModRevision: at, Deleted: true}
		}
		pairs = append(pairs, pair)
	}
	if len(pairs) == 0 {
		return !behind, nil // more may follow up to the header's revision, so this is no progress
	}
	f.wait.reset()
	f.past.Revision, f.past.Term, f.past.Newest = last, max(f.past.Term, header.GetRaftTerm()), pairs[len(pairs)-1]
	f.tell(Changed, pairs, nil)
	return true, nil
}

func (f *follower) tell(kind UpdateKind, pairs []Pair, err error) {
	f.deliver(Update{
		Kind: kind, Epoch: f.epoch, Revision: f.past.Revision, Term: f.past.Term, ClusterID: f.past.ClusterID, Pairs: pairs, Err: err,
	})
}
