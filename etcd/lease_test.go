package etcd_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/etcd/etcdlocal/etcdproc"
)

// putUnder is an OnGrant that puts one key under the lease.
func putUnder(c *clientv3.Client, key string) func(context.Context, clientv3.LeaseID) error {
	return func(ctx context.Context, id clientv3.LeaseID) error {
		_, err := etcd.Commit(ctx, c, nil, []etcd.Op{{Key: key, Value: []byte("v"), Lease: id}})
		return err
	}
}

// hold runs a lease with a key until the test ends, and returns when the key is there.
func hold(t *testing.T, c *clientv3.Client, o etcd.HoldOptions) (lease *etcd.Lease, lost *losses, stop func()) {
	t.Helper()
	lost = &losses{}
	o.OnLoss = lost.add
	if o.OnGrant == nil {
		o.OnGrant = putUnder(c, "beat")
	}
	put := o.OnGrant
	var granted atomic.Int64 // the lease whose keys are put, and whose holder knows it
	o.OnGrant = func(ctx context.Context, id clientv3.LeaseID) error {
		err := put(ctx, id)
		if err == nil {
			granted.Store(int64(id))
		}
		return err
	}
	lease = etcd.NewLease(c, o)
	stop = background(t, func(ctx context.Context) { lease.Run(ctx) })
	eventually(t, 15*time.Second, "the key of the lease", func() bool {
		pair, found := get(t, c, "beat")
		return found && pair.Lease == int64(lease.ID()) && pair.Lease == granted.Load()
	})
	return lease, lost, stop
}

// etcd prolongs every lease when it starts: an outage that is shorter than the lease time is no loss.
func TestLeaseSurvivesRestart(t *testing.T) {
	t.Parallel()
	p := etcdproc.Start(t, 0)
	c := p.Client()
	lease, lost, _ := hold(t, c, etcd.HoldOptions{TTL: 12 * time.Second, Every: time.Second})
	id := lease.ID()
	before, _ := get(t, c, "beat")

	p.Kill()
	time.Sleep(3 * time.Second) // the outage
	p.Restart()
	restarted := time.Now()
	eventually(t, 10*time.Second, "a keepalive after the restart", func() bool {
		return lease.Deadline().After(restarted.Add(12 * time.Second))
	})
	after, found := get(t, c, "beat")
	if lease.ID() != id || !found || after.ModRevision != before.ModRevision {
		t.Errorf("lease %x became %x, key %+v became %+v", id, lease.ID(), before, after)
	}
	if l := lost.all(); len(l) != 0 {
		t.Errorf("lost %v", l)
	}
}

// A paused etcd says nothing, and then revokes: the loss is noticed no later than the lease may be gone, its reason is that
// nothing is known, and the keys are put again under a new lease.
func TestLeaseAfterPause(t *testing.T) {
	t.Parallel()
	p := etcdproc.Start(t, 0)
	c := p.Client()
	lease, lost, _ := hold(t, c, etcd.HoldOptions{TTL: 2 * time.Second, Every: 200 * time.Millisecond})
	id := lease.ID()

	p.Pause()
	deadline := lease.Deadline()
	eventually(t, 10*time.Second, "the loss", func() bool { return len(lost.all()) > 0 })
	loss := lost.all()[0]
	if loss.Reason != etcd.Unanswered || loss.Lease != id || loss.Err == nil {
		t.Errorf("loss %+v of lease %x", loss, id)
	}
	if loss.At.Before(deadline) || loss.At.After(deadline.Add(time.Second)) {
		t.Errorf("lost %v after the deadline", loss.At.Sub(deadline))
	}
	if lease.ID() != 0 || !lease.Deadline().IsZero() {
		t.Errorf("holds lease %x until %v after its loss", lease.ID(), lease.Deadline())
	}
	p.Resume()
	eventually(t, 15*time.Second, "the key under a new lease", func() bool {
		pair, found := get(t, c, "beat")
		return found && pair.Lease != int64(id) && pair.Lease == int64(lease.ID())
	})
}

