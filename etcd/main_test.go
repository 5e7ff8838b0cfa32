package etcd_test

import (
	"context"
	"flag"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/etcd/etcdlocal/etcdproc"
)

func TestMain(m *testing.M) {
	etcdproc.Main()
	flag.Parse()
	// The tests wait for lease times and outages, not for a processor.
	if err := flag.Set("test.parallel", "12"); err != nil {
		os.Exit(2)
	}
	goleak.VerifyTestMain(m)
}

// eventually polls until ok, and fails the test if that takes longer than bound.
func eventually(t *testing.T, bound time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(bound)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", bound, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// background runs f until the test ends, and waits for it then. stop does so earlier.
func background(t *testing.T, f func(ctx context.Context)) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(ctx)
	}()
	stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(stop)
	return stop
}

func put(t *testing.T, c *clientv3.Client, key, value string) (revision int64) {
	t.Helper()
	return commit(t, c, nil, etcd.Op{Key: key, Value: []byte(value)})
}

func take(t *testing.T, c *clientv3.Client, key string) {
	t.Helper()
	if _, err := c.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
}

func commit(t *testing.T, c *clientv3.Client, guards []etcd.Guard, ops ...etcd.Op) (revision int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	revision, err := etcd.Commit(ctx, c, guards, ops)
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

func get(t *testing.T, c *clientv3.Client, key string) (etcd.Pair, bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	pair, found, err := etcd.Read(ctx, c, key)
	if err != nil {
		t.Fatal(err)
	}
	return pair, found
}

// losses collects what OnLoss is told.
type losses struct {
	mu   sync.Mutex
	list []etcd.Loss
}

func (l *losses) add(loss etcd.Loss) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, loss)
}

func (l *losses) all() []etcd.Loss {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.list)
}

func (l *losses) find(reason etcd.LossReason) (etcd.Loss, bool) {
	for _, loss := range l.all() {
		if loss.Reason == reason {
			return loss, true
		}
	}
	return etcd.Loss{}, false
}

// The agent links this package: what it must not carry must not come in here.
func TestImportsStaySmall(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-deps", "-tags", "grpcnotrace", ".").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for path := range strings.Lines(string(out)) {
		path = strings.TrimSpace(path)
		for _, unwanted := range []string{
			"go.etcd.io/etcd/server", "go.etcd.io/etcd/client/v3/concurrency", "go.etcd.io/raft", "go.etcd.io/bbolt",
			"github.com/prometheus", "html/template", "k8s.io", "github.com/spf13/cobra",
		} {
			if path == unwanted || strings.HasPrefix(path, unwanted+"/") {
				t.Errorf("links %s", path)
			}
		}
	}
}
