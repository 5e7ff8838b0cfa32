package settle

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
)

// world is what surrounds a core: etcd, the agents that write to it, the aggregators that follow it, and the clocks. It keeps the
// driver's part of the contract, and complains when the core breaks its own.
type world struct {
	cfg  Config
	now  time.Duration
	wall int64
	store
	agents     map[string]*agent
	kubernetes apiServer
	// showClusters lets the trace tell of clusters' conditions.
	showClusters bool
	// plain spares records the way through JSON, where there are very many.
	plain bool
	// replicas are the aggregators with a core; the last one leads. The others have not noticed yet that they were deposed.
	replicas []*replica
	// tell takes the trace, broken the first breach of a rule that holds always.
	tell   func(line string)
	broken error
}

// epochMillis is when the world begins: 10:00:00 of some day.
const epochMillis = 1772359200000

func newWorld(cfg Config) *world {
	return &world{
		cfg: cfg, wall: epochMillis, store: newStore(), agents: map[string]*agent{}, kubernetes: newAPIServer(), tell: func(string) {},
	}
}

func (w *world) stamp() job.Stamp { return job.StampOf(w.wall) }

func (w *world) breach(format string, args ...any) {
	if w.broken == nil {
		w.broken = fmt.Errorf("at %s: "+format, append([]any{w.now}, args...)...)
	}
}

// store is etcd, as far as the settler can tell.
type store struct {
	revision int64
	epoch    int64
	term     uint64
	beats    map[evidence.Agent]evidence.Beat
	reports  map[reportKey]storedReport
	verdicts map[job.Key]Stored
	clusters map[job.ClusterKey]StoredCluster
	history  map[job.Key][]job.Transition
	// unreadable are the places of records that no longer can be read.
	unreadable map[any]bool
	past       []store
}

type reportKey struct {
	agent evidence.Agent
	jobID string
}

type storedReport struct {
	evidence.Report
	revision int64
}

func newStore() store {
	return store{
		revision: 1, epoch: 1, term: 1,
		beats: map[evidence.Agent]evidence.Beat{}, reports: map[reportKey]storedReport{},
		verdicts: map[job.Key]Stored{}, clusters: map[job.ClusterKey]StoredCluster{}, history: map[job.Key][]job.Transition{}, unreadable: map[any]bool{},
	}
}

// snapshot remembers the store as it is.
func (s *store) snapshot() {
	s.past = append(s.past, store{
		revision: s.revision, beats: maps.Clone(s.beats), reports: maps.Clone(s.reports), verdicts: maps.Clone(s.verdicts),
		clusters: maps.Clone(s.clusters),
		history:  maps.Clone(s.history), unreadable: maps.Clone(s.unreadable),
	})
}

// restore sets the store back to the newest snapshot, or empties it. Leases do not survive.
func (s *store) restore(empty bool) {
	was := newStore()
	if !empty {
		was = s.past[len(s.past)-1]
		was.beats = map[evidence.Agent]evidence.Beat{}
	}
	was.epoch, was.term, was.past = s.epoch+1, s.term, nil
	*s = was
}

func compareAgents(a, b evidence.Agent) int { return cmp.Compare(a.String(), b.String()) }

// replica is an aggregator's driver and core.
type replica struct {
	w    *world
	name string
	core *Core
	// follows says which sources are followed at the moment.
	follows [numSources]bool
	// silent are those that show no sign of life.
	silent [numSources]bool
	// writes says how etcd treats its writes: "" carries them out.
	writes string
	held   []Effect
	unseen []Input
	// writing are the jobs with a write under way, as the contract counts them, and what etcd holds once it has carried it out.
	writing map[job.Key]Input
	queue   []Input
}

// lead makes a new aggregator lead. The one that led goes on without noticing, until it is stopped.
func (w *world) lead(name string, first Source) *replica {
	core, err := New(w.cfg)
	if err != nil {
		panic(err)
	}
	r := &replica{w: w, name: name, core: core, writing: map[job.Key]Input{}}
	w.replicas = append(w.replicas, r)
	r.list(first)
	r.list(1 - first)
	r.list(Clusters)
	return r
}

func (w *world) leader() *replica {
	if len(w.replicas) == 0 {
		return nil
	}
	return w.replicas[len(w.replicas)-1]
}

