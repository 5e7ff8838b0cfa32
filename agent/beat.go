package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-dev/holdfast/etcd"
)

// errNotAsserted keeps the beat away: it says that the reports below its prefix are this session's.
var errNotAsserted = errors.New("the reports do not all lie in etcd yet")

// newLease makes the lease that the beat hangs on.
func (a *Agent) newLease() *etcd.Lease {
	return etcd.NewLease(a.o.Etcd, etcd.HoldOptions{
		TTL:   a.o.Lease,
		Alive: a.alive,
		OnGrant: func(ctx context.Context, id clientv3.LeaseID) error {
			if err := a.post.hang(ctx, id); err != nil {
				return err
			}
			a.log.Info("beat is up", "lease", fmt.Sprintf("%x", id), "leaseTime", a.o.Lease.String())
			return nil
		},
		OnAnswer: a.post.heard,
		OnLoss:   a.lost,
	})
}

// hold keeps the beat up, from when the reports lie in etcd for the first time.
func (a *Agent) hold(ctx context.Context) {
	if a.post.await(ctx.Done(), func() bool { return a.post.isStep }) {
		// It returns when ctx ends or the lease was released: both are wanted then.
		_ = a.lease.Run(ctx)
	}
}

// alive says why the agent must not call itself alive. A beat proves keepalives, not knowledge: whoever hears it believes that the
// reports are as Flink is.
func (a *Agent) alive() error {
	if late := a.since() - time.Duration(a.lookDue.Load()); late > a.o.Lease {
		return fmt.Errorf("a look at Flink is overdue by %s", late.Round(time.Millisecond))
	}
	if late := a.post.overdue(); late > a.o.Lease {
		return fmt.Errorf("a write is overdue by %s", late.Round(time.Millisecond))
	}
	if !a.post.asserted() {
		return errNotAsserted
	}
	return nil
}

// lost hears why there is no lease. Where etcd may not be what it was, what lies in it is read again before the next beat.
func (a *Agent) lost(l etcd.Loss) {
	a.post.unhang(l.Lease)
	switch l.Reason {
	case etcd.Released:
		return
	case etcd.Expired, etcd.Unanswered:
		a.post.doubt()
	}
	if errors.Is(l.Err, errNotAsserted) {
		return
	}
	a.log.Warn("beat is lost", "reason", l.Reason.String(), "error", l.Err)
}
