package member

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const testQuota = 8 << 20

// frugal are options of a member with a small quota, that looks after it often.
func (c *cluster) frugal(i, size int) *Options {
	o := c.options(i, size)
	o.Quota, o.upkeepEvery = testQuota, 50*time.Millisecond
	return o
}

const full = "etcd takes no writes, and goes on by itself as soon as there is room: raise its quota, or delete what is not needed"

// fill writes until there is no space, and none to be had: what batches of writes leave free is used again meanwhile.
func (c *cluster) fill(client *clientv3.Client) {
	c.t.Helper()
	block, written := strings.Repeat("x", 64<<10), 0
	c.eventually("it says: "+full, func(ctx context.Context) error {
		for {
			_, err := client.Put(ctx, fmt.Sprintf("block/%d", written), block)
			if errors.Is(err, rpctypes.ErrNoSpace) {
				break
			}
			if err != nil {
				return err
			}
			if written++; written*len(block) > 3*testQuota {
				c.t.Fatal("the quota does not bound the database")
			}
		}
		if !strings.Contains(c.logs.String(), full) {
			return errors.New("it does not")
		}
		return nil
	})
}

// What is older than the retention is compacted.
func TestHistoryIsCompacted(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	o := c.options(0, 1)
	o.Retention = time.Second
	c.run(o)
	client := c.client(0)
	c.put(client, "old")
	answer, err := client.Get(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	old := answer.Header.Revision
	c.put(client, "new")
	c.eventually("the old revision is gone", func(ctx context.Context) error {
		if _, err := client.Get(ctx, "k", clientv3.WithRev(old)); !errors.Is(err, rpctypes.ErrCompacted) {
			return fmt.Errorf("a read at revision %d says %v", old, err)
		}
		return nil
	})
	c.has(0, "new")
}

// A full database takes no writes; all else goes on. When something is deleted, there is room again on all members, by itself.
func TestFullDatabase(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d members", size), func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, size)
			var all []int
			for i := range size {
				c.run(c.frugal(i, size))
				all = append(all, i)
			}
			client := c.client(all...)
			c.put(client, "before")
			lease, err := client.Grant(t.Context(), 60)
			if err != nil {
				t.Fatal(err)
			}
			c.fill(client)
			if _, err := client.Put(t.Context(), "k", "after"); !errors.Is(err, rpctypes.ErrNoSpace) {
				t.Errorf("a write into a full database: %v", err)
			}
			if _, err := client.Grant(t.Context(), 60); !errors.Is(err, rpctypes.ErrNoSpace) {
				t.Errorf("a new lease in a full database: %v", err)
			}
			if _, err := client.KeepAliveOnce(t.Context(), lease.ID); err != nil {
				t.Errorf("a lease that is kept: %v", err)
			}
			c.has(0, "before")

			if _, err := client.Delete(t.Context(), "block/", clientv3.WithPrefix()); err != nil {
				t.Fatal(err)
			}
			c.put(client, "again")
			for i := range size {
				c.has(i, "again")
				own := c.client(i)
				c.eventually(fmt.Sprintf("member %d is small", i), func(ctx context.Context) error {
					// What was deleted counts as free only once something has been written after it.
					if _, err := client.Put(ctx, "k", "again"); err != nil {
						return err
					}
					return small(ctx, own)
				})
			}
			if alarms, err := client.AlarmList(t.Context()); err != nil || len(alarms.Alarms) > 0 {
				t.Errorf("alarms: %v, %v", alarms, err)
			}
		})
	}
}

func small(ctx context.Context, client *clientv3.Client) error {
	status, err := client.Status(ctx, client.Endpoints()[0])
	if err == nil && status.DbSize > testQuota/4 {
		err = fmt.Errorf("its database has %d bytes", status.DbSize)
	}
	return err
}

// A larger quota is all that a full database needs.
func TestRaisedQuota(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	stop := c.run(c.frugal(0, 1))
	c.fill(c.client(0))
	stop()
	o := c.frugal(0, 1)
	o.Quota = 8 * testQuota // etcd tells its size late: on a busy machine it is filled to the double
	c.run(o)
	c.put(c.client(0), "x")
}

// A database that is mostly empty pages is defragmented before it reaches its quota.
func TestDefragmentsInTime(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	o := c.frugal(0, 1)
	o.Retention, o.upkeepEvery = time.Second, time.Hour // its rounds are this test's, so that none comes between the writes
	c.run(o)
	client := c.client(0)
	block := strings.Repeat("x", 64<<10)
	// Slowly: the size is told with each batch, 100 ms apart, and the last batch must not go beyond the quota.
	for i := 0; ; i++ {
		if _, err := client.Put(t.Context(), fmt.Sprintf("block/%d", i), block); err != nil {
			t.Fatal(err)
		}
		status, err := client.Status(t.Context(), client.Endpoints()[0])
		if err != nil {
			t.Fatal(err)
		}
		if status.DbSize > testQuota/4*3 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if _, err := client.Delete(t.Context(), "block/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	c.eventually("what was deleted is free", func(ctx context.Context) error {
		c.put(client, "kept") // a page counts as free once another transaction has been written
		status, err := client.Status(ctx, client.Endpoints()[0])
		if err == nil && status.DbSizeInUse > testQuota/4 {
			err = fmt.Errorf("%d bytes are in use", status.DbSizeInUse)
		}
		return err
	})
	if err := (&caretaker{Options: o, own: client, tried: map[uint64]int64{}}).round(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := small(t.Context(), client); err != nil {
		t.Error(err)
	}
	c.has(0, "kept")
	if text := c.logs.String(); strings.Contains(text, "NOSPACE") {
		t.Errorf("it was full: %s", text)
	}
}

// A damaged data folder is neither used nor emptied, and the error says what to do.
func TestDamagedData(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		size   int
		advice string
	}{
		{1, "restore it from a copy, or choose an empty folder"},
		{3, "or empty it: this member then joins the others anew, which have all that it had"},
	} {
		t.Run(fmt.Sprintf("%d members", tt.size), func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, tt.size)
			var stops []func()
			for i := range tt.size {
				stops = append(stops, c.run(c.options(i, tt.size)))
			}
			c.put(c.client(0), "x")
			stops[0]()
			o := c.options(0, tt.size)
			db := filepath.Join(o.Data, "member", "snap", "db")
			garbage := []byte(strings.Repeat("no database", 1000))
			if err := os.WriteFile(db, garbage, 0o600); err != nil {
				t.Fatal(err)
			}
			err := o.run(t.Context())
			if err == nil || !strings.Contains(err.Error(), o.Data+" is damaged") || !strings.Contains(err.Error(), tt.advice) {
				t.Errorf("the error is %v, and should name %s and say %q", err, o.Data, tt.advice)
			}
			if left, err := os.ReadFile(db); err != nil || string(left) != string(garbage) {
				t.Errorf("the damaged file was touched: %v", err)
			}
			if tt.size == 1 {
				return
			}
			if err := os.RemoveAll(filepath.Join(o.Data, "member")); err != nil {
				t.Fatal(err)
			}
			c.run(c.options(0, tt.size))
			c.has(0, "x")
		})
	}
}
