package api

import (
	"context"
	"html"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/holdfast-dev/holdfast/aggregator/board"
	"github.com/holdfast-dev/holdfast/job"
)

// getHistory answers with what a job went through.
func (s *Server) getHistory(r *request) *Problem {
	if p := r.checkSite(); p != nil {
		return p
	}
	key := r.key()
	if r.view.Get(key.String()) == nil {
		return r.noJob()
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.o.HistoryTimeout)
	defer cancel()
	page, err := s.o.History.History(ctx, key, r.query.number("limit"))
	if err != nil {
		s.o.Log.Warn("a history could not be read", "job", key.String(), "error", err)
		p := problem(fasthttp.StatusServiceUnavailable, kindStore, "The store could not be asked",
			"etcd, where histories are kept, gave no answer within %s: try again; the job itself is still shown without its history", s.o.HistoryTimeout)
		p.retryAfter = 5
		return p
	}
	condition, _ := r.view.Condition()
	list := TransitionList{
		Items: make([]Transition, len(page.Transitions)), Unreadable: page.Unreadable, Frozen: frozen(condition),
		Version: board.Version{Epoch: r.view.Identity().Epoch, Revision: page.Revision}.String(),
	}
	for i, t := range page.Transitions {
		list.Items[i] = transition(t)
	}
	r.sendJSON(list)
	return nil
}

// getStatus answers with how well the server knows what it says. It answers even before the board is complete.
func (s *Server) getStatus(r *request) *Problem {
	condition, _ := r.view.Condition()
	leader, leads := r.view.Leader()
	status := Status{
		Site: r.view.Site(), Program: s.o.Version, Epoch: r.view.Identity().Epoch, Version: r.view.Version().String(),
		Jobs: r.view.Len(), Watchers: s.watchers.count(),
		Leader: Leader{
			Leads: leads, Name: leader.Name, Address: leader.Address, Since: leader.Since,
			Age: age(r.view.Now(), r.view.LeaderProven()),
		},
		Agents: Agents{Expected: condition.Expected, Beating: condition.Beating},
		Frozen: frozen(condition), Sources: []Source{},
	}
	if w := r.view.Weakness(); w.Holds() {
		status.Weakened = &Weak{Reason: w.Reason, Since: job.Stamp(w.Since.UTC().Format(time.RFC3339))}
	}
	for _, f := range board.Feeds() {
		health := r.view.Feed(f)
		source := Source{Name: "etcd/" + f.String(), Healthy: health.Alive, Age: age(r.view.Now(), health.Proven)}
		switch {
		case health.Err != nil:
			source.Why = health.Err.Error()
		case !health.Alive:
			source.Why = "it has not been listed yet"
		}
		status.Sources = append(status.Sources, source)
	}
	status.Sources = append(status.Sources, s.o.Sources()...)
	r.sendJSON(status)
	return nil
}

// age is the time since a proof in seconds; -1 if there never was one.
func age(now, proven time.Time) float64 {
	if proven.IsZero() {
		return -1
	}
	return now.Sub(proven).Round(time.Millisecond).Seconds()
}

// checks are what makes the server ready: once complete, a board stays so, since it keeps and weakens what it has.
func checks(v *board.Snapshot) []Check {
	list := make([]Check, 0, len(board.Feeds())+1)
	for _, f := range board.Feeds() {
		health := v.Feed(f)
		c := Check{Name: "etcd/" + f.String(), OK: health.Listed}
		if !c.OK {
			c.Why = "etcd has not been listed yet"
			if health.Err != nil {
				c.Why += ": " + health.Err.Error()
			}
		}
		list = append(list, c)
	}
	epoch := Check{Name: "epoch", OK: v.Identity().Epoch > 0}
	if !epoch.OK {
		epoch.Why = "the site has no identity yet, which the first leader writes"
	}
	return append(list, epoch)
}

// unready says so as long as the board is incomplete.
func unready(v *board.Snapshot) *Problem {
	if v.Complete() {
		return nil
	}
	p := problem(fasthttp.StatusServiceUnavailable, kindNotReady, "The server is not ready",
		"it has not seen all of its site yet: try again in a few seconds; /readyz?verbose says what is missing")
	p.retryAfter = 2
	return p
}

func (s *Server) getReady(r *request) *Problem {
	p := unready(r.view.Snapshot)
	list := []Check{}
	if r.query.on("verbose") {
		list = checks(r.view.Snapshot)
	}
	if p != nil {
		p.Checks = list
		return p
	}
	r.sendJSON(Readiness{Ready: true, Checks: list})
	return nil
}

// getLive answers as long as the process can: whether etcd or anybody else does is no reason to restart it.
func (s *Server) getLive(r *request) *Problem {
	r.ctx.SetContentType("text/plain; charset=utf-8")
	r.ctx.SetBodyString("ok\n")
	return nil
}

func (s *Server) getOpenAPI(r *request) *Problem {
	r.ctx.SetContentType(jsonType)
	r.ctx.SetBody(s.openAPI)
	return nil
}

func (s *Server) getPage(r *request) *Problem {
	r.ctx.SetContentType("text/html; charset=utf-8")
	site := html.EscapeString(r.view.Site())
	r.ctx.SetBodyString(`<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Holdfast: ` + site + `</title>
<h1>Holdfast, site ` + site + `</h1>
<p>This is the API server: what is the state of each Flink job, how do we know, and since when.</p>
<ul>
<li><a href="/api/v1/jobs">/api/v1/jobs</a>: all jobs
<li><a href="/api/v1/clusters">/api/v1/clusters</a>: all Flink clusters, where there is no job to speak of
<li><a href="/api/v1/status">/api/v1/status</a>: how well this server knows what it says
<li><a href="/openapi.json">/openapi.json</a>: the description of the API
<li><a href="/readyz?verbose">/readyz?verbose</a>, <a href="/metrics">/metrics</a>
</ul>
</html>
`)
	return nil
}
