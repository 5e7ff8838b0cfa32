package settle

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/job"
)

// settle judges one job by all that is known of it, and proposes a Write if the judgement is another than the verdict that
// counts. It leaves the job in the schedule if time alone may change the judgement. On half of the evidence nothing is judged.
func (c *Core) settle(e *entry) {
	if e.writing || e.sealed || !c.health.synced() {
		return
	}
	j := judgement{core: c, entry: e, account: e.account, heard: e.account.Books.Weighed, wake: never}
	if j.heard > c.weighed {
		j.heard = c.listed // of an earlier epoch of the store: what was listed first in this one has had its say
	}
	j.rewind()
	j.listen()
	switch {
	case j.account.Verdict.Attempt.Number == 0:
		c.wait(e, j.wake)
		return // nothing is known yet
	case e.forgotten && j.account.Verdict.Attempt == e.account.Verdict.Attempt:
		return // nothing is known but what was forgotten, which returns with a new attempt only
	}
	j.vouch()
	j.conclude()
	switch {
	case j.differs() && j.stands():
		c.propose(&j)
	case c.retirable(e):
		c.forget(e)
	default:
		c.wait(e, j.wake)
	}
}

// wait leaves the job in the schedule if time alone may change something: the judgement, at wake, or whether the job is kept.
func (c *Core) wait(e *entry, wake time.Duration) {
	if e.account.Verdict.Over == job.Yes {
		left := time.Duration(e.account.Books.OverAt+c.cfg.Retain.Milliseconds()-c.wall) * time.Millisecond
		wake = min(wake, c.now+max(left, c.cfg.Grace))
	}
	if wake == never {
		c.due.remove(e)
		return
	}
	c.due.set(e, wake)
}

// stands says whether conserve lets the judgement pass. If it does not, nothing of it may: the history would not end in the verdict. What
// stands already needs no leave to be said again.
func (j *judgement) stands() bool {
	was, judged := &j.entry.account.Verdict, &j.account.Verdict
	if !j.positive && same(was, judged) {
		return true
	}
	kept := conserve(*was, *judged, j.positive)
	if !same(&kept, judged) {
		return false
	}
	*judged = kept
	return true
}

// same says whether two verdicts claim the same.
func same(a, b *job.Verdict) bool {
	return a.State == b.State && a.Over == b.Over && a.Certainty == b.Certainty && a.Attempt == b.Attempt
}

const never = time.Duration(1<<63 - 1)

// judgement is the work on one job: the account as it would be, and the history entries that lead there.
type judgement struct {
	core    *Core
	entry   *entry
	account job.Account
	entries []job.Transition
	// positive says that an answer, yes or no, decided.
	positive bool
	// owned says that the books' lists are the judgement's own copies.
	owned bool
	// heard is the store's revision up to which silent agents' records have had their say.
	heard int64
	// partial says that silent agents' records that are newer than heard have not had their say yet.
	partial bool
	// hearsay says that a silent agent's record speaks.
	hearsay bool
	// anew says that the verdict must be written though nothing changed.
	anew bool
	// outranked says that a record was weighed in vain, which is to be remembered.
	outranked bool
	wake      time.Duration
}

// rewind says anew what the store lost, if it was set back or lost the verdict.
func (j *judgement) rewind() {
	e := j.entry
	if j.account.Verdict.Attempt.Number == 0 || e.rewound == 0 && e.revision != 0 {
		return
	}
	j.anew = true
	j.own()
	j.account.Books.Fold = nil
	if e.rewound > 0 {
		j.gap(e.rewound)
	}
}

// entriesBeforeOneMore bounds the history entries of one write: a witness brings up to evidence.TransitionLimit more, and gaps, and
// each entry may push an old one out. All of that must fit into one transaction, of which etcd takes 128 operations.
const entriesBeforeOneMore = 24

