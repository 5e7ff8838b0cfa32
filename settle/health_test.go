package settle

import (
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/evidence"
)

// healthy is a core with both sources synced and some agents, ticking.
func healthy(t *testing.T, agents int) *observer {
	t.Helper()
	core, err := New(DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	o := &observer{t: t, core: core}
	for _, source := range []Source{Agents, Verdicts} {
		o.step(Listing{Source: source, Epoch: 1})
		o.step(Synced{Source: source, Revision: 1})
	}
	for i := range agents {
		o.beat(i)
	}
	o.ticks(5)
	return o
}

// observer is a core whose health is looked at.
type observer struct {
	t    *testing.T
	core *Core
	now  time.Duration
}

func (o *observer) step(in Input) { o.core.Step(Event{At: o.now, Input: in}) }

func (o *observer) who(i int) evidence.Agent {
	return evidence.Agent{Namespace: "n", Cluster: "c", PodUID: string(rune('a' + i))}
}

func (o *observer) beat(i int)   { o.step(Beat{evidence.Beat{Agent: o.who(i), Session: "s"}}) }
func (o *observer) silent(i int) { o.step(Silent{Agent: o.who(i)}) }

func (o *observer) progress() {
	for _, source := range []Source{Agents, Verdicts} {
		o.step(Progress{Source: source, Revision: 1, Term: 1})
	}
}

// ticks lets seconds pass in good health.
func (o *observer) ticks(n int) {
	for range n {
		o.now += time.Second
		o.progress()
		o.step(Tick{})
	}
}

func (o *observer) judges() bool { return o.core.health.judges(o.now, o.core.cfg) }

func (o *observer) watched() time.Duration { return o.core.health.watched }

func (o *observer) want(judges bool, passes time.Duration, why string, play func()) {
	o.t.Helper()
	before := o.watched()
	play()
	if o.judges() != judges {
		o.t.Errorf("%s: judges %v", why, !judges)
	}
	if passed := o.watched() - before; passed != passes {
		o.t.Errorf("%s: %s of watching passed, want %s", why, passed, passes)
	}
}

func TestWatchedClock(t *testing.T) {
	t.Parallel()
	o := healthy(t, 1)
	o.want(true, 10*time.Second, "healthy", func() { o.ticks(10) })
	o.want(true, 3*time.Second, "a tick 2 s late is none", func() {
		o.now += 3 * time.Second
		o.progress()
		o.step(Tick{})
	})
	o.want(false, 0, "a tick more than 2 s late", func() {
		o.now += 3*time.Second + time.Millisecond
		o.progress()
		o.step(Tick{})
	})
	o.want(true, time.Second, "the next round", func() { o.ticks(1) })
	o.want(false, 0, "no tick at all", func() { o.now += 3*time.Second + time.Millisecond })
	o.ticks(2)
	o.want(true, 15*time.Second, "no progress for 15 s", func() {
		for range 15 {
			o.now += time.Second
			o.step(Tick{})
		}
	})
	o.want(false, 0, "no progress for longer", func() {
		o.now += time.Second
		o.step(Tick{})
	})
	for _, source := range []Source{Agents, Verdicts} {
		o.ticks(2)
		o.want(false, 0, source.String()+" lost", func() {
			o.step(Lost{Source: source, Why: "cut"})
			o.ticks(3)
		})
		o.want(false, 0, source.String()+" being listed", func() {
			o.step(Listing{Source: source, Epoch: 1})
			o.ticks(3)
		})
		o.want(true, 2*time.Second, source.String()+" back", func() {
			o.step(Synced{Source: source, Revision: 1})
			if source == Agents {
				o.beat(0)
			}
			o.ticks(2)
		})
	}
}

// A core that knows nothing judges nothing.
func TestUnsyncedJudgesNothing(t *testing.T) {
	t.Parallel()
	core, err := New(DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	o := &observer{t: t, core: core}
	o.want(false, 0, "at the start", func() { o.ticks(100) })
	o.want(false, 0, "with one source", func() {
		o.step(Listing{Source: Agents, Epoch: 1})
		o.step(Synced{Source: Agents, Revision: 1})
		o.ticks(100)
	})
}

func TestFreezeByNumbers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		agents, lost int
		frozen       bool
	}{
		{1, 0, false}, {1, 1, true}, {2, 1, true}, {4, 1, true}, {5, 1, false}, {5, 2, true}, {10, 2, false}, {10, 3, true},
		{20, 4, false}, {20, 5, true},
	} {
		o := healthy(t, c.agents)
		for i := range c.lost {
			o.silent(i)
		}
		o.ticks(1)
		if o.core.health.frozen != c.frozen || o.judges() == c.frozen {
			t.Errorf("%d of %d lost: frozen %v, judges %v", c.lost, c.agents, o.core.health.frozen, o.judges())
		}
	}
}

