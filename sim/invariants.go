package sim

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/holdfast-dev/holdfast/aggregator/board"
	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
	"github.com/holdfast-dev/holdfast/settle"
)

// watched is what the invariants remember. They see all: what is true, what is stored and what is served.
type watched struct {
	// accounts are all verdicts that were ever stored, by their place and revision; several where etcd was set back.
	accounts map[string]map[int64][]job.Account
	// stored is what is stored now.
	stored map[job.Key]job.Account
	// retired are verdicts that were forgotten, by the attempt that they were of.
	retired map[job.Key]job.Stamp
	// vandalized are those whose verdicts were deleted by hand: what they alone remembered is lost.
	vandalized map[job.Key]bool
	// damaged are those of which a report was: an agent that begins anew then counts from 1 what it sees.
	damaged    map[job.Key]bool
	dirty      []job.Key
	conditions conditions
	// steady is since when the leader has been well: it ticks, and hears all that it follows.
	steady time.Duration
	judges time.Duration // since when the newest leader has known all of a store; 0 while it does not
	ticked time.Duration // when some core last took a Tick
	// freezer is the core that has been frozen since a moment; nil if none is.
	freezer *settle.Core
	frozen  time.Duration
}

func newWatched() watched {
	return watched{
		accounts: map[string]map[int64][]job.Account{}, stored: map[job.Key]job.Account{}, retired: map[job.Key]job.Stamp{}, vandalized: map[job.Key]bool{}, damaged: map[job.Key]bool{},
		conditions: newConditions(),
	}
}

func compare(a, b string) int { return cmp.Compare(a, b) }

func sortedKeys[V any](m map[job.Key]V) []job.Key {
	keys := make([]job.Key, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b job.Key) int { return compare(a.String(), b.String()) })
	return keys
}

func (w *world) truthOf(key job.Key) *truth {
	for _, c := range w.clusters {
		if c.key == key.ClusterKey() {
			for _, t := range c.jobs {
				if t.key == key {
					return t
				}
			}
		}
	}
	return nil
}

func (w *world) clusterOf(key job.ClusterKey) *cluster {
	for _, c := range w.clusters {
		if c.key == key {
			return c
		}
	}
	return nil
}

// heard notes that Flink said in what state an attempt is.
func (w *world) heard(l *life) {
	if l.heard == nil {
		l.heard = map[job.State]time.Duration{}
	}
	l.heard[l.state] = w.now
}

// committed sees what was stored.
func (w *world) committed(pair etcd.Pair) {
	place, err := record.ParseKey(site, pair.Key)
	if err == nil && place.Kind == record.Cluster {
		w.committedCluster(place.Job.ClusterKey(), pair)
	}
	if err != nil || place.Kind != record.Verdict {
		return
	}
	if pair.Deleted {
		delete(w.watched.stored, place.Job)
		return
	}
	account, err := record.DecodeAccount(place.Job, pair.Value)
	if err != nil {
		return // damaged on purpose
	}
	path := place.Job.String()
	if w.watched.accounts[path] == nil {
		w.watched.accounts[path] = map[int64][]job.Account{}
	}
	w.watched.accounts[path][pair.ModRevision] = append(w.watched.accounts[path][pair.ModRevision], account)
	was, there := w.watched.stored[place.Job]
	w.watched.stored[place.Job] = account
	v := account.Verdict
	w.say("stored %s: %s %s over=%s %s, attempt %d of %s", place.Job, v.State, v.Certainty, v.Over, v.Reason, v.Attempt.Number, v.Attempt.StartTime)
	w.judge(account)
	if there {
		w.follows(place.Job, was.Verdict, v)
	} else if start, retired := w.watched.retired[place.Job]; retired && start == v.Attempt.StartTime {
		w.breach(14, "%s was forgotten, and its attempt of %s is back", place.Job, start)
	}
	w.watched.dirty = append(w.watched.dirty, place.Job)
}