func (r *replica) leads() bool { return r.w.leader() == r }

// step lets the core take one event and carries out its effects, and theirs.
func (r *replica) step(input Input) {
	r.queue = append(r.queue, input)
	if len(r.queue) > 1 {
		return
	}
	for round := 0; len(r.queue) > 0; round++ {
		if round > 1000 {
			r.w.breach("%T brought writes without end", input)
			r.queue = nil
			return
		}
		switch in := r.queue[0].(type) {
		case Stored:
			r.endWrite(in.Account.Key, in.Revision)
		case StoredCluster:
			r.endWrite(wholeCluster(in.Cluster.Key), in.Revision)
		case Erased:
			r.endWrite(in.Key, 0)
		case Synced:
			for _, key := range slices.SortedFunc(maps.Keys(r.writing), compareKeys) {
				if r.writing[key] != nil && r.w.lacks(in.Source, key) {
					r.endWrite(key, 0)
				}
			}
		case NotWritten:
			delete(r.writing, in.Key)
		}
		for _, effect := range slices.Clone(r.core.Step(Event{At: r.w.now, Wall: r.w.wall, Input: r.queue[0]})) {
			if !mayConcern(r.queue[0], effectKey(effect)) {
				r.w.breach("%T brought a write of %s", r.queue[0], effectKey(effect))
			}
			r.carryOut(effect)
		}
		r.queue = r.queue[1:]
	}
}

// endWrite ends the write of a record that is told of at a revision, 0 if it is not there. What etcd had carried out at another was lost.
func (r *replica) endWrite(key job.Key, revision int64) {
	var lost bool
	switch is := r.writing[key].(type) {
	case Stored:
		lost = is.Revision != revision
	case StoredCluster:
		lost = is.Revision != revision
	}
	if lost {
		input := NotWritten{Key: key, Lost: r.writing[key]}
		if effects := r.core.Step(Event{At: r.w.now, Wall: r.w.wall, Input: input}); len(effects) > 0 {
			r.w.breach("%T brought %d effects", input, len(effects))
		}
	}
	delete(r.writing, key)
}

// lacks says whether a source would tell of a record, and the store does not have it.
func (w *world) lacks(source Source, key job.Key) bool {
	switch {
	case source == Verdicts && key.ID != "":
		return w.verdicts[key].Revision == 0
	case source == Clusters && key.ID == "":
		return w.clusters[key.ClusterKey()].Revision == 0
	}
	return false
}

// mayConcern says whether an event may lead to a write of a job: a record of one cluster changes nothing in another, the news of a
// verdict changes that verdict only (invariant 12).
func mayConcern(input Input, key job.Key) bool {
	switch in := input.(type) {
	case Stored:
		return key == job.Key{} || key == in.Account.Key
	case StoredCluster:
		return key == job.Key{} || key == wholeCluster(in.Cluster.Key)
	case Erased:
		return key == in.Key
	case NotWritten:
		return false
	case Beat:
		return key == job.Key{} || key.ClusterKey() == in.Beat.Agent.ClusterKey()
	case Silent:
		return key == job.Key{} || key.ClusterKey() == in.Agent.ClusterKey()
	case Reported:
		return key.ClusterKey() == in.Report.Agent.ClusterKey()
	case Pod:
		return key.ClusterKey() == in.Agent.ClusterKey()
	case PodGone:
		return key.ClusterKey() == in.Agent.ClusterKey()
	case Workload:
		return key.ClusterKey() == in.Cluster
	case HARecord:
		return key.ClusterKey() == in.Cluster
	}
	return true
}

func (r *replica) tell(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	if len(r.w.replicas) > 1 {
		line = r.name + ": " + line
	}
	r.w.tell(line)
}