// Somebody revokes the lease: etcd says that it is gone, which is certain.
func TestLeaseExpired(t *testing.T) {
	t.Parallel()
	p := etcdproc.Start(t, 0)
	c := p.Client()
	lease, lost, _ := hold(t, c, etcd.HoldOptions{TTL: 20 * time.Second, Every: 100 * time.Millisecond})
	id := lease.ID()
	if _, err := c.Revoke(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the key under a new lease", func() bool {
		pair, found := get(t, c, "beat")
		return found && pair.Lease != int64(id) && pair.Lease == int64(lease.ID())
	})
	if loss, ok := lost.find(etcd.Expired); !ok || loss.Lease != id || len(lost.all()) != 1 {
		t.Errorf("losses %v", lost.all())
	}
}

// A data folder that is emptied takes the lease with it.
func TestLeaseOfEmptiedStore(t *testing.T) {
	t.Parallel()
	p := etcdproc.Start(t, 0)
	c := p.Client()
	lease, lost, _ := hold(t, c, etcd.HoldOptions{TTL: 20 * time.Second, Every: 100 * time.Millisecond})
	id := lease.ID()
	p.Empty()
	p.Restart()
	eventually(t, 15*time.Second, "the key under a new lease", func() bool {
		pair, found := get(t, c, "beat")
		return found && pair.Lease == int64(lease.ID())
	})
	if loss, ok := lost.find(etcd.Expired); !ok || loss.Lease != id {
		t.Errorf("losses %v", lost.all())
	}
}

func TestLeaseIsLetGoWhenNotAlive(t *testing.T) {
	t.Parallel()
	p := etcdproc.Start(t, 0)
	c := p.Client()
	sick := errors.New("poll is overdue")
	var alive atomic.Bool
	alive.Store(true)
	lease, lost, _ := hold(t, c, etcd.HoldOptions{TTL: 30 * time.Second, Every: 100 * time.Millisecond, Alive: func() error {
		if alive.Load() {
			return nil
		}
		return sick
	}})
	id := lease.ID()

	alive.Store(false)
	eventually(t, 10*time.Second, "the key gone", func() bool { _, found := get(t, c, "beat"); return !found })
	eventually(t, 10*time.Second, "the loss told", func() bool { return len(lost.all()) > 0 })
	if loss := lost.all()[0]; loss.Reason != etcd.NotAlive || loss.Lease != id || !errors.Is(loss.Err, sick) {
		t.Errorf("loss %+v", loss)
	}
	if n := leases(t, c); n != 0 {
		t.Errorf("%d leases are left", n)
	}
	alive.Store(true)
	eventually(t, 10*time.Second, "the key back", func() bool { _, found := get(t, c, "beat"); return found })
	if l := lost.all(); len(l) != 1 {
		t.Errorf("losses %v", l)
	}
}

func TestReleaseWhileHeld(t *testing.T) {
	t.Parallel()
	p := etcdproc.Start(t, 0)
	c := p.Client()
	var lost losses
	lease := etcd.NewLease(c, etcd.HoldOptions{TTL: 30 * time.Second, OnGrant: putUnder(c, "beat"), OnLoss: lost.add})
	ran := make(chan error, 1)
	go func() { ran <- lease.Run(t.Context()) }()
	eventually(t, 10*time.Second, "the key", func() bool { _, found := get(t, c, "beat"); return found })
	if err := lease.Run(t.Context()); err == nil {
		t.Error("a second Run held it too")
	}
	id := lease.ID()

	if err := lease.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, found := get(t, c, "beat"); found || lease.ID() != 0 || leases(t, c) != 0 {
		t.Errorf("after Release: key %v, lease %x, %d leases", found, lease.ID(), leases(t, c))
	}
	if err := <-ran; err != nil {
		t.Errorf("Run: %v", err)
	}
	if loss, ok := lost.find(etcd.Released); !ok || loss.Lease != id || len(lost.all()) != 1 {
		t.Errorf("losses %v", lost.all())
	}
	if err := lease.Run(t.Context()); err != nil || leases(t, c) != 0 {
		t.Errorf("a Run after Release: %v, %d leases", err, leases(t, c))
	}
}

