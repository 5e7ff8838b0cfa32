package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	defaultProgress = 5 * time.Second
	defaultSilence  = 15 * time.Second
)

// A watch is one raw watch stream. clientv3's Watcher opens a broken stream again by itself, at the revision after the last
// event it saw: on an etcd whose data was set back to an older state it then waits, without an error, for revisions that
// other events will have had.
type watch struct {
	from, end string // the range [from, end); end "" is the key from alone
	// known is the revision up to which the caller knows the range. The watch begins with it, not after it, because etcd
	// gives no proof of life to a watcher whose first revision is not there yet (watchable_store.go, progressIfSync): a
	// store in which nothing happens would seem dead. So the events of this one revision come again, and see drops them.
	known    int64
	progress time.Duration
	silence  time.Duration
}

// errSilence ends a watch without a proof of life.
var errSilence = errors.New("no proof of life from etcd")

// run hands etcd's answers to see, in order and from this goroutine, until the stream ends, or see returns an error, or
// no answer for the time of w.silence was one that see took for a proof of life. The first answer is the one to the
// watch's creation. run never returns nil.
func (w watch) run(ctx context.Context, c *clientv3.Client, see func(*pb.WatchResponse) (alive bool, err error)) error {
	s := openStream(clientv3.WithRequireLeader(ctx), pb.NewWatchClient(c.ActiveConnection()).Watch)
	defer s.close()
	silence := time.NewTimer(w.silence)
	defer silence.Stop()
	tick := time.NewTicker(w.progress)
	defer tick.Stop()

	var remote pb.Watch_WatchClient
	created := false
	for {
		// What has arrived comes before the clock: see may have taken long.
		var answer *pb.WatchResponse
		select {
		case answer = <-s.answers:
		default:
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-silence.C:
				return w.silent(remote != nil, s.close())
			case err := <-s.broken:
				return fmt.Errorf("watch %q: %w", w.from, explain(err))
			case remote = <-s.opened:
				// An error of Send would say only that the stream is broken. The receiving half says why, after the
				// answers that still came.
				_ = remote.Send(w.request())
				continue
			case <-tick.C:
				if created {
					_ = remote.Send(progressRequest())
				}
				continue
			case answer = <-s.answers:
			}
		}
		if err := refusal(answer); err != nil {
			return fmt.Errorf("watch %q from revision %d: %w", w.from, w.known, err)
		}
		alive, err := see(answer)
		if err != nil {
			return err
		}
		if alive {
			silence.Reset(w.silence)
		}
		created = created || answer.Created
	}
}

func (w watch) request() *pb.WatchRequest {
	create := &pb.WatchCreateRequest{Key: []byte(w.from), StartRevision: w.known, ProgressNotify: true}
	if w.end != "" {
		create.RangeEnd = []byte(w.end)
	}
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}
}

func progressRequest() *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
}

// silent is the error of a watch that ended for silence. Of a stream that never opened, cause says what kept it.
func (w watch) silent(opened bool, cause error) error {
	if !opened && cause != nil {
		return fmt.Errorf("watch %q: %w for %v: %w", w.from, errSilence, w.silence, explain(cause))
	}
	return fmt.Errorf("watch %q: %w for %v", w.from, errSilence, w.silence)
}

// refusal is the error of an answer that ends the watch, nil for any other.
func refusal(answer *pb.WatchResponse) error {
	switch {
	case answer.CompactRevision != 0:
		return fmt.Errorf("%w: the oldest is %d", rpctypes.ErrCompacted, answer.CompactRevision)
	case answer.Canceled:
		return fmt.Errorf("etcd ended the watch: %q", answer.CancelReason)
	case answer.Fragment:
		return errors.New("etcd sent a part of an answer, which it was not asked for")
	}
	return nil
}