// carryOut does as the driver does: at most once, and never again by itself.
func (r *replica) carryOut(effect Effect) {
	var key job.Key
	switch e := effect.(type) {
	case Condition:
		r.tell("%s", conditionLine(e))
		return
	case Ask:
		r.tell("%s", askLine(e))
		return
	case Check:
		r.tell("check %s %s", e.Cluster.Cluster, workloadName(e.Workload))
		r.queue = append(r.queue, r.w.kubernetes.answers(e)...)
		return
	case Sweep:
		r.tell("%s", sweepLine(e))
		if r.leads() && r.writes != "refuse" && r.writes != "lose" {
			r.w.commit(r, e, &r.queue)
		}
		return
	case Write:
		key = e.Account.Key
		r.tell("%s", strings.Join(writeLines(e), "\n"))
		r.w.checkWrite(e)
	case Forget:
		key = e.Key
		r.tell("%s", forgetLine(e))
	case WriteCluster:
		key = effectKey(e)
		r.w.tellCluster(r, e)
		r.w.checkCluster(e)
	case ForgetCluster:
		key = effectKey(e)
		if r.w.showClusters {
			r.tell("forget the cluster %s", e.Key.Cluster)
		}
	}
	if _, under := r.writing[key]; under {
		r.w.breach("a second write of %s while one is under way", key.ID)
	}
	r.writing[key] = nil
	tell := r.tell
	if key.ID == "" && !r.w.showClusters {
		tell = func(string, ...any) {}
	}
	switch {
	case !r.leads():
		tell("  refused: another aggregator leads")
		r.queue = append(r.queue, NotWritten{Key: key})
	case r.writes == "hold":
		r.held = append(r.held, effect)
	case r.writes == "refuse":
		tell("  refused")
		r.queue = append(r.queue, NotWritten{Key: key})
	case r.writes == "lose":
		tell("  outcome unknown, not written")
		r.queue = append(r.queue, NotWritten{Key: key})
	case r.writes == "lose-written":
		tell("  outcome unknown, written")
		r.queue = append(r.queue, NotWritten{Key: key})
		r.w.commit(r, effect, &r.unseen)
	default:
		if !r.w.commit(r, effect, &r.queue) {
			tell("  refused: the verdict is another by now")
			r.queue = append(r.queue, NotWritten{Key: key})
		}
	}
}

// release carries out the writes that were held, in order.
func (r *replica) release() {
	held := r.held
	r.held, r.writes = nil, ""
	for _, effect := range held {
		key := effectKey(effect)
		if !r.leads() || !r.w.commit(r, effect, &r.unseen) {
			if key.ID != "" || r.w.showClusters {
				r.tell("%s: the held write is refused", cmp.Or(key.ID, key.Cluster))
			}
			r.step(NotWritten{Key: key})
		}
	}
	r.catchUp()
}

// catchUp delivers what the watch has not brought yet.
func (r *replica) catchUp() {
	unseen := r.unseen
	r.unseen = nil
	for _, input := range unseen {
		_, isCluster := input.(StoredCluster)
		if erased, is := input.(Erased); is {
			isCluster = erased.Key.ID == ""
		}
		if isCluster && r.follows[Clusters] || !isCluster && r.follows[Verdicts] || isAgents(input) {
			r.step(input)
		}
	}
}

func isAgents(input Input) bool {
	_, is := input.(Unreported)
	return is
}

