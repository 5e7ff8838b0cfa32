package server

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime/debug"
	"strings"
	"unicode"

	"github.com/valyala/fasthttp"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfast-dev/holdfast/webhook"
)

// Reasons that only the server can have for leaving a pod alone. All others are package webhook's.
const (
	// ReasonStarting: what is to be injected is not known yet.
	ReasonStarting webhook.Reason = "Starting"
	// ReasonNotPodCreation: the review is of something else than the creation of a pod.
	ReasonNotPodCreation webhook.Reason = "NotPodCreation"
	// ReasonInternalError: this program has a bug. The pod goes on without an agent.
	ReasonInternalError webhook.Reason = "InternalError"
)

// version is the one of admission reviews that is spoken.
var version = admissionv1.SchemeGroupVersion.String()

// The answer's bounds. The API server cuts off warnings of more than 256 characters, and drops those beyond 4 KiB together.
const (
	warningLimit  = 256
	warningsLimit = 5
)

// review answers a review in JSON. A review that can be read is always allowed.
func (s *Server) review(body []byte) ([]byte, *problem) {
	request, p := s.decode(body)
	if p != nil {
		return nil, p
	}
	d, patch := s.judge(request)
	s.tell(request, d)
	response := &admissionv1.AdmissionResponse{
		UID: request.UID, Allowed: true, Warnings: warnings(d),
		AuditAnnotations: map[string]string{"decision": decision(d), "reason": string(d.Reason)},
	}
	if d.Inject {
		response.AuditAnnotations["mode"] = string(d.Mode)
		response.AuditAnnotations["archive"] = archive(d)
		kind := admissionv1.PatchTypeJSONPatch
		response.Patch, response.PatchType = patch, &kind
	}
	answer, err := json.Marshal(&admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: version, Kind: "AdmissionReview"}, Response: response,
	})
	if err != nil {
		return nil, problemf(fasthttp.StatusInternalServerError, "the answer cannot be written: %v", err)
	}
	return answer, nil
}

// decode reads a review.
func (s *Server) decode(body []byte) (*admissionv1.AdmissionRequest, *problem) {
	defer s.process()()
	var r admissionv1.AdmissionReview
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, problemf(fasthttp.StatusBadRequest, "this is no admission review: %v", err)
	}
	if r.APIVersion != version || r.Kind != "AdmissionReview" {
		return nil, problemf(fasthttp.StatusBadRequest,
			"this is %.100q of %.100q: only AdmissionReview of %s is understood, which the configuration's admissionReviewVersions must say",
			r.Kind, r.APIVersion, version)
	}
	if r.Request == nil {
		return nil, problemf(fasthttp.StatusBadRequest, "the admission review has no request")
	}
	return r.Request, nil
}

// process waits for a processor, and gives it back with what it returns.
func (s *Server) process() (release func()) {
	s.processors <- struct{}{}
	return func() { <-s.processors }
}

// judge decides upon a request. The patch is empty, or one that fits the pod.
func (s *Server) judge(r *admissionv1.AdmissionRequest) (d webhook.Decision, patch []byte) {
	defer func() {
		if v := recover(); v != nil {
			s.o.Log.Error("a decision failed; the pod goes on without an agent: please report this", "namespace", r.Namespace, "pod", podName(r),
				"error", v, "stack", string(debug.Stack()))
			d, patch = skip(ReasonInternalError, "the webhook has failed"), nil
		}
	}()
	pods := r.Resource == metav1.GroupVersionResource{Version: "v1", Resource: "pods"}
	if !pods || r.SubResource != "" || r.Operation != admissionv1.Create {
		return skip(ReasonNotPodCreation, "only the creation of pods is looked at"), nil
	}
	settings := s.settings.Load()
	if settings == nil {
		return skip(ReasonStarting, "the webhook has just started, and does not know yet what to inject"), nil
	}
	request := webhook.Request{Namespace: r.Namespace, Pod: r.Object.Raw, Limits: s.o.Limits(r.Namespace)}
	request.FlinkConfig = s.flinkConfig(*settings, request)
	d, patch = s.patch(*settings, request)
	if !d.Inject {
		return d, nil
	}
	answer := s.o.Breaker.Ask(!dry(r))
	if !answer.Known {
		s.metrics.unknown.Inc()
	}
	if !answer.Inject {
		return skip(webhook.ReasonPaused, answer.Message), nil
	}
	return d, patch
}