// listen takes over what the witnesses saw, one after another, the best first (S4, S5, S7).
func (j *judgement) listen() {
	var waiting []*sight
	for range 2 * len(j.entry.sights) {
		s, rank := j.speaker(waiting)
		if s == nil {
			return
		}
		if len(j.entries) > entriesBeforeOneMore {
			j.partial = true // the rest is heard when this is stored
			return
		}
		if rank == liveAttempt {
			j.reinstate(s.report.StartTime)
		}
		switch news := j.news(s); {
		case news && !j.take(s), !news && rank == echo:
			waiting = append(waiting, s) // the next best may have a say meanwhile
		case !news && rank != formerSight:
			return
		}
		if rank == formerSight {
			j.heard = s.revision
		}
	}
}

// Ranks of a sight as a speaker. An echo is a job's earlier ending, told once more as a failure: the last to be listened to.
const (
	mute = iota
	echo
	formerSight
	liveSight
	liveAttempt
	ending
)

// speaker is the best witness, apart from those that wait, and its rank.
func (j *judgement) speaker(waiting []*sight) (best *sight, bestRank int) {
	for i := range j.entry.sights {
		s := &j.entry.sights[i]
		rank := j.rank(s)
		if rank == mute || rank < bestRank || slices.Contains(waiting, s) {
			continue
		}
		if rank > bestRank || s.before(best, rank) {
			best, bestRank = s, rank
		}
	}
	return best, bestRank
}

// before orders sights of one rank. What silent agents left is replayed in the order in which the store received it, and so are attempts that
// nobody knew of: the last one stands. What probes saw of those is the newest. Between live witnesses of one attempt the lower pod uid speaks:
// every settler must choose alike, in whatever order it heard them.
func (s *sight) before(other *sight, rank int) bool {
	if rank == liveAttempt && s.by.agent.Probe != other.by.agent.Probe && s.report.StartTime != other.report.StartTime {
		return other.by.agent.Probe
	}
	if (rank == formerSight || rank == liveAttempt && s.report.StartTime != other.report.StartTime) && s.revision != other.revision {
		return s.revision < other.revision
	}
	if s.by.agent.PodUID != other.by.agent.PodUID {
		return s.by.agent.PodUID < other.by.agent.PodUID
	}
	return other.by.agent.Probe // who asks from inside knows more
}

// rank says how much a sight counts, given the attempt that stands.
func (j *judgement) rank(s *sight) int {
	if s.report == nil || s.unreadable {
		return mute
	}
	v, r := &j.account.Verdict, s.report
	current := v.Attempt.Number > 0 && r.StartTime == v.Attempt.StartTime
	unseen := !current && !j.precedes(r.StartTime, v.Attempt.StartTime) &&
		(!slices.Contains(j.account.Books.Past, r.StartTime) || s.live() && !r.State.Terminal() && j.mistaken(r.StartTime))
	switch {
	case current && ended(*v):
		return mute
	case current && r.State.Terminal() && !alreadyDone(r):
		return ending
	case unseen && s.live() && alreadyDone(r):
		return echo
	case unseen && s.live():
		return liveAttempt
	case current && s.live():
		return liveSight
	case s.revision > j.heard && (unseen || current && v.Over != job.Yes) && !j.vouched():
		return formerSight
	}
	return mute
}

// vouched says whether the attempt that stands has a live witness.
func (j *judgement) vouched() bool { return j.witness() != nil }

// witness is the live witness that speaks for the attempt that stands, or nil.
func (j *judgement) witness() *sight {
	v := &j.account.Verdict
	var best *sight
	for i := range j.entry.sights {
		s := &j.entry.sights[i]
		if s.live() && v.Attempt.Number > 0 && s.report.StartTime == v.Attempt.StartTime && (best == nil || s.before(best, liveSight)) {
			best = s
		}
	}
	return best
}

// news says whether the sight would change anything.
func (j *judgement) news(s *sight) bool {
	fresh, _ := j.unheard(s)
	for _, t := range fresh {
		if takes, waits := j.weigh(t); takes || waits {
			return true
		}
	}
	v, r := &j.account.Verdict, s.report
	if alreadyDone(r) {
		return v.Over != job.Yes
	}
	if _, known := j.mark(s); known && len(fresh) == 0 && !s.live() && !r.State.Terminal() {
		return false // it had its say; this is an older record of it, or another witness spoke since
	}
	return v.Attempt.Number == 0 || r.StartTime != v.Attempt.StartTime || r.State != v.State || j.onlyInferred()
}