// The end of Run leaves the lease alone; Release ends it afterwards, and tries again while etcd is down.
func TestReleaseAfterwards(t *testing.T) {
	t.Parallel()
	p := etcdproc.Start(t, 0)
	c := p.Client()
	lease, lost, stop := hold(t, c, etcd.HoldOptions{TTL: 60 * time.Second})
	stop()
	if _, found := get(t, c, "beat"); !found || lease.ID() == 0 || len(lost.all()) != 0 {
		t.Fatalf("after Run: key %v, lease %x, losses %v", found, lease.ID(), lost.all())
	}
	p.Kill()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := lease.Release(ctx); err == nil || lease.ID() == 0 {
		t.Errorf("released although etcd is down: %v", err)
	}
	released := make(chan error, 1)
	go func() { released <- lease.Release(t.Context()) }()
	p.Restart()
	if err := <-released; err != nil {
		t.Error(err)
	}
	if _, found := get(t, c, "beat"); found || leases(t, c) != 0 {
		t.Errorf("key %v, %d leases", found, leases(t, c))
	}
}

// Whatever keeps the keys from being put costs the lease, is told, and is tried again.
func TestLeaseWhenPutFails(t *testing.T) {
	t.Parallel()
	p := etcdproc.Start(t, 0)
	c := p.Client()
	refused := errors.New("identity of another site")
	var calls atomic.Int32
	_, lost, _ := hold(t, c, etcd.HoldOptions{TTL: 30 * time.Second, OnGrant: func(ctx context.Context, id clientv3.LeaseID) error {
		if calls.Add(1) <= 2 {
			return refused
		}
		return putUnder(c, "beat")(ctx, id)
	}})
	l := lost.all()
	if len(l) != 2 || l[0].Reason != etcd.PutFailed || l[0].Lease == 0 || !errors.Is(l[1].Err, refused) {
		t.Errorf("losses %v", l)
	}
	if n := leases(t, c); n != 1 {
		t.Errorf("%d leases", n)
	}
}

// Without etcd, each attempt is told, with what is wrong; when it comes, the lease does too.
func TestLeaseBeforeEtcd(t *testing.T) {
	t.Parallel()
	p := etcdproc.Start(t, 0)
	c := p.Client()
	p.Kill()
	var lost losses
	lease := etcd.NewLease(c, etcd.HoldOptions{TTL: 2 * time.Second, OnLoss: lost.add})
	background(t, func(ctx context.Context) { lease.Run(ctx) })
	eventually(t, 10*time.Second, "failures", func() bool { return len(lost.all()) >= 2 })
	if loss := lost.all()[0]; loss.Reason != etcd.GrantFailed || loss.Lease != 0 || loss.Err == nil || loss.At.IsZero() {
		t.Errorf("loss %+v", loss)
	}
	p.Restart()
	eventually(t, 20*time.Second, "a lease", func() bool { return lease.ID() != 0 })
}

func leases(t *testing.T, c *clientv3.Client) int {
	t.Helper()
	answer, err := c.Leases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return len(answer.Leases)
}

// An answer prolongs the lease from when its own question was sent, not from when the answer came, nor from when a later
// question went.
func TestDeadlineCountsFromTheQuestion(t *testing.T) {
	t.Parallel()
	const ttl = 60 * time.Second
	type moment struct{ first, third time.Time }
	answered := make(chan moment, 1)
	c := fake(t, services{lease: &keepalives{ttl: 20, stream: func(s pb.Lease_LeaseKeepAliveServer) error {
		at, err := arrivals(s, 3)
		if err != nil {
			return err
		}
		if err := s.Send(&pb.LeaseKeepAliveResponse{ID: 7, TTL: int64(ttl / time.Second)}); err != nil {
			return err
		}
		answered <- moment{at[0], at[2]}
		<-s.Context().Done()
		return nil
	}}})
	lease := etcd.NewLease(c, etcd.HoldOptions{TTL: 20 * time.Second, Every: 200 * time.Millisecond})
	background(t, func(ctx context.Context) { lease.Run(ctx) })
	m := <-answered
	eventually(t, 10*time.Second, "the answer counted", func() bool { return time.Until(lease.Deadline()) > 30*time.Second })
	if late := lease.Deadline().Sub(m.first.Add(ttl)); late > 0 {
		t.Errorf("the deadline is %v later than etcd can promise", late)
	}
	if m.third.Sub(m.first) < 200*time.Millisecond {
		t.Fatal("the questions came too close to tell them apart")
	}
}

