package etcd_test

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/holdfast-dev/holdfast/etcd"
)

// scripted is a watch service that plays one list and then, to each watch, the next of its answers.
type scripted struct {
	pb.UnimplementedKVServer
	pb.UnimplementedWatchServer
	revision int64
	term     uint64
	answers  []*pb.WatchResponse
	replaced bool // each list is of another cluster
	repeat   bool // the last answer is given again and again
	lists    atomic.Uint64
}

func (s *scripted) header(cluster uint64, revision int64, term uint64) *pb.ResponseHeader {
	return &pb.ResponseHeader{ClusterId: cluster, Revision: revision, RaftTerm: term}
}

func (s *scripted) Range(context.Context, *pb.RangeRequest) (*pb.RangeResponse, error) {
	cluster := uint64(1)
	if n := s.lists.Add(1); s.replaced {
		cluster = n
	}
	return &pb.RangeResponse{Header: s.header(cluster, s.revision, s.term)}, nil
}

func (s *scripted) Watch(stream pb.Watch_WatchServer) error {
	if _, err := stream.Recv(); err != nil {
		return err
	}
	created := &pb.WatchResponse{Header: s.header(1, s.revision, s.term), Created: true}
	for _, answer := range append([]*pb.WatchResponse{created}, s.answers...) {
		if err := stream.Send(answer); err != nil {
			return err
		}
	}
	for s.repeat && stream.Context().Err() == nil {
		if err := stream.Send(s.answers[len(s.answers)-1]); err != nil {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
	<-stream.Context().Done()
	return nil
}

// What a watch must not say ends it, and is not delivered; what lags is no proof of life.
func TestFollowDistrustsTheWatch(t *testing.T) {
	t.Parallel()
	event := func(revision int64) *mvccpb.Event {
		return &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte("k"), ModRevision: revision, Version: 1}}
	}
	header := (&scripted{}).header
	tests := []struct {
		name      string
		answer    *pb.WatchResponse
		delivered []etcd.UpdateKind // between the Listed and the Lost
		repeat    bool
	}{
		{"another cluster", &pb.WatchResponse{Header: header(2, 11, 5)}, nil, false},
		{"an event of the past", &pb.WatchResponse{Header: header(1, 11, 5), Events: []*mvccpb.Event{event(9)}}, nil, false},
		{"events out of order", &pb.WatchResponse{Header: header(1, 12, 5), Events: []*mvccpb.Event{event(12), event(11)}}, nil, false},
		{"an event of a lower term", &pb.WatchResponse{Header: header(1, 11, 4), Events: []*mvccpb.Event{event(11)}}, nil, false},
		{"a lower revision", &pb.WatchResponse{Header: header(1, 9, 5)}, nil, true},
		{"a lower term", &pb.WatchResponse{Header: header(1, 11, 4)}, nil, true},
		{"canceled", &pb.WatchResponse{Header: header(1, 11, 5), Canceled: true, CancelReason: "permission denied"}, nil, false},
		{"a part", &pb.WatchResponse{Header: header(1, 11, 5), Fragment: true, Events: []*mvccpb.Event{event(11)}}, nil, false},
		{"what the list has, with more to come", &pb.WatchResponse{Header: header(1, 20, 5), Events: []*mvccpb.Event{event(10)}}, nil, false},
		{"progress", &pb.WatchResponse{Header: header(1, 11, 5)}, []etcd.UpdateKind{etcd.Progressed}, false},
		{"an event", &pb.WatchResponse{Header: header(1, 11, 5), Events: []*mvccpb.Event{event(11)}}, []etcd.UpdateKind{etcd.Changed}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := &scripted{revision: 10, term: 5, answers: []*pb.WatchResponse{tt.answer}, repeat: tt.repeat}
			c := fake(t, services{kv: s, watch: s})
			var kinds []etcd.UpdateKind
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			etcd.Follow(ctx, c, etcd.FollowOptions{Progress: 100 * time.Millisecond, Silence: 500 * time.Millisecond}, func(u etcd.Update) {
				kinds = append(kinds, u.Kind)
				if u.Kind == etcd.Lost {
					cancel()
				}
			})
			want := append(append([]etcd.UpdateKind{etcd.Listed}, tt.delivered...), etcd.Lost)
			if !slices.Equal(kinds, want) {
				t.Errorf("delivered %v, want %v", kinds, want)
			}
		})
	}
}

// Another cluster id is another epoch, though its revision and term are the same.
func TestFollowReplacedCluster(t *testing.T) {
	t.Parallel()
	s := &scripted{revision: 10, term: 5, replaced: true}
	c := fake(t, services{kv: s, watch: s})
	var epochs []int64
	ctx, cancel := context.WithCancel(t.Context())
	o := etcd.FollowOptions{Progress: 50 * time.Millisecond, Silence: 100 * time.Millisecond}
	etcd.Follow(ctx, c, o, func(u etcd.Update) {
		if u.Kind == etcd.Listed {
			epochs = append(epochs, u.Epoch)
		}
		if len(epochs) == 3 {
			cancel()
		}
	})
	if !slices.Equal(epochs, []int64{1, 2, 3}) {
		t.Errorf("epochs %v", epochs)
	}
}
