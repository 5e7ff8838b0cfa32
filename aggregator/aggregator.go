// Package aggregator answers for one site: it follows what the agents and the settler leave in etcd, serves it over HTTP,
// and, while it leads, settles. Every replica follows and serves; one leads. What is judged, and how, is package settle's; this
// package only brings events in and carries effects out.
package aggregator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-dev/holdfast/aggregator/api"
	"github.com/holdfast-dev/holdfast/aggregator/board"
	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
	"github.com/holdfast-dev/holdfast/settle"
)

// Options say whom an aggregator answers for, and with what.
type Options struct {
	// Site names the site; UID says whose it is. Two clusters that share an etcd must not share a site.
	Site, UID string
	// Name tells this replica from others, for people. Default: the host's name and the process id.
	Name string
	// Listen is the API's address. Default ":7070"; port 0 takes a free one.
	Listen string
	// Etcd is a client of etcd.Dial.
	Etcd *clientv3.Client
	// Settle bounds the settler's patience. Its zero value means settle.DefaultConfig.
	Settle settle.Config
	// Kubernetes is asked for pods and workloads. nil where there is none.
	Kubernetes Kubernetes
	// LeaderLease is how long a dead leader is waited for. Default 10 s, at least etcd.MinTTL.
	LeaderLease time.Duration
	// CheckPeriod is how often what is remembered is held against what lies in etcd; 0 is never.
	CheckPeriod time.Duration
	Version     string
	Log         *slog.Logger
}

// Aggregator is one replica.
type Aggregator struct {
	o       Options
	board   *board.Board
	server  *api.Server
	ln      net.Listener
	settler *settler
	metrics *metrics

	// replaced is set when a followed feed turned out to be of another store, or the site's identity is gone, until a new
	// epoch has begun.
	replaced atomic.Bool
}

// New makes a replica and opens its address. Nothing is asked before Run. The error says which option is wrong, or why the
// address cannot be had, and what to do.
func New(o Options) (*Aggregator, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	registry := prometheus.NewRegistry()
	metrics, err := newMetrics(registry)
	if err != nil {
		return nil, err
	}
	b, err := board.New(board.Options{Site: o.Site, Hold: o.Settle.Hold, Log: o.Log})
	if err != nil {
		return nil, err
	}
	a := &Aggregator{o: o, board: b, metrics: metrics}
	a.settler = newSettler(o.Site, o.Settle, o.Etcd, o.Log, metrics)
	a.settler.kubernetes, a.settler.version, a.settler.checkPeriod = o.Kubernetes, o.Version, o.CheckPeriod
	a.server, err = api.New(api.Options{
		Board: b, History: history{o.Etcd, o.Site}, Registry: registry, Sources: a.settler.health, Version: o.Version, Log: o.Log,
	})
	if err != nil {
		return nil, err
	}
	if a.ln, err = api.Listen(o.Listen); err != nil {
		return nil, err
	}
	return a, nil
}

func (o *Options) complete() error {
	if err := record.CheckSegment("the site's name", o.Site); err != nil {
		return err
	}
	if o.UID == "" {
		return errors.New("nothing says whose the site is: give the uid of the cluster that it is the site of")
	}
	if o.Etcd == nil {
		return errors.New("there is no etcd client")
	}
	if o.Settle.Hold == 0 {
		o.Settle = settle.DefaultConfig()
	}
	if err := o.Settle.Validate(); err != nil {
		return err
	}
	if o.LeaderLease == 0 {
		o.LeaderLease = 10 * time.Second
	}
	if o.LeaderLease < etcd.MinTTL {
		return fmt.Errorf("the leader's lease is %s: etcd grants none below %s", o.LeaderLease, etcd.MinTTL)
	}
	if o.CheckPeriod < 0 {
		return fmt.Errorf("the check period is %s: give more than 0, or 0 for never", o.CheckPeriod)
	}
	if o.Listen == "" {
		o.Listen = ":7070"
	}
	if o.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			host = "aggregator"
		}
		o.Name = fmt.Sprintf("%s-%d", host, os.Getpid())
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Address is where the API listens, as host:port.
func (a *Aggregator) Address() string { return a.ln.Addr().String() }

