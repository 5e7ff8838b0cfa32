package agent

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"time"

	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/record"
)

// serve answers people who ask the agent itself, until ctx ends: /jobs is what it says, in the form in which that lies in etcd,
// and /healthz whether it calls itself alive. No probe of Kubernetes must ask it: an agent that waits for etcd is not to be killed.
func (a *Agent) serve(ctx context.Context) {
	if a.o.Listen == "" {
		return
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", a.o.Listen)
	if err != nil {
		a.log.Warn("nobody can ask the agent itself: choose another address to listen on, or none", "listen", a.o.Listen, "error", err)
		return
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /jobs", a.serveJobs)
	mux.HandleFunc("GET /healthz", a.serveHealth)
	server := &http.Server{
		Handler: mux, ReadTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: 30 * time.Second,
		MaxHeaderBytes: 8 << 10,
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(listener); err != nil && ctx.Err() == nil {
		a.log.Warn("nobody can ask the agent itself any more", "listen", a.o.Listen, "error", err)
	}
}

// status is what the agent says of itself.
type status struct {
	Agent    string                     `json:"agent"`
	Session  string                     `json:"session"`
	Alive    string                     `json:"alive"`
	Waiting  int                        `json:"waiting"`
	Repaired int                        `json:"repaired"`
	Etcd     string                     `json:"etcd"`
	Beat     json.RawMessage            `json:"beat,omitempty"`
	Jobs     map[string]json.RawMessage `json:"jobs"`
}

func (a *Agent) serveJobs(w http.ResponseWriter, _ *http.Request) {
	s := a.post.status()
	s.Agent, s.Session, s.Alive = a.o.Agent.String(), a.session, "yes"
	if err := a.alive(); err != nil {
		s.Alive = err.Error()
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(s)
}

func (a *Agent) serveHealth(w http.ResponseWriter, _ *http.Request) {
	if err := a.alive(); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	_, _ = w.Write([]byte("ok\n"))
}

// status is the post's part of what the agent says of itself.
func (p *post) status() status {
	p.mu.Lock()
	s := status{Waiting: len(p.queue), Repaired: p.repaired, Etcd: "fine", Jobs: make(map[string]json.RawMessage, len(p.letters))}
	if p.failing != nil {
		s.Etcd = p.failing.Error()
	}
	beat := p.beat.beat
	reports := make([]*evidence.Report, 0, len(p.letters))
	for _, l := range p.letters {
		if l.report != nil {
			reports = append(reports, l.report)
		}
	}
	p.mu.Unlock()
	if beat != nil {
		s.Beat = record.EncodeBeat(*beat)
	}
	for _, r := range reports {
		s.Jobs[r.JobID] = record.EncodeReport(*r)
	}
	return s
}
