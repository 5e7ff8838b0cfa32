//go:build kubernetes

package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/test/kubernetes/node"
)

// What is asked here has no answer but a real API server's: a fake one loses events, knows no rights, and never falls silent.
var server *node.APIServer

func TestMain(m *testing.M) {
	os.Exit(func() int {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute) // the first time compiles
		defer cancel()
		var err error
		if server, err = node.StartAPIServer(ctx, os.Stderr); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer server.Stop()
		return m.Run()
	}())
}

// real is a namespace of the API server's, and clients of it.
type real struct {
	t         *testing.T
	namespace string
	config    *rest.Config
	admin     kubernetes.Interface
}

func newReal(t *testing.T) *real {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", server.Kubeconfig())
	must(t, err)
	config.QPS = -1
	r := &real{t: t, config: config, admin: kubernetes.NewForConfigOrDie(config)}
	ns, err := r.admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "kube-test-"}}, metav1.CreateOptions{})
	must(t, err)
	r.namespace = ns.Name
	return r
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// pod creates a pod with labels.
func (r *real) pod(name string, labels ...string) *corev1.Pod {
	r.t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "flink"}}},
	}
	for _, label := range labels {
		key, value, _ := strings.Cut(label, "=")
		pod.Labels[key] = value
	}
	made, err := r.admin.CoreV1().Pods(r.namespace).Create(r.t.Context(), pod, metav1.CreateOptions{})
	must(r.t, err)
	return made
}

// becomes writes what a kubelet would say of the pod's container.
func (r *real) becomes(pod *corev1.Pod, state corev1.ContainerState) {
	r.t.Helper()
	patch := *pod
	patch.ResourceVersion = ""
	patch.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", State: state}}
	_, err := r.admin.CoreV1().Pods(r.namespace).UpdateStatus(r.t.Context(), &patch, metav1.UpdateOptions{})
	must(r.t, err)
}

func (r *real) delete(name string) {
	r.t.Helper()
	now := int64(0)
	must(r.t, r.admin.CoreV1().Pods(r.namespace).Delete(r.t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: &now}))
}

func (r *real) relabel(name, patch string) {
	r.t.Helper()
	_, err := r.admin.CoreV1().Pods(r.namespace).Patch(r.t.Context(), name, "application/merge-patch+json",
		[]byte(`{"metadata":{"labels":`+patch+`}}`), metav1.PatchOptions{})
	must(r.t, err)
}

var isRunning = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}

// heard is what a follower tells.
type heard struct {
	t    *testing.T
	mu   sync.Mutex
	all  []Update
	pods map[string]evidence.Pod // by name, as told
	gone []string                // uids
}

func (h *heard) take(u Update) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, u)
	if u.Kind == Listed {
		h.pods = map[string]evidence.Pod{}
	}
	for _, p := range u.Pods {
		h.pods[p.Name] = p
	}
	for _, a := range u.Gone {
		h.gone = append(h.gone, a.PodUID)
		for name, p := range h.pods {
			if p.Agent == a {
				delete(h.pods, name)
			}
		}
	}
}

// await waits until what was told is as wanted.
func (h *heard) await(what string, limit time.Duration, wanted func() bool) {
	h.t.Helper()
	for begin := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		h.mu.Lock()
		ok := wanted()
		text := fmt.Sprintf("%+v", h.all)
		h.mu.Unlock()
		if ok {
			return
		}
		if time.Since(begin) > limit {
			h.t.Fatalf("not within %s: %s; told: %s", limit, what, text[max(0, len(text)-3000):])
		}
	}
}

func (h *heard) count(kind Kind) (n int) {
	for _, u := range h.all {
		if u.Kind == kind {
			n++
		}
	}
	return n
}

const soon = 20 * time.Second

