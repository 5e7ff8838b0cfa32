package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
	"github.com/holdfast-dev/holdfast/settle"
)

// Fault is one thing that goes wrong, or that somebody does.
type Fault struct {
	Kind string
	At   time.Duration
	// For is how long it lasts, where it lasts.
	For time.Duration
	// Pick chooses whom it meets.
	Pick uint64
}

func (f Fault) String() string {
	return fmt.Sprintf("%7.1f s  %s, for %s, of %d", f.At.Seconds(), f.Kind, f.For.Round(100*time.Millisecond), f.Pick%97)
}

// Schedule is a world's fate: what it is made of, and what befalls it.
type Schedule struct {
	Seed   uint64
	Faults []Fault
	// Length is when the last fault has ended.
	Length time.Duration
}

// kinds are the faults, and how each is done. undo is nil for those that do not last.
var kinds = []struct {
	name string
	do   func(w *world, f Fault) (undo func())
}{
	{"JobManager killed", func(w *world, f Fault) func() {
		if one := w.pickProcess(f); one != nil {
			one.exit(137)
		}
		return nil
	}},
	{"JobManager stopped", func(w *world, f Fault) func() {
		if one := w.pickProcess(f); one != nil {
			one.stop(f.For)
		}
		return nil
	}},
	{"pod deleted", func(w *world, f Fault) func() {
		if p := w.pickPod(f); p != nil {
			p.remove()
		}
		return nil
	}},
	{"node lost", func(w *world, f Fault) func() {
		if p := w.pickPod(f); p != nil {
			p.lose()
		}
		return nil
	}},
	{"workload deleted", func(w *world, f Fault) func() {
		c := w.pickCluster(f)
		c.deleteWorkload()
		if f.Pick%2 == 0 {
			w.after(6*time.Second, func() { c.record, c.results = map[string]bool{}, map[string]bool{} })
		}
		return nil
	}},
	{"workload made", func(w *world, f Fault) func() { w.pickCluster(f).deploy(); return nil }},
	{"scaled to nothing", func(w *world, f Fault) func() {
		c := w.pickCluster(f)
		c.scale(0)
		return func() { c.scale(c.managers) }
	}},
	{"job submitted", func(w *world, f Fault) func() { w.pickCluster(f).submit(); return nil }},
	{"job canceled", func(w *world, f Fault) func() { w.endJob(f, job.Canceled); return nil }},
	{"job fails", func(w *world, f Fault) func() { w.endJob(f, job.Failed); return nil }},
	{"job finishes", func(w *world, f Fault) func() { w.endJob(f, job.Finished); return nil }},
	{"job restarts", func(w *world, f Fault) func() {
		if one, l := w.pickJob(f); l != nil {
			one.restart(l)
		}
		return nil
	}},
	{"job flaps", func(w *world, f Fault) func() {
		one, l := w.pickJob(f)
		if l == nil {
			return nil
		}
		end := w.now + f.For
		w.every(0, 9*time.Second, func() bool {
			one.later(0, func() { one.restart(l) })
			return w.now < end && !l.dead
		})
		return nil
	}},
	{"job slow", func(w *world, f Fault) func() {
		_, l := w.pickJob(f)
		if l == nil {
			return nil
		}
		l.slow = true
		return func() { l.slow = false }
	}},
	{"agent killed", func(w *world, f Fault) func() {
		if a := w.pickAgent(f); a != nil {
			a.kill()
			w.after(a.chance.between(time.Second, 10*time.Second), a.startAgain)
		}
		return nil
	}},
	{"agent absent", func(w *world, f Fault) func() {
		a := w.pickAgent(f)
		if a == nil {
			return nil
		}
		a.kill()
		return a.startAgain
	}},
	{"agent stopped", func(w *world, f Fault) func() {
		a := w.pickAgent(f)
		if a == nil {
			return nil
		}
		a.absent++
		return func() {
			if a.absent--; a.absent == 0 && a.told {
				a.leave()
			}
		}
	}},
	{"agent's poll loop hangs", func(w *world, f Fault) func() {
		a := w.pickAgent(f)
		if a == nil {
			return nil
		}
		a.hung++
		return func() { a.hung-- }
	}},
	{"agent cut off from etcd", func(w *world, f Fault) func() { return w.cutAgents(f, 1) }},
	{"all agents cut off from etcd", func(w *world, f Fault) func() { return w.cutAgents(f, 99) }},
	{"agent slow", func(w *world, f Fault) func() {
		a := w.pickAgent(f)
		if a == nil {
			return nil
		}
		a.client.late = 2500 * time.Millisecond
		return func() { a.client.late = 0 }
	}},
	{"etcd stopped", func(w *world, f Fault) func() { w.etcd.pause(f.For, false); return nil }},
	{"etcd restarted", func(w *world, f Fault) func() { w.etcd.pause(min(f.For, 10*time.Second), true); return nil }},
	{"etcd remembered", func(w *world, f Fault) func() { w.etcd.snapshot(); return nil }},
	{"etcd restored", func(w *world, f Fault) func() { w.etcd.restore(false); return nil }},
	{"etcd emptied", func(w *world, f Fault) func() { w.etcd.restore(true); return nil }},
	{"etcd full", func(w *world, f Fault) func() {
		w.etcd.full = true
		return func() { w.etcd.full = false }
	}},
	{"watches broken", func(w *world, f Fault) func() { w.etcd.breakWatches("compacted"); return nil }},
	{"leader killed", func(w *world, f Fault) func() { w.leader(f).kill(min(f.For, 20*time.Second)); return nil }},
	{"aggregator killed", func(w *world, f Fault) func() { w.pickReplica(f).kill(min(f.For, 20*time.Second)); return nil }},
	{"leader stopped", func(w *world, f Fault) func() { w.leader(f).stop(f.For); return nil }},
	{"leader cut off from etcd", func(w *world, f Fault) func() {
		r := w.leader(f)
		r.client.cut++
		return func() { r.client.cut-- }
	}},
	{"leader slow", func(w *world, f Fault) func() {
		r := w.leader(f)
		r.client.late = 1500 * time.Millisecond
		return func() { r.client.late = 0 }
	}},
	{"aggregators cut off from the API server", func(w *world, f Fault) func() {
		for _, r := range w.replicas {
			r.apiCut++
		}
		return func() {
			for _, r := range w.replicas {
				r.apiCut--
			}
		}
	}},
	{"aggregators cut off from Flink", func(w *world, f Fault) func() {
		for _, r := range w.replicas {
			r.flinkCut++
		}
		return func() {
			for _, r := range w.replicas {
				r.flinkCut--
			}
		}
	}},
	{"API server down", func(w *world, f Fault) func() {
		w.api.down++
		return func() { w.api.down-- }
	}},
	{"records forbidden", func(w *world, f Fault) func() {
		w.api.forbidden = true
		return func() { w.api.forbidden = false }
	}},
	{"report damaged", func(w *world, f Fault) func() { w.damage(f, record.Report); return nil }},
	{"beat damaged", func(w *world, f Fault) func() { w.damage(f, record.Beat); return nil }},
	{"reports written twice", func(w *world, f Fault) func() {
		for _, pair := range w.etcd.list(record.SitePrefix(site) + "agents/") {
			if !strings.HasSuffix(pair.Key, "beat") {
				w.etcd.apply([]etcd.Op{{Key: pair.Key, Value: pair.Value}})
			}
		}
		return nil
	}},
	{"verdict deleted by hand", func(w *world, f Fault) func() {
		if keys := w.etcd.below(record.SitePrefix(site) + "verdicts/"); len(keys) > 0 {
			place, _ := record.ParseKey(site, keys[f.Pick%uint64(len(keys))])
			w.watched.vandalized[place.Job] = true
			delete(w.watched.retired, place.Job)
			w.etcd.apply([]etcd.Op{
				{Key: keys[f.Pick%uint64(len(keys))], Delete: true}, {Key: record.ClusterKey(site, place.Job.ClusterKey()), Delete: true},
				{Key: record.HistoryPrefix(site, place.Job), Delete: true, Prefix: true},
			})
		}
		return nil
	}},
	{"aggregator's clock jumps", func(w *world, f Fault) func() {
		r := w.pickReplica(f)
		r.skew += []time.Duration{time.Hour, -time.Hour, 300 * 24 * time.Hour}[f.Pick%3]
		return nil
	}},
}

