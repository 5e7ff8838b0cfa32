package etcd_test

import (
	"context"
	"net"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/holdfast-dev/holdfast/etcd"
)

// services are what a test plays of etcd itself: answers that the real one gives too rarely, or too quickly, to test.
type services struct {
	lease pb.LeaseServer
	watch pb.WatchServer
	kv    pb.KVServer
}

// fake serves them, and returns a client.
func fake(t *testing.T, s services) *clientv3.Client {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	if s.lease != nil {
		pb.RegisterLeaseServer(server, s.lease)
	}
	if s.watch != nil {
		pb.RegisterWatchServer(server, s.watch)
	}
	if s.kv != nil {
		pb.RegisterKVServer(server, s.kv)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		server.Serve(listener)
	}()
	c, err := etcd.Dial(t.Context(), etcd.Options{Endpoints: []string{listener.Addr().String()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		server.Stop()
		<-served
	})
	return c
}

// keepalives is a lease service that hands each stream to a test.
type keepalives struct {
	pb.UnimplementedLeaseServer
	ttl    int64         // granted, in seconds
	wait   time.Duration // before the grant
	stream func(pb.Lease_LeaseKeepAliveServer) error
}

func (k *keepalives) LeaseGrant(_ context.Context, r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	time.Sleep(k.wait)
	return &pb.LeaseGrantResponse{ID: 7, TTL: k.ttl}, nil
}

func (k *keepalives) LeaseKeepAlive(s pb.Lease_LeaseKeepAliveServer) error { return k.stream(s) }

// arrivals receives n keepalives and says when each came.
func arrivals(s pb.Lease_LeaseKeepAliveServer, n int) ([]time.Time, error) {
	var at []time.Time
	for range n {
		if _, err := s.Recv(); err != nil {
			return at, err
		}
		at = append(at, time.Now())
	}
	return at, nil
}