func TestFreezeEnds(t *testing.T) {
	t.Parallel()
	o := healthy(t, 10)
	o.ticks(20)
	since := o.watched()
	o.ticks(20)
	for i := range 3 {
		o.silent(i)
	}
	o.want(false, 0, "frozen", func() { o.ticks(100) })
	o.want(true, time.Second, "its cause is over", func() {
		o.beat(0)
		o.ticks(1)
	})
	if got := o.core.health.grace(since); got != time.Second {
		t.Errorf("the grace goes on where it stood: %s", got)
	}

	// Nobody ends it: ten minutes, and not one second more.
	for i := range 3 {
		o.beat(i)
		o.silent(i)
	}
	o.want(false, 0, "frozen again", func() { o.ticks(599) })
	o.want(true, time.Second, "after ten minutes", func() { o.ticks(2) })
	if got := o.core.health.grace(since); got > 2*time.Second {
		t.Errorf("the grace goes on where it stood: %s", got)
	}
	if len(o.core.health.lost) != 0 || o.core.health.shakenLost != 0 {
		t.Errorf("%d are lost still", len(o.core.health.lost))
	}

	// A goodbye is no loss, nor is the end of an agent whose records are gone with it.
	o = healthy(t, 2)
	o.step(Beat{evidence.Beat{Agent: o.who(0), Session: "s", Goodbye: true}})
	o.silent(0)
	o.ticks(1)
	if !o.judges() || o.core.health.beating != 1 {
		t.Errorf("after a goodbye: judges %v, %d beat", o.judges(), o.core.health.beating)
	}
}

// A lost agent that is heard again is not counted, in whatever words it is heard: a beat, an unreadable one, a goodbye.
func TestHeardAgain(t *testing.T) {
	t.Parallel()
	for name, hear := range map[string]Input{
		"beat":       Beat{evidence.Beat{Agent: (&observer{}).who(0), Session: "s2"}},
		"unreadable": UnreadableBeat{Agent: (&observer{}).who(0)},
		"goodbye":    Beat{evidence.Beat{Agent: (&observer{}).who(0), Session: "s", Goodbye: true}},
	} {
		o := healthy(t, 2)
		o.silent(0)
		o.step(hear)
		o.ticks(1)
		if o.core.health.frozen || len(o.core.health.lost) != 0 {
			t.Errorf("%s: frozen %v, %d lost", name, o.core.health.frozen, len(o.core.health.lost))
		}
		o.silent(0)
		o.silent(0)
		o.ticks(601)
		if o.core.health.beating != 1 || len(o.core.witnesses) != 1 {
			t.Errorf("%s: %d beat, %d witnesses in the end", name, o.core.health.beating, len(o.core.witnesses))
		}
	}
}

// The first loss, and not the hundredth, freezes what came with a sign of trouble in etcd; and only near to it.
func TestShaken(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		lost   time.Duration // before the shake; negative is after
		frozen bool
	}{
		{"long before", 21 * time.Second, false}, {"just before", 20 * time.Second, true}, {"with it", 0, true},
		{"just after", -20 * time.Second, true}, {"long after", -21 * time.Second, false},
	} {
		o := healthy(t, 20)
		shake := func() {
			for _, source := range []Source{Agents, Verdicts} {
				o.step(Progress{Source: source, Revision: 1, Term: 7})
			}
		}
		pass := func(d time.Duration) {
			for end := o.now + d; o.now < end; {
				o.now += time.Second
				for _, source := range []Source{Agents, Verdicts} {
					o.step(Progress{Source: source, Revision: 1})
				}
				o.step(Tick{})
			}
		}
		if c.lost >= 0 {
			o.silent(0)
			pass(c.lost)
			shake()
		} else {
			shake()
			pass(-c.lost)
			o.silent(0)
		}
		if o.core.health.frozen != c.frozen {
			t.Errorf("lost %s: frozen %v", c.name, o.core.health.frozen)
		}
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	if err := DefaultConfig().Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	if _, err := New(Config{}); err == nil {
		t.Error("a core of no patience at all was made")
	}
	for _, spoil := range []func(*Config){
		func(c *Config) { c.Hold = 0 }, func(c *Config) { c.Lease = 0 }, func(c *Config) { c.Grace = -1 }, func(c *Config) { c.Missing = 0 },
		func(c *Config) { c.FreezeLimit = 0 }, func(c *Config) { c.Tick = 0 }, func(c *Config) { c.Late = 0 },
		func(c *Config) { c.Silence = 0 }, func(c *Config) { c.Retain = 0 }, func(c *Config) { c.Tick = c.Hold },
	} {
		c := DefaultConfig()
		spoil(&c)
		if c.Validate() == nil {
			t.Errorf("%+v is taken", c)
		}
	}
}
