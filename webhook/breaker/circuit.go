package breaker

import (
	"cmp"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Bounds in time of what the circuit does.
const (
	// settling is how long after an opening pods still appear that were let through before it, by a replica whose watch was behind.
	settling = 10 * time.Second
	// unseen is how long the pod of a try may take to appear in the watch: its admission may go on after this webhook, and fail.
	unseen = 30 * time.Second
	// doubted is how long an agent may be Doubtful before it counts as stuck.
	doubted = time.Minute
	// undecided is how long a try may neither start nor get stuck, as one that no node has room for, before another is made.
	undecided = 5 * time.Minute
	// expiry is how long knowledge counts that nobody can confirm, since the watch is broken.
	expiry = 10 * time.Minute
)

// State is the circuit's.
type State uint8

const (
	// Closed: agents are injected.
	Closed State = iota
	// Open: none is.
	Open
	// HalfOpen: one is tried.
	HalfOpen
)

var stateNames = [...]string{Closed: "closed", Open: "open", HalfOpen: "half-open"}

func (s State) String() string { return stateNames[s] }

// Answer says whether an agent may be injected.
type Answer struct {
	Inject bool
	// Known is false when the watch could not tell: then agents are injected, as without a breaker.
	Known bool
	// Message says why not, for the pod's owner. It names no pod, since pods of others are not theirs to see.
	Message string
}

// circuit is the breaker's judgement. It is pure but for its log: now is an argument, and whoever calls sees to it that nobody else does.
type circuit struct {
	first, longest time.Duration
	// stagger is added to each pause, so that of several replicas one is the first to try.
	stagger time.Duration
	log     *slog.Logger

	agents map[types.UID]Agent
	open   bool
	// cause is the agent that opened it.
	cause             Agent
	opened, closed    time.Time
	backoff           time.Duration
	retry             time.Time
	openings, retries int

	// claimed is when this replica let a pod through as a try that has not been seen yet. tries are those seen, of any replica's.
	claimed time.Time
	tries   map[types.UID]time.Time
	// doubts are since when agents are Doubtful.
	doubts map[types.UID]time.Time

	// synced says that all pods are known, broken since when they are not any more.
	synced bool
	broken time.Time
}

func newCircuit(first, longest time.Duration, log *slog.Logger) *circuit {
	return &circuit{
		first: first, longest: longest, log: log,
		agents: map[types.UID]Agent{}, tries: map[types.UID]time.Time{}, doubts: map[types.UID]time.Time{},
	}
}

// begin takes the pods that were there before this replica. It finds the circuit open if the newest agents are the stuck ones: where one
// that was made later has started, somebody has tried with success.
func (c *circuit) begin(now time.Time, all []Agent) {
	var stuck, started Agent
	for _, a := range all {
		c.keep(now, a)
		switch {
		case a.Condition == Stuck:
			c.name(a)
			if stuck.UID == "" || a.Created.After(stuck.Created) {
				stuck = a
			}
		case a.Condition == Started && a.Created.After(started.Created):
			started = a
		}
	}
	c.synced = true
	if stuck.UID != "" && !started.Created.After(stuck.Created) {
		c.trip(now, stuck)
	}
}

// see takes news of one agent.
func (c *circuit) see(now time.Time, a Agent) {
	before, known := c.agents[a.UID]
	if before.Condition == Stuck && (a.Condition == Waiting || a.Condition == Doubtful) {
		return // the kubelet tries again
	}
	c.keep(now, a)
	if !known && c.open && now.Sub(c.opened) >= settling {
		// Nobody injects while it is open but as a try, so this is one.
		c.tries[a.UID] = now
		c.claimed = time.Time{}
	}
	switch a.Condition {
	case Stuck:
		if before.Condition == Stuck {
			return
		}
		c.name(a)
		if !c.open || !now.Before(c.retry) || c.trying(now) {
			c.trip(now, a)
		}
	case Started:
		if !c.open || before.Condition == Started {
			return
		}
		_, tried := c.tries[a.UID]
		if tried || before.Condition == Stuck && len(c.stuck()) == 0 {
			c.mend(now, a)
		}
	}
}

// keep remembers an agent. Of those that started, which are most, only that they did.
func (c *circuit) keep(now time.Time, a Agent) {
	if a.Condition != Doubtful {
		delete(c.doubts, a.UID)
	} else if c.doubts[a.UID].IsZero() {
		c.doubts[a.UID] = now
	}
	if a.Condition == Started {
		a = Agent{UID: a.UID, Condition: Started}
	}
	c.agents[a.UID] = a
}

// leave forgets an agent: its pod is gone, or says nothing any more. That proves nothing.
func (c *circuit) leave(uid types.UID) {
	delete(c.agents, uid)
	delete(c.tries, uid)
	delete(c.doubts, uid)
}

// doubt takes agents that have been Doubtful for too long for stuck. Nobody tells of time that passes, so it is asked for before anything is
// concluded.
func (c *circuit) doubt(now time.Time) {
	for uid, since := range c.doubts {
		if now.Sub(since) >= doubted {
			a := c.agents[uid]
			a.Condition, a.Reason = Stuck, reasonDoubtful
			a.Message = "the node's kubelet takes the agent for an init container, and waits for its end: native sidecars need Kubernetes 1.29"
			c.see(now, a)
		}
	}
}

// name says once which pod is stuck.
func (c *circuit) name(a Agent) {
	c.log.Warn("an agent cannot start, and its pod may wait for it", "pod", a.Pod(), "node", a.Node, "reason", a.Reason, "message", a.Message)
}

// trip opens the circuit, or keeps it open longer after a try that failed. An opening soon after the last one's end counts as a failed try
// as well: a site where some nodes can pull the image and others cannot must not lose a pod each few minutes.
func (c *circuit) trip(now time.Time, a Agent) {
	again := c.open || !c.closed.IsZero() && now.Sub(c.closed) < c.longest
	if again {
		c.backoff = min(2*c.backoff, c.longest)
	} else {
		c.backoff = c.first
	}
	c.open, c.cause, c.opened, c.retry = true, a, now, now.Add(c.backoff+c.stagger)
	c.claimed = time.Time{}
	clear(c.tries)
	c.openings++
	c.log.Error("no agents are injected for now: new pods start without one", "pod", a.Pod(), "node", a.Node, "reason", a.Reason,
		"message", a.Message, "retry", c.backoff.String())
}

// mend closes the circuit.
func (c *circuit) mend(now time.Time, a Agent) {
	c.open, c.closed = false, now
	c.claimed = time.Time{}
	clear(c.tries)
	c.log.Info("agents are injected again", "pod", a.Pod(), "node", a.Node, "after", now.Sub(c.opened).Round(time.Second).String())
}

// trying says whether a try is under way, and forgets those that took too long.
func (c *circuit) trying(now time.Time) bool {
	for uid, since := range c.tries {
		if now.Sub(since) >= undecided {
			c.log.Warn("the pod that was tried has neither started its agent nor failed to: another one may be tried",
				"pod", c.agents[uid].Pod(), "after", undecided.String())
			delete(c.tries, uid)
		}
	}
	if !c.claimed.IsZero() && now.Sub(c.claimed) >= unseen {
		c.claimed = time.Time{}
	}
	return len(c.tries) > 0 || !c.claimed.IsZero()
}

// ask says whether an agent may be injected into one more pod. claim says that it is meant: a pod that is let through while the circuit
// is open is the one try.
func (c *circuit) ask(now time.Time, claim bool) Answer {
	c.doubt(now)
	known := c.synced && c.broken.IsZero()
	switch {
	case !c.open:
		return Answer{Inject: true, Known: known}
	case !c.broken.IsZero() && now.Sub(c.broken) >= expiry:
		return Answer{Inject: true}
	case now.Before(c.retry) || c.trying(now):
		return Answer{Known: known, Message: fmt.Sprintf(
			"agents cannot start just now (%s), so pods start without one; an administrator sees which pods are stuck in the webhook's log", c.cause.Reason)}
	}
	if claim {
		c.claimed = now
		c.retries++
		c.log.Info("one agent is injected, to see whether it can start again", "since", c.opened.UTC().Format(time.RFC3339))
	}
	return Answer{Inject: true, Known: known}
}

func (c *circuit) state(now time.Time) State {
	c.doubt(now)
	switch {
	case !c.open:
		return Closed
	case c.trying(now):
		return HalfOpen
	}
	return Open
}

// stuck gives the agents that cannot start, the oldest first.
func (c *circuit) stuck() []Agent {
	var all []Agent
	for _, a := range c.agents {
		if a.Condition == Stuck {
			all = append(all, a)
		}
	}
	slices.SortFunc(all, func(a, b Agent) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return all
}
