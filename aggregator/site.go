package aggregator

import (
	"context"
	"errors"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/record"
)

// ErrForeignSite says that the site belongs to another cluster.
var ErrForeignSite = errors.New("the site belongs to another cluster")

// claim makes sure that the site is ours, and makes it ours if it is nobody's. The error wraps ErrForeignSite if it is
// another cluster's; otherwise etcd could not be asked, or holds an identity that cannot be read.
func claim(ctx context.Context, c *clientv3.Client, site, uid string) error {
	for {
		pair, found, err := etcd.Read(ctx, c, record.IdentityKey(site))
		if err != nil {
			return fmt.Errorf("read whose site %q is: %w", site, err)
		}
		if found {
			id, err := record.DecodeIdentity(pair.Value)
			if err != nil {
				return fmt.Errorf("%w; if this etcd holds nothing that matters, delete the key %s", err, pair.Key)
			}
			if id.UID != uid {
				return fmt.Errorf("%w: site %q in this etcd is that of %s, we are %s; give each cluster that shares an etcd a site name of its own",
					ErrForeignSite, site, id.UID, uid)
			}
			return nil
		}
		_, err = etcd.Commit(ctx, c, []etcd.Guard{{Key: record.IdentityKey(site)}},
			[]etcd.Op{{Key: record.IdentityKey(site), Value: record.EncodeIdentity(record.SiteIdentity{UID: uid, Epoch: 1})}})
		if err != nil && !errors.Is(err, etcd.ErrRefused) {
			return fmt.Errorf("claim site %q: %w", site, err)
		}
		// Another replica may have been faster: look again.
	}
}

// epochOf reads the site's epoch. It is 0 where nobody has claimed the site, or its identity cannot be read.
func epochOf(ctx context.Context, c *clientv3.Client, site string) (int64, error) {
	pair, _, err := etcd.Read(ctx, c, record.IdentityKey(site))
	if err != nil {
		return 0, fmt.Errorf("read the site's epoch: %w", err)
	}
	id, _ := record.DecodeIdentity(pair.Value)
	return id.Epoch, nil
}

// renew gives the site its next epoch: the store turned out to be set back, emptied or another one, so that versions handed
// out before mean nothing any more.
func (a *Aggregator) renew(ctx context.Context, term etcd.Term) error {
	key := record.IdentityKey(a.o.Site)
	pair, found, err := etcd.Read(ctx, a.o.Etcd, key)
	if err != nil {
		return fmt.Errorf("read the site's epoch: %w", err)
	}
	epoch, guard := a.settler.epoch.Load(), etcd.Guard{Key: key}
	if found {
		id, err := record.DecodeIdentity(pair.Value)
		if err != nil {
			return err
		}
		if id.UID != a.o.UID {
			return fmt.Errorf("%w: the store now says %s", ErrForeignSite, id.UID)
		}
		epoch, guard.ModRevision = max(epoch, id.Epoch), pair.ModRevision
	}
	a.settler.begun.Store(epoch + 1)
	_, err = etcd.Commit(ctx, a.o.Etcd, []etcd.Guard{term.Guard(), guard},
		[]etcd.Op{{Key: key, Value: record.EncodeIdentity(record.SiteIdentity{UID: a.o.UID, Epoch: epoch + 1})}})
	if err != nil {
		return fmt.Errorf("begin a new epoch: %w", err)
	}
	return nil
}
