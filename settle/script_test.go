package settle

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/job"
)

// TestScripts plays the incidents in testdata, one a file. Each line is an event; below the dashes stands all that the core does
// about it. testdata/README.md has the language. After a change: go test ./settle -run Scripts -rewrite, and then read
// every line of the difference.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		if strings.HasSuffix(path, "README.md") {
			return
		}
		s := &script{world: newWorld(DefaultConfig()), starts: map[string]job.Stamp{}}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			return s.block(append([]string{s.first(d)}, strings.Split(d.Input, "\n")...))
		})
	})
}

// script plays one file.
type script struct {
	*world
	out    strings.Builder
	starts map[string]job.Stamp
	// quiet counts what would be told.
	quiet  bool
	counts map[string]int
}

// first is the first line of a block as it was written.
func (s *script) first(d *datadriven.TestData) string {
	words := []string{d.Cmd}
	for _, arg := range d.CmdArgs {
		words = append(words, argString(arg))
	}
	return strings.Join(words, " ")
}

func argString(arg datadriven.CmdArg) string {
	if len(arg.Vals) == 0 {
		return arg.Key
	}
	return arg.Key + "=(" + strings.Join(arg.Vals, ", ") + ")"
}

// block plays some lines and gives what came of them.
func (s *script) block(lines []string) string {
	s.out.Reset()
	s.world.tell = s.tell
	for i := 0; i < len(lines); i++ {
		line := strings.TrimSpace(lines[i])
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if n, is := strings.CutPrefix(line, "repeat "); is {
			times, err := strconv.Atoi(n)
			if err != nil {
				return err.Error()
			}
			s.quiet, s.plain, s.counts = true, true, map[string]int{}
			for range times {
				for _, inner := range lines[i+1:] {
					if err := s.line(strings.TrimSpace(inner)); err != nil {
						return fmt.Sprintf("%s: %v", inner, err)
					}
				}
			}
			s.quiet, s.plain = false, false
			for _, what := range slices.Sorted(maps.Keys(s.counts)) {
				fmt.Fprintf(&s.out, "%s: %d\n", what, s.counts[what])
			}
			break
		}
		if err := s.line(line); err != nil {
			fmt.Fprintf(&s.out, "%s: %v\n", line, err)
		}
	}
	if s.broken != nil {
		fmt.Fprintf(&s.out, "BROKEN: %v\n", s.broken)
		s.broken = nil
	}
	return s.out.String()
}

// tell notes what the core did, and when.
func (s *script) tell(line string) {
	if s.quiet {
		word, _, _ := strings.Cut(line, " ")
		switch {
		case strings.Contains(line, "FROZEN"):
			s.counts["freezes"]++
		case strings.HasPrefix(word, "condition"):
			s.counts["conditions"]++
		case word == "forget":
			s.counts["jobs forgotten"]++
		case strings.Contains(word, "/"):
			s.counts["writes"]++
		}
		return
	}
	for part := range strings.SplitSeq(line, "\n") {
		fmt.Fprintf(&s.out, "%5s  %s\n", s.now.Truncate(time.Second), part)
	}
}

// words are a line's, apart from its options.
type words struct {
	list    []string
	options map[string]string
}

func (w *words) next() string {
	if len(w.list) == 0 {
		return ""
	}
	first := w.list[0]
	w.list = w.list[1:]
	return first
}

func (w *words) has(word string) bool {
	i := slices.Index(w.list, word)
	if i >= 0 {
		w.list = slices.Delete(w.list, i, i+1)
	}
	return i >= 0
}

func (w *words) option(name, otherwise string) string {
	if v, ok := w.options[name]; ok {
		delete(w.options, name)
		return v
	}
	return otherwise
}