// Kinds are the names of all faults.
func Kinds() (names []string) {
	for _, k := range kinds {
		names = append(names, k.name)
	}
	return names
}

// Draw draws a schedule.
func Draw(seed uint64) Schedule {
	c := (&world{seed: seed}).chance("schedule")
	s := Schedule{Seed: seed, Length: c.between(time.Minute, 6*time.Minute)}
	for range 1 + c.IntN(10) {
		at := c.between(15*time.Second, s.Length)
		length := []time.Duration{
			c.between(500*time.Millisecond, 5*time.Second), c.between(5*time.Second, 40*time.Second), c.between(40*time.Second, 2*time.Minute), 4 * time.Minute,
		}[c.IntN(4)]
		s.Faults = append(s.Faults, Fault{
			Kind: kinds[c.IntN(len(kinds))].name, At: at, For: min(length, s.Length-at), Pick: c.Uint64(),
		})
	}
	slices.SortStableFunc(s.Faults, func(a, b Fault) int { return int(a.At - b.At) })
	return s
}

// build makes the world of a schedule.
func build(s Schedule, tell func(string)) *world {
	cfg := settle.DefaultConfig()
	w := &world{seed: s.Seed, cfg: cfg, met: map[string]int{}, tell: tell, watched: newWatched()}
	c := w.chance("build")
	if c.one(3) {
		w.cfg.Retain, w.cfg.Absent = c.between(20*time.Second, 3*time.Minute), c.between(time.Second, 2*time.Minute)
	}
	w.etcd, w.api = newStore(w), newAPIServer(w)
	for i := range 1 + c.IntN(3) {
		one := &cluster{
			w: w, chance: w.chance(fmt.Sprintf("cluster %d", i)), key: job.ClusterKey{Namespace: "flink", Cluster: fmt.Sprintf("c%d", i)},
			record: map[string]bool{}, results: map[string]bool{}, answered: map[job.Condition]time.Duration{},
			shape: shape{ha: c.one(2), application: !c.one(3), fixed: c.one(3), native: !c.one(3), managers: 1, injected: !c.one(5)},
		}
		if one.ha && c.one(3) {
			one.managers = 3
		}
		one.replicas = one.managers
		w.clusters = append(w.clusters, one)
		w.say("cluster %s: %+v", one.key.Cluster, one.shape)
		w.after(c.between(0, 5*time.Second), one.deploy)
		if !one.application {
			for range 1 + c.IntN(3) {
				w.after(c.between(25*time.Second, time.Minute), one.submit)
			}
		}
	}
	for _, name := range []string{"a", "b"} {
		w.replicas = append(w.replicas, newReplica(w, name))
	}
	for _, f := range s.Faults {
		w.after(f.At, func() { w.befall(f) })
	}
	return w
}

