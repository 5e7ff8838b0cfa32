package settle

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/job"
)

// The model: a small world with a truth of its own, into which everything may happen at any time. After each step the rules
// must hold that always hold; after all faults have ended, and some time, the verdicts must be the truth.

// truth is what is really so of one job.
type truth struct {
	key   job.Key
	ha    bool
	state job.State
	start job.Stamp
	// gone says that its JobManager does not know it any more, or not yet.
	gone bool
	// echo is the start-time under which a restarted JobManager shows the ended job as FAILED, and asked whether it was asked why.
	echo  job.Stamp
	asked bool
	// attempts are the start-times so far, and ends what each attempt has ended in.
	attempts []job.Stamp
	ends     map[job.Stamp]job.State
}

// model plays one run.
type model struct {
	*world
	t      *rapid.T
	jobs   []*truth
	agents []*agent
	starts int
	// witnessed is when each job last had a live witness as far as etcd could tell; calm is since when the leader has been well.
	witnessed map[job.Key]time.Duration
	calm      time.Duration
	log       []string
}

func newModel(t *rapid.T) *model {
	m := &model{world: newWorld(DefaultConfig()), t: t, witnessed: map[job.Key]time.Duration{}}
	m.plain, m.showClusters = true, true
	m.tell = func(line string) { m.log = append(m.log, fmt.Sprintf("%s %s", m.now, line)) }
	for _, c := range []struct {
		cluster string
		ha      bool
		agents  []string
		jobs    []string
	}{
		{"orders", true, []string{"a", "b"}, []string{"j1", "j2"}},
		{"payments", false, []string{"c"}, []string{"j3", "j4"}},
	} {
		for _, name := range c.agents {
			a := m.world.agent(name)
			a.in(c.cluster)
			a.beat.HighAvailability = job.No
			if c.ha {
				a.beat.HighAvailability = job.Yes
			}
			m.agents = append(m.agents, a)
		}
		for _, id := range c.jobs {
			j := &truth{
				key: job.Key{Namespace: "shop", Cluster: c.cluster, ID: id}, ha: c.ha, ends: map[job.Stamp]job.State{},
			}
			m.begin(j, job.Initializing)
			m.jobs = append(m.jobs, j)
		}
	}
	return m
}

func (m *model) begin(j *truth, state job.State) {
	m.starts++
	j.state, j.start, j.gone, j.echo = state, job.StampOf(epochMillis+int64(m.starts)*1000), false, ""
	j.attempts = append(j.attempts, j.start)
}

// look lets an agent ask about each job of its cluster, and send what is new.
func (m *model) look(a *agent, sends bool) {
	if a.beat.Reach != job.Fine {
		return
	}
	for _, j := range m.jobs {
		if j.key.Cluster != a.Cluster {
			continue
		}
		if j.gone {
			if r := a.jobs[j.key.ID]; r != nil {
				r.Known, r.Denier = job.No, a.beat.Incarnation
				if sends {
					a.sends(j.key.ID)
				}
			}
			continue
		}
		more := evidence.Transition{StartTime: j.start}
		if j.state == job.Failed {
			more.Cause, more.CauseAsked = "boom", job.Yes
		}
		state := j.state
		if j.echo != "" {
			state, more = job.Failed, evidence.Transition{StartTime: j.echo}
			if j.asked {
				more.Cause, more.CauseAsked = "org.apache.flink.runtime.jobmaster.JobAlreadyDoneException", job.Yes
			}
		}
		a.sees(j.key.ID, state, more)
		if sends {
			a.sends(j.key.ID)
		}
	}
}

// lookAll lets every agent of a cluster see at once: a new attempt is not overlooked for an older one.
func (m *model) lookAll(cluster string) {
	for _, a := range m.agents {
		if a.Cluster == cluster {
			m.look(a, true)
		}
	}
}

var nextStates = map[job.State][]job.State{
	job.Initializing: {job.Created}, job.Created: {job.Running, job.Running, job.Failing},
	job.Running:    {job.Restarting, job.Restarting, job.Failing, job.Cancelling, job.Finished},
	job.Restarting: {job.Running, job.Created, job.Failing}, job.Failing: {job.Failed}, job.Cancelling: {job.Canceled},
}