// restored sees that etcd was set back: what is stored now is what was then.
func (w *world) restored() {
	w.restoredClusters()
	w.watched.stored, w.watched.retired = map[job.Key]job.Account{}, map[job.Key]job.Stamp{}
	for _, pair := range w.etcd.list(record.SitePrefix(site) + "verdicts/") {
		if place, err := record.ParseKey(site, pair.Key); err == nil {
			if account, err := record.DecodeAccount(place.Job, pair.Value); err == nil {
				w.watched.stored[place.Job] = account
			}
		}
	}
}

// judge holds a verdict against the truth (invariants 1, 2, 3 and 5).
func (w *world) judge(a job.Account) {
	v := a.Verdict
	t := w.truthOf(a.Key)
	if t == nil {
		w.breach(12, "there is no such job: %s", a.Key)
		return
	}
	c := w.clusterOf(a.Key.ClusterKey())
	l := t.life(v.Attempt.StartTime)
	if l == nil || l.echo {
		if v.Reason != job.AlreadyDone {
			w.breach(1, "%s has no attempt of %q, and is said to be %s (%s)", a.Key, v.Attempt.StartTime, v.State, v.Reason)
		}
		return
	}
	switch {
	case v.State.Terminal() && l.ended != v.State:
		w.breach(1, "%s of %s is said to be %s, and is truly %s (ended %s)", a.Key, l.start, v.State, l.state, l.ended)
	case v.State == job.Unknown && l.ended != job.Unknown && !v.Possible.Has(l.ended):
		w.breach(2, "%s is said to be one of %s, and ended %s", a.Key, v.Possible, l.ended)
	case v.Over == job.Yes && !l.dead:
		w.breach(3, "%s of %s is said to be over (%s, %s), and is truly %s", a.Key, l.start, v.State, v.Reason, l.state)
	case v.Over == job.Yes && v.Certainty == job.Inferred && c.record[a.Key.ID] && t.newest() == l && !w.api.forbidden:
		w.breach(3, "%s is said to be over (%s), and its high-availability record names it", a.Key, v.Reason)
	case v.State == job.Suspended && v.Reason == job.JobManagerDown:
		if up := c.up(); up > 90*time.Second {
			w.breach(5, "%s is said to be SUSPENDED, since no JobManager runs, and one has run for %s", a.Key, up)
		}
	case v.State != job.Unknown && v.State != job.Suspended && !l.was.Has(v.State):
		w.breach(5, "%s of %s is said to be %s, and never was", a.Key, l.start, v.State)
	}
}

// up is for how long some JobManager of a cluster had run without a pause when it was decided what is being stored: etcd, stopped, carries
// out what it was sent before as soon as it is back.
func (c *cluster) up() time.Duration {
	longest := time.Duration(0)
	for _, p := range c.pods {
		if p.running && !p.lost && !p.leaving {
			longest = max(longest, c.w.now-c.w.etcd.late-p.since)
		}
	}
	return longest
}

// follows holds a verdict against the one before (invariants 6 and 7).
func (w *world) follows(key job.Key, was, is job.Verdict) {
	switch {
	case is.Attempt.Number < was.Attempt.Number:
		w.breach(6, "%s: attempt %d after %d", key, is.Attempt.Number, was.Attempt.Number)
	case is.Attempt.Number == was.Attempt.Number && is.Attempt.StartTime != was.Attempt.StartTime:
		w.breach(6, "%s: attempt %d began at %s, now at %s", key, is.Attempt.Number, was.Attempt.StartTime, is.Attempt.StartTime)
	case was.State.Terminal() && was.Certainty == job.Witnessed && is.Attempt == was.Attempt && (is.State != was.State || is.Certainty != was.Certainty):
		w.breach(7, "%s was %s, as Flink said, and is %s %s in the same attempt", key, was.State, is.State, is.Certainty)
	}
}