// follow follows the pods of the namespace, with little patience.
func (r *real) follow(config *rest.Config, change ...func(*PodsOptions)) *heard {
	r.t.Helper()
	client := kubernetes.NewForConfigOrDie(config)
	h := &heard{t: r.t}
	o := PodsOptions{
		Client: client, Namespaces: []string{r.namespace}, Selectors: []string{"component=jobmanager", "holdfast.dev/injected=true"},
		Identify: func(pod *corev1.Pod) (Identity, bool) {
			id := Identity{Container: "main"}
			id.Agent.Cluster = "orders"
			return id, !strings.HasPrefix(pod.Name, "stranger")
		},
		pace: pace{
			page: 3, pageTimeout: 10 * time.Second, turnover: 3 * time.Second, overtime: time.Second, patience: 2 * time.Second,
			alive: 100 * time.Millisecond, stray: 300 * time.Millisecond,
		},
	}
	for _, c := range change {
		c(&o)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { FollowPods(ctx, o, h.take); close(done) }()
	r.t.Cleanup(func() { stop(); <-done })
	return h
}

// All pods are told, each once, page by page; then what changes; and their ends, with their last state before that.
func TestRealPods(t *testing.T) {
	r := newReal(t)
	for n := range 8 {
		r.pod(fmt.Sprint("listed-", n), "component=jobmanager")
	}
	both := r.pod("both", "component=jobmanager", "holdfast.dev/injected=true")
	r.pod("stranger", "component=jobmanager")
	r.pod("other", "component=taskmanager")
	h := r.follow(r.config)
	h.await("all nine", soon, func() bool { return len(h.pods) == 9 && h.count(Listed) == 1 && len(h.all[0].Pods) == 9 })

	late := r.pod("late", "holdfast.dev/injected=true")
	r.becomes(late, isRunning)
	h.await("the late one runs", soon, func() bool { return h.pods["late"].Running })
	r.becomes(late, corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 163}})
	r.delete("late")
	h.await("its end", soon, func() bool { return slices.Contains(h.gone, string(late.UID)) })
	h.await("its last state, before that", soon, func() bool {
		return slices.ContainsFunc(h.all, func(u Update) bool {
			return slices.ContainsFunc(u.Pods, func(p evidence.Pod) bool { return p.Name == "late" && p.Exited && p.ExitCode == 163 })
		})
	})
	h.await("signs of life, watch after watch", soon, func() bool { return h.count(Alive) > 3 })
	r.delete("both")
	h.await("its end, in both selectors", soon, func() bool { return slices.Contains(h.gone, string(both.UID)) })
	if n := h.count(Listed) + h.count(Lost); n != 1 {
		t.Errorf("listed or lost %d times", n)
	}
}

// A pod that leaves every selector is still there, until the API server says of its name that it is not, or another's.
func TestRealPodLeavesSelectors(t *testing.T) {
	r := newReal(t)
	pod := r.pod("orders", "component=jobmanager", "holdfast.dev/injected=true")
	h := r.follow(r.config)
	h.await("the pod", soon, func() bool { return len(h.pods) == 1 })
	r.relabel("orders", `{"component":null}`)
	r.relabel("orders", `{"holdfast.dev/injected":null}`)
	time.Sleep(time.Second) // the event is here by then; had it been taken for an end, that would show
	r.becomes(pod, isRunning)
	h.await("what becomes of it", soon, func() bool { return h.pods["orders"].Running })
	if len(h.gone) > 0 {
		t.Fatal("taken for gone")
	}
	r.relabel("orders", `{"component":"jobmanager"}`)
	time.Sleep(time.Second) // and so is this one, before the next comes
	r.delete("orders")
	again := r.pod("orders", "component=jobmanager")
	h.await("the first is gone, and the second there", soon, func() bool {
		return slices.Contains(h.gone, string(pod.UID)) && h.pods["orders"].Agent.PodUID == string(again.UID)
	})
}

// gate is a network that can be cut: nothing comes back, and nobody is told.
type gate struct {
	mu    sync.Mutex
	cut   bool
	conns []net.Conn
}

func (g *gate) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.conns = append(g.conns, conn)
	return &gated{conn, g}, nil
}