// do plays one random event, and says what it was.
func (m *model) do() string {
	draw := func(name string, n int) int { return rapid.IntRange(0, n-1).Draw(m.t, name) }
	a := m.agents[draw("agent", len(m.agents))]
	j := m.jobs[draw("job", len(m.jobs))]
	reaches := []job.Reach{job.Fine, job.Refused, job.NoLeader, job.TimedOut, job.Closed, job.Erred, job.Malformed}
	switch what := draw("what", 32); what {
	default: // a job goes on
		next := nextStates[j.state]
		if j.echo != "" && !j.asked {
			j.asked = true
			m.lookAll(j.key.Cluster)
			return "why " + j.key.ID + " failed"
		}
		if j.gone || len(next) == 0 {
			return "nothing"
		}
		j.state = next[draw("next", len(next))]
		if j.state.Terminal() {
			j.ends[j.start] = j.state
		}
		for _, a := range m.agents {
			if a.Cluster == j.key.Cluster && draw("sees", 3) > 0 {
				m.look(a, draw("sends", 4) > 0)
			}
		}
		return fmt.Sprintf("%s is %s", j.key.ID, j.state)
	case 12:
		if j.gone && !j.ha {
			return "nothing"
		}
		m.begin(j, job.Initializing)
		m.lookAll(j.key.Cluster)
		return j.key.ID + " begins anew"
	case 13:
		m.jobManagerRestarts(a, draw("again", 2) == 0)
		return "the JobManager of " + a.PodUID + " restarts"
	case 14, 15:
		a.fallsSilent()
		return "silence of " + a.PodUID
	case 16, 17:
		m.look(a, false)
		a.returns()
		return a.PodUID + " returns"
	case 18:
		a.restarts()
		if draw("looks", 2) == 0 {
			m.look(a, false)
			a.returns()
		} else {
			a.pulse()
		}
		return a.PodUID + " restarts"
	case 19:
		a.leaves()
		return a.PodUID + " leaves"
	case 20:
		a.beat.Reach = reaches[draw("reach", len(reaches))]
		a.pulse()
		if a.beat.Reach == job.Fine {
			m.look(a, true)
			return a.PodUID + " asks"
		}
		return "silence of the JobManager of " + a.PodUID
	case 21:
		if r := a.jobs[j.key.ID]; r != nil && r.Known != job.No {
			r.Reach = reaches[draw("reach", len(reaches))]
			stored := m.reports[reportKey{a.Agent, j.key.ID}]
			a.sends(j.key.ID)
			if r.Reach == job.Fine || len(stored.Transitions) == 0 || stored.Transitions[len(stored.Transitions)-1] != r.Transitions[len(r.Transitions)-1] {
				return "an answer"
			}
			return "silence about " + j.key.ID
		}
		return "nothing"
	case 22:
		m.snapshot()
		return "snapshot"
	case 23:
		m.calm = m.now
		if r := m.leader(); r != nil {
			r.lose(Source(draw("source", 3)), "lost")
		}
		return "silence of a source"
	case 24:
		m.calm = m.now
		if r := m.leader(); r != nil {
			r.list(Source(draw("source", 3)))
		}
		return "list"
	case 25:
		m.calm = m.now
		if r := m.leader(); r != nil {
			r.catchUp()
			r.writes = []string{"", "hold", "refuse", "lose", "lose-written"}[draw("writes", 5)]
		}
		return "writes"
	case 26:
		m.calm = m.now
		if r := m.leader(); r != nil {
			r.release()
		}
		return "release"
	case 27:
		m.calm = m.now
		if len(m.replicas) > 0 && draw("stays", 3) > 0 {
			m.replicas = m.replicas[:len(m.replicas)-1]
		}
		if len(m.replicas) > 2 {
			m.replicas = m.replicas[1:]
		}
		m.lead(fmt.Sprint("leader-", m.now), Source(draw("first", 2)))
		return "another leads"
	case 28:
		m.expire(a.Agent)
		return "silence of etcd about " + a.PodUID
	case 29:
		m.term++
		for _, r := range slices.Clone(m.replicas) {
			r.progress(Agents)
			r.progress(Verdicts)
		}
		return "silence of etcd for a change of leader"
	case 30:
		return m.storeFails(draw("fails", 4), a, j)
	case 31:
		m.passOn(time.Duration(1+draw("seconds", 90)) * time.Second)
		return "time passes"
	}
}