// check looks at what the last step has changed.
func (w *world) check() {
	for _, key := range w.watched.dirty {
		w.checkHistory(key)
	}
	w.watched.dirty = w.watched.dirty[:0]
}

const (
	// answered is how old Flink's answer may be that is served as Witnessed: the hold time, before that a lease time, after which an agent that hangs lets
	// its lease go, and another, after which etcd does where the agent cannot; and a tick each for the agent and the settler to notice.
	answered = 30*time.Second + 2*20*time.Second + 2*time.Second
	// answeredUnled is the same while the leader is not well, and nobody has noticed: until it lets its lease go, and the next one, which must
	// not judge at once, has held.
	answeredUnled = 100 * time.Second
)

// served holds what a replica shows against what was stored, and against when Flink last said it (invariants 4 and 8).
func (w *world) served(a *aggregator) {
	snapshot := a.board.Snapshot()
	if a.dead || !snapshot.Complete() || w.broken != nil || a.r.waking {
		return
	}
	shown := snapshot.At(a.r.moment())
	limit, fresh := answeredUnled, w.cfg.Hold-w.cfg.Lease+2*time.Second
	judged := time.Duration(0) // for how long the newest leader has
	if since := w.watched.judges; since > 0 {
		judged = min(w.now, w.watched.ticked) - since
	}
	if w.watched.steady > 0 && w.now-w.watched.steady > answeredUnled && w.now-w.watched.ticked < 3*time.Second {
		limit = answered
	}
	switch {
	case a.r.woke > 0 && w.now-a.r.woke <= w.cfg.Hold+5*time.Second:
		limit = 24 * time.Hour // it takes what waited in its sockets for new
	case w.now-a.listed <= w.cfg.Hold/2+time.Second:
		limit = 24 * time.Hour // it trusts what it found for so long
	case a.met == 0 || w.now-a.met <= 3*w.cfg.Hold+2*time.Second:
		limit = 24 * time.Hour // a process that has just begun has not seen for how long nobody judged, and waits for a change of leader
	case w.etcd.down > 0 || w.etcd.up > 0 && w.now-w.etcd.up <= w.cfg.Lease+w.cfg.Hold+5*time.Second:
		limit = 24 * time.Hour // an etcd that was stopped carries out what it finds in its sockets, keepalives of the dead among them; one that was
		// restored brings back beats of the dead
	case judged <= fresh:
		limit += 4 * w.cfg.Hold // whom a new leader does not hear may have beaten one lease time before it came; and the next one begins anew
	}
	if judged > fresh+w.cfg.Late {
		w.servedClusters(a, &shown, limit+w.cfg.Late) // what is about to be said of its pods is waited for
	} else {
		w.servedClusters(a, &shown, 24*time.Hour)
	}
	snapshot.Ascend("", func(j *board.Job) bool {
		accounts := w.watched.accounts[j.Path()][j.Revision()]
		if j.Unreadable() != board.Readable {
			if shown.Certainty(j) > job.Held {
				w.breach(8, "%s shows %s, whose record it cannot read, as %s", a.r.name, j.Path(), shown.Certainty(j))
			}
			return true
		}
		matches := slices.ContainsFunc(accounts, func(account job.Account) bool {
			v := account.Verdict
			return v.State == j.State() && v.Over == j.Over() && shown.Certainty(j) <= v.Certainty
		})
		if !matches {
			w.breach(8, "%s shows %s as %s %s at revision %d, and that was not stored", a.r.name, j.Path(), j.State(), shown.Certainty(j), j.Revision())
			return false
		}
		v := accounts[len(accounts)-1].Verdict
		if shown.Certainty(j) != job.Witnessed || j.Over() == job.Yes || len(accounts) > 1 {
			return true
		}
		l := w.truthOf(j.Key()).life(v.Attempt.StartTime)
		if l == nil {
			return true // noted when it was stored
		}
		if at, said := l.heard[j.State()]; !said || w.now-at > limit {
			w.breach(4, "%s shows %s as %s Witnessed, and Flink last said so %s ago", a.r.name, j.Path(), j.State(), w.now-at)
		}
		return true
	})
}

