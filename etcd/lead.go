package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Term is one reign of one leader.
type Term struct {
	Key string
	// CreateRevision is the revision at which the key was created for this reign. It grows from reign to reign.
	CreateRevision int64
	// Lease is what the key hangs on: whoever puts the key anew during the reign puts it there.
	Lease clientv3.LeaseID
}

// Guard holds for as long as the reign lasts. A deposed leader that has not noticed yet is refused by it. In an etcd that was set back, the next
// reign may begin at the same revision as this one did; leases it never gives twice.
func (t Term) Guard() Guard {
	return Guard{Key: t.Key, CreateRevision: t.CreateRevision, Lease: t.Lease}
}

// LeadOptions say what is contended for.
type LeadOptions struct {
	// Key is held by whoever leads. Its Value is for people and for other contenders to read.
	Key   string
	Value []byte
	// TTL is the lease time: how long the key outlives a leader that died. At least MinTTL.
	TTL time.Duration
	// Alive and OnLoss are those of HoldOptions. OnLoss also tells why an election could not be held.
	Alive  func() error
	OnLoss func(Loss)
}

// errOverthrown ends a reign whose key is no longer the one it created.
var errOverthrown = errors.New("the key was taken away")

// Lead contends for a key until ctx ends, and returns ctx's error. When elected it calls reign, whose ctx ends when the
// key is lost, or when it is no longer certain that it is held, or when ctx ends. Lead waits for reign to return, gives the
// key back, and contends again.
//
// Two reigns do not overlap if each returns within the lease time after its context ended. What must not happen twice
// even then belongs into a Commit with Term.Guard.
func Lead(ctx context.Context, c *clientv3.Client, o LeadOptions, reign func(ctx context.Context, t Term)) error {
	e := &election{client: c, o: o, reign: reign}
	e.lease = NewLease(c, HoldOptions{TTL: o.TTL, Alive: o.Alive, OnLoss: o.OnLoss})
	wait := backoff{min: minBackoff / 2, max: min(maxBackoff, e.lease.o.TTL/2)}
	for {
		if err := e.vacant(ctx); err != nil {
			e.tell(ctx, Loss{Reason: GrantFailed, Err: err})
		} else if e.campaign(ctx) {
			wait.reset()
		}
		if !sleep(ctx, wait.next()) {
			return ctx.Err()
		}
	}
}

// An election is the state of one Lead.
type election struct {
	client *clientv3.Client
	o      LeadOptions
	reign  func(context.Context, Term)
	lease  *Lease
	// left is a lease of ours whose revocation was not confirmed. The key may hang on it.
	left clientv3.LeaseID
}

// vacant waits until nobody holds the key.
func (e *election) vacant(ctx context.Context) error {
	bounded, cancel := context.WithTimeout(ctx, defaultSilence)
	defer cancel()
	holder, found, header, err := read(bounded, e.client, e.o.Key)
	switch {
	case err != nil:
		return err
	case !found:
		return nil
	case e.left != 0 && holder.Lease == int64(e.left):
		// It is our own earlier reign, which ended without a word from etcd.
		return e.abdicate(ctx, e.left)
	}
	gone := errors.New("the key is gone")
	err = e.watch(ctx, header, func(event *mvccpb.Event) error {
		if event.Type == mvccpb.Event_DELETE {
			return gone
		}
		return nil
	})
	if errors.Is(err, gone) {
		return nil
	}
	return err
}

