package settle

import (
	"slices"

	"github.com/holdfast-dev/holdfast/job"
)

// A JobManager that was stopped, and deposed meanwhile, goes on believing in its attempt until it finds out. Where etcd has lost its past in
// between, nobody knows any more that this attempt was superseded, and it seems to be the later one of two. So of two attempts the one that was
// taken for the earlier may come back, when a live witness tells of it and the other is found to have been a mistake (S4).

// mistaken says whether the attempt that stands was taken for later than another wrongly, of which a live witness says that it has not ended:
// somebody saw the other one follow it, or nobody who told of it is left.
func (j *judgement) mistaken(other job.Stamp) bool {
	v := &j.account.Verdict
	return !ended(*v) && !j.vouched() && (j.precedes(v.Attempt.StartTime, other) || j.abandoned())
}

// abandoned says whether each witness that told of the attempt that stands has taken it back, or is gone, for a grace.
func (j *judgement) abandoned() bool {
	c, v := j.core, &j.account.Verdict
	abandoned := true
	for i := range j.entry.sights {
		s := &j.entry.sights[i]
		if s.report == nil || s.unreadable || s.report.StartTime != v.Attempt.StartTime {
			continue
		}
		left, judged := c.cfg.Grace, true
		switch {
		case s.denied > 0:
			left, judged = c.cfg.Grace-c.health.grace(s.denied-1), c.health.judges(c.now, c.cfg)
		case c.absent(s.by):
			left = 0
		case s.by.beating:
			return false
		case s.by.gone > 0:
			left, judged = c.cfg.Grace-c.health.podsGrace(s.by.gone-1), c.health.judgesPods(c.now, c.cfg)
		case !c.noSuchPod(s.by.agent):
			return false
		}
		if left > 0 || !judged {
			abandoned = false
			j.wake = min(j.wake, c.now+max(left, c.cfg.Tick))
		}
	}
	return abandoned
}

// reinstate lets an attempt count again that was superseded by mistake.
func (j *judgement) reinstate(start job.Stamp) {
	b := &j.account.Books
	if slices.Contains(b.Past, start) {
		j.own()
		b.Past = slices.DeleteFunc(b.Past, func(past job.Stamp) bool { return past == start })
	}
}
