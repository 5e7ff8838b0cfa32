package settle

import (
	"cmp"
	"strings"

	"github.com/holdfast-dev/holdfast/evidence"
)

// sessionJob notes what a FlinkSessionJob calls its job, which may not have been heard of yet.
func (c *Core) sessionJob(is evidence.SessionJob) {
	if is.Gone {
		if c.called[is.Key] == is.Name {
			delete(c.called, is.Key)
		}
		return
	}
	key := is.Key
	e := c.jobs[key]
	if e != nil {
		key = e.key
	}
	c.called[key] = strings.Clone(is.Name)
	if e != nil {
		c.settle(e)
	}
}

// pipeline is what a job's owner calls it: a FlinkSessionJob, or whom the agent found, or as it was called before; else it has its job's name.
func (c *Core) pipeline(e *entry, r *evidence.Report) string {
	v := &e.account.Verdict
	before := ""
	if v.Pipeline != v.Name {
		before = v.Pipeline
	}
	return cmp.Or(c.called[e.key], r.Pipeline, before, r.Name)
}
