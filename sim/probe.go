package sim

import (
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-dev/holdfast/agent/view"
	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/settle"
)

// check asks the API server (outside.check).
func (g *reign) check(e settle.Check) {
	if g == nil {
		return
	}
	w := g.a.r.w
	w.met["check"]++
	w.after(w.api.chance.between(2*time.Millisecond, 300*time.Millisecond), func() {
		if w.api.down > 0 || g.a.r.apiCut > 0 {
			return
		}
		inputs := w.api.answer(e)
		g.again(w.api.chance.between(2*time.Millisecond, 300*time.Millisecond), func() {
			for _, input := range inputs {
				g.step(input)
			}
		})
	})
}

// probe is a prober's target: the real view, asked from outside.
type probe struct {
	g       *reign
	e       settle.Ask
	stopped bool
	view    *view.View
	born    time.Duration
	known   string // the process that answered first
}

func (g *reign) ask(e settle.Ask) {
	if g == nil {
		return
	}
	if was := g.probes[e.Agent]; was != nil {
		was.stopped = true
		delete(g.probes, e.Agent)
	}
	if e.Stop {
		return
	}
	w := g.a.r.w
	w.met["probe"]++
	session := fmt.Sprintf("probe-%d-%s", w.order, g.a.name())
	p := &probe{g: g, e: e, born: w.now, view: view.New(view.Options{
		Agent: e.Agent, Session: session, Pod: e.Pod, Version: "sim", Poll: 5 * time.Second, Burst: time.Second, Seed: g.a.r.chance.Uint64(),
	})}
	g.probes[e.Agent] = p
	g.again(50*time.Millisecond, p.look)
}

func (p *probe) look() {
	w, r := p.g.a.r.w, p.g.a.r
	if p.stopped {
		return
	}
	var one *process
	reachable := false
	if at := w.at(p.e.Address); at != nil && at.process != nil {
		whose, _ := at.process.rest()
		other := at.c.key.Cluster != p.e.FlinkID || p.known != "" && at.process.incarnation != p.known
		reachable = r.flinkCut == 0 && !(whose != nil && other)
		one = at.process
		if reachable && whose != nil {
			p.known = one.incarnation
		}
	}
	took := 20 * time.Millisecond
	if !reachable {
		took = 3 * time.Second
	}
	p.g.again(took, func() {
		if p.stopped {
			return
		}
		seen := view.Look{At: w.stamp(r.skew), Now: w.now - p.born, Took: took, Reach: job.TimedOut}
		if one != nil {
			seen = w.answer(p.view, one, reachable && r.flinkCut == 0, w.stamp(r.skew), w.now-p.born, r.chance)
		} else {
			p.view.Ask(w.now-p.born, job.TimedOut, nil)
		}
		changes := p.view.See(seen)
		slices.SortFunc(changes.Reports, func(a, b *evidence.Report) int { return compare(a.JobID, b.JobID) })
		for _, report := range changes.Reports {
			p.g.step(settle.Reported{Report: report})
		}
		if changes.Beat != nil && !p.stopped {
			p.g.step(settle.Beat{Beat: *changes.Beat})
		}
		p.g.again(p.view.Next(), p.look)
	})
}
