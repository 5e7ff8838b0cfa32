// Package breaker stops the injection of agents while they cannot start: it watches the pods that were injected, and opens at the first
// one whose agent's image cannot be pulled or whose container cannot be made. Later it lets one pod through, and closes when that one's
// agent is seen running. It changes nothing in the cluster, and its silence never stops anything: a watch that is broken says nothing, and
// then agents are injected.
//
// Replicas need no leader. All see the same pods, the tries of others among them, so all open and close within the delay of their
// watches. Only while a try has not appeared in the watch yet can another replica make one too: at most one pod a replica, and usually one in
// all, since replicas try some seconds apart.
package breaker

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// Identity says which agents count: those that are injected now. An agent of an earlier image that cannot be pulled says nothing of the
// one that replaced it.
type Identity struct {
	// Container is the name of the agent's container.
	Container string
	// Image and PullPolicy are what is injected.
	Image, PullPolicy string
}

func (i Identity) same(c *corev1.Container) bool {
	return c.Image == i.Image && (i.PullPolicy == "" || string(c.ImagePullPolicy) == i.PullPolicy)
}

// Options say what is watched. Client, Selector and Agent are required.
type Options struct {
	Client kubernetes.Interface
	// Namespaces are those watched; none means all.
	Namespaces []string
	// Selector is the label by which injected pods are known, such as holdfast.dev/injected=true.
	Selector string
	Agent    Identity
	// First is how long the breaker stays open before one pod is tried; it doubles with each try that fails, up to Longest. Defaults
	// 2 min and 30 min.
	First, Longest time.Duration
	// Replica is this replica's name. It makes one replica the first to try; at each pause the same one.
	Replica string
	// Registry gets the metrics.
	Registry prometheus.Registerer
	Log      *slog.Logger
}

// staggering is within how much time replicas try one after the other.
const staggering = 10 * time.Second

// Breaker watches from Run on. It is safe for concurrent use.
type Breaker struct {
	o     Options
	feeds []*feed

	mu      sync.Mutex
	circuit *circuit
	// listed are the agents of the feeds that were listed while another was not yet.
	listed []Agent
}

// New makes a breaker. The error says which option is missing, or which metric is already registered.
func New(o Options) (*Breaker, error) {
	if o.Client == nil || o.Selector == "" || o.Agent.Container == "" || o.Agent.Image == "" {
		return nil, errors.New("a breaker needs a client, a selector, and the agent's container and image")
	}
	if o.First <= 0 {
		o.First = 2 * time.Minute
	}
	if o.Longest <= 0 {
		o.Longest = 30 * time.Minute
	}
	o.Longest = max(o.First, o.Longest)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if len(o.Namespaces) == 0 {
		o.Namespaces = []string{metav1.NamespaceAll}
	}
	b := &Breaker{o: o, circuit: newCircuit(o.First, o.Longest, o.Log)}
	if o.Replica != "" {
		hash := fnv.New32a()
		_, _ = hash.Write([]byte(o.Replica))
		b.circuit.stagger = time.Duration(hash.Sum32()%1000) * staggering / 1000
	}
	for _, namespace := range o.Namespaces {
		b.feeds = append(b.feeds, &feed{breaker: b, namespace: namespace, pods: map[types.UID]bool{}})
	}
	if o.Registry != nil {
		if err := o.Registry.Register(newMetrics(b)); err != nil {
			return nil, fmt.Errorf("register the breaker's metrics: %w", err)
		}
	}
	return b, nil
}

// Run watches until ctx ends.
func (b *Breaker) Run(ctx context.Context) {
	var all sync.WaitGroup
	for _, f := range b.feeds {
		all.Go(func() { f.run(ctx) })
	}
	all.Wait()
}

// Ask says whether an agent may be injected into one more pod. claim says that it will be: while the breaker is open, a pod that is
// let through is the one try. A dry run claims nothing.
func (b *Breaker) Ask(claim bool) Answer {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.circuit.ask(time.Now(), claim)
}