// jobManagerRestarts: with high availability the jobs that are not over begin anew, at once or after a while in which they are not known,
// and what is over may be told as a failure; without, they are gone, or run again under the same id.
func (m *model) jobManagerRestarts(a *agent, again bool) {
	for _, other := range m.agents {
		if other.Cluster == a.Cluster {
			other.beat.Incarnation += "'"
			other.pulse()
		}
	}
	for _, j := range m.jobs {
		switch {
		case j.key.Cluster != a.Cluster || j.state.Terminal() && (!j.ha || again):
		case j.state.Terminal():
			m.starts++
			j.echo, j.asked = job.StampOf(epochMillis+int64(m.starts)*1000), false
		case again:
			m.begin(j, job.Initializing)
		default:
			j.gone = true
		}
	}
	m.lookAll(a.Cluster)
}

func (m *model) storeFails(how int, a *agent, j *truth) string {
	m.calm = m.now
	switch {
	case how == 0 && len(m.past) > 0:
		m.restore(false)
	case how == 1:
		m.restore(true)
	case how == 2:
		// With nobody to notice it, the next leader would begin the history again among what is left of it.
		if _, there := m.verdicts[j.key]; there && m.well() {
			m.revision++
			delete(m.verdicts, j.key)
			for _, r := range slices.Clone(m.replicas) {
				if r.follows[Verdicts] {
					r.step(Erased{Key: j.key})
				}
			}
		}
		return "a verdict is lost"
	default:
		k := reportKey{a.Agent, j.key.ID}
		if _, there := m.reports[k]; there {
			m.unreadable[k] = !m.unreadable[k]
			m.changed(m.reportEvent(k))
		}
		return "an unreadable report"
	}
	for _, r := range slices.Clone(m.replicas) {
		r.unseen = nil // no watch outlives the store that it followed
		for _, source := range []Source{Agents, Verdicts, Clusters} {
			r.list(source)
		}
	}
	return "etcd is set back"
}

// passOn lets time pass, and looks each second whether what is served as Witnessed has a witness.
func (m *model) passOn(d time.Duration) {
	for range d / time.Second {
		m.pass(time.Second)
		m.note()
		for _, j := range m.jobs {
			stored, there := m.verdicts[j.key]
			v := stored.Account.Verdict
			unseen := m.now - m.witnessed[j.key]
			if there && v.Certainty == job.Witnessed && v.Over != job.Yes && m.leader() != nil &&
				m.now-m.calm > m.cfg.Hold+2*m.cfg.Tick && unseen > m.cfg.Hold+2*m.cfg.Tick && m.well() {
				m.breach("%s is %s and Witnessed, without a witness for %s", j.key.ID, v.State, unseen)
			}
		}
	}
}

// note notes who is vouched for.
func (m *model) note() {
	for key, stored := range m.verdicts {
		if m.vouchedInStore(key, stored.Account.Verdict) {
			m.witnessed[key] = m.now
		}
	}
}

func (m *model) well() bool {
	r := m.leader()
	return r != nil && r.writes == "" && r.follows[Agents] && r.follows[Verdicts] && len(r.held) == 0 && len(r.unseen) == 0
}

// vouchedInStore says whether an agent whose beat and report lie in etcd vouches for a verdict's attempt.
func (m *model) vouchedInStore(key job.Key, v job.Verdict) bool {
	for k, stored := range m.reports {
		beat, beats := m.beats[k.agent]
		if k.jobID == key.ID && stored.Key() == key && beats && !m.unreadable[k] && beat.Session == stored.Session &&
			beat.Reach == job.Fine && stored.Reach == job.Fine && stored.Known != job.No && beat.Incarnation == stored.Incarnation &&
			stored.StartTime == v.Attempt.StartTime {
			return true
		}
	}
	return false
}