func (w *world) befall(f Fault) {
	for _, k := range kinds {
		if k.name != f.Kind {
			continue
		}
		w.say("FAULT %s", f)
		w.met[f.Kind]++
		if undo := k.do(w, f); undo != nil {
			w.after(f.For, func() {
				w.say("OVER: %s", f.Kind)
				undo()
			})
		}
	}
}

// Outcome is what became of a schedule.
type Outcome struct {
	Breach    *Breach
	Steps     int
	Simulated time.Duration
	Met       map[string]int
}

// quiet is how long everything has gone well when a schedule is held against the truth: lease, hold and grace times, the longest
// back-off, the time that Flink takes to start again, and the pauses between questions.
const quiet = 4 * time.Minute

// Run lets a schedule happen, and says what came of it. tell takes the trace; it may be nil.
func Run(s Schedule, tell func(string)) Outcome {
	w := build(s, tell)
	w.run(s.Length)
	w.calm = true
	w.run(s.Length + quiet)
	for w.broken == nil && w.watched.frozen > 0 && w.now < s.Length+30*time.Minute {
		w.run(w.now + time.Minute)
		if w.watched.frozen == 0 {
			w.run(w.now + quiet)
		}
	}
	if w.broken == nil {
		w.settled()
	}
	if w.broken == nil && s.Seed%4 == 0 {
		w.beginsAnew()
	}
	return Outcome{Breach: w.broken, Steps: w.steps, Simulated: w.now, Met: w.met}
}