// Streams that break are no loss while the lease time lasts, and each is opened again.
func TestBrokenStreamsAreNoLoss(t *testing.T) {
	t.Parallel()
	var streams atomic.Int32
	c := fake(t, services{lease: &keepalives{ttl: 30, stream: func(s pb.Lease_LeaseKeepAliveServer) error {
		if n := streams.Add(1); n%2 == 0 { // half of them break before they answer
			return status.Error(codes.Unavailable, "etcdserver: no leader")
		}
		if _, err := arrivals(s, 1); err != nil {
			return err
		}
		return s.Send(&pb.LeaseKeepAliveResponse{ID: 7, TTL: 30})
	}}})
	var lost losses
	// Many questions, so that some meet a stream that breaks with an answer still on its way.
	lease := etcd.NewLease(c, etcd.HoldOptions{TTL: 30 * time.Second, Every: time.Millisecond, OnLoss: lost.add})
	background(t, func(ctx context.Context) { lease.Run(ctx) })
	eventually(t, 20*time.Second, "many streams", func() bool { return streams.Load() >= 50 })
	if l := lost.all(); len(l) != 0 || lease.ID() != 7 {
		t.Errorf("lease %x, lost %v", lease.ID(), l)
	}
}

// With nothing but broken streams the lease is lost when its time is over, and the loss says what broke them.
func TestNothingButBrokenStreams(t *testing.T) {
	t.Parallel()
	c := fake(t, services{lease: &keepalives{ttl: 2, stream: func(pb.Lease_LeaseKeepAliveServer) error {
		return status.Error(codes.Unavailable, "etcdserver: no leader")
	}}})
	var lost losses
	lease := etcd.NewLease(c, etcd.HoldOptions{TTL: 2 * time.Second, OnLoss: lost.add})
	begin := time.Now()
	background(t, func(ctx context.Context) { lease.Run(ctx) })
	eventually(t, 10*time.Second, "the loss", func() bool { return len(lost.all()) > 0 })
	loss := lost.all()[0]
	if loss.Reason != etcd.Unanswered || loss.Err == nil || loss.At.Sub(begin) < 2*time.Second {
		t.Errorf("loss %+v after %v", loss, loss.At.Sub(begin))
	}
}

// A grant counts from its question, too.
func TestGrantCountsFromTheQuestion(t *testing.T) {
	t.Parallel()
	c := fake(t, services{lease: &keepalives{ttl: 20, wait: 500 * time.Millisecond, stream: func(s pb.Lease_LeaseKeepAliveServer) error {
		<-s.Context().Done()
		return nil
	}}})
	lease := etcd.NewLease(c, etcd.HoldOptions{TTL: 20 * time.Second})
	background(t, func(ctx context.Context) { lease.Run(ctx) })
	eventually(t, 10*time.Second, "a lease", func() bool { return lease.ID() != 0 })
	if left := time.Until(lease.Deadline()); left > 19500*time.Millisecond {
		t.Errorf("%v are left of a lease of 20 s that was asked for 500 ms ago", left)
	}
}

// An answer to something else does not prolong the lease.
func TestStrangeAnswersProlongNothing(t *testing.T) {
	t.Parallel()
	c := fake(t, services{lease: &keepalives{ttl: 2, stream: func(s pb.Lease_LeaseKeepAliveServer) error {
		if _, err := arrivals(s, 1); err != nil {
			return err
		}
		return s.Send(&pb.LeaseKeepAliveResponse{ID: 8, TTL: 2})
	}}})
	var lost losses
	lease := etcd.NewLease(c, etcd.HoldOptions{TTL: 2 * time.Second, OnLoss: lost.add})
	background(t, func(ctx context.Context) { lease.Run(ctx) })
	eventually(t, 10*time.Second, "the loss", func() bool { return len(lost.all()) > 0 })
	if loss := lost.all()[0]; loss.Reason != etcd.Unanswered {
		t.Errorf("loss %+v", loss)
	}
}
