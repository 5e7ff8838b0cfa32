// Package local is all of Holdfast in one process: an embedded etcd with its data in a folder, an aggregator, and one agent
// for each JobManager. It is for a laptop, or one machine with Flink; nothing outside of this process can use its etcd.
package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-dev/holdfast/agent"
	"github.com/holdfast-dev/holdfast/aggregator"
	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/etcd/etcdlocal"
	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/flink"
	"github.com/holdfast-dev/holdfast/settle"
)

// The site and the namespace of everything local.
const (
	Site      = "local"
	Namespace = "default"
)

const (
	// leaderLease is short: after a crash nobody else settles until it has run out.
	leaderLease = 5 * time.Second
	// startBound is how long etcd may take to read its data.
	startBound = time.Minute
	// leaveBound is how long the agents may take to say goodbye.
	leaveBound = 5 * time.Second
)

// Options say what to watch and how. Every duration must be given.
type Options struct {
	Flinks []Flink
	// Listen is the API's address; port 0 takes a free one.
	Listen string
	// Data is the data folder. It is made if it does not exist.
	Data string
	// Hold is how long a verdict stays Witnessed after its last proof, Grace how long a negative fact must stand, Lease the
	// time of the agents' leases, and Poll the time between two looks at a JobManager.
	Hold, Grace, Lease, Poll time.Duration
	// CheckPeriod is how often what is remembered is held against what lies in etcd; 0 is never.
	CheckPeriod time.Duration
	Version     string
	Log         *slog.Logger
}

// Local is a Holdfast whose address is open and whose etcd runs.
type Local struct {
	log        *slog.Logger
	folder     *folder
	store      *etcdlocal.Server
	client     *clientv3.Client
	flinks     []*flink.Client
	agents     []*agent.Agent
	aggregator *aggregator.Aggregator
	// stopping: what etcd says from now on is of no concern.
	stopping atomic.Bool
}

// New checks the options, claims the data folder, starts etcd and opens the API's address. The error says everything that is
// wrong with the options, or what to do about the folder or the address. What New returned must Run, or Close.
func New(ctx context.Context, o Options) (*Local, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	l := &Local{log: o.Log}
	if err := l.open(ctx, o); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func (l *Local) open(ctx context.Context, o Options) (err error) {
	if l.folder, err = claim(o.Data); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startBound)
	defer cancel()
	l.store, err = etcdlocal.Start(ctx, etcdlocal.Options{
		Dir: l.folder.etcd(), Address: l.folder.socket(), Token: l.folder.UID,
		Logger: slog.New(quiet{o.Log.Handler(), &l.stopping}),
	})
	if err != nil {
		return err
	}
	if err := l.folder.begun(); err != nil {
		return err
	}
	if l.client, err = etcd.Dial(ctx, etcd.Options{Endpoints: []string{l.store.Endpoint()}}); err != nil {
		return err
	}
	if err := l.endLeases(ctx); err != nil {
		return err
	}
	for _, f := range o.Flinks {
		if err := l.addAgent(f, o); err != nil {
			return err
		}
	}
	patience := settle.DefaultConfig()
	patience.Hold, patience.Grace, patience.Lease = o.Hold, o.Grace, o.Lease
	patience.Tick = min(patience.Tick, o.Hold/4)
	l.aggregator, err = aggregator.New(aggregator.Options{
		Site: Site, UID: l.folder.UID, Listen: o.Listen, Etcd: l.client, Settle: patience, LeaderLease: leaderLease,
		CheckPeriod: o.CheckPeriod, Version: o.Version, Log: o.Log,
	})
	return err
}

// endLeases ends the leases of an earlier life of this process, which a crash left behind: nobody else has any, and the next
// leader would wait for the last one's to run out.
func (l *Local) endLeases(ctx context.Context) error {
	leases, err := l.client.Leases(ctx)
	if err != nil {
		return fmt.Errorf("list the leases of an earlier run: %w", err)
	}
	for _, lease := range leases.Leases {
		if _, err := l.client.Revoke(ctx, lease.ID); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return fmt.Errorf("end a lease of an earlier run: %w", err)
		}
	}
	return nil
}

