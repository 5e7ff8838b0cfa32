// Package agent is the witness that sits beside a JobManager, in its pod: it asks Flink over localhost what its jobs do,
// and writes the answers to etcd, each under a key of its own, with a sign of life under a lease. It draws no conclusion:
// silence of Flink, or of etcd, changes nothing that was said before.
//
// It must never hurt its host. Once New has succeeded nothing ends Run but its context, and what is wrong with etcd or with
// Flink is waited for.
package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-dev/holdfast/agent/look"
	"github.com/holdfast-dev/holdfast/agent/view"
	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/flink"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
)

// Options say for whom an agent speaks, whom it asks and where it writes.
type Options struct {
	// Site and Agent are the names in the keys. Each is one segment of a key: see record.CheckSegment.
	Site  string
	Agent evidence.Agent
	// SiteUID says whose the site is, such as the uid of the cluster's namespace kube-system. Nothing is written where etcd says
	// that the site is another's. "" asks nobody.
	SiteUID string
	// Pod is the pod's name and Version the agent's own, for people.
	Pod, Version string
	// Flink and Etcd stay the caller's, who closes them after Run.
	Flink *flink.Client
	Etcd  *clientv3.Client
	// Poll is the time between two looks at Flink, and Burst while a job's state is about to change. 0 is 1 s and 100 ms.
	Poll, Burst time.Duration
	// Lease is the lease time of the beat, and the longest time for which a look or a write may be overdue before the agent
	// stops calling itself alive. 0 is 20 s; at least 2 s.
	Lease time.Duration
	// Repair is how often the agent compares what lies in etcd to its memory. 0 is a minute.
	Repair time.Duration
	// Listen is where people can ask the agent itself, "127.0.0.1:7079"; "" is nowhere.
	Listen string
	// Log may be nil.
	Log *slog.Logger
}

// Agent is one session: one life of an agent, which runs once.
type Agent struct {
	o       Options
	looker  *look.Looker
	session string
	born    time.Time
	log     *slog.Logger

	view     *view.View // used by Run's goroutine alone
	post     *post
	lease    *etcd.Lease
	readings chan reading

	readTo  int64     // the revision of the last reading
	adopted bool      // an earlier session's reports have been taken over
	absorb  []reading // those read since the last look

	lookDue atomic.Int64 // when the look in work, or the next one, must have ended, since born
}

