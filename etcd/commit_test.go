package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
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

func TestCommitKeepsItsGuards(t *testing.T) {
	t.Parallel()
	p := etcdproc.Start(t, 0)
	c := p.Client()
	created := commit(t, c, []etcd.Guard{{Key: "k"}}, etcd.Op{Key: "k", Value: []byte("1")})
	changed := commit(t, c, []etcd.Guard{{Key: "k", ModRevision: created}}, etcd.Op{Key: "k", Value: []byte("2")})
	pair, found := get(t, c, "k")
	if !found || pair.CreateRevision != created || pair.ModRevision != changed || pair.Version != 2 ||
		string(pair.Value) != "2" || pair.Lease != 0 {
		t.Fatalf("after two commits: %+v %v", pair, found)
	}
	lease, err := c.Grant(t.Context(), 60)
	if err != nil {
		t.Fatal(err)
	}
	leased := commit(t, c, nil, etcd.Op{Key: "leased", Lease: lease.ID})
	tests := []struct {
		name   string
		guards []etcd.Guard
		holds  bool
	}{
		{"absent, but is there", []etcd.Guard{{Key: "k"}}, false},
		{"absent", []etcd.Guard{{Key: "none"}}, true},
		{"stale revision", []etcd.Guard{{Key: "k", ModRevision: created}}, false},
		{"revision of a key that is absent", []etcd.Guard{{Key: "none", ModRevision: 1}}, false},
		{"created then", []etcd.Guard{{Key: "k", CreateRevision: created}}, true},
		{"created otherwise", []etcd.Guard{{Key: "k", CreateRevision: changed}}, false},
		{"created then, whatever its revision", []etcd.Guard{{Key: "k", CreateRevision: created, ModRevision: 1}}, true},
		{"created then, on that lease", []etcd.Guard{{Key: "leased", CreateRevision: leased, Lease: lease.ID}}, true},
		{"created then, on another lease", []etcd.Guard{{Key: "leased", CreateRevision: leased, Lease: lease.ID + 1}}, false},
		{"created then, on none", []etcd.Guard{{Key: "k", CreateRevision: created, Lease: lease.ID}}, false},
		{"one of two", []etcd.Guard{{Key: "none"}, {Key: "k"}}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			key := "written/" + tt.name
			_, err := etcd.Commit(t.Context(), c, tt.guards, []etcd.Op{{Key: key}})
			_, written := get(t, c, key)
			if tt.holds && (err != nil || !written) {
				t.Errorf("error %v, written %v", err, written)
			}
			if !tt.holds && (!errors.Is(err, etcd.ErrRefused) || errors.Is(err, etcd.ErrUnknown) || written) {
				t.Errorf("error %v, written %v", err, written)
			}
			if _, err := etcd.Commit(t.Context(), c, tt.guards, nil); (err == nil) != tt.holds {
				t.Errorf("asked without a write: %v", err)
			}
		})
	}
	commit(t, c, nil, etcd.Op{Key: "k", Delete: true})
	if _, found := get(t, c, "k"); found {
		t.Error("there after its delete")
	}
}