func (g *gate) silent() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.cut
}

func (g *gate) set(cut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.cut = cut
	if !cut { // what was lost in between never comes
		for _, conn := range g.conns {
			conn.Close()
		}
		g.conns = nil
	}
}

type gated struct {
	net.Conn
	gate *gate
}

func (c *gated) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	for c.gate.silent() {
		time.Sleep(20 * time.Millisecond)
	}
	return n, err
}

func (c *gated) Write(p []byte) (int, error) {
	if c.gate.silent() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// A watch that dies in silence is noticed; what changed meanwhile is told when the API server is heard again.
func TestRealSilence(t *testing.T) {
	r := newReal(t)
	r.pod("before", "component=jobmanager")
	g, config := &gate{}, rest.CopyConfig(r.config)
	config.Dial = g.dial
	h := r.follow(config)
	h.await("the pod", soon, func() bool { return len(h.pods) == 1 })
	g.set(true)
	r.pod("meanwhile", "component=jobmanager")
	r.delete("before")
	h.await("it is lost", soon, func() bool { return h.count(Lost) > 0 })
	if len(h.gone) > 0 || len(h.pods) != 1 {
		t.Error("something is concluded from silence")
	}
	g.set(false)
	h.await("all is told again", soon, func() bool {
		_, there := h.pods["meanwhile"]
		return h.count(Listed) == 2 && there && len(h.pods) == 1
	})
}

// A version that is too old is no reason to lose anything: all is listed again.
func TestRealExpiredVersion(t *testing.T) {
	r := newReal(t)
	before := r.pod("before", "component=jobmanager")
	g, config := &gate{}, rest.CopyConfig(r.config)
	config.Dial = g.dial
	h := r.follow(config)
	h.await("the pod", soon, func() bool { return len(h.pods) == 1 })
	g.set(true)
	r.pod("meanwhile", "component=jobmanager")
	r.delete("before")
	must(t, server.Server().Kill(), server.Server().Start(), server.AwaitReady(t.Context())) // one that is new remembers no past
	f := &follower{o: PodsOptions{Client: r.admin, pace: usual}, sights: make(chan sight, 100)}
	v := &view{namespace: r.namespace, selector: "component=jobmanager", follower: f}
	if _, err := v.watch(t.Context(), before.ResourceVersion); !expired(err) {
		t.Errorf("a watch from a version of before ends with %v, want that it is expired", err)
	}
	g.set(false)
	h.await("all is told again", soon, func() bool {
		_, there := h.pods["meanwhile"]
		return there && len(h.pods) == 1 && slices.Contains(h.gone, string(before.UID))
	})
}

// Who may not list pods is told which right is missing; when it is granted, all goes on.
func TestRealForbidden(t *testing.T) {
	r := newReal(t)
	r.pod("orders", "component=jobmanager")
	config := rest.CopyConfig(r.config)
	config.Impersonate = rest.ImpersonationConfig{UserName: "somebody-" + r.namespace}
	h := r.follow(config)
	h.await("it is lost, and why", soon, func() bool {
		return slices.ContainsFunc(h.all, func(u Update) bool {
			return u.Kind == Lost && strings.Contains(u.Err.Error(), "give the aggregator's role get, list and watch of pods")
		})
	})
	role := &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: "pods"},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get", "list", "watch"}}},
	}
	_, err := r.admin.RbacV1().Roles(r.namespace).Create(t.Context(), role, metav1.CreateOptions{})
	must(t, err)
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "pods"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "pods"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: config.Impersonate.UserName}},
	}
	_, err = r.admin.RbacV1().RoleBindings(r.namespace).Create(t.Context(), binding, metav1.CreateOptions{})
	must(t, err)
	h.await("the pod", 40*time.Second, func() bool { return len(h.pods) == 1 })
}

func asker(config *rest.Config) Asker {
	return Asker{Client: kubernetes.NewForConfigOrDie(config), Metadata: metadata.NewForConfigOrDie(config)}
}