// commit is the transaction: it compares the verdict's revision. What its author sees of it goes into seen.
func (w *world) commit(author *replica, effect Effect, seen *[]Input) bool {
	key := effectKey(effect)
	deliver := func(source Source, input Input) {
		for _, r := range slices.Clone(w.replicas) {
			switch {
			case !r.follows[source]:
			case r == author:
				*seen = append(*seen, input)
			default:
				r.step(input)
			}
		}
	}
	switch e := effect.(type) {
	case Write:
		if w.verdicts[key].Revision != e.IfRevision {
			return false
		}
		w.revision++
		stored := Stored{Account: e.Account, Revision: w.revision}
		if !w.plain {
			account, err := record.DecodeAccount(key, record.EncodeAccount(e.Account))
			if err != nil {
				w.breach("what was written cannot be read: %v", err)
				return true
			}
			stored.Account = account
		}
		w.verdicts[key] = stored
		w.enter(key, e.Entries)
		if _, under := author.writing[key]; under {
			author.writing[key] = stored
		}
		deliver(Verdicts, stored)
	case Sweep:
		if _, beats := w.beats[e.Agent]; beats {
			return false
		}
		for _, swept := range e.Reports {
			report := reportKey{e.Agent, swept.JobID}
			if is, there := w.reports[report]; !there || is.revision != swept.IfRevision {
				return false
			}
		}
		w.revision++
		for _, swept := range e.Reports {
			delete(w.reports, reportKey{e.Agent, swept.JobID})
			deliver(Agents, Unreported{Agent: e.Agent, JobID: swept.JobID})
		}
	case Forget:
		for _, a := range e.Reports {
			if _, there := w.reports[reportKey{a, key.ID}]; there {
				w.revision++
				delete(w.reports, reportKey{a, key.ID})
				deliver(Agents, Unreported{Agent: a, JobID: key.ID})
			}
		}
		if w.verdicts[key].Revision != e.IfRevision {
			return false
		}
		w.revision++
		delete(w.verdicts, key)
		delete(w.history, key)
		deliver(Verdicts, Erased{Key: key})
	case WriteCluster:
		if w.clusters[e.Cluster.Key].Revision != e.IfRevision {
			return false
		}
		w.revision++
		stored := StoredCluster{Cluster: e.Cluster, Revision: w.revision}
		if !w.plain {
			cluster, err := record.DecodeCluster(e.Cluster.Key, record.EncodeCluster(e.Cluster))
			if err != nil {
				w.breach("what was written cannot be read: %v", err)
				return true
			}
			stored.Cluster = cluster
		}
		w.clusters[e.Cluster.Key] = stored
		if _, under := author.writing[key]; under {
			author.writing[key] = stored
		}
		deliver(Clusters, stored)
	case ForgetCluster:
		if w.clusters[e.Key].Revision != e.IfRevision {
			return false
		}
		w.revision++
		delete(w.clusters, e.Key)
		deliver(Clusters, Erased{Key: key})
	}
	return true
}

// wholeCluster is the key of a cluster as a whole among those of jobs.
func wholeCluster(key job.ClusterKey) job.Key {
	return job.Key{Namespace: key.Namespace, Cluster: key.Cluster}
}

// checkCluster complains about what no core may ever say of a cluster.
func (w *world) checkCluster(e WriteCluster) {
	is := e.Cluster
	was, there := w.clusters[is.Key]
	switch {
	case is.Sequence < 1 || is.Since == "" || len(is.Pods) > job.PodsLimit:
		w.breach("%s: sequence %d, since %q, %d pods", is.Key, is.Sequence, is.Since, len(is.Pods))
	case is.Condition.Negative() && is.Certainty == job.Witnessed:
		w.breach("%s: no JobManager can say %s", is.Key, is.Condition)
	case (is.Condition == job.ClusterReady || is.Condition == job.ClusterNoJob) && is.Certainty == job.Inferred:
		w.breach("%s: only a JobManager can say %s", is.Key, is.Condition)
	case is.Certainty == job.Held && is.Condition.Negative() && (!there || !was.Cluster.Condition.Negative()) && was.Revision == e.IfRevision:
		w.breach("%s: silence has made it %s", is.Key, is.Condition)
	case is.Over == job.Yes && is.Condition != job.ClusterDown:
		w.breach("%s: over, and %s", is.Key, is.Condition)
	}
}

// tellCluster tells of a cluster's write, where somebody wants to know.
func (w *world) tellCluster(r *replica, e WriteCluster) {
	if w.showClusters {
		r.tell("%s", clusterLine(e.Cluster))
	}
}

// enter puts entries into a history, replaces a fold that grew, and prunes.
func (w *world) enter(key job.Key, entries []job.Transition) {
	list := slices.Clone(w.history[key])
	for _, entry := range entries {
		if n := len(list); n > 0 && list[n-1].Sequence == entry.Sequence {
			list[n-1] = entry
			continue
		}
		list = append(list, entry)
	}
	if extra := len(list) - job.HistoryLimit; extra > 0 {
		list = list[extra:]
	}
	w.history[key] = list
}