// Each of these is certainly not written, and says so by not being ErrUnknown.
func TestCommitNotCarriedOut(t *testing.T) {
	t.Parallel()
	p := etcdproc.Start(t, 0)
	c := p.Client()
	many := make([]etcd.Op, etcd.MaxOps+1)
	for i := range many {
		many[i] = etcd.Op{Key: fmt.Sprint("many/", i)}
	}
	commit(t, c, nil, many[:etcd.MaxOps]...)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	tests := []struct {
		name string
		ctx  context.Context
		ops  []etcd.Op
		want string
	}{
		{"too many", t.Context(), many, "at most 128"},
		{"twice", t.Context(), []etcd.Op{{Key: "x"}, {Key: "x", Delete: true}}, `two operations on key "x"`},
		{"no key", t.Context(), []etcd.Op{{}}, "no key"},
		{"no such lease", t.Context(), []etcd.Op{{Key: "x", Lease: 4711}}, "lease not found"},
		{"too large", t.Context(), []etcd.Op{{Key: "x", Value: make([]byte, 1600<<10)}}, "too large"},
		{"far too large", t.Context(), []etcd.Op{{Key: "x", Value: make([]byte, 8<<20)}}, "larger than max"},
		{"context ended", ended, []etcd.Op{{Key: "x"}}, "canceled"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := etcd.Commit(tt.ctx, c, nil, tt.ops)
			if err == nil || errors.Is(err, etcd.ErrUnknown) || errors.Is(err, etcd.ErrRefused) ||
				!strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
	if _, found := get(t, c, "x"); found {
		t.Error("one of them was written")
	}

	p.Kill()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	// The first call may still meet the connection that just broke; a later one has none.
	eventually(t, 10*time.Second, "a commit that is known not to have been sent", func() bool {
		_, err := etcd.Commit(ctx, c, nil, []etcd.Op{{Key: "x"}})
		return err != nil && !errors.Is(err, etcd.ErrUnknown)
	})
	_, err := etcd.Commit(t.Context(), p.Client(), nil, []etcd.Op{{Key: "x", Lease: 1}, {Key: "x"}})
	if err == nil || errors.Is(err, etcd.ErrUnknown) {
		t.Errorf("a request that is wrong in itself: %v", err)
	}
}

// A request without a connection ends with its context, and was not sent.
func TestCommitWithoutConnection(t *testing.T) {
	t.Parallel()
	c, err := etcd.Dial(t.Context(), etcd.Options{Endpoints: []string{"127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = etcd.Commit(ctx, c, nil, []etcd.Op{{Key: "x"}})
	if err == nil || errors.Is(err, etcd.ErrUnknown) || !strings.Contains(err.Error(), "not sent") {
		t.Errorf("error %v", err)
	}
}

func TestCommitUnknown(t *testing.T) {
	t.Parallel()
	p := etcdproc.Start(t, 0)
	c := p.Client()
	guard := []etcd.Guard{{Key: "k", ModRevision: put(t, c, "k", "0")}}

	// No answer in time. When etcd goes on, it may well carry the request out.
	p.Pause()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := etcd.Commit(ctx, c, guard, []etcd.Op{{Key: "k", Value: []byte("1")}}); !errors.Is(err, etcd.ErrUnknown) {
		t.Errorf("no answer: %v", err)
	}

	// The connection breaks while the request is on it.
	answer := make(chan error, 1)
	go func() {
		_, err := etcd.Commit(t.Context(), c, guard, []etcd.Op{{Key: "k", Value: []byte("2")}})
		answer <- err
	}()
	select {
	case err := <-answer:
		t.Fatalf("a paused etcd answered: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	p.Kill()
	if err := <-answer; !errors.Is(err, etcd.ErrUnknown) {
		t.Errorf("broken connection: %v", err)
	}
}

// When the quota is used up, puts fail with ErrNoSpace; deletes and keepalives go on; and it can be put right.
func TestCommitNoSpace(t *testing.T) {
	t.Parallel()
	p := etcdproc.Start(t, 2<<20)
	c := p.Client()
	var lost losses
	lease := etcd.NewLease(c, etcd.HoldOptions{TTL: 3 * time.Second, Every: 100 * time.Millisecond, OnLoss: lost.add})
	background(t, func(ctx context.Context) { lease.Run(ctx) })
	eventually(t, 10*time.Second, "a lease", func() bool { return lease.ID() != 0 })

	var full error
	for i := 0; full == nil && i < 100; i++ {
		_, full = etcd.Commit(t.Context(), c, nil, []etcd.Op{{Key: fmt.Sprint("fill/", i), Value: make([]byte, 100<<10)}})
	}
	if !errors.Is(full, etcd.ErrNoSpace) || !errors.Is(full, etcd.ErrUnknown) {
		t.Fatalf("filled up with %v", full)
	}
	before := lease.Deadline()
	eventually(t, 5*time.Second, "a keepalive after NOSPACE", func() bool { return lease.Deadline().After(before.Add(time.Second)) })
	if l := lost.all(); len(l) != 0 {
		t.Errorf("lost %v", l)
	}
	var ops []etcd.Op
	for i := range 100 {
		ops = append(ops, etcd.Op{Key: fmt.Sprint("fill/", i), Delete: true})
	}
	deleted := commit(t, c, nil, ops...)

	if _, err := c.Compact(t.Context(), deleted, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Defragment(t.Context(), p.Endpoint()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.AlarmDisarm(t.Context(), &clientv3.AlarmMember{}); err != nil {
		t.Fatal(err)
	}
	put(t, c, "k", "there is room again")
}

// impatient carries the first transaction out and then says that it ran out of time.
type impatient struct {
	pb.UnimplementedKVServer
	calls atomic.Int32
}

func (s *impatient) Txn(context.Context, *pb.TxnRequest) (*pb.TxnResponse, error) {
	if s.calls.Add(1) == 1 {
		return nil, status.Error(codes.DeadlineExceeded, "context deadline exceeded")
	}
	return &pb.TxnResponse{Header: &pb.ResponseHeader{}}, nil // its own first write refuses a second
}

// A transaction is sent once. Sent twice it would be refused by itself, and seem not to have happened.
func TestCommitIsSentOnce(t *testing.T) {
	t.Parallel()
	s := &impatient{}
	c := fake(t, services{kv: s})
	_, err := etcd.Commit(t.Context(), c, []etcd.Guard{{Key: "k"}}, []etcd.Op{{Key: "k"}})
	if !errors.Is(err, etcd.ErrUnknown) || errors.Is(err, etcd.ErrRefused) || s.calls.Load() != 1 {
		t.Errorf("error %v after %d calls", err, s.calls.Load())
	}
}