// addAgent makes the agent of one JobManager. Its pod, which does not exist, has the same uid in every life of the process, so
// that the agent takes over what it reported before.
func (l *Local) addAgent(f Flink, o Options) error {
	client, err := f.client()
	if err != nil {
		return err
	}
	l.flinks = append(l.flinks, client)
	pod := podOf(f.Name)
	a, err := agent.New(agent.Options{
		Site: Site, Agent: evidence.Agent{Namespace: Namespace, Cluster: f.Name, PodUID: pod}, Pod: pod, Version: o.Version,
		Flink: client, Etcd: l.client, Poll: o.Poll, Lease: o.Lease, Log: o.Log.With("cluster", f.Name),
	})
	if err != nil {
		return err
	}
	l.agents = append(l.agents, a)
	return nil
}

func podOf(name string) string { return "local-" + name }

// Address is where the API listens, as host:port.
func (l *Local) Address() string { return l.aggregator.Address() }

// Run watches until ctx ends, and then ends in order: the agents say goodbye, the API closes, etcd stops. The error is that of
// a part that cannot go on. Run closes the Local.
func (l *Local) Run(ctx context.Context) error {
	defer l.Close()
	// What the agents write last must find the store alive, so each has a context of its own, and theirs ends first.
	serving, stopServing := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stopServing(nil)
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()

	var agents, rest sync.WaitGroup
	for _, a := range l.agents {
		agents.Go(func() { l.report(a.Run(watching)) })
	}
	rest.Go(func() {
		if err := l.aggregator.Run(serving); err != nil {
			stopServing(err)
		}
	})
	rest.Go(func() {
		select {
		case <-l.store.Done():
			stopServing(errors.Join(errStore, l.store.Err()))
		case <-serving.Done():
		}
	})

	select {
	case <-ctx.Done():
		l.log.Info("stopping")
	case <-serving.Done():
	}
	failure := context.Cause(serving)
	stopWatching()
	if !within(leaveBound, agents.Wait) {
		l.log.Warn("an agent could not say goodbye in time")
	}
	stopServing(nil)
	rest.Wait()
	// Without a store no agent has anything to wait for.
	l.closeStore()
	agents.Wait()
	return failure
}

var errStore = errors.New("the embedded etcd stopped")

// report logs the error of an agent, which ends no other.
func (l *Local) report(err error) {
	if err != nil {
		l.log.Error("an agent ended", "error", err)
	}
}

// within says whether wait came back in time.
func within(bound time.Duration, wait func()) bool {
	done := make(chan struct{})
	go func() {
		wait()
		close(done)
	}()
	timer := time.NewTimer(bound)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

// Close gives everything back. It may be called twice, and after Run.
func (l *Local) Close() {
	for _, client := range l.flinks {
		client.Close()
	}
	l.closeStore()
	if l.folder != nil {
		l.folder.release()
	}
}

func (l *Local) closeStore() {
	l.stopping.Store(true)
	if l.client != nil {
		if err := l.client.Close(); err != nil && !errors.Is(err, context.Canceled) {
			l.log.Debug("close the client of etcd", "error", err)
		}
		l.client = nil
	}
	if l.store != nil {
		l.store.Close()
	}
}

// Check says all that is wrong with the options.
func (o *Options) Check() error {
	wrong := []error{checkFlinks(o.Flinks)}
	complain := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	if o.Data == "" {
		complain("--data is empty: give a folder, or leave the flag out for the usual one")
	}
	if err := checkAddress(o.Listen); err != nil {
		wrong = append(wrong, err)
	}
	const shortestPoll = 100 * time.Millisecond
	switch {
	case o.Poll < shortestPoll || o.Poll > time.Hour:
		complain("--poll %s: give %s to 1h", o.Poll, shortestPoll)
	case o.Lease < etcd.MinTTL || o.Lease > time.Hour:
		complain("--lease %s: give %s to 1h", o.Lease, etcd.MinTTL)
	case o.Lease < 2*o.Poll:
		complain("--lease %s is shorter than two polls of %s: an agent lets its lease go when a poll is late, so give more, or poll more often",
			o.Lease, o.Poll)
	case o.Hold < 2*o.Poll:
		complain("--hold %s is shorter than two polls of %s: every verdict would be held between two of them, so give more, or poll more often",
			o.Hold, o.Poll)
	case o.Grace <= 0:
		complain("--grace %s: give a time of more than 0", o.Grace)
	}
	if o.CheckPeriod != 0 && o.CheckPeriod < aggregator.MinCheckPeriod {
		complain("--check-period %s: give %s or more, or 0 for never", o.CheckPeriod, aggregator.MinCheckPeriod)
	}
	return errors.Join(wrong...)
}