// checkWrite complains about a write that no core may ever propose, whatever it was told.
func (w *world) checkWrite(e Write) {
	if n := len(e.Entries); 1+2*n > 128 {
		w.breach("%d history entries in one write: with the verdict, and what they push out, that is more than etcd takes", n)
	}
	v, b := e.Account.Verdict, e.Account.Books
	if err := checkAccount(e.Account); err != nil {
		w.breach("%s: %v", e.Account.Key.ID, err)
	}
	for i, entry := range e.Entries {
		if i > 0 && entry.Sequence != e.Entries[i-1].Sequence+1 {
			w.breach("%s: entry %d follows entry %d", e.Account.Key.ID, entry.Sequence, e.Entries[i-1].Sequence)
		}
	}
	if n := len(e.Entries); n > 0 {
		last := e.Entries[n-1]
		if last.Sequence != b.Sequence || last.State != v.State || last.Over != v.Over || last.Certainty != v.Certainty ||
			last.Reason != v.Reason || last.Attempt != v.Attempt || last.Possible != v.Possible {
			w.breach("%s: the history ends in %s, the verdict is %s", e.Account.Key.ID, entryLine(last), verdictLine(v))
		}
	}
	was, there := w.verdicts[e.Account.Key]
	if !there || was.Revision != e.IfRevision {
		return // it will be refused
	}
	if n := len(w.history[e.Account.Key]); n > 0 && len(e.Entries) > 0 {
		end, first := w.history[e.Account.Key][n-1], e.Entries[0]
		if grows := first.Sequence == end.Sequence && first.Kind == job.Fold && end.Kind != job.Gap; !grows && first.Sequence != end.Sequence+1 {
			w.breach("%s: entry %d comes after %d", e.Account.Key.ID, first.Sequence, end.Sequence)
		}
	}
	if err := checkSuccession(was.Account.Verdict, v); err != nil {
		w.breach("%s: %v", e.Account.Key.ID, err)
	}
}

// checkAccount checks what holds for each account by itself.
func checkAccount(a job.Account) error {
	v, b := a.Verdict, a.Books
	switch {
	case v.Attempt.Number < 1:
		return errors.New("no attempt")
	case v.State == job.Unknown && v.Possible == 0:
		return errors.New("UNKNOWN without possible states")
	case v.State != job.Unknown && v.Possible != 0:
		return errors.New("possible states beside a known one")
	case v.State.Terminal() && v.Over != job.Yes, v.Over == job.Yes && v.State != job.Unknown && !v.State.Terminal():
		return fmt.Errorf("%s is over: %s", v.State, v.Over)
	case v.State.Terminal() && v.Certainty == job.Held:
		return fmt.Errorf("%s is Held: an ending is witnessed or it is not", v.State)
	case len(b.Past) > job.PastLimit, len(b.Marks) > job.MarkLimit, len(b.Recent) > job.RecentLimit, len(v.Evidence) > 8:
		return errors.New("the books are not bounded")
	case slices.Contains(b.Past, v.Attempt.StartTime):
		return errors.New("the attempt is one of the past")
	case b.Fold != nil && (b.Fold.Sequence != b.Sequence || b.Fold.State != v.State):
		return errors.New("the fold is not the newest entry")
	case (b.OverAt != 0) != (v.Over == job.Yes):
		return fmt.Errorf("over %s since %d", v.Over, b.OverAt)
	}
	return nil
}

// checkSuccession checks what holds between a verdict and the next.
func checkSuccession(was, is job.Verdict) error {
	switch {
	case is.Attempt.Number < was.Attempt.Number:
		return fmt.Errorf("attempt %d after %d", is.Attempt.Number, was.Attempt.Number)
	case is.Attempt.Number == was.Attempt.Number && is.Attempt.StartTime != was.Attempt.StartTime:
		return fmt.Errorf("attempt %d began at %s, now at %s", is.Attempt.Number, was.Attempt.StartTime, is.Attempt.StartTime)
	case is.Attempt == was.Attempt && ended(was) && is.State != was.State:
		return fmt.Errorf("%s after %s in one attempt", is.State, was.State)
	}
	return nil
}

