package member

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// upkeepEvery is the time between two looks at the databases.
	upkeepEvery = 30 * time.Second
	// defragmentBound bounds one member's defragmentation, which writes its whole database anew: 8 GiB at 30 MB/s.
	defragmentBound = 5 * time.Minute
)

// caretaker keeps the databases of all members below their quota, on the member that leads. etcd measures its quota by the size of a database
// with all the pages in it that are free again, and takes no writes once it is reached, until somebody compacts, defragments and disarms the
// alarm. Nobody should have to do that by hand.
type caretaker struct {
	*Options
	own  *clientv3.Client
	told string // the trouble that was last logged
	// tried is up to which revision history was compacted when a full member was last defragmented. How much it would gain cannot be told beforehand: what was deleted counts as
	// free only once something has been written after it, and nothing can be.
	tried map[uint64]int64
}

func (o *Options) upkeep(ctx context.Context) {
	own, err := o.dial("https://" + net.JoinHostPort(cmp.Or(o.Listen, "localhost"), strconv.Itoa(o.ClientPort)))
	if err != nil {
		o.Log.Error("cannot look after the database", "error", err)
		return
	}
	defer own.Close()
	c := &caretaker{Options: o, own: own, tried: map[uint64]int64{}}
	for every := cmp.Or(o.upkeepEvery, upkeepEvery); ctx.Err() == nil; {
		if err := c.round(ctx); err != nil && ctx.Err() == nil {
			o.Log.Info("cannot look after the database now", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(every):
		}
	}
}

// round looks once: alarms first, and then one member after the other, itself last, since each stands still while it defragments.
func (c *caretaker) round(ctx context.Context) error {
	status, err := c.status(ctx, c.own)
	if err != nil {
		return err
	}
	if status.Leader != status.Header.MemberId {
		c.told = ""
		return nil
	}
	asked, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	answer, err := c.own.AlarmList(asked)
	if err != nil {
		return fmt.Errorf("ask for alarms: %w", err)
	}
	full := map[uint64]bool{}
	var corrupt []string
	for _, alarm := range answer.Alarms {
		switch alarm.Alarm {
		case pb.AlarmType_NOSPACE:
			full[alarm.MemberID] = true
		case pb.AlarmType_CORRUPT:
			corrupt = append(corrupt, strconv.FormatUint(alarm.MemberID, 16))
		}
	}
	if len(corrupt) > 0 {
		slices.Sort(corrupt)
		c.tell(fmt.Sprintf("the data of members %v differs from the others': empty the data folder of each and restart it", corrupt))
	}
	if len(full) > 0 {
		if err := c.compact(ctx, status.Header.Revision); err != nil {
			return err
		}
	}
	var errs, crowded []error
	for _, m := range c.lastSelf() {
		switch err := c.tend(ctx, m, full, status.Header.Revision); {
		case errors.Is(err, errCrowded):
			crowded = append(crowded, err)
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", m.Name, err))
			if len(full) == 0 {
				return errors.Join(errs...) // the others had better not stand still while this one is away
			}
		}
	}
	switch {
	case len(crowded) > 0:
		c.tell(fmt.Sprintf("etcd takes no writes, and goes on by itself as soon as there is room: raise its quota, or delete what is not needed: %v",
			errors.Join(crowded...)))
	case len(full) == 0 && len(corrupt) == 0:
		c.told = ""
	}
	return errors.Join(errs...)
}

// tell logs a trouble once.
func (c *caretaker) tell(trouble string) {
	if c.told != trouble {
		c.told = trouble
		c.Log.Error(trouble)
	}
}

// lastSelf are all members, this one last.
func (c *caretaker) lastSelf() []Member {
	self, _ := c.self()
	others := slices.DeleteFunc(slices.Clone(c.Members), func(m Member) bool { return m == self })
	return append(others, self)
}

// compact forgets all history. It is for when nothing can be written: who watches then has seen all that there is.
func (c *caretaker) compact(ctx context.Context, revision int64) error {
	ctx, cancel := context.WithTimeout(ctx, defragmentBound)
	defer cancel()
	if _, err := c.own.Compact(ctx, revision, clientv3.WithCompactPhysical()); err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		return fmt.Errorf("compact: %w", err)
	}
	return nil
}

// errCrowded says that a member's quota is full of what is in use.
var errCrowded = errors.New("full")

// tend defragments one member's database where that gains something, and disarms its alarm when it has room again. Where somebody's is full,
// history was compacted up to a revision before.
func (c *caretaker) tend(ctx context.Context, m Member, full map[uint64]bool, compacted int64) error {
	client, err := c.dial(c.clientURL(m))
	if err != nil {
		return err
	}
	defer client.Close()
	status, err := c.status(ctx, client)
	if err != nil {
		return err
	}
	id, quota := status.Header.MemberId, status.DbSizeQuota
	free, news := status.DbSize-status.DbSizeInUse, full[id] && c.tried[id] < compacted
	if news || free > quota/10 && (full[id] || status.DbSize > quota/4*3) {
		c.tried[id] = compacted
		begin := time.Now()
		bounded, cancel := context.WithTimeout(ctx, defragmentBound)
		defer cancel()
		if _, err := client.Defragment(bounded, client.Endpoints()[0]); err != nil {
			return fmt.Errorf("defragment: %w", err)
		}
		before := status.DbSize
		if status, err = c.status(ctx, client); err != nil {
			return err
		}
		c.Log.Info("defragmented", "name", m.Name, "bytes", status.DbSize, "before", before, "quota", quota, "took", time.Since(begin))
	}
	switch {
	case !full[id]:
		return nil
	case status.DbSize > quota/10*9:
		return fmt.Errorf("%s is %w: its database has %d bytes in use of a quota of %d", m.Name, errCrowded, status.DbSizeInUse, quota)
	}
	asked, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if _, err := c.own.AlarmDisarm(asked, &clientv3.AlarmMember{MemberID: id, Alarm: pb.AlarmType_NOSPACE}); err != nil {
		return fmt.Errorf("disarm the alarm NOSPACE: %w", err)
	}
	c.Log.Info("there is room again, and the alarm NOSPACE is disarmed", "name", m.Name, "bytes", status.DbSize, "quota", quota)
	return nil
}

func (c *caretaker) status(ctx context.Context, client *clientv3.Client) (*clientv3.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return client.Status(ctx, client.Endpoints()[0])
}