// check looks at everything that must hold after every step.
func (m *model) check(what string, before map[job.Key]Stored) {
	m.note()
	for key, stored := range m.verdicts {
		history := m.history[key]
		if len(history) == 0 {
			m.breach("%s has a verdict and no history", key.ID)
			continue
		}
		for i := 1; i < len(history); i++ {
			if history[i].Sequence != history[i-1].Sequence+1 {
				m.breach("%s: the history has %d after %d", key.ID, history[i].Sequence, history[i-1].Sequence)
			}
		}
		v, last := stored.Account.Verdict, history[len(history)-1]
		if last.State != v.State || last.Attempt != v.Attempt || last.Certainty != v.Certainty || last.Over != v.Over {
			m.breach("%s: the history ends in %s, the verdict is %s", key.ID, entryLine(last), verdictLine(v))
		}
		m.checkTruth(key, v)
		if was, there := before[key]; there && strings.HasPrefix(what, "silence") {
			if w := was.Account.Verdict; (w.State != v.State || w.Over != v.Over || w.Attempt != v.Attempt) && !m.vouchedInStore(key, v) {
				m.breach("%s: silence made %s of %s", key.ID, verdictLine(v), verdictLine(w))
			}
		}
	}
	if m.broken != nil {
		m.t.Fatalf("%v\nafter: %s\n%s", m.broken, what, strings.Join(m.log, "\n"))
	}
}

// checkTruth holds a verdict against what is so: no false ending, no false "over", no impossible possibility.
func (m *model) checkTruth(key job.Key, v job.Verdict) {
	i := slices.IndexFunc(m.jobs, func(j *truth) bool { return j.key == key })
	j := m.jobs[i]
	if j.echo != "" && v.Attempt.StartTime == j.echo {
		m.breach("%s: an echo is taken for an attempt: %s", key.ID, verdictLine(v))
	}
	if v.Attempt.StartTime != j.start {
		return // an attempt of the past never runs again
	}
	if v.State.Terminal() && j.ends[j.start] != v.State {
		m.breach("%s: %s, and in truth it is %s", key.ID, verdictLine(v), j.state)
	}
	if v.Over == job.Yes && !j.state.Terminal() && (!j.gone || j.ha) {
		m.breach("%s: over, and in truth it is %s", key.ID, j.state)
	}
}

// heal ends all faults and gives everybody the time that it needs.
func (m *model) heal() {
	if len(m.replicas) == 0 {
		m.lead("last", Verdicts)
	}
	m.replicas = m.replicas[len(m.replicas)-1:]
	r := m.leader()
	clear(m.unreadable)
	r.release()
	r.catchUp()
	for _, j := range m.jobs {
		j.asked = true
		if j.gone && j.ha {
			m.begin(j, job.Running)
		}
	}
	for _, a := range m.agents {
		a.beat.Reach = job.Fine
		m.look(a, false)
		a.returns()
	}
	r.list(Verdicts)
	r.list(Agents)
	r.list(Clusters)
	m.calm = m.now
	m.passOn(m.cfg.Hold + m.cfg.Grace + m.cfg.FreezeLimit + m.cfg.Missing)
}

func (m *model) run(steps int) {
	m.lead("first", Verdicts)
	for range steps {
		for _, r := range slices.Clone(m.replicas) {
			r.step(Tick{}) // what waits for one is not to be mistaken for the next event's doing
		}
		before := maps.Clone(m.verdicts)
		what := m.do()
		m.log = append(m.log, fmt.Sprintf("%s -- %s", m.now, what))
		m.check(what, before)
	}
}

