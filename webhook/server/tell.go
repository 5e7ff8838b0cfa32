package server

import (
	"context"
	"log/slog"
	"sync"

	admissionv1 "k8s.io/api/admission/v1"

	"github.com/holdfast-dev/holdfast/webhook"
)

// told remembers of which owners' pods it was logged what became of them. A controller whose pods are refused later on, by a quota,
// say, makes the same pod again and again.
type told struct {
	mu   sync.Mutex
	seen map[string]string
}

// toldLimit bounds the owners that are remembered. When there are more, all are forgotten, and logged once more.
const toldLimit = 1024

// news says whether what became of an owner's pod is something else than the last time.
func (t *told) news(owner, what string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.seen[owner] == what {
		return false
	}
	if t.seen == nil || len(t.seen) >= toldLimit {
		t.seen = make(map[string]string)
	}
	t.seen[owner] = what
	return true
}

// tell counts a decision and logs it: an injection once an owner, all else for those who look for it.
func (s *Server) tell(r *admissionv1.AdmissionRequest, d webhook.Decision) {
	counts := s.metrics.decisions
	if dry(r) {
		counts = s.metrics.dryRuns
	}
	counts.WithLabelValues(decision(d), string(d.Reason)).Inc()

	ctx := context.Background()
	level := slog.LevelDebug
	// Without somebody who listens, the pod need not be read once more for its owner.
	if !s.o.Log.Enabled(ctx, slog.LevelDebug) && (!d.Inject || dry(r)) {
		return
	}
	pod := identify(r)
	name, owner, key := pod.Name, "", r.Namespace+"/"+pod.Name
	if name == "" {
		name = pod.GenerateName
		key = r.Namespace + "/" + pod.GenerateName
	}
	for _, o := range pod.Owners {
		if o.Controller || owner == "" {
			owner, key = o.Kind+"/"+o.Name, o.UID
		}
	}
	if d.Inject && !dry(r) && s.told.news(key, string(d.Reason)+string(d.Mode)+string(d.Archive.Reason)) {
		level = slog.LevelInfo
	}
	attributes := []any{
		"decision", decision(d), "reason", string(d.Reason), "namespace", r.Namespace, "pod", name, "owner", owner, "dry", dry(r),
	}
	if d.Inject {
		attributes = append(attributes, "mode", string(d.Mode), "cluster", d.ClusterID, "port", d.RESTPort, "container", d.Container, "archive", archive(d))
	} else {
		attributes = append(attributes, "message", d.Message)
	}
	s.o.Log.Log(ctx, level, "decided", attributes...)
}