// stepped sees what the core was told, and what it makes of it.
func (w *world) stepped(a *aggregator, input settle.Input) {
	w.traceStep(a, input)
	if _, is := input.(settle.Tick); is {
		if w.now-w.watched.ticked > 3*time.Second {
			w.watched.steady = 0
		}
		w.watched.ticked = w.now
		g := a.reign
		well := g != nil && !g.over && w.now-g.ticked < 3*time.Second && a.r.client.cut == 0 && w.etcd.down == 0 && !w.etcd.full
		for _, at := range g.heardOf() {
			well = well && w.now-at < 10*time.Second
		}
		switch {
		case !well:
			w.watched.steady = 0
		case w.watched.steady == 0:
			w.watched.steady = w.now
		}
		if f := w.watched.frozen; w.watched.freezer == a.core && w.now-f > w.cfg.FreezeLimit+5*time.Second {
			w.breach(16, "conclusions have been frozen for %s", w.now-f)
		}
	}
}

// confined sees that evidence of one cluster changes nothing in another (invariant 12).
func (w *world) confined(input settle.Input, effects []settle.Effect) {
	of, one := concerns(input)
	if !one {
		return
	}
	for _, effect := range effects {
		var cluster job.ClusterKey
		switch e := effect.(type) {
		case settle.Write:
			cluster = e.Account.Key.ClusterKey()
		case settle.WriteCluster:
			cluster = e.Cluster.Key
		case settle.Forget:
			cluster = e.Key.ClusterKey()
		case settle.ForgetCluster:
			cluster = e.Key
		case settle.Sweep:
			cluster = e.Agent.ClusterKey()
		default:
			continue
		}
		if cluster != of {
			w.breach(12, "%T of %s leads to %T of %s", input, of, effect, cluster)
		}
	}
}

// concerns says of which cluster an input tells, if it is one.
func concerns(input settle.Input) (of job.ClusterKey, one bool) {
	switch in := input.(type) {
	case settle.Beat:
		return in.Beat.Agent.ClusterKey(), true
	case settle.Silent:
		return in.Agent.ClusterKey(), true
	case settle.UnreadableBeat:
		return in.Agent.ClusterKey(), true
	case settle.Reported:
		return in.Report.Agent.ClusterKey(), true
	case settle.Unreported:
		return in.Agent.ClusterKey(), true
	case settle.UnreadableReport:
		return in.Agent.ClusterKey(), true
	case settle.Pod:
		return in.Agent.ClusterKey(), true
	case settle.PodGone:
		return in.Agent.ClusterKey(), true
	case settle.Workload:
		return in.Cluster, true
	case settle.HARecord:
		return in.Cluster, true
	case settle.Stored:
		return in.Account.Key.ClusterKey(), true
	case settle.StoredCluster:
		return in.Cluster.Key, true
	case settle.Erased:
		return in.Key.ClusterKey(), true
	case settle.UnreadableVerdict:
		return in.Key.ClusterKey(), true
	case settle.NotWritten:
		return in.Key.ClusterKey(), true
	}
	return job.ClusterKey{}, false
}

