package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// HoldOptions say how a lease is held and what hangs on it.
type HoldOptions struct {
	// TTL is the lease time that etcd is asked for: whole seconds, rounded up, at least MinTTL. etcd may grant more, and
	// deletes the keys no earlier than that after the last keepalive, and up to a second or so later.
	TTL time.Duration
	// Every is the time from one keepalive to the next; 0, or more than half of TTL, means a quarter of TTL.
	Every time.Duration
	// Alive is asked before a lease is granted and before each keepalive. An error lets the lease go: it is revoked, and
	// a new one is granted when Alive answers nil again. nil means always alive. It must not block.
	Alive func() error
	// OnGrant puts the keys that hang on a new lease. ctx ends when the lease can no longer be relied on. An error
	// revokes the lease; another follows after a back-off. nil means that nothing hangs on it.
	OnGrant func(ctx context.Context, id clientv3.LeaseID) error
	// OnAnswer is told where the store stood when it answered a keepalive. A member that lags behind stands further back than another did.
	// It must not block. nil means nobody is told.
	OnAnswer func(Position)
	// OnLoss is told of every lease that was lost, and of every attempt to get one that failed; nil means nobody is.
	OnLoss func(Loss)
}

// MinTTL is the shortest lease time that etcd grants, with its default election time-out of 1 s.
const MinTTL = 2 * time.Second

// revokeBound bounds a revocation that is only a courtesy: an unrevoked lease ends by itself.
const revokeBound = 2 * time.Second

// Loss says that there is no lease any more, or none yet, and why.
type Loss struct {
	// Lease is the lease that was lost; 0 if none was granted.
	Lease  clientv3.LeaseID
	Reason LossReason
	// At is when it was noticed here.
	At time.Time
	// Err has details; it is nil where the reason says all.
	Err error
}

// LossReason is one of the ways in which a lease is lost.
type LossReason uint8

const (
	// Expired: etcd answered that there is no such lease. It, and its keys, are gone. It may have run out, or been revoked
	// by somebody else, or etcd's data was replaced.
	Expired LossReason = iota + 1
	// Unanswered: no keepalive was answered for a lease time, counted from when the last answered one was sent. Whether
	// the lease lives is not known: an etcd that was paused has revoked it, one that was restarted has prolonged it.
	Unanswered
	// NotAlive: HoldOptions.Alive returned an error, and the lease was let go.
	NotAlive
	// Released: Release was called.
	Released
	// PutFailed: HoldOptions.OnGrant returned an error, and the lease was let go.
	PutFailed
	// GrantFailed: etcd granted no lease.
	GrantFailed
)

func (r LossReason) String() string {
	switch r {
	case Expired:
		return "Expired"
	case Unanswered:
		return "Unanswered"
	case NotAlive:
		return "NotAlive"
	case Released:
		return "Released"
	case PutFailed:
		return "PutFailed"
	case GrantFailed:
		return "GrantFailed"
	}
	return fmt.Sprintf("LossReason(%d)", uint8(r))
}

// Lease keeps one lease at a time, for as long as Run runs. It sends keepalives on a raw stream, because the client's own
// KeepAlive ends in four ways that it does not tell apart, counts a lease's time from when the answer came rather than from
// when the question went, and brings a whole fleet back at the same instant.
//
// A stream that breaks is no loss: it is opened again, for as long as the lease time lasts.
type Lease struct {
	remote pb.LeaseClient
	o      HoldOptions

	mu       sync.Mutex
	id       clientv3.LeaseID
	deadline time.Time
	released bool
	stop     context.CancelFunc // ends the Run in progress
	ended    chan struct{}      // closed when the Run in progress has ended; nil without one
}

// NewLease prepares to hold a lease. Nothing happens before Run.
func NewLease(c *clientv3.Client, o HoldOptions) *Lease {
	o.TTL = max(o.TTL, MinTTL)
	if o.Every <= 0 || o.Every > o.TTL/2 {
		o.Every = o.TTL / 4
	}
	if o.Alive == nil {
		o.Alive = func() error { return nil }
	}
	if o.OnGrant == nil {
		o.OnGrant = func(context.Context, clientv3.LeaseID) error { return nil }
	}
	if o.OnAnswer == nil {
		o.OnAnswer = func(Position) {}
	}
	if o.OnLoss == nil {
		o.OnLoss = func(Loss) {}
	}
	return &Lease{remote: pb.NewLeaseClient(c.ActiveConnection()), o: o}
}

// ID is the lease that is held, 0 if none is. It may be lost already; see Deadline.
func (l *Lease) ID() clientv3.LeaseID {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.id
}

// Deadline is until when the lease is certainly ours, on the local monotonic clock: etcd cannot have counted its time
// from before the last answered request was sent. It is zero if no lease is held.
func (l *Lease) Deadline() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.deadline
}

// Run holds a lease until ctx ends, and then returns its error, or until Release, and then returns nil. When ctx ends the
// lease is left to its time: Release revokes it. All callbacks come from Run's goroutine; none may call Release. Only one
// Run at a time: a second returns an error at once.
func (l *Lease) Run(ctx context.Context) error {
	inner, end, err := l.begin(ctx)
	if err != nil || inner == nil {
		return err
	}
	defer end()

	wait := backoff{min: minBackoff, max: maxBackoff}
	for {
		loss := l.life(inner, &wait)
		if inner.Err() != nil {
			break
		}
		l.lose(inner, loss)
		if loss.Reason == NotAlive && !l.recovered(inner) {
			break
		}
		if !sleep(inner, wait.next()) {
			break
		}
	}
	if l.wasReleased() {
		l.o.OnLoss(Loss{Lease: l.ID(), Reason: Released, At: time.Now()})
		return nil
	}
	return ctx.Err()
}