func (s *script) line(line string) error {
	if line == "" || strings.HasPrefix(line, "#") {
		return nil
	}
	command, args, err := datadriven.ParseLine(line)
	if err != nil {
		return err
	}
	w := &words{options: map[string]string{}}
	for _, arg := range args {
		if len(arg.Vals) == 0 {
			w.list = append(w.list, arg.Key)
			continue
		}
		w.options[arg.Key] = strings.Join(arg.Vals, ", ")
	}
	play, known := commands[command]
	if !known {
		return errors.New("no such command")
	}
	if err := play(s, w); err != nil {
		return err
	}
	if len(w.list) > 0 || len(w.options) > 0 {
		return fmt.Errorf("not understood: %v %v", w.list, w.options)
	}
	return nil
}

// replica gives the aggregator that a line names, or the one that leads.
func (s *script) replica(w *words) (*replica, error) {
	name := w.option("of", "")
	for _, r := range s.replicas {
		if r.name == name || name == "" && r.leads() {
			return r, nil
		}
	}
	return nil, errors.New("there is no such aggregator")
}

var commands map[string]func(s *script, w *words) error

func init() {
	commands = map[string]func(s *script, w *words) error{
		"config":     (*script).config,
		"lead":       (*script).leadCommand,
		"stop":       (*script).stop,
		"agent":      (*script).agentCommand,
		"pod":        (*script).podCommand,
		"probe":      (*script).probeCommand,
		"kubernetes": (*script).kubernetesCommand,
		"etcd":       (*script).etcd,
		"follow":     (*script).follow,
		"writes":     (*script).writesCommand,
		"pass":       (*script).passCommand,
		"late":       (*script).late,
		"wall":       (*script).wallCommand,
		"unreadable": (*script).unreadableCommand,
		"readable":   (*script).unreadableCommand,
		"verdict":    (*script).verdict,
		"history":    (*script).showHistory,
		"books":      (*script).books,
		"store":      (*script).showStore,
		"foreign":    (*script).foreign,
		"clusters":   (*script).clustersCommand,
		"cluster":    (*script).showCluster,

		"stale-report": (*script).staleReport,
		"fresh-start":  (*script).freshStart,
	}
}

func (s *script) config(w *words) error {
	for name, field := range map[string]*time.Duration{
		"hold": &s.cfg.Hold, "lease": &s.cfg.Lease, "grace": &s.cfg.Grace, "missing": &s.cfg.Missing, "retain": &s.cfg.Retain,
	} {
		if value := w.option(name, ""); value != "" {
			d, err := time.ParseDuration(value)
			if err != nil {
				return err
			}
			*field = d
		}
	}
	return nil
}

func (s *script) leadCommand(w *words) error {
	first := Verdicts
	if w.has("agents-first") {
		first = Agents
	}
	name := w.next()
	if name == "" {
		name = fmt.Sprintf("aggregator-%d", len(s.replicas)+1)
	}
	s.lead(name, first)
	return nil
}

func (s *script) stop(w *words) error {
	name := w.next()
	s.replicas = slices.DeleteFunc(s.replicas, func(r *replica) bool { return name == "" || r.name == name })
	return nil
}

func (s *script) agentCommand(w *words) error {
	a := s.world.agent(w.next())
	if cluster := w.option("cluster", ""); cluster != "" {
		a.in(cluster)
	}
	a.beat.Incarnation = w.option("jobmanager", a.beat.Incarnation)
	if ha := w.option("ha", ""); ha != "" {
		if err := a.beat.HighAvailability.UnmarshalText([]byte(ha)); err != nil {
			return err
		}
	}
	if application := w.option("application", ""); application != "" {
		if err := a.beat.Application.UnmarshalText([]byte(application)); err != nil {
			return err
		}
	}
	switch verb := w.next(); verb {
	case "":
	case "beats":
		a.cut = false
		a.pulse()
	case "sees":
		return s.sees(a, w)
	case "sends":
		a.sends(w.next())
	case "asks":
		reach, err := reachOf(w.next())
		if err != nil {
			return err
		}
		a.beat.Reach, a.beat.ReachSince = reach, s.stamp()
		a.pulse()
	case "cannot-ask":
		id := w.next()
		reach, err := reachOf(w.next())
		if err != nil {
			return err
		}
		a.jobs[id].Reach = reach
		a.sends(id)
	case "denies":
		id := w.next()
		a.jobs[id].Known, a.jobs[id].Denier = job.No, a.beat.Incarnation
		a.sends(id)
	case "silent":
		a.fallsSilent()
	case "returns":
		a.returns()
	case "restarts":
		a.restarts()
	case "leaves":
		a.leaves()
	case "forgets":
		delete(a.jobs, w.next())
	default:
		return fmt.Errorf("agents do not %q", verb)
	}
	return nil
}