// list tells a source's whole truth, in the order of the keys.
func (r *replica) list(source Source) {
	w := r.w
	if was := r.follows[source]; was {
		r.lose(source, "the watch ended")
	}
	r.step(Listing{Source: source, Epoch: w.epoch})
	switch source {
	case Agents:
		keys := slices.SortedFunc(maps.Keys(w.reports), func(a, b reportKey) int {
			return cmp.Or(compareAgents(a.agent, b.agent), cmp.Compare(a.jobID, b.jobID))
		})
		for _, a := range slices.SortedFunc(maps.Keys(w.beats), compareAgents) {
			for len(keys) > 0 && compareAgents(keys[0].agent, a) < 0 {
				r.step(w.reportEvent(keys[0]))
				keys = keys[1:]
			}
			r.step(w.beatEvent(a))
		}
		for _, k := range keys {
			r.step(w.reportEvent(k))
		}
	case Verdicts:
		for _, k := range slices.SortedFunc(maps.Keys(w.verdicts), compareKeys) {
			r.step(w.verdictEvent(k))
		}
	case Clusters:
		for _, k := range slices.SortedFunc(maps.Keys(w.clusters), func(a, b job.ClusterKey) int { return cmp.Compare(a.String(), b.String()) }) {
			r.step(w.clusterEvent(k))
		}
	case Pods:
		for _, name := range slices.Sorted(maps.Keys(w.kubernetes.pods)) {
			r.step(Pod{w.kubernetes.pods[name]})
		}
	}
	r.follows[source], r.silent[source] = true, false
	maps.DeleteFunc(r.writing, func(k job.Key, is Input) bool { return is == nil && w.lacks(source, k) })
	r.step(Synced{Source: source, Revision: w.revision})
	r.progress(source)
}

func (r *replica) lose(source Source, why string) {
	r.follows[source] = false
	r.step(Lost{Source: source, Why: why})
}

func (r *replica) progress(source Source) {
	if r.follows[source] && !r.silent[source] {
		r.step(Progress{Source: source, Revision: r.w.revision, Term: r.w.term})
	}
}

func (w *world) reportEvent(k reportKey) Input {
	if w.unreadable[k] {
		return UnreadableReport{Agent: k.agent, JobID: k.jobID}
	}
	stored := w.reports[k]
	return Reported{Report: &stored.Report, Revision: stored.revision}
}

func (w *world) beatEvent(a evidence.Agent) Input {
	if w.unreadable[a] {
		return UnreadableBeat{Agent: a}
	}
	return Beat{w.beats[a]}
}

func (w *world) verdictEvent(k job.Key) Input {
	if w.unreadable[k] {
		return UnreadableVerdict{Key: k}
	}
	return w.verdicts[k]
}

func (w *world) clusterEvent(k job.ClusterKey) Input {
	if w.unreadable[k] {
		return UnreadableVerdict{Key: wholeCluster(k)}
	}
	return w.clusters[k]
}

// changed brings a change of the agents' records to whoever follows them.
func (w *world) changed(input Input) {
	for _, r := range slices.Clone(w.replicas) {
		if r.follows[Agents] {
			r.step(input)
			r.progress(Agents)
		}
	}
}

// pass lets time pass, a second at a time.
func (w *world) pass(d time.Duration) {
	for end := w.now + d; w.now < end; {
		step := min(time.Second, end-w.now)
		w.now += step
		w.wall += step.Milliseconds()
		for _, r := range slices.Clone(w.replicas) {
			if w.now%(5*time.Second) == 0 {
				r.progress(Agents)
				r.progress(Verdicts)
				r.progress(Clusters)
				r.progress(Pods)
			}
			r.step(Tick{})
		}
	}
}

// agent is a sidecar, as far as etcd can tell. What it knows it keeps in memory, and writes while it can.
type agent struct {
	w *world
	evidence.Agent
	sessions int
	beat     evidence.Beat
	jobs     map[string]*evidence.Report
	// cut says that it does not reach etcd.
	cut bool
}

func (w *world) agent(name string) *agent {
	a := w.agents[name]
	if a == nil {
		a = &agent{
			w: w, Agent: evidence.Agent{Namespace: "shop", Cluster: "orders", PodUID: name}, sessions: 1,
			jobs: map[string]*evidence.Report{},
		}
		a.beat = evidence.Beat{
			Agent: a.Agent, Session: name + "-1", Version: "1", Pod: "pod-" + name, Incarnation: "jm-" + name,
			FlinkVersion: "1.20.1", HighAvailability: job.No, Application: job.Yes, Reach: job.Fine,
		}
		w.agents[name] = a
	}
	return a
}

// in puts the agent into another cluster.
func (a *agent) in(cluster string) {
	a.Cluster = cluster
	a.beat.Agent = a.Agent
}

