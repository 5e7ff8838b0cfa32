package etcd

import (
	"context"
	"errors"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// MaxOps is how many guards, and how many operations, one Commit may have: etcd's default for --max-txn-ops.
const MaxOps = 128

var (
	// ErrRefused says that a guard did not hold. Nothing was written.
	ErrRefused = errors.New("refused by a guard")
	// ErrUnknown says that the outcome is not known: the write may have been carried out, or may still be.
	ErrUnknown = errors.New("outcome unknown")
	// ErrNoSpace says that etcd's quota is used up (alarm NOSPACE): reads, deletes, keepalives and revocations go on;
	// puts and new leases fail until space is freed and the alarm is disarmed.
	ErrNoSpace = errors.New("etcd is out of space: compact, defragment and disarm its NOSPACE alarm, or raise its quota")
)

// Guard is a condition on one key. All guards of a Commit must hold.
type Guard struct {
	Key string
	// ModRevision is the revision of the key's last change; 0 means that the key must not exist.
	ModRevision int64
	// CreateRevision, if it is above 0, is compared instead: the key must be the one created then, in whatever version. Lease, if there is
	// one, too: the key must hang on it.
	CreateRevision int64
	Lease          clientv3.LeaseID
}

// Op is a put, or a delete, of one key.
type Op struct {
	Key    string
	Value  []byte
	Delete bool
	// Prefix makes a delete one of everything that begins with Key.
	Prefix bool
	// Lease is the lease that a put key hangs on; 0 is none. A put without one takes the key off its lease.
	Lease clientv3.LeaseID
}

// Commit carries out ops in one transaction if all guards hold, and returns the revision at which it did. Without ops it
// only asks whether the guards hold, linearizably.
//
// Errors: ErrRefused when a guard does not hold. ErrUnknown when the write may have happened: no answer in time, a
// connection that broke after the request was handed to it, a member that stopped or lost its leader in between. Any other
// error means that nothing was written: a request that is wrong or too large, missing rights, a lease that is gone, a
// request that never got a connection. ErrNoSpace comes with ErrUnknown, because etcd checks its quota twice, and a
// request that fails only the second check has been applied (apply/quota.go).
//
// c must be a client of Dial: etcd's default client repeats a transaction whose outcome it does not know, and then a
// refusal would prove nothing. Bound ctx: a paused etcd does not answer at all.
func Commit(ctx context.Context, c *clientv3.Client, guards []Guard, ops []Op) (revision int64, err error) {
	txn, err := newTxn(guards, ops)
	if err != nil {
		return 0, fmt.Errorf("commit: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("commit: %w", err)
	}
	remote := pb.NewKVClient(c.ActiveConnection())
	var answer *pb.TxnResponse
	var reached peer.Peer
	err = withToken(func() error {
		var err error
		options := append(callOptions(), grpc.Peer(&reached))
		answer, err = remote.Txn(clientv3.WithRequireLeader(ctx), txn, options...)
		return err
	})
	switch {
	case err == nil && answer.Succeeded:
		return answer.Header.GetRevision(), nil
	case err == nil:
		return 0, fmt.Errorf("commit: %w", ErrRefused)
	case reached.Addr == nil:
		// gRPC names the peer as soon as the request is given to a connection: it never was.
		return 0, fmt.Errorf("commit: not sent: %w", explain(err))
	case notCarriedOut(err):
		return 0, fmt.Errorf("commit: %w", explain(err))
	}
	return 0, fmt.Errorf("commit: %w: %w", ErrUnknown, explain(err))
}

func newTxn(guards []Guard, ops []Op) (*pb.TxnRequest, error) {
	if len(guards) > MaxOps || len(ops) > MaxOps {
		return nil, fmt.Errorf("%d guards and %d operations: etcd takes at most %d of each in one transaction",
			len(guards), len(ops), MaxOps)
	}
	txn := &pb.TxnRequest{}
	for _, g := range guards {
		txn.Compare = append(txn.Compare, g.compare())
		if g.Lease != 0 {
			txn.Compare = append(txn.Compare, &pb.Compare{
				Key: []byte(g.Key), Result: pb.Compare_EQUAL, Target: pb.Compare_LEASE, TargetUnion: &pb.Compare_Lease{Lease: int64(g.Lease)},
			})
		}
	}
	seen := make(map[string]bool, len(ops))
	for _, op := range ops {
		if op.Key == "" {
			return nil, errors.New("an operation has no key")
		}
		if seen[op.Key] {
			return nil, fmt.Errorf("two operations on key %q: etcd takes one a key in one transaction", op.Key)
		}
		seen[op.Key] = true
		txn.Success = append(txn.Success, op.request())
	}
	return txn, nil
}

func (g Guard) compare() *pb.Compare {
	c := &pb.Compare{Key: []byte(g.Key), Result: pb.Compare_EQUAL}
	if g.CreateRevision > 0 {
		c.Target, c.TargetUnion = pb.Compare_CREATE, &pb.Compare_CreateRevision{CreateRevision: g.CreateRevision}
	} else {
		c.Target, c.TargetUnion = pb.Compare_MOD, &pb.Compare_ModRevision{ModRevision: g.ModRevision}
	}
	return c
}

func (op Op) request() *pb.RequestOp {
	if op.Delete {
		request := &pb.DeleteRangeRequest{Key: []byte(op.Key)}
		if op.Prefix {
			_, end := bounds(op.Key)
			request.RangeEnd = []byte(end)
		}
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: request}}
	}
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{
		RequestPut: &pb.PutRequest{Key: []byte(op.Key), Value: op.Value, Lease: int64(op.Lease)}}}
}

// notCarriedOut reports whether etcd's answer proves that a transaction was not applied. etcd gives these codes before it
// proposes a request (v3rpc/key.go, v3_server.go), or in the checks that precede every write of an applied one
// (txn.go). Unavailable, DeadlineExceeded, Canceled and Unknown can all follow a proposal.
func notCarriedOut(err error) bool {
	code := status.Code(err)
	if known := (rpctypes.EtcdError{}); errors.As(err, &known) { // from the call that fetches a token
		code = known.Code()
	}
	switch code {
	case codes.InvalidArgument, codes.NotFound, codes.OutOfRange, codes.FailedPrecondition,
		codes.PermissionDenied, codes.Unauthenticated, codes.Unimplemented:
		return true
	case codes.ResourceExhausted:
		// Too many requests, or too large for the client; but not NOSPACE, see Commit.
		return !errors.Is(rpctypes.Error(err), rpctypes.ErrNoSpace)
	case codes.Unavailable:
		// The interceptor's answer to WithRequireLeader, given before the request is looked at.
		return errors.Is(rpctypes.Error(err), rpctypes.ErrNoLeader)
	}
	return false
}

// withToken calls once, and once more if etcd refused the client's token: such an answer precedes any work, and the
// client has fetched a new token by then.
func withToken(call func() error) error {
	err := call()
	refused := rpctypes.Error(err)
	if errors.Is(refused, rpctypes.ErrInvalidAuthToken) || errors.Is(refused, rpctypes.ErrAuthOldRevision) ||
		errors.Is(refused, rpctypes.ErrUserEmpty) {
		return call()
	}
	return err
}

// explain puts gRPC's and etcd's errors in the words that this package exports.
func explain(err error) error {
	err = rpctypes.Error(err)
	if errors.Is(err, rpctypes.ErrNoSpace) {
		return fmt.Errorf("%w (%w)", ErrNoSpace, err)
	}
	return err
}
