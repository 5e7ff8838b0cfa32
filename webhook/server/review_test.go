package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/holdfast-dev/holdfast/webhook"
	"github.com/holdfast-dev/holdfast/webhook/breaker"
)

// patched is the pod that an answer makes of a request's.
func patched(t *testing.T, request *admissionv1.AdmissionRequest, answer *admissionv1.AdmissionResponse) *corev1.Pod {
	t.Helper()
	var patch []webhook.Operation
	if err := json.Unmarshal(answer.Patch, &patch); err != nil {
		t.Fatalf("%v in the patch %s", err, answer.Patch)
	}
	text, err := webhook.Apply(request.Object.Raw, patch)
	if err != nil {
		t.Fatal(err)
	}
	pod := new(corev1.Pod)
	if err := json.Unmarshal(text, pod); err != nil {
		t.Fatal(err)
	}
	return pod
}

func TestInjects(t *testing.T) {
	r := serving(t)
	request := creation(t, application)
	answer := r.review(request)
	pod := patched(t, request, answer)
	if pod.Labels[webhook.LabelInjected] != "true" || pod.Spec.InitContainers[0].Name != webhook.ContainerName || pod.Spec.InitContainers[0].Image != "holdfast:1" {
		t.Errorf("the pod has no agent:\n%s", answer.Patch)
	}
	want := map[string]string{"decision": "inject", "reason": "JobManager", "mode": "native", "archive": "inject: DecidedInPod"}
	if diff := cmp.Diff(want, answer.AuditAnnotations); diff != "" {
		t.Errorf("audit annotations: -want +got\n%s", diff)
	}
	if len(answer.Warnings) > 0 {
		t.Errorf("warnings %q", answer.Warnings)
	}
	if n := r.counted("decisions_total", "inject", "JobManager"); n != 1 {
		t.Errorf("counted %v times", n)
	}
	if n := r.counted("request_duration_seconds"); n != 1 {
		t.Errorf("measured %v times", n)
	}
	if diff := cmp.Diff([]bool{true}, r.breaker.claims); diff != "" {
		t.Errorf("the breaker was asked: -want +got\n%s", diff)
	}
}

// Whatever can be read is allowed, and left alone where it is not the creation of a JobManager's pod.
func TestWhatIsLeftAlone(t *testing.T) {
	r := serving(t)
	for _, c := range []struct {
		name   string
		edit   func(*admissionv1.AdmissionRequest)
		reason webhook.Reason
	}{
		{"an update", func(a *admissionv1.AdmissionRequest) { a.Operation = admissionv1.Update }, ReasonNotPodCreation},
		{"a deletion", func(a *admissionv1.AdmissionRequest) {
			a.Operation, a.Object = admissionv1.Delete, runtime.RawExtension{}
		}, ReasonNotPodCreation},
		{"an operation that nobody knows", func(a *admissionv1.AdmissionRequest) { a.Operation = "MELT" }, ReasonNotPodCreation},
		{"another resource", func(a *admissionv1.AdmissionRequest) {
			a.Resource = metav1.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
			a.Kind = metav1.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}
		}, ReasonNotPodCreation},
		{"pods of another group", func(a *admissionv1.AdmissionRequest) { a.Resource.Group = "metrics.k8s.io" }, ReasonNotPodCreation},
		{"a subresource", func(a *admissionv1.AdmissionRequest) { a.SubResource = "eviction" }, ReasonNotPodCreation},
		{"no object", func(a *admissionv1.AdmissionRequest) { a.Object = runtime.RawExtension{} }, webhook.ReasonUnreadable},
		{"an empty object", func(a *admissionv1.AdmissionRequest) { a.Object.Raw = []byte(`{}`) }, webhook.ReasonNoContainer},
		{"an object that is none", func(a *admissionv1.AdmissionRequest) { a.Object.Raw = []byte(`[1,"two"]`) }, webhook.ReasonUnreadable},
		{"another kind of object", func(a *admissionv1.AdmissionRequest) {
			a.Object.Raw = []byte(`{"apiVersion":"apps/v1","kind":"Deployment","spec":{}}`)
		}, webhook.ReasonUnreadable},
		{"a TaskManager", func(a *admissionv1.AdmissionRequest) { *a = *creation(t, "taskmanager") }, webhook.ReasonNotJobManager},
		{"one that has an agent", func(a *admissionv1.AdmissionRequest) { *a = *creation(t, "already-injected") }, webhook.ReasonAlreadyInjected},
	} {
		request := creation(t, application)
		c.edit(request)
		before := r.counted("decisions_total", "skip", string(c.reason))
		answer := r.review(request)
		if answer.Patch != nil {
			t.Errorf("%s: a patch %s", c.name, answer.Patch)
		}
		if diff := cmp.Diff(map[string]string{"decision": "skip", "reason": string(c.reason)}, answer.AuditAnnotations); diff != "" {
			t.Errorf("%s: audit annotations: -want +got\n%s", c.name, diff)
		}
		if len(answer.Warnings) == 0 || !strings.HasPrefix(answer.Warnings[0], "holdfast: no agent is injected: ") || !strings.HasSuffix(answer.Warnings[0], "("+string(c.reason)+")") {
			t.Errorf("%s: warnings %q", c.name, answer.Warnings)
		}
		if got := r.counted("decisions_total", "skip", string(c.reason)); got != before+1 {
			t.Errorf("%s: counted %v times", c.name, got-before)
		}
	}
	if len(r.breaker.claims) > 0 {
		t.Error("the breaker was asked for pods that are left alone")
	}
}