// Run answers until ctx ends, and settles while it leads. It returns nil when ctx ended, and an error if the site is
// another cluster's or the API failed.
func (a *Aggregator) Run(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var all sync.WaitGroup
	fail := func(err error) {
		if err != nil && ctx.Err() == nil {
			stop(err)
		}
	}
	all.Go(func() { fail(a.server.Serve(a.ln)) })
	all.Go(func() { a.closeServer(ctx) })
	if err := a.claim(ctx); err != nil {
		fail(err)
	}
	for _, feed := range board.Feeds() {
		all.Go(func() { a.follow(ctx, feed) })
	}
	all.Go(func() { a.lead(ctx) })
	all.Go(func() { a.checker().run(ctx) })
	all.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// checker holds the board against etcd.
func (a *Aggregator) checker() *checker {
	c := &checker{client: a.o.Etcd, period: a.o.CheckPeriod, name: boardMemory, metrics: a.metrics, log: a.o.Log}
	for _, feed := range board.Feeds() {
		c.kinds = append(c.kinds, kind{feed.String(), feed.Prefix(a.o.Site), &boardCheck{board: a.board, feed: feed}})
	}
	return c
}

// closeServer lets the API end in order when ctx does.
func (a *Aggregator) closeServer(ctx context.Context) {
	<-ctx.Done()
	bounded, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := a.server.Close(bounded); err != nil {
		a.o.Log.Warn("the API did not end in order", "error", err)
	}
}

// claim waits for etcd, and makes sure that the site is ours.
func (a *Aggregator) claim(ctx context.Context) error {
	for said := false; ; {
		bounded, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := claim(bounded, a.o.Etcd, a.o.Site, a.o.UID)
		cancel()
		if err == nil || ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, ErrForeignSite) || errors.Is(err, record.ErrCorrupt) || errors.Is(err, record.ErrNewer) {
			return err
		}
		if !said {
			said = true
			a.o.Log.Warn("waiting for etcd", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// follow keeps one feed of the board.
func (a *Aggregator) follow(ctx context.Context, feed board.Feed) {
	epoch, healthy := int64(1), int64(0)
	o := etcd.FollowOptions{Prefix: feed.Prefix(a.o.Site), Progress: min(5*time.Second, a.o.Settle.Hold/4)}
	_ = etcd.Follow(ctx, a.o.Etcd, o, func(u etcd.Update) {
		known := a.board.Snapshot().Identity().Epoch
		if u.Epoch > epoch {
			epoch = u.Epoch
			if known == healthy {
				a.replaced.Store(true) // and nobody has begun a new epoch yet
			}
		}
		if u.Kind != etcd.Lost {
			healthy = known
		}
		switch feed {
		case board.Leader:
			a.noteLeader(u)
		case board.Identity:
			if n := len(u.Pairs); n > 0 && u.Pairs[n-1].Deleted || n == 0 && u.Kind == etcd.Listed {
				a.replaced.Store(true)
			}
		}
		a.board.Apply(feed, u)
		if feed != board.Identity {
			return
		}
		is := a.board.Snapshot().Identity().Epoch
		a.settler.noteEpoch(is)
		switch {
		case is < a.settler.epoch.Load(): // an older life of the store, which may have got further than the one that came between
			a.settler.setBack.Store(true)
			a.replaced.Store(true)
		case is > a.settler.epoch.Swap(is) && known > 0:
			a.replaced.Store(false) // whoever leads has begun it
		}
	})
}

// noteLeader drops the settler's memory when somebody else reigned: what that one settled is newer.
func (a *Aggregator) noteLeader(u etcd.Update) {
	for _, pair := range u.Pairs {
		if pair.Deleted {
			continue
		}
		if leader, err := record.DecodeLeader(pair.Value); err != nil || leader.Name != a.o.Name {
			a.settler.outdated.Store(true)
		}
	}
}

// lead contends for the site until ctx ends. Who cannot serve yet does not judge yet: after a restart the board comes first.
func (a *Aggregator) lead(ctx context.Context) {
	for snapshot := a.board.Snapshot(); !snapshot.Feed(board.Verdicts).Listed; snapshot = a.board.Snapshot() {
		select {
		case <-ctx.Done():
			return
		case <-snapshot.Changed():
		}
	}
	since := job.StampOf(time.Now().UnixMilli())
	leader := record.SiteLeader{Name: a.o.Name, Address: a.Address(), Since: since, Ticked: since, Fresh: true}
	o := etcd.LeadOptions{
		Key: record.LeaderKey(a.o.Site), Value: record.EncodeLeader(leader), TTL: a.o.LeaderLease, Alive: a.settler.alive,
		OnLoss: func(l etcd.Loss) {
			a.o.Log.Warn("not leading", "reason", l.Reason.String(), "error", l.Err)
		},
	}
	_ = etcd.Lead(ctx, a.o.Etcd, o, func(ctx context.Context, term etcd.Term) {
		a.o.Log.Info("leading", "name", a.o.Name, "revision", term.CreateRevision)
		a.metrics.reigns.Inc()
		a.metrics.leading.Set(1)
		defer a.metrics.leading.Set(0)
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		var all sync.WaitGroup
		all.Go(func() { a.keepEpoch(ctx, term) })
		all.Go(func() { a.showLife(ctx, term, leader) })
		if err := a.settler.reign(ctx, term); err != nil && ctx.Err() == nil {
			a.o.Log.Error("the settler stopped", "error", err)
		}
		stop()
		all.Wait()
		a.o.Log.Info("led", "name", a.o.Name)
	})
}

// showLife writes down, a few times in each hold time, that the settler hears everything and judges by it. A board that misses this
// for a hold time shows nothing as Witnessed: that somebody holds the leader's lease says nothing of that (S13).
func (a *Aggregator) showLife(ctx context.Context, term etcd.Term, leader record.SiteLeader) {
	ticker := time.NewTicker(a.o.Settle.Tick)
	defer ticker.Stop()
	for written := (time.Time{}); ; {
		now, fresh := time.Now(), a.settler.fresh()
		if a.settler.judges() && (now.Sub(written) >= a.o.Settle.Hold/3 || leader.Fresh && !fresh) {
			leader.Ticked, leader.Fresh = job.StampOf(now.UnixMilli()), fresh
			bounded, cancel := context.WithTimeout(ctx, writeTimeout)
			_, err := etcd.Commit(bounded, a.o.Etcd, []etcd.Guard{term.Guard()},
				[]etcd.Op{{Key: term.Key, Value: record.EncodeLeader(leader), Lease: term.Lease}})
			cancel()
			switch why := fmt.Sprint(err); {
			case err == nil:
				written = now
				a.settler.unshown.Store(nil)
			case ctx.Err() == nil:
				a.settler.unshown.Store(&why)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// keepEpoch gives the site a new epoch whenever the store lost its past, or somebody took the site's identity away, so that
// nobody resumes from a version of the old one.
func (a *Aggregator) keepEpoch(ctx context.Context, term etcd.Term) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		if a.replaced.Load() {
			err := a.renew(ctx, term)
			switch {
			case err == nil:
				a.replaced.Store(false)
				a.o.Log.Warn("the store was set back or replaced, or lost the site's identity; a new epoch begins")
			case ctx.Err() == nil:
				a.o.Log.Warn("a new epoch could not begin yet", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
