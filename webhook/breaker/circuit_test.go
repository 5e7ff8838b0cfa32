package breaker

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// play is a circuit and the time, in seconds, that a script goes through.
type play struct {
	t   *testing.T
	c   *circuit
	log strings.Builder
	now time.Time
}

func newPlay(t *testing.T) *play {
	p := &play{t: t, now: created}
	p.c = newCircuit(2*time.Minute, 30*time.Minute, slog.New(slog.NewTextHandler(&p.log, nil)))
	return p
}

func (p *play) wait(d time.Duration) { p.now = p.now.Add(d) }

func agent(name string, c Condition) Agent {
	a := Agent{UID: types.UID(name), Namespace: "team-a", Name: name, Created: created, Condition: c}
	if c == Stuck {
		a.Reason = "ErrImagePull"
	}
	return a
}

func (p *play) see(name string, c Condition) { p.c.see(p.now, agent(name, c)) }

// injects asks for a pod that is meant, and want says whether it may have an agent.
func (p *play) injects(want bool, when string) {
	p.t.Helper()
	if got := p.c.ask(p.now, true); got.Inject != want {
		p.t.Errorf("%s: injects %t, want %t", when, got.Inject, want)
	} else if !got.Inject && got.Message == "" {
		p.t.Errorf("%s: does not say why", when)
	}
}

func (p *play) is(want State, when string) {
	p.t.Helper()
	if got := p.c.state(p.now); got != want {
		p.t.Errorf("%s: %s, want %s", when, got, want)
	}
}

func TestOpensAtTheFirstAgentThatCannotStart(t *testing.T) {
	p := newPlay(t)
	p.c.begin(p.now, nil)
	p.see("one", Waiting)
	p.injects(true, "at first")
	p.see("two", Started)
	p.injects(true, "while all is well")
	p.see("one", Stuck)
	p.injects(false, "at the first that is stuck")
	p.is(Open, "then")
	p.see("one", Stuck)
	p.see("three", Stuck)
	for _, name := range []string{"one", "three"} {
		if n := strings.Count(p.log.String(), `msg="an agent cannot start, and its pod may wait for it" pod=team-a/`+name+" "); n != 1 {
			t.Errorf("%s is named %d times in\n%s", name, n, p.log.String())
		}
	}
	p.wait(2*time.Minute - time.Second)
	p.injects(false, "before the pause is over")
}

func TestTriesWithOnePod(t *testing.T) {
	p := newPlay(t)
	p.c.begin(p.now, []Agent{agent("old", Started)})
	p.see("one", Stuck)
	p.wait(2 * time.Minute)
	if !p.c.ask(p.now, false).Inject {
		t.Error("a dry run does not say what would be done")
	}
	p.is(Open, "after a dry run")
	p.injects(true, "the try")
	p.is(HalfOpen, "with a try")
	p.injects(false, "the second pod")
	p.wait(time.Second)
	p.see("try", Waiting)
	p.wait(time.Minute)
	p.injects(false, "while the try waits")
	p.see("one", Stuck)
	p.see("old", Started)
	p.injects(false, "as nothing new was said")
	p.see("try", Started)
	p.is(Closed, "as the try started")
	p.injects(true, "after the try")
	p.see("one", Stuck)
	p.injects(true, "as it was known to be stuck")
}

// Another replica tries: its pod is seen, and this one keeps still.
func TestOthersTriesCount(t *testing.T) {
	p := newPlay(t)
	p.c.begin(p.now, nil)
	p.see("one", Stuck)
	p.wait(time.Second)
	p.see("late", Waiting) // another replica's watch was behind
	p.wait(2 * time.Minute)
	p.see("late", Started)
	p.is(Open, "a pod from before the opening has started")
	p.see("theirs", Waiting)
	p.is(HalfOpen, "with another replica's try")
	p.injects(false, "during another replica's try")
	p.see("theirs", Stuck)
	p.is(Open, "after their try failed")
	p.wait(3 * time.Minute)
	p.injects(false, "in the longer pause, here too")
	p.wait(time.Minute)
	p.see("theirs again", Started)
	p.is(Closed, "a try that was seen only when it had started")
}

func TestPausesGrowWithFailures(t *testing.T) {
	p := newPlay(t)
	p.c.begin(p.now, nil)
	p.see("0", Stuck)
	for i, pause := range []time.Duration{2, 4, 8, 16, 30, 30} {
		p.wait(pause*time.Minute - time.Second)
		p.injects(false, fmt.Sprintf("before pause %d is over", i))
		p.wait(time.Second)
		p.injects(true, fmt.Sprintf("after pause %d", i))
		p.see(fmt.Sprint("try ", i), Waiting)
		p.see(fmt.Sprint("try ", i), Stuck)
	}
	p.wait(30 * time.Minute)
	p.injects(true, "the last try")
	p.see("try", Started)
	p.wait(5 * time.Minute)
	p.see("next", Stuck)
	p.wait(29 * time.Minute)
	p.injects(false, "since it broke again so soon")
	p.wait(time.Minute)
	p.injects(true, "at last")
	p.see("last", Started)
	p.wait(31 * time.Minute)
	p.see("much later", Stuck)
	p.wait(2 * time.Minute)
	p.injects(true, "a new story")
}

