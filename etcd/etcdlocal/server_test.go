package etcdlocal_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/etcd/etcdlocal"
	"github.com/holdfast-dev/holdfast/etcd/etcdlocal/etcdproc"
)

func TestMain(m *testing.M) {
	etcdproc.Main()
	goleak.VerifyTestMain(m)
}

func start(t *testing.T, o etcdlocal.Options) *etcdlocal.Server {
	t.Helper()
	s, err := etcdlocal.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func write(t *testing.T, s *etcdlocal.Server, key, value string) {
	t.Helper()
	c, err := s.Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := etcd.Commit(t.Context(), c, nil, []etcd.Op{{Key: key, Value: []byte(value)}}); err != nil {
		t.Fatal(err)
	}
}

// closing writes a key, closes the server while a watch and a lease are open, and says how long that took.
func closing(t *testing.T, dir string) (took time.Duration) {
	t.Helper()
	s := start(t, etcdlocal.Options{Dir: dir})
	write(t, s, "key", "value")

	c, err := s.Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	listed := make(chan struct{}, 1)
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		etcd.Follow(ctx, c, etcd.FollowOptions{Progress: 100 * time.Millisecond}, func(u etcd.Update) {
			if u.Kind == etcd.Progressed {
				select {
				case listed <- struct{}{}:
				default:
				}
			}
		})
	}()
	<-listed
	held := make(chan struct{})
	go func() {
		defer close(held)
		etcd.NewLease(c, etcd.HoldOptions{Every: 50 * time.Millisecond, OnGrant: func(context.Context, clientv3.LeaseID) error {
			listed <- struct{}{}
			return nil
		}}).Run(ctx)
	}()
	<-listed
	begin := time.Now()
	s.Close()
	took = time.Since(begin)
	if err := s.Err(); err != nil {
		t.Errorf("a mere Close is reported as %v", err)
	}
	cancel()
	<-followed
	<-held
	c.Close()
	return took
}

// What was written is there after a restart; a store without a folder leaves nothing behind; both stop at once, with a
// watch and a lease open.
func TestKeepsItsFolderAndStopsAtOnce(t *testing.T) {
	dir := t.TempDir()
	// A call that is just being answered keeps it for a while; streams would each time.
	took := closing(t, dir)
	for tries := 1; tries < 3 && took > time.Second; tries++ {
		took = closing(t, dir)
	}
	if took > time.Second {
		t.Errorf("Close took %v", took)
	}
	s := start(t, etcdlocal.Options{Dir: dir})
	c, err := s.Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	pair, found, err := etcd.Read(t.Context(), c, "key")
	if err != nil || !found || string(pair.Value) != "value" {
		t.Errorf("after a restart: %q %v %v", pair.Value, found, err)
	}
}

func TestLeavesNothingBehind(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	s := start(t, etcdlocal.Options{})
	s.Close()
	if entries, err := os.ReadDir(os.TempDir()); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v %v", entries, err)
	}
}