func TestInjectsNothingBeforeItIsTold(t *testing.T) {
	r := serving(t)
	r.server.settings.Store(nil)
	if got := r.review(creation(t, application)).AuditAnnotations["reason"]; got != string(ReasonStarting) {
		t.Errorf("reason %q", got)
	}
	s := settings()
	s.Image = "holdfast:2"
	r.server.Set(s)
	request := creation(t, application)
	if got := patched(t, request, r.review(request)).Spec.InitContainers[0].Image; got != "holdfast:2" {
		t.Errorf("the image is %q", got)
	}
}

func TestWhileAgentsCannotStart(t *testing.T) {
	r := serving(t)
	r.breaker.answer = breaker.Answer{Known: true, Message: "agents cannot start"}
	answer := r.review(creation(t, application))
	if answer.Patch != nil || answer.AuditAnnotations["reason"] != "Paused" {
		t.Errorf("%v and a patch of %d bytes", answer.AuditAnnotations, len(answer.Patch))
	}
	if diff := cmp.Diff([]string{"holdfast: no agent is injected: agents cannot start (Paused)"}, answer.Warnings); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if n := r.counted("decisions_total", "skip", "Paused"); n != 1 {
		t.Errorf("counted %v times", n)
	}
	if n := r.counted("breaker_unknown_total"); n != 0 {
		t.Errorf("counted %v times as not known", n)
	}

	r.breaker.answer = breaker.Answer{Inject: true}
	if answer := r.review(creation(t, application)); answer.Patch == nil {
		t.Error("nothing is injected while nobody can tell")
	}
	if n := r.counted("breaker_unknown_total"); n != 1 {
		t.Errorf("counted %v times as not known, want 1", n)
	}
}

func TestDryRunsChangeNothing(t *testing.T) {
	r := serving(t)
	yes := true
	request := creation(t, application)
	request.DryRun = &yes
	if answer := r.review(request); answer.Patch == nil {
		t.Error("a dry run does not show what would be done")
	}
	if diff := cmp.Diff([]bool{false}, r.breaker.claims); diff != "" {
		t.Errorf("the breaker was asked: -want +got\n%s", diff)
	}
	if n := r.counted("decisions_total", "inject", "JobManager"); n != 0 {
		t.Errorf("counted %v times", n)
	}
	if n := r.counted("dry_runs_total", "inject", "JobManager"); n != 1 {
		t.Errorf("counted %v times as a dry run", n)
	}
	if strings.Contains(r.log.String(), "level=INFO") {
		t.Errorf("logged as if it were true:\n%s", r.log)
	}
	r.review(creation(t, application))
	if !strings.Contains(r.log.String(), "level=INFO msg=decided") {
		t.Error("the pod itself is not logged after a dry run")
	}
}

