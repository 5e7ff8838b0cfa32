// Package probe looks at JobManagers from outside their pods, where no agent does it from inside. It says what they say, in the words
// of an agent; what that is worth is for package settle to say.
package probe

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/holdfast-dev/holdfast/agent/look"
	"github.com/holdfast-dev/holdfast/agent/view"
	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/flink"
	"github.com/holdfast-dev/holdfast/job"
)

// Target is a JobManager to look at.
type Target struct {
	// Agent is the witness that the looks are.
	Agent evidence.Agent
	// Pod is the pod's name, for people.
	Pod     string
	Address string
	Port    int
	// FlinkID is kubernetes.cluster-id, where it is known: whoever gives another at this address is not the one that is looked for.
	FlinkID string
}

// Told is what a look changed. Silent says that no look has ended for too long, and that nothing of this witness counts until it speaks again.
type Told struct {
	Agent   evidence.Agent
	Beat    *evidence.Beat
	Reports []*evidence.Report
	Silent  bool
}

// Options of a prober. Tell is required.
type Options struct {
	// Tell takes what changed, from any goroutine, and may wait. Nothing of a target is told after Stop has returned.
	Tell func(Told)
	// Version is the program's.
	Version string
	// Poll is the time between two looks at a JobManager; 0 means 5 s.
	Poll time.Duration
	// Patience is after which time without an ended look Silent is told; 0 means 30 s.
	Patience time.Duration
	Log      *slog.Logger
	// Dial makes the client of a target; nil is flink.New.
	Dial func(Target) (Client, error)
}

// Client asks one JobManager.
type Client interface {
	look.Flink
	Close()
}

// Looks go on at so many JobManagers at a time; those that did not answer last time have slots of their own, so that a black hole delays
// nobody but others of its kind.
const (
	slots     = 256
	slowSlots = 128
)

// Prober looks at any number of JobManagers.
type Prober struct {
	o           Options
	quick, slow chan struct{}

	mu      sync.Mutex
	targets map[evidence.Agent]*target
}

// target is one that is being looked at.
type target struct {
	stop context.CancelFunc
	done chan struct{}
}

// New makes a prober that looks at nobody yet.
func New(o Options) *Prober {
	if o.Poll == 0 {
		o.Poll = 5 * time.Second
	}
	if o.Patience == 0 {
		o.Patience = 30 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Dial == nil {
		o.Dial = dial
	}
	return &Prober{
		o: o, quick: make(chan struct{}, slots), slow: make(chan struct{}, slowSlots), targets: map[evidence.Agent]*target{},
	}
}

func dial(t Target) (Client, error) {
	return flink.New(flink.Options{
		Hosts: []string{t.Address}, Port: t.Port,
		// A JobManager's certificate, if it has one, is rarely for its pod's address. Who answers is checked by what it says of itself.
		TLS: &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true},
	})
}

// Ask looks at a target until Stop or Close. If the agent is looked at already, this takes the place of it.
func (p *Prober) Ask(t Target) {
	p.Stop(t.Agent)
	ctx, stop := context.WithCancel(context.Background())
	one := &target{stop: stop, done: make(chan struct{})}
	p.mu.Lock()
	p.targets[t.Agent] = one
	p.mu.Unlock()
	go func() {
		defer close(one.done)
		p.follow(ctx, t)
	}()
}

// Stop ends the looks at an agent's JobManager, and returns when nothing more of it is told.
func (p *Prober) Stop(agent evidence.Agent) {
	p.mu.Lock()
	one := p.targets[agent]
	delete(p.targets, agent)
	p.mu.Unlock()
	if one != nil {
		one.stop()
		<-one.done
	}
}

// Close ends all looks.
func (p *Prober) Close() {
	p.mu.Lock()
	all := p.targets
	p.targets = map[evidence.Agent]*target{}
	p.mu.Unlock()
	for _, one := range all {
		one.stop()
	}
	for _, one := range all {
		<-one.done
	}
}

// Targets is the number of JobManagers that are looked at.
func (p *Prober) Targets() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.targets)
}