// sees lets an agent see states of a job, one after another, and send its report once, at the end.
func (s *script) sees(a *agent, w *words) error {
	id := w.next()
	more := evidence.Transition{Cause: w.option("cause", "")}
	if w.has("asked") || more.Cause != "" {
		more.CauseAsked = job.Yes
	}
	if start := w.option("start", ""); start != "" {
		if s.starts[start] == "" {
			s.starts[start] = job.StampOf(epochMillis + int64(len(s.starts)+1)*3600_000)
		}
		more.StartTime = s.starts[start]
	}
	if via := w.option("via", ""); via != "" {
		if err := more.Via.UnmarshalText([]byte(via)); err != nil {
			return err
		}
	}
	unsent := w.has("unsent")
	tasks := w.option("tasks", "")
	pipeline := w.option("pipeline", "")
	for len(w.list) > 0 {
		state, err := job.ParseState(w.next())
		if err != nil {
			return err
		}
		what := more
		if state != job.Failed {
			what.Cause, what.CauseAsked = "", job.Unanswered
		}
		r := a.sees(id, state, what)
		if pipeline != "" {
			r.Pipeline = pipeline
		}
		if running, total, ok := strings.Cut(tasks, "/"); ok {
			r.Tasks.Running, _ = strconv.Atoi(running)
			r.Tasks.Total, _ = strconv.Atoi(total)
		}
	}
	if !unsent {
		a.sends(id)
	}
	return nil
}

func reachOf(word string) (reach job.Reach, err error) {
	err = reach.UnmarshalText([]byte(strings.ReplaceAll(word, "-", " ")))
	return reach, err
}

func (s *script) etcd(w *words) error {
	switch verb := w.next(); verb {
	case "changes-leader":
		s.term++
		for _, r := range slices.Clone(s.replicas) {
			r.progress(Agents)
			r.progress(Verdicts)
			r.progress(Clusters)
		}
	case "expires":
		for _, name := range w.list {
			a := s.world.agent(name)
			s.expire(a.Agent)
		}
		w.list = nil
	case "snapshot":
		s.snapshot()
	case "restored":
		s.restore(false)
	case "emptied":
		s.restore(true)
	case "loses-verdict":
		key := s.key(w)
		s.revision++
		delete(s.verdicts, key)
		for _, r := range slices.Clone(s.replicas) {
			r.step(Erased{Key: key})
		}
	case "loses-cluster":
		key := s.key(w).ClusterKey()
		s.revision++
		delete(s.clusters, key)
		for _, r := range slices.Clone(s.replicas) {
			r.step(Erased{Key: wholeCluster(key)})
		}
	case "loses-report":
		a := s.world.agent(w.next())
		id := w.next()
		s.revision++
		delete(s.reports, reportKey{a.Agent, id})
		s.changed(Unreported{Agent: a.Agent, JobID: id})
	default:
		return fmt.Errorf("etcd does not %q", verb)
	}
	return nil
}

func (s *script) key(w *words) job.Key {
	return job.Key{Namespace: "shop", Cluster: w.option("cluster", "orders"), ID: w.next()}
}