// patch asks package webhook.
func (s *Server) patch(settings webhook.Settings, r webhook.Request) (webhook.Decision, []byte) {
	defer s.process()()
	d := s.decide(settings, r)
	if !d.Inject {
		return d, nil
	}
	patch, err := webhook.Encode(d.Patch)
	if err != nil {
		s.o.Log.Error("a patch cannot be written; the pod goes on without an agent: please report this", "namespace", r.Namespace, "error", err)
		return skip(ReasonInternalError, "the webhook has failed"), nil
	}
	return d, patch
}

// flinkConfig reads the ConfigMap that the decision wants to know. nil means that it is not known.
func (s *Server) flinkConfig(settings webhook.Settings, r webhook.Request) map[string]string {
	if s.o.ConfigMaps == nil {
		return nil
	}
	name, needed := s.configMapNeeded(settings, r.Pod)
	if !needed {
		return nil
	}
	ctx, cancel := context.WithTimeout(s.ctx, configMapTimeout)
	defer cancel()
	select {
	case s.configMaps <- struct{}{}:
		defer func() { <-s.configMaps }()
	case <-ctx.Done():
		s.metrics.configMaps.WithLabelValues("busy").Inc()
		return nil
	}
	data, err := s.o.ConfigMaps(ctx, r.Namespace, name)
	if err != nil {
		s.metrics.configMaps.WithLabelValues("failed").Inc()
		s.o.Log.Debug("a ConfigMap could not be read", "namespace", r.Namespace, "name", name, "error", err)
		return nil
	}
	s.metrics.configMaps.WithLabelValues("read").Inc()
	if data == nil {
		data = map[string]string{} // it is known to have none
	}
	return data
}

func (s *Server) configMapNeeded(settings webhook.Settings, pod json.RawMessage) (string, bool) {
	defer s.process()()
	return webhook.ConfigMapNeeded(settings, pod)
}

func dry(r *admissionv1.AdmissionRequest) bool { return r.DryRun != nil && *r.DryRun }

func skip(reason webhook.Reason, message string) webhook.Decision {
	return webhook.Decision{Reason: reason, Message: message}
}

func decision(d webhook.Decision) string {
	if d.Inject {
		return "inject"
	}
	return "skip"
}

// archive says in a word or two what was decided of the archive folder.
func archive(d webhook.Decision) string {
	if d.Archive.Inject {
		return "inject: " + string(d.Archive.Reason)
	}
	return "skip: " + string(d.Archive.Reason)
}

// warnings are what whoever creates the pod is told. Each begins with our name: kubectl shows it among others'.
func warnings(d webhook.Decision) []string {
	all := d.Warnings
	if !d.Inject {
		all = append([]string{fmt.Sprintf("no agent is injected: %s (%s)", d.Message, d.Reason)}, all...)
	}
	if len(all) > warningsLimit {
		all = all[:warningsLimit]
	}
	told := make([]string, len(all))
	for i, text := range all {
		told[i] = warning("holdfast: " + text)
	}
	return told
}

// warning makes a text fit a Warning header: one line, no control characters, warningLimit characters at most.
func warning(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	if runes := []rune(text); len(runes) > warningLimit {
		text = string(runes[:warningLimit-1]) + "…"
	}
	return text
}

// podName is the pod's name, or what it will begin with.
func podName(r *admissionv1.AdmissionRequest) string {
	if r.Name != "" {
		return r.Name
	}
	return identify(r).GenerateName
}

// identity is what the log says of a pod.
type identity struct {
	Name         string `json:"name"`
	GenerateName string `json:"generateName"`
	Owners       []struct {
		Kind       string `json:"kind"`
		Name       string `json:"name"`
		UID        string `json:"uid"`
		Controller bool   `json:"controller"`
	} `json:"ownerReferences"`
}

func identify(r *admissionv1.AdmissionRequest) identity {
	var pod struct {
		Metadata identity `json:"metadata"`
	}
	// Of what cannot be read, nothing is known.
	_ = json.Unmarshal(r.Object.Raw, &pod)
	return pod.Metadata
}