// A bug in a decision costs one agent, and no pod.
func TestPanicsLeavePodsAlone(t *testing.T) {
	r := serving(t)
	r.server.decide = func(webhook.Settings, webhook.Request) webhook.Decision { panic("planted") }
	for range 3 * cap(r.server.processors) { // and nothing is lost for those that follow
		answer := r.review(creation(t, application))
		if answer.Patch != nil || answer.AuditAnnotations["reason"] != "InternalError" {
			t.Fatalf("%v and a patch of %d bytes", answer.AuditAnnotations, len(answer.Patch))
		}
	}
	if n := r.counted("decisions_total", "skip", "InternalError"); n != float64(3*cap(r.server.processors)) {
		t.Errorf("counted %v times", n)
	}
	for _, want := range []string{"level=ERROR", "error=planted", "webhook/server.(*Server).judge", "namespace=team-a"} {
		if !strings.Contains(r.log.String(), want) {
			t.Errorf("no %q in the log", want)
		}
	}
}

func TestInjectionsAreLoggedOnceAnOwner(t *testing.T) {
	r := serving(t)
	infos := func() int { return strings.Count(r.log.String(), "level=INFO msg=decided") }
	for range 3 {
		r.review(creation(t, application))
	}
	if infos() != 1 {
		t.Errorf("logged %d times:\n%s", infos(), r.log)
	}
	for _, want := range []string{
		"decision=inject", "reason=JobManager", "namespace=team-a", "pod=orders-6b8f6c7d9c-", "owner=ReplicaSet/orders-6b8f6c7d9c",
		"mode=native", "cluster=orders", "port=8081", `archive="inject: DecidedInPod"`,
	} {
		if !strings.Contains(r.log.String(), want) {
			t.Errorf("no %s in the log:\n%s", want, r.log)
		}
	}
	// The same owner, with another outcome.
	s := settings()
	s.Archive = webhook.ArchiveOff
	r.server.Set(s)
	r.review(creation(t, application))
	if infos() != 2 {
		t.Errorf("another outcome: logged %d times, want 2", infos())
	}
	other := creation(t, application)
	other.Object.Raw = []byte(strings.ReplaceAll(string(other.Object.Raw), "1f4f6b62-5ce5-4e3f-9d5c-2c5a0a1f7f10", "another"))
	r.review(other)
	if infos() != 3 {
		t.Errorf("another owner: logged %d times, want 3", infos())
	}
	skipped := creation(t, application)
	skipped.Operation = admissionv1.Update
	r.review(skipped)
	if n := strings.Count(r.log.String(), "level=DEBUG msg=decided decision=skip reason=NotPodCreation"); n != 1 || infos() != 3 {
		t.Errorf("a pod that is left alone is logged %d times", n)
	}
}

func TestWhoWasToldIsForgottenInTime(t *testing.T) {
	var all told
	for i := range 10 * toldLimit {
		if !all.news(fmt.Sprint(i), "inject") {
			t.Fatal("a new owner is no news")
		}
		if len(all.seen) > toldLimit {
			t.Fatalf("%d owners are remembered", len(all.seen))
		}
	}
}

// What people write on their pods comes back in warnings, which are headers in the end.
func TestWarningsAreBounded(t *testing.T) {
	d := webhook.Decision{Reason: "Because", Message: "it is\r\nSet-Cookie: a=b\x1b[2J\u202e \xff end"}
	for range 20 {
		d.Warnings = append(d.Warnings, strings.Repeat("é", 1000))
	}
	all := warnings(d)
	if len(all) != warningsLimit {
		t.Errorf("%d warnings", len(all))
	}
	if want := "holdfast: no agent is injected: it is  Set-Cookie: a=b [2J  ? end (Because)"; all[0] != want {
		t.Errorf("%q, want %q", all[0], want)
	}
	if n := utf8.RuneCountInString(all[1]); n != warningLimit || !strings.HasSuffix(all[1], "é…") || !utf8.ValidString(all[1]) {
		t.Errorf("%d characters, %q", n, all[1])
	}
}

// reading makes a rig that reads ConfigMaps in the given way, and the request that wants one.
func reading(t *testing.T, read ConfigMaps) (*rig, *admissionv1.AdmissionRequest) {
	r := serving(t, func(o *Options) { o.ConfigMaps = read })
	s := settings()
	s.ReadConfigMaps = true
	r.server.Set(s)
	request := creation(t, "docs-job-configured")
	if name, needed := webhook.ConfigMapNeeded(s, request.Object.Raw); !needed || name != "flink-config" {
		t.Fatalf("the pod needs no ConfigMap: %q", name)
	}
	return r, request
}