// Whatever happens: the rules hold after every step, and in the end the verdicts are the truth.
func TestModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		m.run(rapid.IntRange(1, 60).Draw(t, "steps"))
		m.heal()
		m.check("healed", nil)
		for _, j := range m.jobs {
			stored, there := m.verdicts[j.key]
			v := stored.Account.Verdict
			switch {
			case (j.gone || j.echo != "") && !there:
			case j.echo != "" && v.Over == job.Yes && (v.State == job.Unknown || v.State == j.ends[v.Attempt.StartTime]):
			case j.gone && (v.Certainty == job.Witnessed && v.Over != job.Yes || v.Over != job.Yes):
				t.Fatalf("%s is gone, and the verdict is %s\n%s", j.key.ID, verdictLine(v), strings.Join(m.log, "\n"))
			case !j.gone && (v.State != j.state || v.Certainty != job.Witnessed || v.Attempt.StartTime != j.start):
				t.Fatalf("%s is %s of %s, and the verdict is %s of %s\n%s", j.key.ID, j.state, j.start, verdictLine(v), v.Attempt.StartTime,
					strings.Join(m.log, "\n"))
			}
		}
		for _, cluster := range []string{"orders", "payments"} {
			want := job.ClusterNoJob
			if slices.ContainsFunc(m.jobs, func(j *truth) bool { return j.key.Cluster == cluster && !j.gone }) {
				want = job.ClusterReady
			}
			if is := m.clusters[job.ClusterKey{Namespace: "shop", Cluster: cluster}].Cluster; is.Condition != want || is.Certainty != job.Witnessed {
				t.Fatalf("%s is %s, and what is said is %s\n%s", cluster, want, clusterLine(is), strings.Join(m.log, "\n"))
			}
		}
	})
}

// A new leader comes to the same verdicts in whatever order the sources tell, and however often they tell the same.
func TestOrderAndDuplicatesDoNotMatter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		m.run(rapid.IntRange(1, 40).Draw(t, "steps"))
		m.replicas = nil
		if rapid.Bool().Draw(t, "no verdicts") {
			m.verdicts, m.history = map[job.Key]Stored{}, map[job.Key][]job.Transition{}
		}
		if rapid.Bool().Draw(t, "no clusters") {
			m.clusters = map[job.ClusterKey]StoredCluster{}
		}
		kept := m.store
		settled := func(play func(r *replica)) string {
			m.store = kept
			m.verdicts, m.history, m.clusters = maps.Clone(kept.verdicts), maps.Clone(kept.history), maps.Clone(kept.clusters)
			if play == nil {
				m.lead("again", Verdicts)
			} else {
				m.replicas = nil
				m.verdicts, m.history, m.clusters = maps.Clone(kept.verdicts), maps.Clone(kept.history), maps.Clone(kept.clusters)
				m.store.revision = kept.revision
				core, _ := New(m.cfg)
				r := &replica{w: m.world, core: core, writing: map[job.Key]Input{}}
				m.replicas = []*replica{r}
				play(r)
			}
			m.pass(2 * time.Minute)
			m.replicas = nil
			var lines []string
			for _, key := range slices.SortedFunc(maps.Keys(m.verdicts), compareKeys) {
				v := m.verdicts[key].Account.Verdict
				lines = append(lines, fmt.Sprintf("%s: %s, attempt %d of %s", key.ID, verdictLine(v), v.Attempt.Number, v.Attempt.StartTime))
			}
			for _, cluster := range []string{"orders", "payments"} {
				is := m.clusters[job.ClusterKey{Namespace: "shop", Cluster: cluster}].Cluster
				lines = append(lines, fmt.Sprintf("%s: %s %s %s", cluster, is.Condition, is.Certainty, is.Reason))
			}
			return strings.Join(lines, "\n")
		}
		want := settled(nil)
		for name, play := range map[string]func(r *replica){
			"agents first":   func(r *replica) { r.list(Agents); r.list(Verdicts); r.list(Clusters) },
			"clusters first": func(r *replica) { r.list(Clusters); r.list(Verdicts); r.list(Agents) },
			"everything twice": func(r *replica) {
				r.list(Clusters)
				r.list(Clusters)
				r.list(Agents)
				r.list(Verdicts)
				r.list(Agents)
				r.list(Verdicts)
			},
			"mixed": func(r *replica) { m.listMixed(t, r) },
		} {
			if got := settled(play); got != want {
				t.Fatalf("%s:\n%s\nin order:\n%s\n%s", name, got, want, strings.Join(m.log, "\n"))
			}
		}
	})
}