func TestTriesThatSayNothing(t *testing.T) {
	p := newPlay(t)
	p.c.begin(p.now, nil)
	p.see("one", Stuck)
	p.wait(2 * time.Minute)
	p.injects(true, "the try")
	p.wait(29 * time.Second)
	p.injects(false, "its pod may still come")
	p.wait(time.Second)
	p.injects(true, "it was never made")
	p.see("unschedulable", Waiting)
	p.wait(5*time.Minute - time.Second)
	p.injects(false, "no node has room for it")
	p.wait(time.Second)
	p.injects(true, "no node will have")
	p.see("deleted", Waiting)
	p.c.leave("deleted")
	p.injects(true, "it went")
	p.see("fails late", Waiting)
	p.wait(6 * time.Minute)
	p.is(Open, "the try says nothing")
	p.see("fails late", Stuck)
	p.injects(false, "it says no at last")
}

func TestStuckAgentsThatStartAfterAll(t *testing.T) {
	p := newPlay(t)
	p.c.begin(p.now, nil)
	p.see("one", Stuck)
	p.see("two", Stuck)
	p.see("one", Waiting) // the kubelet tries again
	p.see("one", Started)
	p.is(Open, "one is stuck still")
	p.see("two", Started)
	p.is(Closed, "all have started")

	p.wait(time.Hour)
	p.see("three", Stuck)
	p.c.leave("three")
	p.is(Open, "that a pod was deleted proves nothing")
}

// A node that cannot start the agent fails pods that have been running, too.
func TestAgentThatCannotStartAgain(t *testing.T) {
	p := newPlay(t)
	p.c.begin(p.now, []Agent{agent("one", Started)})
	p.see("one", Stuck)
	p.is(Open, "its image is gone")
}

func TestBeginsWithWhatIsThere(t *testing.T) {
	later := func(a Agent, d time.Duration) Agent { a.Created = a.Created.Add(d); return a }
	for _, c := range []struct {
		name string
		all  []Agent
		want State
	}{
		{"nothing", nil, Closed},
		{"all well", []Agent{agent("a", Started), agent("b", Waiting)}, Closed},
		{"stuck", []Agent{agent("a", Started), agent("b", Stuck)}, Open},
		{"stuck since", []Agent{agent("a", Started), later(agent("b", Stuck), time.Second)}, Open},
		{"somebody has tried with success", []Agent{agent("b", Stuck), later(agent("a", Started), time.Second)}, Closed},
		{"and then failed", []Agent{agent("b", Stuck), later(agent("a", Started), time.Second), later(agent("c", Stuck), time.Minute)}, Open},
	} {
		p := newPlay(t)
		p.c.begin(p.now, c.all)
		p.is(c.want, c.name)
		for _, a := range c.all {
			p.c.see(p.now, a)
		}
		p.is(c.want, c.name+", told again")
	}
}

func TestWithoutAWatchAgentsAreInjected(t *testing.T) {
	p := newPlay(t)
	if got := p.c.ask(p.now, true); !got.Inject || got.Known {
		t.Errorf("before the first list: %+v", got)
	}
	p.c.begin(p.now, nil)
	if got := p.c.ask(p.now, true); !got.Inject || !got.Known {
		t.Errorf("with a list: %+v", got)
	}
	p.c.broken = p.now
	if got := p.c.ask(p.now, true); !got.Inject || got.Known {
		t.Errorf("with a broken watch: %+v", got)
	}

	// What was known holds for a while.
	p.c.broken = time.Time{}
	p.see("one", Stuck)
	p.c.broken = p.now
	p.wait(time.Minute)
	p.injects(false, "what was known a minute ago")
	p.wait(9 * time.Minute)
	p.injects(true, "ten minutes later")
	p.injects(true, "and for all")
	p.c.broken = time.Time{}
	p.injects(true, "the try that is due")
	p.injects(false, "the pod after it")
}

func TestKubeletThatKnowsNoSidecars(t *testing.T) {
	p := newPlay(t)
	p.c.begin(p.now, nil)
	p.see("slow", Doubtful)
	p.wait(30 * time.Second)
	p.see("slow", Started)
	p.see("old kubelet", Doubtful)
	p.wait(59 * time.Second)
	p.see("old kubelet", Doubtful)
	p.injects(true, "it may be slow")
	p.wait(time.Second)
	p.injects(false, "it has waited for a minute")
	if got := p.c.cause; got.Name != "old kubelet" || got.Reason != reasonDoubtful {
		t.Errorf("the cause is %+v", got)
	}
	p.see("gone", Doubtful)
	p.c.leave("gone")
	if len(p.c.doubts) != 0 {
		t.Errorf("doubts remain: %v", p.c.doubts)
	}
}