// Two stores that began empty are told apart.
func TestFreshStoresDiffer(t *testing.T) {
	ids := map[uint64]bool{}
	for range 2 {
		s := start(t, etcdlocal.Options{})
		c, err := s.Client(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		answer, err := c.Get(t.Context(), "x")
		if err != nil {
			t.Fatal(err)
		}
		ids[answer.Header.ClusterId] = true
		c.Close()
		s.Close()
	}
	if len(ids) != 2 {
		t.Errorf("cluster ids %v are not two", ids)
	}
}

// Each folder and address that cannot be used is an error, soon, that says what to do, and leaves nothing running.
func TestStartSaysWhatToDo(t *testing.T) {
	used := func(t *testing.T) string { // a folder that etcd has used
		dir := t.TempDir()
		s := start(t, etcdlocal.Options{Dir: dir})
		write(t, s, "key", "value")
		s.Close()
		return dir
	}
	database := func(dir string) string { return filepath.Join(dir, "member", "snap", "db") }
	tests := []struct {
		name    string
		prepare func(t *testing.T) etcdlocal.Options
		want    string
	}{
		{"folder in use by another server", func(t *testing.T) etcdlocal.Options {
			dir := t.TempDir()
			start(t, etcdlocal.Options{Dir: dir})
			return etcdlocal.Options{Dir: dir}
		}, "in use by another process"},
		{"database open in an etcd that does not know our lock", func(t *testing.T) etcdlocal.Options {
			dir := used(t)
			db, err := bbolt.Open(database(dir), 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { db.Close() })
			return etcdlocal.Options{Dir: dir}
		}, "in use by another process"},
		{"newer version", func(t *testing.T) etcdlocal.Options {
			dir := used(t)
			db, err := bbolt.Open(database(dir), 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if err := db.Update(func(tx *bbolt.Tx) error {
				return tx.Bucket([]byte("cluster")).Put([]byte("clusterVersion"), []byte("3.99.0"))
			}); err != nil {
				t.Fatal(err)
			}
			return etcdlocal.Options{Dir: dir}
		}, "written by etcd 3.99"},
		{"database that is something else", func(t *testing.T) etcdlocal.Options {
			dir := used(t)
			if err := os.WriteFile(database(dir), []byte(strings.Repeat("not a database ", 4096)), 0o600); err != nil {
				t.Fatal(err)
			}
			return etcdlocal.Options{Dir: dir}
		}, "is damaged"},
		{"database cut short", func(t *testing.T) etcdlocal.Options {
			dir := used(t)
			if err := os.Truncate(database(dir), 8192); err != nil {
				t.Fatal(err)
			}
			return etcdlocal.Options{Dir: dir}
		}, "is damaged"},
		{"database gone", func(t *testing.T) etcdlocal.Options {
			dir := used(t)
			if err := os.Remove(database(dir)); err != nil {
				t.Fatal(err)
			}
			return etcdlocal.Options{Dir: dir}
		}, "a log but no database"},
		{"log damaged, which etcd ends its process for", func(t *testing.T) etcdlocal.Options {
			dir := used(t)
			logs, err := filepath.Glob(filepath.Join(dir, "member", "wal", "*.wal"))
			if err != nil || len(logs) == 0 {
				t.Fatal(logs, err)
			}
			if err := os.WriteFile(logs[0], []byte(strings.Repeat("nonsense", 4096)), 0o600); err != nil {
				t.Fatal(err)
			}
			return etcdlocal.Options{Dir: dir}
		}, "write-ahead log"},
		{"folder below a file", func(t *testing.T) etcdlocal.Options {
			file := filepath.Join(t.TempDir(), "file")
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return etcdlocal.Options{Dir: filepath.Join(file, "data")}
		}, "or choose another"},
		{"folder without rights", func(t *testing.T) etcdlocal.Options {
			if os.Getuid() == 0 {
				t.Skip("root has all rights")
			}
			dir := t.TempDir()
			if err := os.Chmod(dir, 0o500); err != nil {
				t.Fatal(err)
			}
			return etcdlocal.Options{Dir: dir}
		}, "no right to use"},
		{"address taken", func(t *testing.T) etcdlocal.Options {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			return etcdlocal.Options{Address: l.Addr().String()}
		}, "is taken: choose another"},
		{"address without a port", func(*testing.T) etcdlocal.Options {
			return etcdlocal.Options{Address: "localhost"}
		}, "a host and a port are needed"},
		{"relative socket", func(*testing.T) etcdlocal.Options {
			return etcdlocal.Options{Address: "unix://here.sock"}
		}, "absolute path"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := tt.prepare(t)
			begin := time.Now()
			s, err := etcdlocal.Start(t.Context(), o)
			if err == nil {
				s.Close()
				t.Fatal("started")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%q does not say %q", err, tt.want)
			}
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("took %v", took)
			}
			t.Log(err)
		})
	}
}

func TestStartEndsWithItsContext(t *testing.T) {
	for _, bound := range []time.Duration{0, time.Millisecond, 50 * time.Millisecond} {
		t.Setenv("TMPDIR", t.TempDir())
		ctx, cancel := context.WithTimeout(t.Context(), bound)
		s, err := etcdlocal.Start(ctx, etcdlocal.Options{})
		cancel()
		if err == nil {
			t.Logf("etcd was ready within %v", bound)
			s.Close()
		} else if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("within %v: %v", bound, err)
		}
		if entries, err := os.ReadDir(os.TempDir()); err != nil || len(entries) != 0 {
			t.Errorf("within %v: left behind %v %v", bound, entries, err)
		}
	}
}