// Shrink takes away faults as long as the same invariant breaks.
func Shrink(s Schedule) Schedule {
	first := Run(s, nil).Breach
	if first == nil {
		return s
	}
	breaks := func(s Schedule) bool {
		b := Run(s, nil).Breach
		return b != nil && b.Invariant == first.Invariant
	}
	for size := (len(s.Faults) + 1) / 2; size > 0; size /= 2 {
		for from := 0; from < len(s.Faults); {
			smaller := s
			smaller.Faults = slices.Delete(slices.Clone(s.Faults), from, min(from+size, len(s.Faults)))
			if breaks(smaller) {
				s = smaller
				continue
			}
			from += size
		}
	}
	for i := range s.Faults {
		for s.Faults[i].For > time.Second {
			shorter := s
			shorter.Faults = slices.Clone(s.Faults)
			shorter.Faults[i].For /= 2
			if !breaks(shorter) {
				break
			}
			s = shorter
		}
	}
	return s
}

func (w *world) pickCluster(f Fault) *cluster { return w.clusters[f.Pick%uint64(len(w.clusters))] }

func (w *world) pickPod(f Fault) *pod {
	c := w.pickCluster(f)
	if len(c.pods) == 0 {
		return nil
	}
	return c.pods[f.Pick/8%uint64(len(c.pods))]
}

func (w *world) pickProcess(f Fault) *process {
	p := w.pickPod(f)
	if p == nil || p.process == nil || p.process.phase == exited {
		return nil
	}
	return p.process
}

func (w *world) pickAgent(f Fault) *agent {
	p := w.pickPod(f)
	if p == nil || p.leaving || p.gone || p.lost {
		return nil
	}
	return p.agent
}

// startAgain starts an agent's process where there is none, and its pod still is.
func (a *agent) startAgain() {
	if a.one == nil && !a.told && !a.pod.leaving && !a.pod.gone && !a.pod.lost {
		a.start()
	}
}

func (w *world) pickJob(f Fault) (*process, *life) {
	c := w.pickCluster(f)
	if c.leader == nil || c.leader.phase != serving || len(c.leader.lives) == 0 {
		return nil, nil
	}
	l := c.leader.lives[f.Pick/8%uint64(len(c.leader.lives))]
	if l.dead {
		return nil, nil
	}
	return c.leader, l
}

func (w *world) endJob(f Fault, s job.State) {
	if one, l := w.pickJob(f); l != nil {
		one.later(0, func() { one.end(l, s) })
	}
}

func (w *world) cutAgents(f Fault, most int) func() {
	var cut []*client
	for _, c := range w.clusters {
		for _, p := range c.pods {
			if p.agent != nil && len(cut) < most && (most > 1 || p == w.pickPod(f)) {
				p.agent.client.cut++
				cut = append(cut, p.agent.client)
			}
		}
	}
	return func() {
		for _, c := range cut {
			c.cut--
		}
	}
}

func (w *world) pickReplica(f Fault) *replica { return w.replicas[f.Pick%uint64(len(w.replicas))] }

// leader is the aggregator that leads, as far as itself knows; any, if none does.
func (w *world) leader(f Fault) *replica {
	for _, r := range w.replicas {
		if r.life != nil && r.life.reign != nil {
			return r
		}
	}
	return w.pickReplica(f)
}

// damage makes a record unreadable, as a bug or a hand on etcd might.
func (w *world) damage(f Fault, kind record.Kind) {
	var keys []string
	for _, key := range w.etcd.below(record.SitePrefix(site) + "agents/") {
		if place, err := record.ParseKey(site, key); err == nil && place.Kind == kind {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return
	}
	pair := w.etcd.pairs[keys[f.Pick%uint64(len(keys))]]
	if place, err := record.ParseKey(site, pair.Key); err == nil {
		w.watched.damaged[place.Job] = true
	}
	w.etcd.apply([]etcd.Op{{Key: pair.Key, Value: []byte("{damaged"), Lease: leaseOf(pair)}})
}
