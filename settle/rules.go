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
// counts. It leaves the job in the schedule if time alone may change the judgement.
func (c *Core) settle(e *entry) {
	if e.writing || e.sealed || !c.health.sources[Verdicts].synced || c.retired(e) {
		return
	}
	j := judgement{core: c, entry: e, account: e.account, wake: never}
	j.rewind()
	j.listen()
	if j.account.Verdict.Attempt.Number == 0 {
		return
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

// stands says whether conserve lets the judgement pass. If it does not, nothing of it may: the history would not end in the verdict.
func (j *judgement) stands() bool {
	judged := &j.account.Verdict
	kept := conserve(j.entry.account.Verdict, *judged, j.positive)
	if kept.State != judged.State || kept.Over != judged.Over || kept.Certainty != judged.Certainty || kept.Attempt != judged.Attempt {
		return false
	}
	*judged = kept
	return true
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
	// anew says that the verdict must be written though nothing changed.
	anew bool
	wake time.Duration
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

// listen takes over what the witnesses saw, one after another, the best first (S4, S5, S7).
func (j *judgement) listen() {
	for range j.entry.sights {
		s := j.speaker()
		if s == nil || !j.take(s) {
			return
		}
	}
}

// Ranks of a sight as a speaker. Between equals the lower pod uid speaks: every settler must choose alike, in whatever order it heard them.
const (
	mute = iota
	formerSight
	unseenEnding
	liveSight
	liveAttempt
	ending
)

// speaker is the best witness that has something to say which is not in the history.
func (j *judgement) speaker() *sight {
	var best *sight
	bestRank := mute
	for i := range j.entry.sights {
		s := &j.entry.sights[i]
		if rank := j.rank(s); rank > bestRank || rank == bestRank && rank != mute && s.before(best) {
			best, bestRank = s, rank
		}
	}
	if best == nil || !j.news(best) {
		return nil
	}
	return best
}

func (s *sight) before(other *sight) bool {
	if !s.live() && !other.live() && s.revision != other.revision {
		return s.revision > other.revision
	}
	return s.by.agent.PodUID < other.by.agent.PodUID
}

// rank says how much a sight counts, given the attempt that stands.
func (j *judgement) rank(s *sight) int {
	if s.report == nil || s.unreadable {
		return mute
	}
	v, r := &j.account.Verdict, s.report
	current := v.Attempt.Number > 0 && r.StartTime == v.Attempt.StartTime
	unseen := !current && !slices.Contains(j.account.Books.Past, r.StartTime)
	switch {
	case current && ended(*v):
		return mute
	case alreadyDone(r):
		if v.Over == job.Yes || j.vouched() || v.Attempt.Number > 0 && !s.live() && s.revision <= j.account.Books.Weighed {
			return mute
		}
		return unseenEnding
	case current && r.State.Terminal():
		return ending
	case unseen && s.live():
		return liveAttempt
	case current && s.live():
		return liveSight
	case unseen && v.Attempt.Number == 0:
		return unseenEnding
	case unseen && s.revision > j.account.Books.Weighed && r.State.Terminal() && !j.vouched():
		return unseenEnding
	case current && s.revision > j.account.Books.Weighed && !j.vouched():
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
		if s.live() && v.Attempt.Number > 0 && s.report.StartTime == v.Attempt.StartTime && (best == nil || s.before(best)) {
			best = s
		}
	}
	return best
}

// news says whether the sight would change anything.
func (j *judgement) news(s *sight) bool {
	v, r := &j.account.Verdict, s.report
	if v.Attempt.Number == 0 || r.StartTime != v.Attempt.StartTime || r.State != v.State {
		return true
	}
	number, known := j.mark(s)
	n := len(r.Transitions)
	return known && n > 0 && r.Transitions[n-1].Number > number
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

// take brings what a witness saw into the account. It says whether the account is another now.
func (j *judgement) take(s *sight) bool {
	r := s.report
	changed := false
	fresh := j.unheard(s)
	for _, t := range fresh {
		done, waits := j.apply(t)
		changed = changed || done
		if waits {
			return changed
		}
	}
	v := &j.account.Verdict
	if r.StartTime != v.Attempt.StartTime || r.State != v.State {
		// All its transitions are in the history, and another witness said something else since.
		t := evidence.Transition{State: r.State, StartTime: r.StartTime, At: r.LastAnswer, Via: r.Via}
		if n := len(r.Transitions); n > 0 {
			t = r.Transitions[n-1]
		}
		done, waits := j.apply(t)
		changed = changed || done
		if waits {
			return changed
		}
	}
	if !changed {
		return false
	}
	j.positive = true
	if !s.live() && v.Over != job.Yes {
		// It saw this once; that it is so now, nobody says.
		v.Certainty, v.Reason = job.Held, s.reason()
		if n := len(j.entries); n > 0 {
			j.entries[n-1].Certainty, j.entries[n-1].Reason = v.Certainty, v.Reason
			if j.account.Books.Fold != nil {
				j.account.Books.Fold = nil
			}
		}
	}
	j.describe(r)
	j.setMark(s)
	return true
}

// unheard gives the transitions of a witness that are not in the history. A hole in their numbers is a gap in it (invariant 10).
func (j *judgement) unheard(s *sight) []evidence.Transition {
	all := s.report.Transitions
	if len(all) == 0 {
		return nil
	}
	v := &j.account.Verdict
	number, known := j.mark(s)
	switch {
	case known:
		if missed := all[0].Number - number - 1; missed > 0 {
			j.gap(missed)
		}
		i := slices.IndexFunc(all, func(t evidence.Transition) bool { return t.Number > number })
		if i < 0 {
			return nil
		}
		return all[i:]
	case v.Attempt.Number == 0:
		if missed := all[0].Number - 1; missed > 0 {
			j.gap(missed)
		}
		return all
	}
	// A witness that was not listened to before: what stands is what it saw too, up to there.
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].StartTime == v.Attempt.StartTime && all[i].State == v.State {
			return all[i+1:]
		}
	}
	return all
}

// apply takes over one transition. It says whether that changed anything, and whether the transition must wait for more.
func (j *judgement) apply(t evidence.Transition) (changed, waits bool) {
	v := &j.account.Verdict
	if v.Attempt.Number > 0 && slices.Contains(j.account.Books.Past, t.StartTime) {
		return false, false // S4: a superseded attempt never returns
	}
	if isAlreadyDone(t) {
		return j.applyAlreadyDone(t), false
	}
	anotherAttempt := v.Attempt.Number == 0 || t.StartTime != v.Attempt.StartTime
	switch {
	case anotherAttempt && v.Over == job.Yes && t.State == job.Failed && t.CauseAsked != job.Yes:
		return false, true // it may be the earlier ending, told once more as a failure (S3)
	case !anotherAttempt && ended(*v):
		return false, false // S4
	case !anotherAttempt && v.State == t.State && (v.Over == job.Yes) == t.State.Terminal():
		return false, false
	}
	correction := !anotherAttempt && v.Certainty == job.Inferred
	if anotherAttempt {
		j.begin(t.StartTime)
	}
	v.State, v.Possible, v.Certainty, v.Reason = t.State, 0, job.Witnessed, job.FlinkSaid
	v.Over, v.Cause, v.Via = job.No, t.Cause, t.Via
	v.Since, v.LastSeen = t.At, job.StampOf(j.core.wall)
	if t.State.Terminal() {
		v.Over = job.Yes
	}
	j.enter(t.At, correction)
	return true, false
}

// applyAlreadyDone notes that the job ended before, where nothing better is known. Flink keeps no word of how.
func (j *judgement) applyAlreadyDone(t evidence.Transition) bool {
	v := &j.account.Verdict
	if v.Over == job.Yes {
		return false
	}
	if v.Attempt.Number == 0 {
		v.Attempt.Number = 1
	}
	v.State, v.Possible, v.Over = job.Unknown, job.TerminalStates, job.Yes
	v.Certainty, v.Reason, v.Via, v.Cause = job.Inferred, job.AlreadyDone, t.Via, ""
	v.Since, v.LastSeen = t.At, job.StampOf(j.core.wall)
	j.enter(t.At, false)
	return true
}

// begin opens a new attempt.
func (j *judgement) begin(start job.Stamp) {
	v, b := &j.account.Verdict, &j.account.Books
	j.own()
	if v.Attempt.Number > 0 {
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
		return
	}
	if s := j.witness(); s != nil {
		if s.report.State == v.State && v.Certainty != job.Witnessed {
			v.Certainty, v.Reason, v.Via, v.LastSeen = job.Witnessed, job.FlinkSaid, s.report.Via, job.StampOf(c.wall)
			j.enter(job.StampOf(c.wall), false)
		}
		j.positive = true
		j.describe(s.report)
		return
	}
	if !c.health.sources[Agents].synced {
		return // who beats is not known; the boards lower what they serve by themselves (S13)
	}
	proven, s := j.lastProof()
	if left := proven + c.cfg.Hold - c.now; left > 0 && v.Certainty == job.Witnessed {
		j.wake = min(j.wake, proven+c.cfg.Hold)
		return
	}
	reason := job.AgentSilent
	if s != nil {
		reason = s.reason()
	}
	if v.Certainty == job.Held && v.Reason == reason {
		return
	}
	if v.Certainty != job.Held {
		v.LastSeen = job.StampOf(c.wall - (c.now - proven).Milliseconds())
	}
	v.Certainty, v.Reason = job.Held, reason
	j.enter(job.StampOf(c.wall), false)
}

// lastProof is when the attempt that stands last had a live witness, and the sight that tells best why it has none.
func (j *judgement) lastProof() (time.Duration, *sight) {
	proven := j.entry.proven
	var best *sight
	for i := range j.entry.sights {
		s := &j.entry.sights[i]
		if s.report == nil || s.report.StartTime != j.account.Verdict.Attempt.StartTime {
			continue
		}
		proven = max(proven, s.provenAt(j.core.now))
		if best == nil || cmp.Or(cmp.Compare(best.proven, s.proven), cmp.Compare(s.by.agent.PodUID, best.by.agent.PodUID)) < 0 {
			best = s
		}
	}
	return proven, best
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

// conclude draws the one negative conclusion that agents alone can carry (S8): a JobManager without high availability that
// does not know the job cannot bring it back. The attempt is over; how it ended, nobody saw.
func (j *judgement) conclude() {
	c, v := j.core, &j.account.Verdict
	if v.Over == job.Yes || j.vouched() {
		return
	}
	s := j.denial()
	if s == nil {
		return
	}
	needed, reason := c.cfg.Missing, job.Vanished
	if s.report.Incarnation != s.report.Denier {
		if other := j.newer(s); other != nil {
			needed = c.cfg.Grace
			if pipeline(other.report) == cmp.Or(v.Pipeline, v.Name) {
				reason = job.Replaced
			}
		}
	}
	if left := needed - c.health.grace(s.denied-1); left > 0 || !c.health.judges(c.now, c.cfg) {
		j.wake = min(j.wake, c.now+max(left, c.cfg.Tick))
		return
	}
	v.State, v.Over, v.Certainty, v.Reason, v.Via = job.Unknown, job.Yes, job.Inferred, reason, job.ViaNone
	v.Possible = job.TerminalStates | job.StatesOf(job.Suspended)
	v.Since = job.StampOf(c.wall)
	j.positive = true
	j.enter(v.Since, false)
}

// denial is the sight of a live witness that denies the job and whose JobManager has high availability off, or nil.
func (j *judgement) denial() *sight {
	for i := range j.entry.sights {
		s := &j.entry.sights[i]
		if s.denied > 0 && s.by.beat.HighAvailability == job.No && s.report.StartTime == j.account.Verdict.Attempt.StartTime {
			return s
		}
	}
	return nil
}

// newer is a live sight of another job by the same witness.
func (j *judgement) newer(denial *sight) *sight {
	for _, other := range j.entry.cluster.jobs {
		if other == j.entry {
			continue
		}
		if i := other.sightBy(denial.by); i >= 0 && other.sights[i].live() {
			return &other.sights[i]
		}
	}
	return nil
}

func pipeline(r *evidence.Report) string { return cmp.Or(r.Pipeline, r.Name) }
