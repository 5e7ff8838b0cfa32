package settle

import (
	"iter"

	"github.com/holdfast-dev/holdfast/job"
)

// A driver that reads the store anew holds it against what the core remembers. What differs, though the core was told everything, is told
// to it as Found: the store's word counts, since it is what is served.

// BeginRecall begins a round of Recall for what lies below a source's prefix.
func (c *Core) BeginRecall(of Source) { c.recalls[of]++ }

// Recall says what the core takes for stored at a key, as the event that would have told it: Stored, StoredCluster if the key has no ID,
// UnreadableVerdict, or Erased if there is nothing. The evidence of a verdict is not remembered. own says that the core holds on to what the store
// has lost, and says it again.
func (c *Core) Recall(key job.Key) (is Input, own bool) {
	if key.ID == "" {
		cl := c.clusters[key.ClusterKey()]
		if cl == nil {
			return Erased{Key: key}, false
		}
		cl.recalled = c.recalls[Clusters]
		return cl.recall(), cl.anew
	}
	e := c.jobs[key]
	if e == nil {
		return Erased{Key: key}, false
	}
	e.recalled = c.recalls[Verdicts]
	return e.recall(), e.rewound > 0
}

func (e *entry) recall() Input {
	switch {
	case e.sealed:
		return UnreadableVerdict{Key: e.key}
	case e.revision == 0:
		return Erased{Key: e.key}
	}
	return Stored{Account: e.account, Revision: e.revision}
}

func (cl *cluster) recall() Input {
	key := job.Key{Namespace: cl.key.Namespace, Cluster: cl.key.Cluster}
	switch {
	case cl.sealed:
		return UnreadableVerdict{Key: key}
	case cl.revision == 0:
		return Erased{Key: key}
	}
	return StoredCluster{Cluster: cl.said, Revision: cl.revision}
}

// Unrecalled are the keys of what the core takes for stored below a source's prefix, and was not asked for since BeginRecall.
func (c *Core) Unrecalled(of Source) iter.Seq[job.Key] {
	return func(yield func(job.Key) bool) {
		switch of {
		case Verdicts:
			for key, e := range c.jobs {
				if (e.revision != 0 || e.sealed) && e.recalled != c.recalls[of] && !yield(key) {
					return
				}
			}
		case Clusters:
			for key, cl := range c.clusters {
				if (cl.revision != 0 || cl.sealed) && cl.recalled != c.recalls[of] && !yield(job.Key{Namespace: key.Namespace, Cluster: key.Cluster}) {
					return
				}
			}
		}
	}
}

// found takes the store's word for what lies there. A record that changed without the core being told is taken as if it had been told now;
// one that the core remembers otherwise, at the same revision, is forgotten first: the core never knew better than what it was told.
func (c *Core) found(is Input) {
	switch is := is.(type) {
	case Stored:
		if e := c.jobs[is.Account.Key]; e != nil && e.revision == is.Revision {
			e.account, e.rewound, e.sealed = is.Account, 0, false
			e.share()
			c.count(e)
			return
		}
		c.stored(is)
	case StoredCluster:
		if cl := c.clusters[is.Cluster.Key]; cl != nil && cl.revision == is.Revision {
			cl.count(is.Cluster, c.now)
		}
		c.storedCluster(is)
	case UnreadableVerdict:
		c.unreadableVerdict(is.Key)
	case Erased:
		c.erased(is.Key)
	}
}