// onlyInferred says whether an ending stands that Flink has not told: its word puts that right, even where it says the same (S4).
func (j *judgement) onlyInferred() bool {
	v := &j.account.Verdict
	return v.Over == job.Yes && v.Certainty != job.Witnessed
}

// alreadyDone says whether Flink reports the job as FAILED only because it found that the job ended in an earlier life
// of the cluster (JobMasterServiceLeadershipRunner.jobAlreadyDone, Flink 1.16 to 2.3). That is neither a failure nor an attempt (S3).
func alreadyDone(r *evidence.Report) bool {
	n := len(r.Transitions)
	return n > 0 && isAlreadyDone(r.Transitions[n-1])
}

func isAlreadyDone(t evidence.Transition) bool {
	return t.State == job.Failed && strings.Contains(t.Cause, "JobAlreadyDoneException")
}

// take brings what a witness saw into the account, up to where something must wait. It says whether the account is another now.
func (j *judgement) take(s *sight) bool {
	r, v := s.report, &j.account.Verdict
	fresh, missed := j.unheard(s)
	changed := false
	j.hearsay = !s.live()
	number := int64(0)
	hear := func(t evidence.Transition, newest bool) (waits bool) {
		takes, waits := j.weigh(t)
		switch {
		case waits && !newest:
			missed++ // nobody will ask for it any more
			waits = false
		case takes:
			if s.by.agent.Probe {
				t.Via = job.ViaProbe
			}
			if missed > 0 {
				j.gap(missed) // invariant 10
				missed = 0
			}
			j.apply(t)
			changed = true
		}
		if !waits {
			number = t.Number
		}
		return waits
	}
	waits := false
	for i, t := range fresh {
		waits = hear(t, i == len(fresh)-1)
	}
	if !waits && (r.StartTime != v.Attempt.StartTime || r.State != v.State || j.onlyInferred()) {
		// All its transitions are in the history, and another witness said something else since.
		t := evidence.Transition{State: r.State, StartTime: r.StartTime, At: r.LastAnswer, Via: r.Via}
		if n := len(r.Transitions); n > 0 {
			t = r.Transitions[n-1]
		}
		hear(t, true)
	}
	if !changed {
		return false
	}
	j.positive = true
	if !s.live() && v.Over != job.Yes {
		// It saw this once; that it is so now, nobody says.
		v.Certainty, v.Reason, v.LastSeen = job.Held, j.silence(), r.LastAnswer
		if n := len(j.entries); n > 0 {
			j.entries[n-1].Certainty, j.entries[n-1].Reason = v.Certainty, v.Reason
			j.account.Books.Recent, j.account.Books.Fold = nil, nil
		}
	}
	j.describe(r)
	j.setMark(s, number)
	return true
}

// unheard gives the transitions of a witness that are not in the history, and how many it had before them that nobody will tell any more.
func (j *judgement) unheard(s *sight) (fresh []evidence.Transition, missed int64) {
	v, b := &j.account.Verdict, &j.account.Books
	fresh = s.report.Transitions
	number, known := j.mark(s)
	if known || v.Attempt.Number == 0 {
		i := slices.IndexFunc(fresh, func(t evidence.Transition) bool { return t.Number > number })
		if i < 0 {
			return nil, 0
		}
		fresh = fresh[i:]
		missed = fresh[0].Number - number - 1
	}
	if v.Attempt.Number == 0 {
		return fresh, missed
	}
	// What it saw before the attempt that stands is older, whether anybody heard of it or not (S4).
	for i := slices.IndexFunc(fresh, func(t evidence.Transition) bool { return t.StartTime == v.Attempt.StartTime }); i > 0; i-- {
		if known && !slices.Contains(b.Past, fresh[0].StartTime) {
			missed++
		}
		fresh = fresh[1:]
	}
	if n := len(b.Marks); known && b.Marks[n-1].Witness == s.name() {
		return fresh, missed
	}
	// Another was listened to since, or this one never was: what stands is what it saw too, up to there.
	for i := len(fresh) - 1; i >= 0; i-- {
		if fresh[i].StartTime == v.Attempt.StartTime && fresh[i].State == v.State {
			return fresh[i+1:], 0
		}
	}
	return fresh, missed
}