// pulse writes the beat.
func (a *agent) pulse() {
	if a.cut {
		return
	}
	a.beat.At = a.w.stamp()
	if a.Probe {
		a.w.toLeader(Beat{a.beat})
		return
	}
	a.w.revision++
	a.w.beats[a.Agent] = a.beat
	a.w.changed(a.w.beatEvent(a.Agent))
}

// sees takes in what Flink says of a job.
func (a *agent) sees(id string, state job.State, more evidence.Transition) *evidence.Report {
	r := a.jobs[id]
	if r == nil {
		r = &evidence.Report{
			Agent: a.Agent, JobID: id, Pod: "pod-" + a.PodUID, Name: id, Via: job.ViaREST,
			StartTime: a.w.stamp(), Tasks: job.Tasks{Total: 1},
		}
		a.jobs[id] = r
	}
	if more.StartTime != "" {
		r.StartTime = more.StartTime
	}
	r.State, r.Reach, r.Known, r.Denier, r.LastAnswer = state, job.Fine, job.Yes, "", a.w.stamp()
	r.Incarnation = a.beat.Incarnation
	if more.Via != job.ViaNone {
		r.Via = more.Via
	}
	r.Tasks.Running = 0
	if state == job.Running {
		r.Tasks.Running = r.Tasks.Total
	}
	if state.Terminal() {
		r.EndTime = r.LastAnswer
	} else {
		r.EndTime = ""
	}
	n := len(r.Transitions)
	if n > 0 && r.Transitions[n-1].State == state && r.Transitions[n-1].StartTime == r.StartTime {
		last := r.Transitions[n-1]
		last.Cause, last.CauseAsked = more.Cause, more.CauseAsked
		r.Transitions = append(slices.Clone(r.Transitions[:n-1]), last)
		return r
	}
	number := int64(1)
	if n > 0 {
		number = r.Transitions[n-1].Number + 1
	}
	r.Transitions = append(slices.Clone(r.Transitions), evidence.Transition{
		Number: number, State: state, StartTime: r.StartTime, At: a.w.stamp(), Cause: more.Cause, CauseAsked: more.CauseAsked, Via: r.Via,
	})
	if extra := len(r.Transitions) - evidence.TransitionLimit; extra > 0 {
		r.Transitions = r.Transitions[extra:]
	}
	return r
}

// sends writes the report on a job.
func (a *agent) sends(id string) {
	r := a.jobs[id]
	if a.cut || r == nil {
		return
	}
	r.Session = a.beat.Session
	r.Sequence++
	if a.Probe {
		told := *r
		a.w.toLeader(Reported{Report: &told})
		return
	}
	a.w.put(*r)
}

// put lays a report into the store.
func (w *world) put(r evidence.Report) {
	w.revision++
	k := reportKey{r.Agent, r.JobID}
	if !w.plain {
		back, err := record.DecodeReport(r.Agent, r.JobID, record.EncodeReport(r))
		if err != nil {
			w.breach("an agent wrote what cannot be read: %v", err)
		}
		r = back
	}
	w.reports[k] = storedReport{r, w.revision}
	w.changed(w.reportEvent(k))
}

// fallsSilent takes the beat away. The agent may live on; it does not reach etcd.
func (a *agent) fallsSilent() {
	if a.Probe {
		a.w.toLeader(Silent{Agent: a.Agent})
		return
	}
	a.cut = true
	a.w.expire(a.Agent)
}

// expire ends a lease.
func (w *world) expire(a evidence.Agent) {
	if _, there := w.beats[a]; there {
		w.revision++
		delete(w.beats, a)
		w.changed(Silent{Agent: a})
	}
}

// returns lets the agent reach etcd again: it asserts all that it knows, and the beat last.
func (a *agent) returns() {
	a.cut = false
	for _, id := range slices.Sorted(maps.Keys(a.jobs)) {
		a.sends(id)
	}
	a.pulse()
}

// restarts begins a new session of the agent's process. It knows of its jobs what its reports say.
func (a *agent) restarts() {
	a.sessions++
	a.beat.Session = fmt.Sprintf("%s-%d", a.PodUID, a.sessions)
	for _, r := range a.jobs {
		r.Sequence = 0
	}
}

func (a *agent) leaves() {
	a.beat.Goodbye = true
	a.pulse()
	a.beat.Goodbye = false
	a.fallsSilent()
}