// listMixed tells both sources at once, each record at a random moment, some twice.
func (m *model) listMixed(t *rapid.T, r *replica) {
	for _, source := range []Source{Agents, Verdicts, Clusters} {
		r.step(Listing{Source: source, Epoch: m.epoch})
	}
	var all []Input
	for _, a := range slices.SortedFunc(maps.Keys(m.beats), compareAgents) {
		all = append(all, m.beatEvent(a))
	}
	for _, k := range slices.SortedFunc(maps.Keys(m.reports), func(a, b reportKey) int {
		return strings.Compare(a.agent.String()+a.jobID, b.agent.String()+b.jobID)
	}) {
		all = append(all, m.reportEvent(k))
	}
	for _, k := range slices.SortedFunc(maps.Keys(m.verdicts), compareKeys) {
		all = append(all, m.verdictEvent(k))
	}
	for _, k := range slices.SortedFunc(maps.Keys(m.clusters), func(a, b job.ClusterKey) int { return strings.Compare(a.Cluster, b.Cluster) }) {
		all = append(all, m.clusterEvent(k))
	}
	all = append(all, all[:len(all)/2]...)
	for _, input := range rapid.Permutation(all).Draw(t, "order") {
		r.step(input)
	}
	for _, source := range rapid.Permutation([]Source{Agents, Verdicts, Clusters}).Draw(t, "synced") {
		r.follows[source] = true
		r.step(Synced{Source: source, Revision: m.revision})
		r.progress(source)
	}
}