// The outermost workload is found: of a Deployment's pod the Deployment, or whoever owns that.
func TestRealOwners(t *testing.T) {
	r := newReal(t)
	yes := true
	template := corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "flink"}}},
	}
	selector := &metav1.LabelSelector{MatchLabels: template.Labels}
	deployment, err := r.admin.AppsV1().Deployments(r.namespace).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "orders"}, Spec: appsv1.DeploymentSpec{Selector: selector, Template: template},
	}, metav1.CreateOptions{})
	must(t, err)
	set, err := r.admin.AppsV1().ReplicaSets(r.namespace).Create(t.Context(), &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: "orders-1", OwnerReferences: []metav1.OwnerReference{{
			APIVersion: "apps/v1", Kind: "Deployment", Name: "orders", UID: deployment.UID, Controller: &yes,
		}}},
		Spec: appsv1.ReplicaSetSpec{Selector: selector, Template: template},
	}, metav1.CreateOptions{})
	must(t, err)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "orders-1-x", Labels: map[string]string{"component": "jobmanager"}, OwnerReferences: []metav1.OwnerReference{{
			APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "orders-1", UID: set.UID, Controller: &yes,
		}}},
		Spec: template.Spec,
	}
	_, err = r.admin.CoreV1().Pods(r.namespace).Create(t.Context(), pod, metav1.CreateOptions{})
	must(t, err)
	r.pod("alone", "component=jobmanager")
	h := r.follow(r.config, func(o *PodsOptions) { o.Owners = &Owners{Asker: asker(r.config)} })
	want := job.Workload{Kind: "Deployment", Name: "orders", UID: string(deployment.UID)}
	h.await("whose pods they are", soon, func() bool {
		return h.pods["orders-1-x"].Workload == want && h.pods["alone"].Workload.Kind == "Pod"
	})
}

