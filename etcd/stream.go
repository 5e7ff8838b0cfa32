package etcd

import (
	"context"
	"math"

	"google.golang.org/grpc"
)

// callOptions are those of clientv3's own calls: a watch answer may be as large as the transaction it tells of, and a
// call waits for the connection, so that the first one after an outage needs no retry.
func callOptions() []grpc.CallOption {
	return []grpc.CallOption{grpc.WaitForReady(true), grpc.MaxCallRecvMsgSize(math.MaxInt32)}
}

// A stream is one gRPC stream whose blocking halves, to open and to receive, run in a goroutine of their own, so that the
// owner can wait for its clock as well. Only the owner sends.
type stream[Req, Resp any] struct {
	opened  chan grpc.BidiStreamingClient[Req, Resp]
	answers chan *Resp
	broken  chan error // one error, after which nothing more comes

	cancel   context.CancelFunc
	finished chan struct{}
}

// openStream begins to open a stream. The owner must call close.
func openStream[Req, Resp any](
	ctx context.Context,
	open func(context.Context, ...grpc.CallOption) (grpc.BidiStreamingClient[Req, Resp], error),
) *stream[Req, Resp] {
	ctx, cancel := context.WithCancel(ctx)
	s := &stream[Req, Resp]{
		opened:   make(chan grpc.BidiStreamingClient[Req, Resp], 1),
		answers:  make(chan *Resp),
		broken:   make(chan error, 1),
		cancel:   cancel,
		finished: make(chan struct{}),
	}
	go func() {
		defer close(s.finished)
		remote, err := open(ctx, callOptions()...)
		if err != nil {
			s.broken <- err
			return
		}
		s.opened <- remote
		for {
			answer, err := remote.Recv()
			if err != nil {
				s.broken <- err
				return
			}
			select {
			case s.answers <- answer:
			case <-ctx.Done():
				s.broken <- ctx.Err()
				return
			}
		}
	}()
	return s
}

// close ends the stream, waits for its goroutine, and returns the error that the owner has not taken yet, if any: of a
// stream that never opened it says what kept it from that.
func (s *stream[Req, Resp]) close() error {
	s.cancel()
	<-s.finished
	select {
	case err := <-s.broken:
		return err
	default:
		return nil
	}
}
