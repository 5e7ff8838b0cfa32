package settle

import (
	"time"

	"github.com/holdfast-dev/holdfast/job"
)

// recount notes that another store counts its revisions anew: those of the one before may return, and then mean something else.
func (c *Core) recount(of Source) {
	switch of {
	case Agents:
		c.weighed = 0
	case Verdicts:
		for _, e := range c.jobs {
			if e.revision != 0 {
				e.revision = noRevision
			}
		}
	case Clusters:
		for _, cl := range c.clusters {
			if cl.revision != 0 {
				cl.revision = noRevision
			}
		}
	}
}

// noRevision is none that a store gives: what was stored at another's is to be told, or lost, before anything is written.
const noRevision = -1

// stored makes a verdict count.
func (c *Core) stored(in Stored) {
	e := c.entry(in.Account.Key)
	e.told = c.health.sources[Verdicts].rounds
	e.sealed = false
	if e.revision == in.Revision {
		return
	}
	e.writing, e.retiring, e.forgotten = false, false, false
	e.revision = in.Revision
	if behind := e.account.Books.Sequence - in.Account.Books.Sequence; behind > 0 {
		// The store was set back. What was known here was true before, and is said again, after what the store still has.
		e.rewound += behind
		e.account.Books.Sequence, e.account.Books.Fold = in.Account.Books.Sequence, nil
	} else {
		e.account, e.rewound = in.Account, 0
		e.share()
	}
	c.count(e)
}

// count lets the account count: the job is judged anew.
func (c *Core) count(e *entry) {
	e.noteOver(c.now)
	c.settle(e)
}

// noteOver notes since when the job has been known to be over.
func (e *entry) noteOver(now time.Duration) {
	if e.account.Verdict.Over == job.Yes && e.overSeen == 0 {
		e.overSeen = max(now, 1)
	} else if e.account.Verdict.Over != job.Yes {
		e.overSeen = 0
	}
}

// erased takes the disappearance of a verdict. If it was retired, that was the purpose; if not, it is written again.
func (c *Core) erased(key job.Key) {
	if cl := c.clusters[key.ClusterKey()]; cl != nil && key.ID == "" {
		c.loseCluster(cl)
		c.touch(cl)
		return
	}
	if e := c.jobs[key]; e != nil {
		c.lose(e)
		c.settle(e)
		c.retire(e)
	}
}

// lose notes that a verdict is not in the store any more.
func (c *Core) lose(e *entry) {
	if e.revision == 0 && !e.sealed {
		return
	}
	e.forgotten = e.retiring || c.retirable(e)
	e.revision, e.sealed, e.writing, e.retiring = 0, false, false, false
	if e.forgotten {
		c.due.set(e, c.now+c.cfg.Missing) // an agent may be about to repair its report
	}
}

func (c *Core) unreadableVerdict(key job.Key) {
	if key.ID == "" {
		cl := c.cluster(key.ClusterKey())
		cl.told = c.health.sources[Clusters].rounds
		cl.sealed, cl.writing = true, false
		return
	}
	e := c.entry(key)
	e.told = c.health.sources[Verdicts].rounds
	e.sealed, e.writing = true, false
}

// notWritten ends a write; the next Tick proposes again, not this. What was written and lost counts as if it had been told before it was lost.
func (c *Core) notWritten(in NotWritten) {
	if cl := c.clusters[in.Key.ClusterKey()]; cl != nil && in.Key.ID == "" {
		cl.writing = false
		if lost, is := in.Lost.(StoredCluster); is {
			cl.count(lost.Cluster, c.now)
			cl.anew = true
		}
		c.dueClusters.set(cl, c.now)
		return
	}
	if e := c.jobs[in.Key]; e != nil {
		e.writing = false
		if lost, is := in.Lost.(Stored); is {
			e.account = lost.Account
			e.share()
			e.noteOver(c.now)
		}
		c.due.set(e, c.now)
	}
}