// campaign tries once to create the key, and reigns if it succeeds. It reports whether the election was held, won or not.
func (e *election) campaign(ctx context.Context) (held bool) {
	l := e.lease
	if err := l.o.Alive(); err != nil {
		e.tell(ctx, Loss{Reason: NotAlive, Err: err})
		return false
	}
	id, err := l.grant(ctx)
	if err != nil {
		e.tell(ctx, Loss{Reason: GrantFailed, Err: err})
		return false
	}
	bounded, cancel := context.WithDeadline(ctx, l.Deadline())
	revision, err := Commit(bounded, e.client,
		[]Guard{{Key: e.o.Key}}, []Op{{Key: e.o.Key, Value: e.o.Value, Lease: id}})
	cancel()
	if err == nil {
		e.rule(ctx, id, Term{Key: e.o.Key, CreateRevision: revision, Lease: id})
		return true
	}
	refused := errors.Is(err, ErrRefused) // by another who was faster, which is no news
	if !refused {
		e.tell(ctx, Loss{Lease: id, Reason: PutFailed, Err: err})
	}
	_ = e.abdicate(ctx, id)
	return refused
}

// rule runs one reign: it keeps the lease, and an eye on the key, until reign has returned, so that a reign that ends in
// order is not overtaken while it cleans up.
func (e *election) rule(ctx context.Context, id clientv3.LeaseID, t Term) {
	reigning, depose := context.WithCancelCause(ctx)
	defer depose(nil)
	keeping, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()

	guarded := make(chan struct{})
	go func() {
		defer close(guarded)
		if err := e.guard(keeping, t); err != nil {
			depose(err)
		}
	}()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer stop()
		e.reign(reigning, t)
	}()

	loss := e.lease.keep(keeping, id)
	if loss.Reason != 0 {
		e.tell(ctx, loss)
		depose(fmt.Errorf("the lease was lost: %v", loss.Reason))
	} else if cause := context.Cause(reigning); errors.Is(cause, errOverthrown) {
		e.tell(ctx, Loss{Lease: id, Reason: Expired, Err: cause})
	}
	<-done
	<-guarded
	_ = e.abdicate(ctx, id)
}

// guard watches the key of a reign and returns errOverthrown when it is no longer that reign's, or nil when ctx ends. The
// lease alone would not tell: somebody can delete a key and leave its lease.
func (e *election) guard(ctx context.Context, t Term) error {
	wait := backoff{min: minBackoff, max: maxBackoff}
	for {
		holder, found, header, err := read(ctx, e.client, t.Key)
		if err == nil {
			if !found || holder.CreateRevision != t.CreateRevision {
				return errOverthrown
			}
			err = e.watch(ctx, header, func(event *mvccpb.Event) error {
				wait.reset()
				if event.Type == mvccpb.Event_DELETE || event.Kv.CreateRevision != t.CreateRevision {
					return errOverthrown
				}
				return nil
			})
		}
		if errors.Is(err, errOverthrown) {
			return err
		}
		if !sleep(ctx, wait.next()) {
			return nil
		}
	}
}

// watch shows see each event of the key after the given answer, until see or the watch ends with an error.
func (e *election) watch(ctx context.Context, after *pb.ResponseHeader, see func(*mvccpb.Event) error) error {
	w := watch{from: e.o.Key, known: after.Revision, progress: defaultProgress, silence: defaultSilence}
	return w.run(ctx, e.client, func(answer *pb.WatchResponse) (bool, error) {
		if answer.Header.GetClusterId() != after.ClusterId {
			return false, errors.New("the watch is answered by another cluster")
		}
		for _, event := range answer.Events {
			if event.Kv.ModRevision == after.Revision {
				continue
			}
			if err := see(event); err != nil {
				return true, err
			}
		}
		return answer.Header.GetRevision() >= after.Revision && answer.Header.GetRaftTerm() >= after.RaftTerm, nil
	})
}

// abdicate revokes a lease of ours, and remembers it if that is not confirmed.
func (e *election) abdicate(ctx context.Context, id clientv3.LeaseID) error {
	e.lease.forget()
	err := e.lease.letGo(ctx, id)
	if err != nil {
		e.left = id
	} else if e.left == id {
		e.left = 0
	}
	return err
}

func (e *election) tell(ctx context.Context, loss Loss) {
	if ctx.Err() == nil {
		loss.At = time.Now()
		e.lease.o.OnLoss(loss)
	}
}