// follow looks at one JobManager, again and again.
func (p *Prober) follow(ctx context.Context, t Target) {
	client, err := p.o.Dial(t)
	if err != nil {
		p.o.Log.Warn("a JobManager cannot be asked", "pod", t.Pod, "address", t.Address, "port", t.Port, "error", err)
		return
	}
	defer client.Close()
	session := "probe-" + rand.Text()
	v := view.New(view.Options{
		Agent: t.Agent, Session: session, Pod: t.Pod, Version: p.o.Version, Poll: p.o.Poll, Burst: p.o.Poll / 5,
		Seed: uint64(session[len(session)-1])<<8 | uint64(session[len(session)-2]),
	})
	who := &identified{Client: client, flinkID: t.FlinkID}
	looker := look.Looker{Flink: who, View: v, Log: p.o.Log.With("pod", t.Pod), Born: time.Now()}
	ended, silent, pool := time.Now(), false, p.quick
	for ctx.Err() == nil {
		seen, ok := p.look(ctx, &looker, pool, p.o.Patience-time.Since(ended))
		switch {
		case ctx.Err() != nil:
			return
		case !ok && !silent:
			silent = true
			p.o.Tell(Told{Agent: t.Agent, Silent: true})
		}
		if !ok {
			continue
		}
		ended, pool = time.Now(), p.quick
		if seen.Reach != job.Fine {
			pool = p.slow
		}
		changes := v.See(seen)
		if silent && changes.Beat == nil {
			changes.Beat = v.Beat() // it speaks again
		}
		silent = false
		if changes.Beat != nil || len(changes.Reports) > 0 {
			p.o.Tell(Told{Agent: t.Agent, Beat: changes.Beat, Reports: changes.Reports})
		}
		pause(ctx, v.Next())
	}
}

// look waits for a slot, for patience at most, and looks. ok is false if there was none.
func (p *Prober) look(ctx context.Context, looker *look.Looker, pool chan struct{}, patience time.Duration) (seen view.Look, ok bool) {
	timer := time.NewTimer(max(patience, time.Second))
	defer timer.Stop()
	select {
	case pool <- struct{}{}:
		defer func() { <-pool }()
		return looker.Look(ctx), true
	case <-timer.C:
	case <-ctx.Done():
	}
	return view.Look{}, false
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// identified is a client that checks in each look, before all else and on the connection that the rest goes over, who answers: a pod's
// address may be another's by now, who knows nothing of these jobs. The first process that answers is the one; another counts only when Ask
// is told of it anew. Until it is known who answers, nothing is asked.
type identified struct {
	Client
	flinkID     string
	incarnation string
	unsure      error // why it is not known who answers; of this look
}

func (i *identified) Jobs(ctx context.Context) (flink.Overview, error) {
	if i.unsure = i.identify(ctx); i.unsure != nil {
		return flink.Overview{}, i.unsure
	}
	return i.Client.Jobs(ctx)
}

func (i *identified) identify(ctx context.Context) error {
	jm, err := i.Client.JobManager(ctx)
	switch {
	case err != nil:
		return err
	case i.flinkID != "" && jm.ClusterID != "" && jm.ClusterID != i.flinkID:
		return fmt.Errorf("another JobManager answers at this address: of cluster %s, not %s", jm.ClusterID, i.flinkID)
	case i.incarnation != "" && jm.Incarnation != i.incarnation:
		return fmt.Errorf("another JobManager answers at this address: process %s, not %s", jm.Incarnation, i.incarnation)
	}
	i.incarnation = jm.Incarnation
	return nil
}

func (i *identified) Status(ctx context.Context, id string) (job.State, error) {
	if i.unsure != nil {
		return job.Unknown, i.unsure
	}
	return i.Client.Status(ctx, id)
}

func (i *identified) Detail(ctx context.Context, id string) (flink.Job, error) {
	if i.unsure != nil {
		return flink.Job{}, i.unsure
	}
	return i.Client.Detail(ctx, id)
}

func (i *identified) Cause(ctx context.Context, id string) (string, error) {
	if i.unsure != nil {
		return "", i.unsure
	}
	return i.Client.Cause(ctx, id)
}