func TestRealQuestionsByName(t *testing.T) {
	r := newReal(t)
	a, ctx := asker(r.config), t.Context()
	cluster := job.ClusterKey{Namespace: r.namespace, Cluster: "orders"}
	template := corev1.PodTemplateSpec{Spec: corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "main", Image: "flink"}},
	}}
	made, err := r.admin.BatchV1().Jobs(r.namespace).Create(ctx, &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: "orders"}, Spec: batchv1.JobSpec{Template: template},
	}, metav1.CreateOptions{})
	must(t, err)
	w := job.Workload{Kind: "Job", Name: "orders", UID: string(made.UID)}
	ask := func(w job.Workload, there job.Answer, ended bool) {
		t.Helper()
		got, err := a.Workload(ctx, cluster, w)
		if err != nil || got.There != there || got.Ended != ended || got.Workload != w || got.Cluster != cluster {
			t.Errorf("%+v, %v; want %s, ended %t", got, err, there, ended)
		}
	}
	ask(w, job.Yes, false)
	now := metav1.Now()
	made.Status = batchv1.JobStatus{StartTime: &now, CompletionTime: &now, Succeeded: 1, Conditions: []batchv1.JobCondition{
		{Type: batchv1.JobSuccessCriteriaMet, Status: corev1.ConditionTrue}, {Type: batchv1.JobComplete, Status: corev1.ConditionTrue},
	}}
	_, err = r.admin.BatchV1().Jobs(r.namespace).UpdateStatus(ctx, made, metav1.UpdateOptions{})
	must(t, err)
	ask(w, job.Yes, true)
	another := w
	another.UID = "0b1c2d3e-1111-4222-8333-444455556666"
	ask(another, job.No, false)
	ask(job.Workload{Kind: "Deployment", Name: "none", UID: "x"}, job.No, false)
	if got, err := a.Workload(ctx, cluster, job.Workload{Kind: "Unicorn", Name: "x"}); err == nil || got.There != job.Unanswered {
		t.Errorf("of an unknown kind: %+v, %v", got, err)
	}

	record := func(want evidence.HARecord) {
		t.Helper()
		want.Cluster = cluster
		got, err := a.HARecord(ctx, cluster)
		if err != nil || got.There != want.There || !slices.Equal(got.Jobs, want.Jobs) || got.All != want.All || got.Forbidden != want.Forbidden {
			t.Errorf("%+v, %v; want %+v", got, err, want)
		}
	}
	record(evidence.HARecord{There: job.No})
	_, err = r.admin.CoreV1().ConfigMaps(r.namespace).Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "orders-cluster-config-map"},
		Data: map[string]string{
			"jobGraph-a1": "x", "executionPlan-b2": "x", "org.apache.flink.k8s.leader.job-c3": "x", "counter": "1",
		},
	}, metav1.CreateOptions{})
	must(t, err)
	record(evidence.HARecord{There: job.Yes, Jobs: []string{"a1", "b2"}})
	_, err = r.admin.CoreV1().ConfigMaps(r.namespace).Patch(ctx, "orders-cluster-config-map", "application/merge-patch+json",
		[]byte(`{"data":{"jobGraph-a1":null,"executionPlan-b2":null,"application-d4":"x"}}`), metav1.PatchOptions{})
	must(t, err)
	record(evidence.HARecord{There: job.Yes, All: true})

	// Who may not ask, or cannot, has no answer.
	config := rest.CopyConfig(r.config)
	config.Impersonate = rest.ImpersonationConfig{UserName: "nobody"}
	a = asker(config)
	record(evidence.HARecord{Forbidden: true})
	for _, w := range []job.Workload{w, {Kind: "Deployment", Name: "none", UID: "x"}} {
		if got, err := a.Workload(ctx, cluster, w); err != nil || got.There != job.Unanswered || !got.Forbidden {
			t.Errorf("forbidden: %+v, %v", got, err)
		}
	}
	config = rest.CopyConfig(r.config)
	config.Host = "https://127.0.0.1:1"
	a = asker(config)
	if got, err := a.HARecord(ctx, cluster); err == nil || got.There != job.Unanswered || got.Forbidden {
		t.Errorf("out of reach: %+v, %v", got, err)
	}
	if got, err := a.Workload(ctx, cluster, w); err == nil || got.There != job.Unanswered || got.Forbidden {
		t.Errorf("out of reach: %+v, %v", got, err)
	}
}

// crd is the FlinkSessionJob of the Flink operator, as far as it is asked for.
func crd() *unstructured.Unstructured {
	text := map[string]any{"type": "string"}
	object := func(properties map[string]any) map[string]any {
		return map[string]any{"type": "object", "properties": properties}
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{"name": "flinksessionjobs.flink.apache.org"},
		"spec": map[string]any{
			"group": "flink.apache.org", "scope": "Namespaced",
			"names": map[string]any{"kind": "FlinkSessionJob", "plural": "flinksessionjobs", "singular": "flinksessionjob"},
			"versions": []any{map[string]any{
				"name": "v1beta1", "served": true, "storage": true, "subresources": map[string]any{"status": map[string]any{}},
				"schema": map[string]any{"openAPIV3Schema": object(map[string]any{
					"spec":   object(map[string]any{"deploymentName": text}),
					"status": object(map[string]any{"jobStatus": object(map[string]any{"jobId": text})}),
				})},
			}},
		},
	}}
}