func TestConfigMapsAreRead(t *testing.T) {
	var asked []string
	r, request := reading(t, func(_ context.Context, namespace, name string) (map[string]string, error) {
		asked = append(asked, namespace+"/"+name)
		return map[string]string{"config.yaml": "rest.port: 9999\n"}, nil
	})
	answer := r.review(request)
	if got := answer.AuditAnnotations["archive"]; got != "inject: NotConfigured" {
		t.Errorf("archive %q: %v", got, answer.AuditAnnotations)
	}
	if diff := cmp.Diff([]string{"team-a/flink-config"}, asked); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	r.review(creation(t, application))
	if len(asked) != 1 {
		t.Errorf("a ConfigMap was read for nothing: %q", asked)
	}
	if n := r.counted("configmap_reads_total", "read"); n != 1 {
		t.Errorf("counted %v times", n)
	}
}

func TestConfigMapsWithoutData(t *testing.T) {
	r, request := reading(t, func(context.Context, string, string) (map[string]string, error) { return nil, nil })
	if got := r.review(request).AuditAnnotations["archive"]; got == "skip: ConfigUnknown" {
		t.Error("a ConfigMap that has nothing counts as one that could not be read")
	}
}

func TestConfigMapsThatCannotBeRead(t *testing.T) {
	r, request := reading(t, func(context.Context, string, string) (map[string]string, error) { return nil, errors.New("forbidden") })
	answer := r.review(request)
	if got := answer.AuditAnnotations["archive"]; answer.Patch == nil || got != "skip: ConfigUnknown" {
		t.Errorf("archive %q, a patch of %d bytes", got, len(answer.Patch))
	}
	if n := r.counted("configmap_reads_total", "failed"); n != 1 {
		t.Errorf("counted %v times", n)
	}
}

// An API server that does not answer must not hold pods back.
func TestConfigMapsThatHang(t *testing.T) {
	var under, most atomic.Int64
	r, _ := reading(t, func(ctx context.Context, _, _ string) (map[string]string, error) {
		n := under.Add(1)
		defer under.Add(-1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		<-ctx.Done()
		return nil, ctx.Err()
	})
	begin := time.Now()
	done := make(chan string)
	const pods = 3 * configMapLimit
	for range pods {
		request := creation(t, "docs-job-configured")
		go func() { done <- r.review(request).AuditAnnotations["archive"] }()
	}
	for range pods {
		if got := <-done; got != "skip: ConfigUnknown" {
			t.Errorf("archive %q", got)
		}
	}
	if took := time.Since(begin); took > 4*configMapTimeout {
		t.Errorf("took %s: reading is not bounded, or one waits for the other", took)
	}
	if most.Load() != configMapLimit {
		t.Errorf("%d were read at a time, want %d", most.Load(), configMapLimit)
	}
	if failed, busy := r.counted("configmap_reads_total", "failed"), r.counted("configmap_reads_total", "busy"); failed+busy != pods || failed < configMapLimit {
		t.Errorf("%v failed, %v busy", failed, busy)
	}
}

// What a namespace allows is known beforehand: a pod that would be refused with an agent goes without one.
func TestNamespacesWithoutRoom(t *testing.T) {
	var asked []string
	r := serving(t, func(o *Options) {
		o.Limits = func(namespace string) webhook.Limits {
			asked = append(asked, namespace)
			full := corev1.ResourceList{corev1.ResourceRequestsMemory: resource.MustParse("1Ki")}
			return webhook.Limits{Ranges: []corev1.LimitRange{}, Quotas: []corev1.ResourceQuota{{Status: corev1.ResourceQuotaStatus{Hard: full}}}}
		}
	})
	request := creation(t, application)
	request.Object.Raw = []byte(strings.NewReplacer(`"1600Mi"`, `"512"`, `"3200Mi"`, `"1Ki"`).Replace(string(request.Object.Raw)))
	if got := r.review(request).AuditAnnotations["reason"]; got != string(webhook.ReasonNamespaceLimits) {
		t.Errorf("reason %q", got)
	}
	if diff := cmp.Diff([]string{"team-a"}, asked); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}
