package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Pair is one key at one revision.
type Pair struct {
	Key   string
	Value []byte
	// CreateRevision is where the key came to be, ModRevision where it last changed, Version how often since (1 is the
	// creation). They are etcd's.
	CreateRevision, ModRevision, Version int64
	// Lease is the lease that the key hangs on, 0 if none.
	Lease int64
	// Deleted marks an event that took the key away, at ModRevision. Value, CreateRevision, Version and Lease are empty then.
	Deleted bool
}

func (p Pair) equal(q Pair) bool {
	return p.Key == q.Key && bytes.Equal(p.Value, q.Value) && p.Lease == q.Lease && p.Deleted == q.Deleted &&
		p.CreateRevision == q.CreateRevision && p.ModRevision == q.ModRevision && p.Version == q.Version
}

func pairOf(kv *mvccpb.KeyValue) Pair {
	return Pair{
		Key: string(kv.Key), Value: kv.Value, Lease: kv.Lease,
		CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Version: kv.Version,
	}
}

const (
	defaultPageSize = 2000
	// compactedTries bounds how often ReadAll begins again because its revision was compacted while it read. One retry is
	// the rule: a compaction keeps minutes of history, and a read takes seconds.
	compactedTries = 5
)

// Read returns one key, linearizably. found is false, with a nil error, only if etcd answered that there is no such key.
func Read(ctx context.Context, c *clientv3.Client, key string) (pair Pair, found bool, err error) {
	pair, found, _, err = read(ctx, c, key)
	return pair, found, err
}

// Where asks, linearizably, where the store stands.
func Where(ctx context.Context, c *clientv3.Client) (Position, error) {
	_, _, at, err := ReadAt(ctx, c, "\x00")
	return at, err
}

// ReadAt is Read, and where the store stood when it answered.
func ReadAt(ctx context.Context, c *clientv3.Client, key string) (pair Pair, found bool, at Position, err error) {
	pair, found, header, err := read(ctx, c, key)
	if err != nil {
		return Pair{}, false, Position{}, err
	}
	return pair, found, positionOf(header), nil
}

func positionOf(header *pb.ResponseHeader) Position {
	return Position{ClusterID: header.GetClusterId(), Revision: header.GetRevision(), Term: header.GetRaftTerm()}
}

// read is Read and the header of the answer.
func read(ctx context.Context, c *clientv3.Client, key string) (Pair, bool, *pb.ResponseHeader, error) {
	var answer *clientv3.GetResponse
	err := withToken(func() (err error) {
		answer, err = c.Get(ctx, key)
		return err
	})
	if err != nil {
		return Pair{}, false, nil, fmt.Errorf("read %q: %w", key, explain(err))
	}
	if len(answer.Kvs) == 0 {
		return Pair{}, false, answer.Header, nil
	}
	return pairOf(answer.Kvs[0]), true, answer.Header, nil
}

// ReadAll returns every key below prefix, sorted, as they all were at one revision, which it returns too. The read is
// linearizable: what was committed before the call is in it. pageSize bounds the keys of one request; 0 means 2 000.
func ReadAll(ctx context.Context, c *clientv3.Client, prefix string, pageSize int64) ([]Pair, int64, error) {
	for try := 1; ; try++ {
		pairs, header, err := list(ctx, c, prefix, pageSize, 0)
		switch {
		case err == nil:
			return pairs, header.GetRevision(), nil
		case errors.Is(err, rpctypes.ErrCompacted) && try < compactedTries:
			continue
		}
		return nil, 0, err
	}
}

// list reads all keys below prefix at the revision of its first page, and returns that page's header. A compaction of
// that revision between two pages is an error (rpctypes.ErrCompacted): a list is of one moment or it is none. pageTime
// bounds each request, 0 leaves that to ctx.
func list(ctx context.Context, c *clientv3.Client, prefix string, pageSize int64, pageTime time.Duration) (
	[]Pair, *pb.ResponseHeader, error,
) {
	var pairs []Pair
	first, err := pages(ctx, c, prefix, pageSize, pageTime, func(page *clientv3.GetResponse, _ *pb.ResponseHeader) error {
		if pairs == nil {
			pairs = make([]Pair, 0, max(page.Count, int64(len(page.Kvs))))
		}
		for _, kv := range page.Kvs {
			pairs = append(pairs, pairOf(kv))
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	return pairs, first, nil
}

// Page is what lay in one range of keys.
type Page struct {
	// From is the first key of the range, To the first behind it; "" means that nothing follows below the prefix.
	From, To string
	// Pairs are sorted by key.
	Pairs []Pair
	// At is where the store stood when it was asked first; the pairs are of that revision.
	At Position
}

// ReadPages reads every key below prefix, sorted, as they all were at one revision, and shows them to visit page by page, so that nobody
// has to hold them all. The read is linearizable. pageSize bounds the keys of one page (0 means 2 000), pageTime each request. The error is
// visit's own, or says what kept etcd from answering: rpctypes.ErrCompacted if the revision was compacted between two pages.
func ReadPages(ctx context.Context, c *clientv3.Client, prefix string, pageSize int64, pageTime time.Duration, visit func(Page) error) error {
	from, _ := bounds(prefix)
	_, err := pages(ctx, c, prefix, pageSize, pageTime, func(answer *clientv3.GetResponse, first *pb.ResponseHeader) error {
		page := Page{From: from, Pairs: make([]Pair, len(answer.Kvs)), At: positionOf(first)}
		for i, kv := range answer.Kvs {
			page.Pairs[i] = pairOf(kv)
		}
		if answer.More {
			page.To = page.Pairs[len(page.Pairs)-1].Key + "\x00"
		}
		from = page.To
		return visit(page)
	})
	return err
}

// pages reads all keys below prefix, page by page, at the revision of the first, whose header it returns.
func pages(ctx context.Context, c *clientv3.Client, prefix string, pageSize int64, pageTime time.Duration,
	visit func(page *clientv3.GetResponse, first *pb.ResponseHeader) error,
) (first *pb.ResponseHeader, err error) {
	if pageSize <= 0 {
		pageSize = defaultPageSize
	}
	from, end := bounds(prefix)
	for {
		options := []clientv3.OpOption{clientv3.WithRange(end), clientv3.WithLimit(pageSize)}
		if first != nil {
			options = append(options, clientv3.WithRev(first.Revision))
		}
		page, err := getPage(ctx, c, from, pageTime, options)
		if err != nil {
			return nil, fmt.Errorf("list %q: %w", prefix, explain(err))
		}
		switch {
		case first == nil:
			first = page.Header
		case page.Header.ClusterId != first.ClusterId || page.Header.Revision < first.Revision ||
			page.Header.RaftTerm < first.RaftTerm:
			return nil, fmt.Errorf("list %q: etcd was replaced between two pages", prefix)
		}
		if err := visit(page, first); err != nil {
			return nil, err
		}
		if !page.More || len(page.Kvs) == 0 {
			return first, nil
		}
		from = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
}

func getPage(ctx context.Context, c *clientv3.Client, from string, bound time.Duration, options []clientv3.OpOption) (
	page *clientv3.GetResponse, err error,
) {
	if bound > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, bound)
		defer cancel()
	}
	err = withToken(func() (err error) {
		page, err = c.Get(ctx, from, options...)
		return err
	})
	return page, err
}

// bounds is the range [from, end) of the keys that begin with prefix, in etcd's terms: "\x00" alone is the lowest key as
// a start, and no bound as an end.
func bounds(prefix string) (from, end string) {
	if prefix == "" {
		return "\x00", "\x00"
	}
	return prefix, clientv3.GetPrefixRangeEnd(prefix)
}