// traceStep says what a core is told.
func (w *world) traceStep(a *aggregator, input settle.Input) {
	if w.tell == nil {
		return
	}
	text := fmt.Sprintf("%T", input)[len("settle."):]
	switch in := input.(type) {
	case settle.Tick, settle.Progress, settle.Stored:
		return
	case settle.Listing:
		text += fmt.Sprintf(" %s, epoch %d", in.Source, in.Epoch)
	case settle.Synced:
		text += " " + in.Source.String()
	case settle.Lost:
		text += fmt.Sprintf(" %s: %s", in.Source, in.Why)
	case settle.Beat:
		text += fmt.Sprintf(" %s, %s, goodbye %t", in.Beat.Agent, in.Beat.Reach, in.Beat.Goodbye)
	case settle.Silent:
		text += " " + in.Agent.String()
	case settle.Reported:
		r := in.Report
		text += fmt.Sprintf(" %s about %s of %s: %s, %s, known %s", r.Agent, r.JobID[28:], r.StartTime, r.State, r.Reach, r.Known)
	case settle.Pod:
		text += fmt.Sprintf(" %s: running %t, leaving %t, restarts %d, exited %t with %d", in.Pod.Name, in.Pod.Running, in.Pod.Leaving, in.Pod.Restarts,
			in.Pod.Exited, in.Pod.ExitCode)
	case settle.PodGone:
		text += " " + in.Agent.String()
	case settle.Workload:
		text += fmt.Sprintf(" %s: there %s, ended %t", in.Workload.Workload.UID, in.Workload.There, in.Workload.Ended)
	case settle.HARecord:
		text += fmt.Sprintf(" %s: there %s, %v", in.HARecord.Cluster, in.HARecord.There, in.HARecord.Jobs)
	case settle.NotWritten:
		text += " " + in.Key.String()
	}
	w.say("  %s hears: %s", a.r.name, text)
}

func (g *reign) heardOf() []time.Duration {
	if g == nil {
		return nil
	}
	return g.heard[:]
}

// conditionTold sees a freeze begin and end (invariant 16).
func (w *world) conditionTold(a *aggregator, e settle.Condition) {
	if e.Frozen && (e.Source == "" || e.Why == "") {
		w.breach(16, "conclusions are frozen, and nothing says why")
	}
	if !e.Frozen {
		w.watched.frozen, w.watched.freezer = 0, nil
	} else if w.watched.freezer != a.core {
		w.watched.frozen, w.watched.freezer = w.now, a.core
		w.met["freeze"]++
	}
}

// proposed sees what a core wants to be stored.
func (w *world) proposed(e settle.Write) {
	if n := len(e.Entries); 1+2*n > 128 {
		w.breach(17, "%d history entries in one write", n)
	}
}

// forgets sees that a verdict is to be taken away.
func (w *world) forgets(key job.Key) {
	w.met["retired"]++
	if account, there := w.watched.stored[key]; there {
		w.watched.retired[key] = account.Verdict.Attempt.StartTime
	}
}

// retires sees that a report is to be taken away (invariant 14).
func (w *world) retires(agent evidence.Agent, key job.Key) {
	c := w.clusterOf(agent.ClusterKey())
	for _, p := range c.pods {
		if p.uid != agent.PodUID || p.agent == nil || p.agent.one == nil {
			continue
		}
		s := p.agent.one
		l := s.letters[key.ID]
		if l != nil && s.lease != 0 && w.etcd.leases[s.lease] != nil && l.report.Known != job.No && !l.report.State.Terminal() {
			w.breach(14, "the report of %s about %s is taken away, which says %s", agent, key, l.report.State)
		}
	}
}