// weigh says whether a transition changes anything, and whether it must wait for more to be known of it.
func (j *judgement) weigh(t evidence.Transition) (takes, waits bool) {
	v := &j.account.Verdict
	another := v.Attempt.Number == 0 || t.StartTime != v.Attempt.StartTime
	switch {
	case v.Attempt.Number > 0 && slices.Contains(j.account.Books.Past, t.StartTime):
		return false, false // S4: what was superseded does not return by itself
	case isAlreadyDone(t):
		return v.Over != job.Yes, false
	case t.State == job.Failed && t.CauseAsked != job.Yes && (another || v.State == job.Initializing):
		// Of this attempt nothing was seen that only a JobMaster does. It may be the earlier ending, told once more as a failure (S3).
		return false, true
	case another:
		return true, false
	case ended(*v):
		return false, false // S4
	}
	return v.State != t.State || (v.Over == job.Yes) != t.State.Terminal() || j.onlyInferred(), false
}

// precedes says whether some witness saw one attempt, and then the other.
func (j *judgement) precedes(first, then job.Stamp) bool {
	for i := range j.entry.sights {
		s := &j.entry.sights[i]
		if s.report == nil || s.unreadable {
			continue
		}
		seen := false
		for _, t := range s.report.Transitions {
			if seen = seen || t.StartTime == first; seen && t.StartTime == then {
				return true
			}
		}
	}
	return false
}

// apply takes over one transition that was found to change something.
func (j *judgement) apply(t evidence.Transition) {
	v := &j.account.Verdict
	if isAlreadyDone(t) {
		j.applyAlreadyDone(t)
		return
	}
	another := v.Attempt.Number == 0 || t.StartTime != v.Attempt.StartTime
	correction := !another && v.Certainty == job.Inferred
	if another {
		j.begin(t.StartTime)
	}
	v.State, v.Possible, v.Certainty, v.Reason = t.State, 0, job.Witnessed, job.FlinkSaid
	v.Over, v.Cause, v.Via = job.No, t.Cause, t.Via
	v.Since, v.LastSeen = t.At, job.StampOf(j.core.wall)
	if t.State.Terminal() {
		v.Over = job.Yes
	}
	j.enter(t.At, correction)
}

// applyAlreadyDone notes that the job ended before, where nothing better is known. Flink keeps no word of how.
func (j *judgement) applyAlreadyDone(t evidence.Transition) {
	v := &j.account.Verdict
	v.Attempt.Number = max(v.Attempt.Number, 1)
	v.State, v.Possible, v.Over = job.Unknown, job.TerminalStates, job.Yes
	v.Certainty, v.Reason, v.Via, v.Cause = job.Inferred, job.AlreadyDone, t.Via, ""
	v.Since, v.LastSeen = t.At, job.StampOf(j.core.wall)
	j.enter(t.At, false)
}

// begin opens a new attempt.
func (j *judgement) begin(start job.Stamp) {
	v, b := &j.account.Verdict, &j.account.Books
	j.own()
	if v.Attempt.Number > 0 && (!j.hearsay || ended(*v) || j.precedes(v.Attempt.StartTime, start)) {
		// Of two attempts that silent agents tell of, nobody knows which is the later one, unless one of them saw both: a live witness may
		// find the first one running.
		b.Past = bounded(append(b.Past, v.Attempt.StartTime), job.PastLimit)
	}
	v.Attempt = job.Attempt{Number: v.Attempt.Number + 1, StartTime: start}
	v.Tasks = job.Tasks{}
	b.Recent, b.Fold, b.OverAt = nil, nil, 0
}

