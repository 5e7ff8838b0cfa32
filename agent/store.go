package agent

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-dev/holdfast/etcd"
)

// store is where reports lie. Errors are those of package etcd: after one, a write may have been carried out all the same.
type store interface {
	// commit carries all of ops out, or none, and gives the revision at which it did.
	commit(ctx context.Context, ops []etcd.Op) (revision int64, err error)
	// readAll gives all that lies below prefix at one revision, which is not below that of any write that had been answered before.
	readAll(ctx context.Context, prefix string) ([]etcd.Pair, int64, error)
}

// remote is etcd.
type remote struct{ client *clientv3.Client }

// pageSize keeps a page of reports below etcd's usual bound of 1.5 MiB a message.
const pageSize = 500

func (r remote) commit(ctx context.Context, ops []etcd.Op) (int64, error) {
	return etcd.Commit(ctx, r.client, nil, ops)
}

func (r remote) readAll(ctx context.Context, prefix string) ([]etcd.Pair, int64, error) {
	return etcd.ReadAll(ctx, r.client, prefix, pageSize)
}