// Nothing that a driver could say, in whatever order, makes the core panic, or write without end.
func TestAnyEventInAnyOrder(t *testing.T) {
	t.Parallel()
	key := func(t *rapid.T) job.Key {
		return job.Key{Namespace: "n", Cluster: rapid.SampledFrom([]string{"c1", "c2"}).Draw(t, "cluster"), ID: rapid.SampledFrom([]string{"j1", "j2"}).Draw(t, "id")}
	}
	// Without an ID it is the cluster as a whole.
	either := func(t *rapid.T) job.Key {
		k := key(t)
		if rapid.IntRange(0, 2).Draw(t, "whole") == 0 {
			k.ID = ""
		}
		return k
	}
	who := func(t *rapid.T) evidence.Agent {
		k := key(t)
		return evidence.Agent{Namespace: "n", Cluster: k.Cluster, PodUID: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "pod")}
	}
	word := func(t *rapid.T) string { return rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "word") }
	stamp := func(t *rapid.T) job.Stamp {
		return job.Stamp(rapid.SampledFrom([]string{"", "1", "2", "3"}).Draw(t, "stamp"))
	}
	state := func(t *rapid.T) job.State { return job.State(rapid.IntRange(0, 11).Draw(t, "state")) }
	answer := func(t *rapid.T) job.Answer { return job.Answer(rapid.IntRange(0, 2).Draw(t, "answer")) }
	number := func(t *rapid.T) int64 { return rapid.Int64Range(0, 9).Draw(t, "number") }
	source := func(t *rapid.T) Source { return Source(rapid.IntRange(0, int(numSources)-2).Draw(t, "source")) }
	input := func(t *rapid.T) Input {
		switch rapid.IntRange(0, 21).Draw(t, "kind") {
		case 0:
			return Listing{Source: source(t), Epoch: number(t)}
		case 1, 2:
			return Synced{Source: source(t), Revision: number(t)}
		case 3:
			return Progress{Source: source(t), Revision: number(t), Term: uint64(number(t))}
		case 4:
			return Lost{Source: source(t)}
		case 5, 6:
			return Beat{evidence.Beat{
				Agent: who(t), Session: word(t), Incarnation: word(t), HighAvailability: answer(t), Reach: job.Reach(rapid.IntRange(0, 2).Draw(t, "reach")),
				Goodbye: rapid.Bool().Draw(t, "goodbye"),
			}}
		case 7:
			return Silent{Agent: who(t)}
		case 8:
			return UnreadableBeat{Agent: who(t)}
		case 9, 10:
			r := &evidence.Report{
				Agent: who(t), JobID: key(t).ID, Session: word(t), Sequence: number(t), Incarnation: word(t), StartTime: stamp(t), State: state(t),
				Reach: job.Reach(rapid.IntRange(0, 2).Draw(t, "reach")), Known: answer(t), Denier: word(t),
			}
			for i := range rapid.IntRange(0, 3).Draw(t, "transitions") {
				r.Transitions = append(r.Transitions, evidence.Transition{
					Number: int64(i) + number(t), State: state(t), StartTime: stamp(t), CauseAsked: answer(t),
					Cause: rapid.SampledFrom([]string{"", "JobAlreadyDoneException"}).Draw(t, "cause"),
				})
			}
			return Reported{Report: r, Revision: number(t)}
		case 11:
			return Unreported{Agent: who(t), JobID: key(t).ID}
		case 12:
			return UnreadableReport{Agent: who(t), JobID: key(t).ID}
		case 17:
			return StoredCluster{Revision: number(t), Cluster: job.Cluster{
				Key: key(t).ClusterKey(), Condition: job.Condition(rapid.IntRange(0, 5).Draw(t, "condition")), Over: answer(t),
				Certainty: job.Certainty(rapid.IntRange(0, 2).Draw(t, "certainty")), Sequence: number(t) + 1, IdleAt: number(t), Since: stamp(t),
				Pods: []job.PodStatus{{Name: word(t), Running: answer(t)}},
			}}
		case 18, 19:
			return Pod{evidence.Pod{
				Agent: who(t), Name: word(t), Address: word(t), Leaving: rapid.Bool().Draw(t, "leaving"), Running: rapid.Bool().Draw(t, "running"),
				Restarts: int(number(t)), Exited: rapid.Bool().Draw(t, "exited"), ExitCode: int(number(t)),
				Trouble: job.Trouble(rapid.IntRange(0, 3).Draw(t, "trouble")), Application: answer(t),
				Workload: job.Workload{Kind: word(t), Name: word(t)},
			}}
		case 20:
			return PodGone{Agent: who(t)}
		case 21:
			return Workload{evidence.Workload{Cluster: key(t).ClusterKey(), Workload: job.Workload{Kind: word(t), Name: word(t)}, There: answer(t)}}
		case 13:
			a := job.Account{Key: key(t), Verdict: job.Verdict{
				State: state(t), Over: answer(t), Certainty: job.Certainty(rapid.IntRange(0, 2).Draw(t, "certainty")),
				Attempt: job.Attempt{Number: int(number(t)), StartTime: stamp(t)},
			}}
			a.Books.Sequence, a.Books.Weighed, a.Books.OverAt = number(t), number(t), number(t)
			if rapid.Bool().Draw(t, "fold") {
				a.Books.Fold = &job.Transition{Sequence: number(t), State: state(t), Folded: job.AllStates}
			}
			return Stored{Account: a, Revision: number(t)}
		case 14:
			return Erased{Key: either(t)}
		case 15:
			return UnreadableVerdict{Key: either(t)}
		default:
			return NotWritten{Key: either(t)}
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		core, err := New(DefaultConfig())
		if err != nil {
			t.Fatal(err)
		}
		now := time.Duration(0)
		for range rapid.IntRange(1, 80).Draw(t, "events") {
			in := input(t)
			if rapid.IntRange(0, 3).Draw(t, "tick") == 0 {
				in = Tick{}
			}
			now += time.Duration(rapid.SampledFrom([]int{0, 0, 1, 1, 5, 700}).Draw(t, "seconds")) * time.Second
			seen := map[job.Key]bool{}
			for _, effect := range core.Step(Event{At: now, Wall: now.Milliseconds(), Input: in}) {
				switch effect.(type) {
				case Write, WriteCluster, Forget, ForgetCluster:
				default:
					continue
				}
				if key := effectKey(effect); seen[key] {
					t.Fatalf("%T brought two writes of one job or cluster", in)
				} else {
					seen[key] = true
				}
			}
		}
		for _, source := range []Source{Agents, Verdicts, Clusters, Pods} {
			core.Step(Event{At: now, Input: Listing{Source: source, Epoch: 99}})
			core.Step(Event{At: now, Input: Synced{Source: source, Revision: 100}})
		}
		core.Step(Event{At: now + 11*time.Minute, Input: Tick{}})
		if len(core.witnesses) > 0 {
			t.Fatalf("%d witnesses are remembered of an empty store", len(core.witnesses))
		}
		for _, cl := range core.clusters {
			if len(cl.witnesses) > 0 || cl.present() {
				t.Fatalf("%s has %d witnesses in an empty store, present: %t", cl.key, len(cl.witnesses), cl.present())
			}
		}
	})
}