func (s *script) follow(w *words) error {
	r, err := s.replica(w)
	if err != nil {
		return err
	}
	verb := w.next()
	sources := []Source{Agents, Verdicts, Clusters}
	switch w.next() {
	case "agents":
		sources = sources[:1]
	case "verdicts":
		sources = sources[1:2]
	case "clusters":
		sources = sources[2:]
	}
	for _, source := range sources {
		switch verb {
		case "lost":
			r.lose(source, "connection lost")
		case "again":
			r.list(source)
		case "silent":
			r.silent[source] = true
		default:
			return fmt.Errorf("a source is not %q", verb)
		}
	}
	return nil
}

func (s *script) writesCommand(w *words) error {
	r, err := s.replica(w)
	if err != nil {
		return err
	}
	switch how := w.next(); how {
	case "go-through":
		r.writes = ""
	case "hold", "refuse", "lose", "lose-written":
		r.writes = how
	case "released":
		r.release()
	case "seen":
		r.catchUp()
	default:
		return fmt.Errorf("writes do not %q", how)
	}
	return nil
}

func (s *script) passCommand(w *words) error {
	d, err := time.ParseDuration(w.next())
	if err != nil {
		return err
	}
	s.pass(d)
	return nil
}

// late lets time pass in which the aggregators do not run.
func (s *script) late(w *words) error {
	d, err := time.ParseDuration(w.next())
	if err != nil {
		return err
	}
	s.now += d
	s.wall += d.Milliseconds()
	for _, r := range slices.Clone(s.replicas) {
		r.progress(Agents)
		r.progress(Verdicts)
		r.progress(Clusters)
		r.step(Tick{})
	}
	return nil
}

func (s *script) wallCommand(w *words) error {
	d, err := time.ParseDuration(w.next())
	if err != nil {
		return err
	}
	s.wall += d.Milliseconds()
	return nil
}

// unreadableCommand makes a record unreadable, as if a newer Holdfast had written it, or readable again.
func (s *script) unreadableCommand(w *words) error {
	kind := w.next()
	mark := func(place any) {
		if s.unreadable[place] {
			delete(s.unreadable, place)
		} else {
			s.unreadable[place] = true
		}
		s.revision++
	}
	switch kind {
	case "beat":
		a := s.world.agent(w.next())
		mark(a.Agent)
		s.changed(s.beatEvent(a.Agent))
	case "report":
		a := s.world.agent(w.next())
		k := reportKey{a.Agent, w.next()}
		mark(k)
		s.changed(s.reportEvent(k))
	case "cluster":
		k := job.ClusterKey{Namespace: "shop", Cluster: w.next()}
		mark(k)
		stored := s.clusters[k]
		stored.Revision = s.revision
		s.clusters[k] = stored
		for _, r := range slices.Clone(s.replicas) {
			r.step(s.clusterEvent(k))
		}
	case "verdict":
		k := s.key(w)
		mark(k)
		stored := s.verdicts[k]
		stored.Revision = s.revision
		s.verdicts[k] = stored
		for _, r := range slices.Clone(s.replicas) {
			r.step(s.verdictEvent(k))
		}
	}
	return nil
}

// foreign writes a verdict by another hand.
func (s *script) foreign(w *words) error {
	k := s.key(w)
	stored := s.verdicts[k]
	v := &stored.Account.Verdict
	if err := v.State.UnmarshalText([]byte(w.next())); err != nil {
		return err
	}
	if err := v.Certainty.UnmarshalText([]byte(w.next())); err != nil {
		return err
	}
	v.Over, v.Reason = job.No, job.FlinkSaid
	if v.State.Terminal() {
		v.Over, stored.Account.Books.OverAt = job.Yes, s.wall
	}
	stored.Account.Key = k
	v.Attempt.Number = max(v.Attempt.Number, 1)
	if start := w.option("start", ""); start != "" {
		v.Attempt.StartTime = s.starts[start]
	}
	stored.Account.Books.Sequence++
	s.revision++
	stored.Revision = s.revision
	s.verdicts[k] = stored
	s.enter(k, []job.Transition{{
		Sequence: stored.Account.Books.Sequence, Attempt: v.Attempt, State: v.State, Over: v.Over, Certainty: v.Certainty,
	}})
	for _, r := range slices.Clone(s.replicas) {
		if r.follows[Verdicts] {
			r.step(stored)
		}
	}
	return nil
}