// life is one lease from before its grant to its loss. When ctx ends it returns too, with the lease in place.
func (l *Lease) life(ctx context.Context, wait *backoff) Loss {
	if err := l.o.Alive(); err != nil {
		return Loss{Reason: NotAlive, Err: err}
	}
	id, err := l.grant(ctx)
	if err != nil {
		return Loss{Reason: GrantFailed, Err: err}
	}
	if err := l.put(ctx, id); err != nil {
		return Loss{Lease: id, Reason: PutFailed, Err: err}
	}
	wait.reset()
	return l.keep(ctx, id)
}

// grant asks for a lease. An answer that takes more than half of the lease time is not waited for: a lease that old is
// half gone. One that was granted unheard ends by itself.
func (l *Lease) grant(ctx context.Context) (clientv3.LeaseID, error) {
	seconds := int64((l.o.TTL + time.Second - 1) / time.Second)
	ctx, cancel := context.WithTimeout(clientv3.WithRequireLeader(ctx), l.o.TTL/2)
	defer cancel()
	var answer *pb.LeaseGrantResponse
	var stamp time.Time
	err := withToken(func() (err error) {
		stamp = time.Now()
		answer, err = l.remote.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: seconds}, callOptions()...)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("grant a lease of %d s: %w", seconds, explain(err))
	}
	id := clientv3.LeaseID(answer.ID)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.id, l.deadline = id, stamp.Add(time.Duration(answer.TTL)*time.Second)
	return id, nil
}

func (l *Lease) put(ctx context.Context, id clientv3.LeaseID) error {
	ctx, cancel := context.WithDeadline(ctx, l.Deadline())
	defer cancel()
	if err := l.o.OnGrant(ctx, id); err != nil {
		return fmt.Errorf("put the keys of lease %x: %w", id, err)
	}
	return nil
}

// lose tells of a loss, after it let go of a lease that may still live although we no longer want it. An Unanswered
// lease is not revoked: its keys stay until they are put again under the next one, and nobody sees them missing.
func (l *Lease) lose(ctx context.Context, loss Loss) {
	loss.At = time.Now()
	l.forget()
	if loss.Lease != 0 && (loss.Reason == NotAlive || loss.Reason == PutFailed) {
		if err := l.letGo(ctx, loss.Lease); err != nil {
			loss.Err = errors.Join(loss.Err, err)
		}
	}
	l.o.OnLoss(loss)
}

// recovered waits until Alive answers nil, and reports false if ctx ended first.
func (l *Lease) recovered(ctx context.Context) bool {
	for l.o.Alive() != nil {
		if !sleep(ctx, min(l.o.Every, time.Second)) {
			return false
		}
	}
	return true
}

// Release revokes the lease, and with it its keys, and ends Run for ever: called while Run runs it ends that one first, and
// a later Run returns nil at once. It repeats the revocation until etcd answers or ctx ends. An error means that the lease
// may live on, for a lease time at most.
func (l *Lease) Release(ctx context.Context) error {
	l.mu.Lock()
	l.released = true
	stop, ended := l.stop, l.ended
	l.mu.Unlock()
	if ended != nil {
		stop()
		select {
		case <-ended:
		case <-ctx.Done():
			return fmt.Errorf("release lease %x: wait for its holder: %w", l.ID(), ctx.Err())
		}
	}
	id := l.ID()
	if id == 0 {
		return nil
	}
	wait := backoff{min: minBackoff, max: maxBackoff}
	for {
		err := l.revoke(ctx, id)
		if err == nil {
			l.forget()
			return nil
		}
		if !sleep(ctx, wait.next()) {
			return err
		}
	}
}

// letGo revokes a lease within revokeBound, even if ctx has ended.
func (l *Lease) letGo(ctx context.Context, id clientv3.LeaseID) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), revokeBound)
	defer cancel()
	return l.revoke(ctx, id)
}

// revoke asks once. A lease that is not there is revoked.
func (l *Lease) revoke(ctx context.Context, id clientv3.LeaseID) error {
	err := withToken(func() error {
		_, err := l.remote.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: int64(id)}, callOptions()...)
		return err
	})
	if err = explain(err); err == nil || errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return nil
	}
	return fmt.Errorf("revoke lease %x: %w", id, err)
}

func (l *Lease) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.id, l.deadline = 0, time.Time{}
}

func (l *Lease) wasReleased() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.released
}

// begin claims the lease for one Run, whose context Release can end. The context is nil if it was released already.
func (l *Lease) begin(ctx context.Context) (inner context.Context, end func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.released {
		return nil, nil, nil
	}
	if l.ended != nil {
		return nil, nil, errors.New("hold a lease: it is held already by another Run")
	}
	inner, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	l.stop, l.ended = stop, ended
	return inner, func() {
		stop()
		l.mu.Lock()
		l.ended = nil
		l.mu.Unlock()
		close(ended)
	}, nil
}