// vouch says how sure the verdict is by who stands for it now (S1, S5). A live witness makes it Witnessed; the loss of all of them
// makes it Held, one hold time after the last proof, and changes nothing else.
func (j *judgement) vouch() {
	c, v := j.core, &j.account.Verdict
	if v.Over == job.Yes {
		j.explain()
		return
	}
	if s := j.witness(); s != nil {
		if s.report.State == v.State && v.Certainty != job.Witnessed {
			v.Certainty, v.Reason, v.Via, v.LastSeen = job.Witnessed, job.FlinkSaid, s.via(), job.StampOf(c.wall)
			j.enter(job.StampOf(c.wall), false)
		}
		if (v.Via == job.ViaProbe) != s.by.agent.Probe {
			v.Via = s.via()
		}
		j.positive = true
		j.describe(s.report)
		j.outrank()
		return
	}
	if j.inferredDown() {
		return
	}
	proven, _ := j.lastProof()
	if left := proven + c.cfg.Hold - c.now; left > 0 && v.Certainty == job.Witnessed {
		j.wake = min(j.wake, proven+c.cfg.Hold)
		return
	}
	reason := j.silence()
	if v.Certainty == job.Held && (v.Reason == reason || v.Reason == job.AgentLeft && reason == job.AgentSilent) {
		return // silence is what a goodbye is followed by; whoever did not hear the goodbye hears only that
	}
	if v.Certainty != job.Held {
		v.LastSeen = job.StampOf(c.wall - (c.now - proven).Milliseconds())
	}
	v.Certainty, v.Reason = job.Held, reason
	j.enter(job.StampOf(c.wall), false)
}

// outrank notes that a silent agent's record had its say and was outranked by a live witness. It must not speak up when that witness falls
// silent too: silence would change the state (S1).
func (j *judgement) outrank() {
	v := &j.account.Verdict
	for i := range j.entry.sights {
		s := &j.entry.sights[i]
		if s.report == nil || s.unreadable || s.live() || s.revision <= j.heard || !j.news(s) ||
			slices.Contains(j.account.Books.Past, s.report.StartTime) {
			continue
		}
		if s.report.StartTime != v.Attempt.StartTime || s.report.State != v.State {
			j.outranked = true
			return
		}
	}
}

// explain takes over the cause of a failure that was asked for after the failure was told.
func (j *judgement) explain() {
	v := &j.account.Verdict
	if v.State != job.Failed || v.Cause != "" {
		return
	}
	for i := range j.entry.sights {
		s := &j.entry.sights[i]
		if r := s.report; r != nil && !s.unreadable && r.StartTime == v.Attempt.StartTime && r.State == job.Failed {
			if j.describe(r); v.Cause != "" {
				j.positive = true
				return
			}
		}
	}
}

// lastProof is when the attempt that stands last had a live witness of its state, and the sight that tells best why it has none. Who last told
// another state, which could not be stored, has not proven the one that is.
func (j *judgement) lastProof() (time.Duration, *sight) {
	proven := j.entry.proven
	var best *sight
	for i := range j.entry.sights {
		s := &j.entry.sights[i]
		if s.report == nil || s.report.StartTime != j.account.Verdict.Attempt.StartTime {
			continue
		}
		if s.report.State == j.account.Verdict.State {
			proven = max(proven, s.provenAt(j.core.now))
		}
		if best == nil || cmp.Or(cmp.Compare(best.proven, s.proven), cmp.Compare(s.by.agent.PodUID, best.by.agent.PodUID)) < 0 {
			best = s
		}
	}
	return proven, best
}

// silence says why nobody vouches for the attempt that stands.
func (j *judgement) silence() job.Reason {
	_, s := j.lastProof()
	if s == nil {
		return job.AgentSilent
	}
	if inside := s.by.agent; inside.Probe {
		inside.Probe = false
		switch w := j.core.witnesses[inside]; { // a pod that has an agent is asked from outside only because that is silent
		case !j.core.hasBeaten(inside) || w.beating:
		case w.goodbye:
			return job.AgentLeft
		default:
			return job.AgentSilent
		}
	}
	return s.reason()
}

// reason says why a sight is not live.
func (s *sight) reason() job.Reason {
	w := s.by
	switch {
	case w.goodbye:
		return job.AgentLeft
	case !w.beating:
		return job.AgentSilent
	case s.report == nil || s.unreadable || w.unread || w.beat.Session != s.report.Session:
		return job.AgentStale
	case w.beat.Reach != job.Fine:
		return job.JobManagerUnreachable
	case s.report.Known == job.No:
		return job.JobMissing
	default:
		return job.JobUnanswered
	}
}

// via is the road by which the sight came.
func (s *sight) via() job.Via {
	if s.by.agent.Probe {
		return job.ViaProbe
	}
	return s.report.Via
}