// Status is what people are told of a breaker.
type Status struct {
	State State
	// Opened is when it opened, and Retry when one pod is tried, of one that is not closed.
	Opened, Retry time.Time
	// Stuck are the agents that cannot start, the oldest first.
	Stuck []Agent
	// Watch says why the watch could not tell all; nil when it can.
	Watch error
}

// errNotListed is the watch's first state.
var errNotListed = errors.New("the injected pods have not been listed yet")

// Status looks.
func (b *Breaker) Status() Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := Status{State: b.circuit.state(time.Now()), Stuck: b.circuit.stuck()}
	if s.State != Closed {
		s.Opened, s.Retry = b.circuit.opened, b.circuit.retry
	}
	if !b.circuit.synced {
		s.Watch = errNotListed
	}
	for _, f := range b.feeds {
		if f.err != nil {
			s.Watch = f.err
		}
	}
	return s
}

// named bounds how many pods are named in a text.
const named = 10

// String is the status in one line.
func (s Status) String() string {
	var text strings.Builder
	text.WriteString(s.State.String())
	if s.State != Closed {
		fmt.Fprintf(&text, " since %s: no agents are injected", s.Opened.UTC().Format(time.RFC3339))
		if s.State == HalfOpen {
			text.WriteString(", but one that is being tried")
		} else {
			fmt.Fprintf(&text, "; one is tried from %s on", s.Retry.UTC().Format(time.RFC3339))
		}
	}
	for i, a := range s.Stuck {
		if i == named {
			fmt.Fprintf(&text, ", and %d more", len(s.Stuck)-named)
			break
		}
		text.WriteString([...]string{"; stuck: ", ", "}[min(i, 1)])
		fmt.Fprintf(&text, "%s (%s)", a.Pod(), a.Reason)
	}
	if s.Watch != nil {
		fmt.Fprintf(&text, "; the watch cannot tell: %v", s.Watch)
	}
	return text.String()
}

// told takes a feed's whole list. The circuit begins when all feeds have been listed.
func (b *Breaker) told(f *feed, all []Agent) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	before := f.pods
	f.pods = make(map[types.UID]bool, len(all))
	for _, a := range all {
		f.pods[a.UID] = true
		delete(before, a.UID)
	}
	if b.circuit.synced {
		for uid := range before {
			b.circuit.leave(uid)
		}
		for _, a := range all {
			b.circuit.see(now, a)
		}
		return
	}
	b.listed = slices.DeleteFunc(b.listed, func(a Agent) bool { return before[a.UID] || f.pods[a.UID] })
	b.listed = append(b.listed, all...)
	f.listed = true
	if !slices.ContainsFunc(b.feeds, func(f *feed) bool { return !f.listed }) {
		b.circuit.begin(now, b.listed)
		b.listed = nil
	}
}

// changed takes a feed's news of one pod. counts is false for one that says nothing any more.
func (b *Breaker) changed(f *feed, uid types.UID, a Agent, counts bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !counts {
		delete(f.pods, uid)
	} else {
		f.pods[uid] = true
	}
	switch {
	case !b.circuit.synced:
		b.listed = slices.DeleteFunc(b.listed, func(other Agent) bool { return other.UID == uid })
		if counts {
			b.listed = append(b.listed, a)
		}
	case counts:
		b.circuit.see(time.Now(), a)
	default:
		b.circuit.leave(uid)
	}
}

// heard takes how a feed's last question to the API server ended.
func (b *Breaker) heard(f *feed, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if (err == nil) != (f.err == nil) {
		if err != nil {
			b.o.Log.Warn("the injected pods cannot be watched: should their agents not start, nobody notices", "namespace", f.namespace, "error", err)
		} else {
			b.o.Log.Info("the injected pods are watched again", "namespace", f.namespace)
		}
	}
	f.err = err
	broken := slices.ContainsFunc(b.feeds, func(f *feed) bool { return f.err != nil })
	switch {
	case !broken:
		b.circuit.broken = time.Time{}
	case b.circuit.broken.IsZero():
		b.circuit.broken = time.Now()
	}
}