// New checks the options. Its errors name what to change.
func New(o Options) (*Agent, error) {
	for _, name := range []struct{ what, name string }{
		{"site", o.Site}, {"namespace", o.Agent.Namespace}, {"cluster id", o.Agent.Cluster}, {"pod uid", o.Agent.PodUID},
	} {
		if err := record.CheckSegment(name.what, name.name); err != nil {
			return nil, fmt.Errorf("agent: %w", err)
		}
	}
	if o.Flink == nil || o.Etcd == nil {
		return nil, errors.New("agent: a client of Flink and a client of etcd are needed")
	}
	for _, d := range []struct {
		what  string
		value *time.Duration
		least time.Duration
		usual time.Duration
	}{
		{"poll interval", &o.Poll, 10 * time.Millisecond, time.Second},
		{"burst interval", &o.Burst, 10 * time.Millisecond, 100 * time.Millisecond},
		{"lease time", &o.Lease, etcd.MinTTL, 20 * time.Second},
		{"repair interval", &o.Repair, 100 * time.Millisecond, time.Minute},
	} {
		if *d.value == 0 {
			*d.value = d.usual
		}
		if *d.value < d.least || *d.value > time.Hour {
			return nil, fmt.Errorf("agent: %s %s: give %s to 1h, or nothing for %s", d.what, *d.value, d.least, d.usual)
		}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return build(o, o.Flink, &remote{client: o.Etcd, site: o.Site, uid: o.SiteUID}), nil
}

func build(o Options, ask look.Flink, keep store) *Agent {
	a := &Agent{
		o: o, session: rand.Text(), born: time.Now(), log: o.Log,
		readings: make(chan reading),
	}
	var seed [8]byte
	rand.Read(seed[:])
	a.view = view.New(view.Options{
		Agent: o.Agent, Session: a.session, Pod: o.Pod, Version: o.Version, Poll: o.Poll, Burst: o.Burst,
		Seed: uint64(seed[0])<<8 | uint64(seed[1]),
	})
	a.looker = &look.Looker{Flink: ask, View: a.view, Log: o.Log, Born: a.born}
	a.post = newPost(o, keep, a.born)
	a.lookIsDue(0)
	return a
}

// Run looks, sees and writes until ctx ends; then it says goodbye, for which it takes up to 10 s, and returns nil. It must
// be called once.
func (a *Agent) Run(ctx context.Context) error {
	a.log.Info("agent runs", "site", a.o.Site, "agent", a.o.Agent.String(), "session", a.session, "version", a.o.Version)
	stop := a.start(ctx)
	defer stop()
	for {
		a.tell(a.view.See(a.look(ctx)))
		if !a.rest(ctx, a.view.Next()) {
			a.leave()
			return nil
		}
	}
}

// start begins what goes on beside the looks, and gives what ends it. It outlives ctx, so that the last reports and the goodbye
// can be written.
func (a *Agent) start(ctx context.Context) (stop func()) {
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var beside sync.WaitGroup
	if a.o.Etcd != nil {
		a.lease = a.newLease()
		beside.Go(func() { a.hold(inner) })
	}
	beside.Go(func() { a.post.run(inner) })
	beside.Go(func() { a.read(inner) })
	beside.Go(func() { a.serve(inner) })
	return func() {
		cancel()
		beside.Wait()
	}
}

// look asks Flink one round of questions.
func (a *Agent) look(ctx context.Context) view.Look {
	a.lookIsDue(0)
	return a.looker.Look(ctx)
}

// tell hands what a look changed to the post, and then lets it speak of what was read from etcd: what was adopted is in
// the reports of the look that follows.
func (a *Agent) tell(c view.Changes) {
	a.post.set(c)
	for _, r := range a.absorb {
		a.post.inStep(r.doubts)
	}
	a.absorb = nil
	if c.Beat != nil {
		a.logBeat(c.Beat)
	}
	for _, r := range c.Moved {
		a.logMove(r)
	}
	if c.Refused > 0 {
		a.log.Warn("Flink lists more jobs than an agent keeps: the others are not reported", "limit", view.JobLimit, "others", c.Refused)
	}
}

// rest waits for d, takes in what is read from etcd meanwhile, and reports false if ctx ended. Where the reports are not
// known to lie in etcd as they should, the next look does not wait.
func (a *Agent) rest(ctx context.Context, d time.Duration) bool {
	a.lookIsDue(d)
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return true
		case r := <-a.readings:
			a.takeIn(r)
			if !a.post.asserted() {
				return true
			}
		}
	}
}

// takeIn compares what lies in etcd to the memory, the first time to adopt it and then to repair it.
func (a *Agent) takeIn(r reading) {
	if a.adopted {
		a.repair(r)
	} else {
		a.adopt(r)
	}
	a.readTo = r.revision
	a.absorb = append(a.absorb, r)
}

// lookIsDue notes that a look begins in d.
func (a *Agent) lookIsDue(d time.Duration) { a.lookDue.Store(int64(a.since() + d + look.Bound)) }

// since is the agent's clock.
func (a *Agent) since() time.Duration { return time.Since(a.born) }

func (a *Agent) logBeat(b *evidence.Beat) {
	level := slog.LevelInfo
	if b.Reach != job.Fine {
		level = slog.LevelWarn
	}
	a.log.Log(context.Background(), level, "JobManager asked", "reach", b.Reach.String(), "incarnation", b.Incarnation,
		"flinkVersion", b.FlinkVersion, "highAvailability", b.HighAvailability.String())
}

func (a *Agent) logMove(r *evidence.Report) {
	t := r.Transitions[len(r.Transitions)-1]
	a.log.Info("job changed", "job", r.JobID, "name", r.Name, "state", t.State.String(), "startTime", string(t.StartTime),
		"number", t.Number, "cause", t.Cause)
}

// stamp is a moment of the wall clock, for people.
func stamp(t time.Time) job.Stamp { return job.Stamp(t.UTC().Format("2006-01-02T15:04:05.000Z07:00")) }
