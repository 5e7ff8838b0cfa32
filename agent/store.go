package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/record"
)

// store is where reports lie. Errors are those of package etcd: after one, a write may have been carried out all the same.
type store interface {
	// commit carries all of ops out, or none, and gives the revision at which it did. Where a guard does not hold, it is etcd.ErrRefused.
	commit(ctx context.Context, guards []etcd.Guard, ops []etcd.Op) (revision int64, err error)
	// readAll gives all that lies below prefix at one revision, which is not below that of any write that had been answered before.
	readAll(ctx context.Context, prefix string) ([]etcd.Pair, int64, error)
	// life tells one life of the store from the next: it is the revision at which the site's identity was written, 0 where there is none.
	life(ctx context.Context) (int64, error)
}

// ErrForeignSite says that the site belongs to another Kubernetes cluster, which shares the etcd. Nothing is written then.
var ErrForeignSite = errors.New("the site belongs to another cluster")

// remote is etcd. With a uid it writes only where the site is that cluster's, or nobody's yet: each transaction compares.
type remote struct {
	client    *clientv3.Client
	site, uid string

	mu       sync.Mutex
	checked  bool
	identity int64 // the modification revision of the site's identity when it was checked, 0 where there was none
}

// pageSize keeps a page of reports below etcd's usual bound of 1.5 MiB a message.
const pageSize = 500

func (r *remote) commit(ctx context.Context, guards []etcd.Guard, ops []etcd.Op) (int64, error) {
	if r.uid == "" {
		return etcd.Commit(ctx, r.client, guards, ops)
	}
	for {
		owned, fresh, err := r.owned(ctx)
		if err != nil {
			return 0, err
		}
		revision, err := etcd.Commit(ctx, r.client, append([]etcd.Guard{owned}, guards...), ops)
		if !errors.Is(err, etcd.ErrRefused) {
			return revision, err
		}
		// The identity has changed, as it does with each epoch.
		r.forget()
		if fresh {
			return 0, err
		}
	}
}

func (r *remote) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.checked = false
}

// owned gives the guard that holds while the site is not another's, and whether that was looked up just now.
func (r *remote) owned(ctx context.Context) (guard etcd.Guard, fresh bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := record.IdentityKey(r.site)
	if r.checked {
		return etcd.Guard{Key: key, ModRevision: r.identity}, false, nil
	}
	pair, found, err := etcd.Read(ctx, r.client, key)
	if err != nil {
		return etcd.Guard{}, false, fmt.Errorf("read whose site %q is: %w", r.site, err)
	}
	if found {
		identity, err := record.DecodeIdentity(pair.Value)
		if err != nil {
			return etcd.Guard{}, false, err
		}
		if identity.UID != r.uid {
			return etcd.Guard{}, false, fmt.Errorf("%w: site %q in this etcd is that of %s, this agent is in %s; give each cluster that shares an etcd "+
				"a site name of its own", ErrForeignSite, r.site, identity.UID, r.uid)
		}
	}
	r.checked, r.identity = true, pair.ModRevision
	return etcd.Guard{Key: key, ModRevision: r.identity}, true, nil
}

func (r *remote) life(ctx context.Context) (int64, error) {
	pair, _, err := etcd.Read(ctx, r.client, record.IdentityKey(r.site))
	return pair.ModRevision, err
}

func (r *remote) readAll(ctx context.Context, prefix string) ([]etcd.Pair, int64, error) {
	return etcd.ReadAll(ctx, r.client, prefix, pageSize)
}