// What FlinkSessionJobs call their jobs is told, from when there are such objects: an operator may be installed later than Holdfast.
func TestRealSessionJobs(t *testing.T) {
	r := newReal(t)
	client := dynamic.NewForConfigOrDie(r.config)
	jobs := client.Resource(sessionJobs).Namespace(r.namespace)
	var mu sync.Mutex
	names, log := map[string]string{}, strings.Builder{} // by cluster and job id
	follow := func(config *rest.Config) {
		o := SessionJobsOptions{
			Client: dynamic.NewForConfigOrDie(config), Namespaces: []string{r.namespace}, again: 100 * time.Millisecond,
			Log: slog.New(slog.NewTextHandler(lockedWriter{&mu, &log}, &slog.HandlerOptions{Level: slog.LevelDebug})),
		}
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			FollowSessionJobs(ctx, o, func(is evidence.SessionJob) {
				mu.Lock()
				defer mu.Unlock()
				if key := is.Key.Cluster + " " + is.Key.ID; !is.Gone {
					names[key] = is.Name
				} else if names[key] == is.Name {
					delete(names, key)
				}
			})
		}()
		t.Cleanup(func() { stop(); <-done })
	}
	await := func(what string, wanted func() bool) {
		t.Helper()
		for begin := time.Now(); ; time.Sleep(20 * time.Millisecond) {
			mu.Lock()
			ok, told := wanted(), fmt.Sprint(names, log.String())
			mu.Unlock()
			if ok {
				return
			}
			if time.Since(begin) > soon {
				t.Fatalf("not within %s: %s; told: %s", soon, what, told)
			}
		}
	}
	are := func(want map[string]string) func() bool { return func() bool { return maps.Equal(names, want) } }
	object := func(name, cluster, id string) *unstructured.Unstructured {
		is := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"deploymentName": cluster}}}
		is.SetAPIVersion("flink.apache.org/v1beta1")
		is.SetKind("FlinkSessionJob")
		is.SetName(name)
		made, err := jobs.Create(t.Context(), is, metav1.CreateOptions{})
		must(t, err)
		if id != "" {
			must(t, unstructured.SetNestedField(made.Object, id, "status", "jobStatus", "jobId"))
			made, err = jobs.UpdateStatus(t.Context(), made, metav1.UpdateOptions{})
			must(t, err)
		}
		return made
	}
	submits := func(name, id string) {
		_, err := jobs.Patch(t.Context(), name, types.MergePatchType, []byte(`{"status":{"jobStatus":{"jobId":"`+id+`"}}}`), metav1.PatchOptions{}, "status")
		must(t, err)
	}

	follow(r.config)
	await("that there is no such resource, once", func() bool { return strings.Contains(log.String(), "there is no such resource") })
	_, err := client.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}).
		Create(t.Context(), crd(), metav1.CreateOptions{})
	must(t, err)
	for begin := time.Now(); ; time.Sleep(50 * time.Millisecond) { // until the API server serves it
		if _, err = jobs.List(t.Context(), metav1.ListOptions{}); err == nil || time.Since(begin) > soon {
			break
		}
	}
	must(t, err)
	object("etl", "session", "a1")
	object("waits", "session", "")
	await("the one that was submitted", are(map[string]string{"session a1": "etl"}))
	submits("waits", "b2")
	await("the other, when it is", are(map[string]string{"session a1": "etl", "session b2": "waits"}))
	submits("etl", "c3")
	await("another job under the same name", are(map[string]string{"session c3": "etl", "session b2": "waits"}))
	must(t, jobs.Delete(t.Context(), "waits", metav1.DeleteOptions{}))
	await("one less", are(map[string]string{"session c3": "etl"}))
	mu.Lock()
	if n := strings.Count(log.String(), "\n"); n != 1 || strings.Contains(log.String(), "WARN") {
		t.Errorf("that the operator is not there is no trouble, and is logged once: %s", log.String())
	}
	log.Reset()
	clear(names)
	mu.Unlock()

	// Who may not see them is told which right is missing, and nothing else comes of it.
	forbidden := rest.CopyConfig(r.config)
	forbidden.Impersonate = rest.ImpersonationConfig{UserName: "nobody"}
	follow(forbidden)
	await("which right is missing", func() bool {
		return strings.Contains(log.String(), "give the aggregator's role list and watch of flinksessionjobs")
	})
}

// lockedWriter is written to, and read, under a lock.
type lockedWriter struct {
	mu *sync.Mutex
	to *strings.Builder
}

func (w lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.to.Write(p)
}