// settled holds the end of a schedule, in which nothing has been wrong for long enough, against the truth (invariants 10, 13 and 15).
func (w *world) settled() {
	for _, c := range w.clusters {
		w.settledCluster(c)
		listed := map[string]*life{}
		asked := false // somebody can be asked, or asks
		for _, p := range c.pods {
			if p.process == nil || p.leaving || p.lost {
				continue
			}
			if whose, _ := p.process.rest(); whose != nil && whose.phase == serving {
				asked = true
				for _, l := range whose.lives {
					listed[l.of.key.ID] = l
				}
			}
		}
		for _, t := range c.jobs {
			account, there := w.watched.stored[t.key]
			v := account.Verdict
			l := listed[t.key.ID]
			switch {
			case l != nil && l.echo:
				if there && v.Over != job.Yes {
					w.breach(13, "%s ended in an earlier life, and is said to be %s %s", t.key, v.State, v.Certainty)
				}
			case l != nil && asked:
				if !there {
					if start, retired := w.watched.retired[t.key]; retired && start == l.start {
						continue
					}
					w.breach(13, "%s is %s, and there is no verdict", t.key, l.state)
				} else if v.State != l.state || v.Certainty != job.Witnessed || v.Attempt.StartTime != l.start {
					w.breach(13, "%s of %s is %s, and is said to be %s %s (%s) of %s", t.key, l.start, l.state, v.State, v.Certainty, v.Reason,
						v.Attempt.StartTime)
				}
			case there && v.Certainty == job.Witnessed && v.Over != job.Yes:
				w.breach(13, "nobody can say anything of %s, and it is said to be %s Witnessed", t.key, v.State)
			case there && v.Over != job.Yes && !c.there && account.Books.Workload != nil && !c.record[t.key.ID] && w.watched.frozen == 0 && !w.watched.vandalized[t.key]:
				w.breach(13, "%s is gone with its workload, and is said to be %s %s (%s), over=%s", t.key, v.State, v.Certainty, v.Reason, v.Over)
			}
		}
		for _, p := range c.pods {
			if p.agent == nil || p.agent.one == nil || p.agent.one.leaving || p.lost || p.agent.told {
				continue
			}
			w.settledAgent(p.agent.one)
			w.recorded(p.agent.one)
		}
	}
	if extra := len(w.etcd.pairs) - w.expected(); extra > 0 {
		w.breach(17, "there are %d keys too many in etcd", extra)
	}
}

// beginsAnew holds the end of a schedule against what a settler makes of it that knows only what lies in etcd, and hears it in another order:
// the same (invariant 11).
func (w *world) beginsAnew() {
	was := maps.Clone(w.watched.stored)
	for _, r := range w.replicas {
		r.kill(time.Second)
	}
	w.run(w.now + quiet/2)
	if w.broken == nil {
		w.settled()
	}
	for _, key := range sortedKeys(was) {
		before := was[key]
		after, there := w.watched.stored[key]
		if v := before.Verdict; v.Over != job.Yes && v.Certainty != job.Witnessed || !there && v.Over == job.Yes {
			continue // what nobody stands for, time may tell more of; and what is over is forgotten some day
		}
		if !there || after.Books.Sequence != before.Books.Sequence {
			w.breach(11, "%s was %s %s over=%s at entry %d, and after a restart of the settler %s %s over=%s at entry %d (%s)", key,
				before.Verdict.State, before.Verdict.Certainty, before.Verdict.Over, before.Books.Sequence,
				after.Verdict.State, after.Verdict.Certainty, after.Verdict.Over, after.Books.Sequence, after.Verdict.Reason)
		}
	}
}

// settledAgent checks that an agent's beat hangs on its lease, and that what lies in etcd is what it knows (invariant 15).
func (w *world) settledAgent(s *session) {
	who := s.a.pod.who()
	beat, there := w.etcd.pairs[record.BeatKey(site, who)]
	if !there || s.lease == 0 || beat.Lease != int64(s.lease) {
		w.breach(15, "%s has no beat of its own: %t, lease %d of %d", who, there, beat.Lease, s.lease)
		return
	}
	for id, l := range s.letters {
		pair := w.etcd.pairs[record.ReportKey(site, who, id)]
		if pair.Value == nil && w.watched.retired[job.Key{Namespace: who.Namespace, Cluster: who.Cluster, ID: id}] != "" {
			continue // it will notice with the next reading
		}
		if string(pair.Value) != string(record.EncodeReport(*l.report)) {
			w.breach(15, "%s: what lies in etcd of %s is not what it knows", who, id)
		}
	}
}

// expected is how many keys there may be.
func (w *world) expected() int {
	most := 3
	for _, c := range w.clusters {
		for range c.jobs {
			most += 1 + job.HistoryLimit
		}
		most += 1 + c.named*(1+len(c.jobs))
	}
	return most
}