// staleReport lets a write of an earlier session of an agent land now: it has the first transition only.
func (s *script) staleReport(w *words) error {
	a := s.world.agent(w.next())
	r := *a.jobs[w.next()]
	if err := r.State.UnmarshalText([]byte(w.next())); err != nil {
		return err
	}
	r.Session, r.Sequence, r.Transitions = a.PodUID+"-0", 1, r.Transitions[:1]
	s.put(r)
	return nil
}

// freshStart lets the names of agents be used again, for other pods in other clusters.
func (s *script) freshStart(*words) error {
	for name, a := range s.agents {
		if name == "a" {
			delete(s.agents, name)
			fresh := s.world.agent(name)
			fresh.PodUID = fmt.Sprintf("a%d", a.w.revision)
			fresh.in(fmt.Sprintf("orders-%d", a.w.revision))
		}
	}
	return nil
}

func (s *script) verdict(w *words) error {
	k := s.key(w)
	stored, there := s.verdicts[k]
	if !there {
		fmt.Fprintf(&s.out, "%s: no verdict\n", k.ID)
		return nil
	}
	v := stored.Account.Verdict
	fmt.Fprintf(&s.out, "%s: %s, attempt %d of %s, since %s, last seen %s", k.ID, verdictLine(v), v.Attempt.Number,
		clock(v.Attempt.StartTime), clock(v.Since), clock(v.LastSeen))
	if v.Pipeline != v.Name {
		fmt.Fprintf(&s.out, ", pipeline %s", v.Pipeline)
	}
	fmt.Fprintln(&s.out)
	for _, e := range v.Evidence {
		fmt.Fprintf(&s.out, "  %s %s: %s (%s)\n", e.Source, e.Subject, e.Says, clock(e.At))
	}
	return nil
}

func (s *script) showHistory(w *words) error {
	k := s.key(w)
	for _, entry := range s.history[k] {
		fmt.Fprintf(&s.out, "%s %s/%d %s\n", clock(entry.At), k.ID, entry.Attempt.Number, entryLine(entry))
	}
	return nil
}

func (s *script) books(w *words) error {
	k := s.key(w)
	b := s.verdicts[k].Account.Books
	fmt.Fprintf(&s.out, "%s: sequence %d, weighed up to %d", k.ID, b.Sequence, b.Weighed)
	for _, m := range b.Marks {
		fmt.Fprintf(&s.out, ", %s heard up to %d", m.Witness, m.Number)
	}
	if len(b.Past) > 0 {
		fmt.Fprintf(&s.out, ", past attempts of")
		for _, p := range b.Past {
			fmt.Fprintf(&s.out, " %s", clock(p))
		}
	}
	fmt.Fprintln(&s.out)
	return nil
}

// clustersCommand lets the trace tell of clusters' conditions from now on.
func (s *script) clustersCommand(w *words) error {
	if verb := w.next(); verb != "shown" {
		return fmt.Errorf("clusters are not %q", verb)
	}
	s.showClusters = true
	return nil
}

func (s *script) showCluster(w *words) error {
	key := job.ClusterKey{Namespace: "shop", Cluster: w.next()}
	stored, there := s.clusters[key]
	if !there {
		fmt.Fprintf(&s.out, "%s: nothing is said of it\n", key.Cluster)
		return nil
	}
	c := stored.Cluster
	fmt.Fprintf(&s.out, "%s; since %s, last seen %s, sequence %d\n", clusterLine(c), clock(c.Since), clock(c.LastSeen), c.Sequence)
	return nil
}

func (s *script) showStore(*words) error {
	entries := 0
	for _, list := range s.history {
		entries += len(list)
	}
	fmt.Fprintf(&s.out, "%d beats, %d reports, %d verdicts, %d history entries\n", len(s.beats), len(s.reports), len(s.verdicts), entries)
	return nil
}
