package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// keep sends keepalives for a granted lease until it is lost. A broken stream is opened again. When ctx ends it returns
// a Loss without a reason.
func (l *Lease) keep(ctx context.Context, id clientv3.LeaseID) Loss {
	// Several attempts have to fit into what is left of the lease time.
	wait := backoff{min: minBackoff / 4, max: min(maxBackoff, l.o.TTL/8)}
	for {
		loss, broken := l.exchange(ctx, id, &wait)
		if broken == nil || ctx.Err() != nil {
			return loss
		}
		left := time.Until(l.Deadline())
		pause := wait.next()
		if !sleep(ctx, min(pause, left)) {
			return Loss{Lease: id}
		}
		if left <= pause {
			return Loss{Lease: id, Reason: Unanswered, Err: broken}
		}
	}
}

// exchange keeps the lease over one stream. It returns a loss, or the error that broke the stream.
func (l *Lease) exchange(ctx context.Context, id clientv3.LeaseID, wait *backoff) (loss Loss, broken error) {
	s := openStream(clientv3.WithRequireLeader(ctx), l.remote.LeaseKeepAlive)
	defer func() {
		// What kept a stream from opening is the best explanation of the silence.
		if err := s.close(); err != nil && loss.Reason == Unanswered && loss.Err == nil {
			loss.Err = explain(err)
		}
	}()
	expiry := time.NewTimer(time.Until(l.Deadline()))
	defer expiry.Stop()
	tick := time.NewTicker(l.o.Every)
	defer tick.Stop()

	var remote pb.Lease_LeaseKeepAliveClient
	var sent []time.Time // the stamps of the unanswered requests, oldest first: etcd answers a stream in order
	for {
		select {
		case <-ctx.Done():
			return Loss{Lease: id}, ctx.Err()
		case <-expiry.C:
			loss := Loss{Lease: id, Reason: Unanswered}
			if remote != nil {
				loss.Err = fmt.Errorf("%d keepalives without an answer", len(sent))
			}
			return loss, nil
		case err := <-s.broken:
			return Loss{}, fmt.Errorf("keep lease %x: %w", id, explain(err))
		case remote = <-s.opened:
		case <-tick.C:
		case answer := <-s.answers:
			if len(sent) == 0 || answer.ID != int64(id) {
				return Loss{}, errors.New("etcd answered a keepalive that was not sent")
			}
			if answer.TTL <= 0 {
				return Loss{Lease: id, Reason: Expired}, nil
			}
			l.prolong(sent[0].Add(time.Duration(answer.TTL) * time.Second))
			expiry.Reset(time.Until(l.Deadline()))
			sent = sent[1:]
			wait.reset()
			l.o.OnAnswer(positionOf(answer.Header))
			continue
		}
		if err := l.o.Alive(); err != nil {
			return Loss{Lease: id, Reason: NotAlive, Err: err}, nil
		}
		if remote == nil {
			continue
		}
		sent = append(sent, time.Now())
		// An error would say only that the stream is broken. The receiving half says why, after the answers that still came.
		_ = remote.Send(&pb.LeaseKeepAliveRequest{ID: int64(id)})
	}
}

// prolong moves the deadline. etcd may answer with less time than before, so it can also move it back.
func (l *Lease) prolong(deadline time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deadline = deadline
}
