//go:build kubernetes

package product

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/record"
	"github.com/holdfast-dev/holdfast/test/flink/flinkproc"
	"github.com/holdfast-dev/holdfast/test/kubernetes/flinkpod"
	"github.com/holdfast-dev/holdfast/test/kubernetes/rig"
)

// Every pod of Holdfast is replaced, and again by a rollback, while jobs run: no JobManager notices, nothing is shown that is not so,
// and each JobManager that is created meanwhile gets its agent.
func TestUpgrade(t *testing.T) {
	ns := namespace(t, "upgrade", nil)
	dists := cluster.Flinks
	jobs := []*running{
		application(t, flinkpod.Options{Dist: dists[0], Namespace: ns, ID: "orders"}, flinkproc.Job{}),
		application(t, flinkpod.Options{Dist: dists[len(dists)-1], Namespace: ns, ID: "clicks", HA: true}, flinkproc.Job{}),
	}
	var pods []string
	var records []*recorder
	for _, r := range jobs {
		holdfast.until(t, r.jobs(), 10*time.Second, "RUNNING Witnessed over=no attempt=1", "FAILED", "UNKNOWN")
		pods = append(pods, r.jobManager(t).Name)
		records = append(records, holdfast.record(t, r.jobs()))
	}
	created := createThroughout(t, ns, isInjected)
	t.Cleanup(func() { // whatever came of it
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		if err := holdfast.install(ctx); err != nil {
			t.Error(err)
		}
	})
	change := []string{"log.level=debug", "aggregator.podAnnotations.test=upgrade", "webhook.podAnnotations.test=upgrade", "etcd.podAnnotations.test=upgrade"}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"helm upgrade", func() error { return holdfast.install(limit(t), set(change...)...) }},
		{"helm rollback", func() error {
			_, err := cluster.Run(limit(t), "helm", "rollback", "holdfast", "--namespace", home, "--wait", "--timeout", "5m")
			return err
		}},
	} {
		before, begin := parts(t), time.Now()
		check(t, step.do())
		t.Logf("%s took %.1f s", step.what, time.Since(begin).Seconds())
		for _, r := range jobs {
			took := holdfast.everywhere(t, r.jobs(), recovery, "RUNNING Witnessed over=no attempt=1")
			t.Logf("%s is witnessed, as every replica says, %.1f s later", r.ID(), took.Seconds())
		}
		after := parts(t)
		for uid, name := range before {
			if after[uid] != "" {
				t.Errorf("%s left pod %s as it was, so it proves nothing", step.what, name)
			}
		}
		if len(after) != len(before) {
			t.Errorf("after %s Holdfast has the pods %v, and had %v", step.what, after, before)
		}
	}
	t.Logf("%d JobManagers were created meanwhile", created())
	for i, r := range jobs {
		records[i].only(t, "RUNNING Witnessed over=no attempt=1", "RUNNING Held over=no attempt=1")
		untouched(t, r, pods[i])
	}
}

// parts are the names of Holdfast's pods by their uids, once those that leave are gone.
func parts(t *testing.T) map[types.UID]string {
	t.Helper()
	var names map[types.UID]string
	eventually(t, 2*time.Minute, "Holdfast is whole", func(ctx context.Context) error {
		names = map[types.UID]string{}
		pods, err := cluster.Set.CoreV1().Pods(home).List(ctx, metav1.ListOptions{
			LabelSelector: "app.kubernetes.io/instance=holdfast,app.kubernetes.io/component in (aggregator,webhook,etcd)",
		})
		if err != nil {
			return err
		}
		for _, pod := range pods.Items {
			if pod.DeletionTimestamp != nil || !rig.Ready(&pod) {
				return errors.New(flinkpod.DescribePod(&pod))
			}
			names[pod.UID] = pod.Name
		}
		if len(names) == 0 {
			return errors.New("it has no pods")
		}
		return nil
	})
	return names
}

// createThroughout creates JobManagers, some dozens a second, of which nothing stays. What it gives ends it, says how many there were, and
// fails the test if any was refused or got no agent.
func createThroughout(t *testing.T, namespace string, has func(corev1.Pod) bool) (created func() int64) {
	t.Helper()
	create, pod := creator(t, namespace, has), flinkMade(t)
	ctx, cancel := context.WithCancel(context.Background())
	var n, bad atomic.Int64
	var done sync.WaitGroup
	for range 4 { // a replica that leaves too early is missed for tenths of a second
		done.Go(func() {
			for ctx.Err() == nil {
				if err := create(ctx, pod, true); err != nil && ctx.Err() == nil && bad.Add(1) <= 5 {
					t.Logf("a JobManager created at %s: %v", time.Now().Format(time.TimeOnly), err)
				}
				n.Add(1)
				time.Sleep(50 * time.Millisecond)
			}
		})
	}
	t.Cleanup(func() { cancel(); done.Wait() })
	return func() int64 {
		cancel()
		done.Wait()
		if bad.Load() > 0 {
			t.Errorf("%d of %d JobManagers were refused, or got no agent", bad.Load(), n.Load())
		}
		return n.Load()
	}
}

// untouched fails the test unless a cluster still has the same JobManager, none of whose containers was ever restarted.
func untouched(t *testing.T, r *running, name string) {
	t.Helper()
	pod := r.jobManager(t)
	if pod.Name != name {
		t.Errorf("%s has another JobManager: %s, and it was %s", r.ID(), pod.Name, name)
	}
	for _, s := range append(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses...) {
		if s.RestartCount > 0 {
			t.Errorf("container %s of pod %s was restarted %d times", s.Name, name, s.RestartCount)
		}
	}
	if state, err := r.flink.State(limit(t), r.job); err != nil || state.String() != "RUNNING" {
		t.Errorf("%s: Flink says %s, %v", r.ID(), state, err)
	}
}

// Holdfast goes: the jobs go on, and new ones start without an agent. It comes back, and knows those it knew.
func TestUninstall(t *testing.T) {
	ns := namespace(t, "uninstall", nil)
	dists := cluster.Flinks
	known := application(t, flinkpod.Options{Dist: dists[len(dists)-1], Namespace: ns, ID: "known"}, flinkproc.Job{})
	before := holdfast.until(t, known.jobs(), 10*time.Second, "RUNNING Witnessed over=no attempt=1", "FAILED", "UNKNOWN")
	pod := known.jobManager(t).Name
	kept := stored(t, "history/"+ns+"/")
	if len(kept) == 0 {
		t.Error("etcd has no history of the job")
	}
	claims, err := cluster.Run(limit(t), "kubectl", "get", "pvc", "-n", home, "-l", "app.kubernetes.io/instance=holdfast", "-o", "name")
	check(t, err)
	_, err = cluster.Run(limit(t), "helm", "uninstall", "holdfast", "--namespace", home, "--wait")
	check(t, err)
	restored := false
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		if !restored {
			if err := holdfast.install(ctx); err != nil {
				t.Error(err)
			}
		}
	})
	// What Holdfast must not lose stays; the rest goes, pods in their own time.
	stays := append(strings.Fields(claims), "configmap/holdfast-etcd-ca", "secret/holdfast-etcd-ca")
	slices.Sort(stays)
	eventually(t, time.Minute, "all else is gone", func(ctx context.Context) error {
		left, err := cluster.Run(ctx, "kubectl", "get", "all,secrets,configmaps,pvc,pdb,networkpolicies,roles,rolebindings", "-n", home,
			"-l", "app.kubernetes.io/instance=holdfast,app.kubernetes.io/component!=test", "-o", "name")
		if err != nil {
			return err
		}
		if diff := cmp.Diff(stays, slices.Sorted(strings.FieldsSeq(left))); diff != "" {
			return fmt.Errorf("-wanted +left:\n%s", diff)
		}
		return nil
	})
	if all, err := cluster.Run(limit(t), "kubectl", "get", "mutatingwebhookconfigurations,clusterroles,clusterrolebindings", "-o", "name"); err != nil || strings.Contains(all, "holdfast") {
		t.Errorf("left behind, cluster-wide: %v\n%s", err, all)
	}
	fresh := application(t, flinkpod.Options{Dist: dists[0], Namespace: ns, ID: "fresh"}, flinkproc.Job{})
	if pod := fresh.jobManager(t); isInjected(pod) {
		t.Errorf("pod %s has an agent, of a Holdfast that is not there", pod.Name)
	}
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(time.Second) {
		untouched(t, known, pod)
	}

	begin := time.Now()
	check(t, holdfast.install(limit(t)))
	restored = true
	installed := time.Now()
	after := holdfast.until(t, known.jobs(), recovery, "RUNNING Witnessed over=no attempt=1", "FAILED", "UNKNOWN")
	t.Logf("installed again in %.1f s, and the job is witnessed %.1f s later", installed.Sub(begin).Seconds(), time.Since(installed).Seconds())
	if after.JobID != before.JobID {
		t.Errorf("job %s is shown, and it was %s", after.JobID, before.JobID)
	}
	now := stored(t, "history/"+ns+"/")
	for key, revision := range kept {
		if now[key] != revision {
			t.Errorf("%s was written at revision %d, and is now of revision %d: the data did not outlive the release", key, revision, now[key])
		}
	}
	untouched(t, known, pod)
}

// helm test says whether Holdfast works, and what does not.
func TestHelmTest(t *testing.T) {
	test := func(timeout string) (string, error) {
		return cluster.Run(limit(t), "helm", "test", "holdfast", "--namespace", home, "--logs", "--timeout", timeout)
	}
	passes := func() {
		if out, err := test("2m"); err != nil || !strings.Contains(out, "Succeeded") {
			t.Errorf("it works, and helm test says %v\n%s", err, out)
		}
	}
	passes()
	t.Run("without an aggregator", func(t *testing.T) {
		without("deployment/holdfast-aggregator")(t)
		out, err := test("20s")
		if err == nil {
			t.Fatalf("there is no aggregator, and helm test finds nothing wrong:\n%s", out)
		}
		// helm's own words, and with them the pod's log.
		if told := out + err.Error(); !strings.Contains(told, "the API cannot be reached") || !strings.Contains(told, "holdfast-aggregator."+home) {
			t.Errorf("helm test does not say what is wrong: %s", told)
		}
	})
	passes()
}

// A name that another cluster took is refused: the one who comes second says so, is never ready, and changes nothing.
func TestForeignSite(t *testing.T) {
	const other = "holdfast-other"
	ns := namespace(t, "foreign", nil)
	r := application(t, flinkpod.Options{Dist: cluster.Flinks[0], Namespace: ns, ID: "orders"}, flinkproc.Job{})
	holdfast.everywhere(t, r.jobs(), 10*time.Second, "RUNNING Witnessed over=no attempt=1")
	ctx := limit(t)
	mine := []string{"identity", "verdicts/" + ns + "/", "history/" + ns + "/", "agents/" + ns + "/"}
	before := stored(t, mine...)
	eventually(t, time.Minute, "the job has settled", func(context.Context) error {
		time.Sleep(5 * time.Second)
		last := before
		before = stored(t, mine...)
		if diff := cmp.Diff(last, before); diff != "" {
			return errors.New(diff)
		}
		return nil
	})
	if len(before) < 4 {
		t.Errorf("etcd has only %v of a job that runs", before)
	}
	shown := holdfast.record(t, r.jobs())
	_, err := cluster.Run(ctx, "kubectl", "create", "namespace", other)
	check(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		_, err := cluster.Run(ctx, "helm", "uninstall", "other", "--namespace", other, "--ignore-not-found")
		if err := errors.Join(err, cluster.RemoveNamespace(ctx, other)); err != nil {
			t.Error(err)
		}
	})
	// The other cluster's certificates of this etcd.
	ca, err := cluster.Set.CoreV1().ConfigMaps(home).Get(ctx, "holdfast-etcd-ca", metav1.GetOptions{})
	check(t, err)
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "ca.crt"), []byte(ca.Data["ca.crt"]), 0o600))
	values := filepath.Join(dir, "values.yaml")
	text, err := json.Marshal(map[string]any{
		"fullnameOverride": "other", "webhook": map[string]any{"enabled": false}, "tests": map[string]any{"enabled": false},
		"aggregator": map[string]any{"replicas": 1, "extraArgs": []string{
			"--site-uid=0b1c2d3e-1111-4222-8333-444455556666", "--site-configmap=", "--site-uid-file=",
		}},
		"etcd": map[string]any{
			"mode": "external", "endpoints": []string{"https://holdfast-etcd." + home + ".svc:2379"},
			"tls": map[string]any{"ca": ca.Data["ca.crt"]},
		},
	})
	check(t, err)
	check(t, os.WriteFile(values, text, 0o600))
	root, err := repository()
	check(t, err)
	args := append([]string{"install", "other", filepath.Join(root, "charts/holdfast"), "--namespace", other, "--values", values}, holdfast.values()...)
	_, err = cluster.Run(ctx, "helm", args...)
	check(t, err)
	eventually(t, 90*time.Second, "it says whose the site is", func(ctx context.Context) error {
		out, err := cluster.Run(ctx, "kubectl", "logs", "-n", other, "-l", "app.kubernetes.io/component=aggregator", "--tail=-1")
		if err == nil && !strings.Contains(out, "belongs to another cluster") {
			err = fmt.Errorf("its log is: %s", out)
		}
		return err
	})
	// However often it starts.
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		pods, err := cluster.Set.CoreV1().Pods(other).List(ctx, metav1.ListOptions{})
		check(t, err)
		if len(pods.Items) != 1 {
			t.Fatalf("it has %d pods, want one", len(pods.Items))
		}
		if pod := pods.Items[0]; rig.Ready(&pod) {
			t.Fatalf("pod %s is ready", pod.Name)
		}
	}
	shown.only(t, "RUNNING Witnessed over=no attempt=1")
	// What a JobManager answers late its agent notes, and so does the verdict: these two may have been written since. The history has no more of it.
	after := stored(t, mine...)
	for key, revision := range before {
		if after[key] > revision && (strings.Contains(key, "/jobs/") || strings.Contains(key, "/verdicts/")) {
			after[key] = revision
		}
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("keys of the first one, and the revisions at which they were written: -before +after\n%s", diff)
	}
}

// stored asks etcd for what it has of the site at keys that begin so, and gives the revisions at which it was written.
func stored(t *testing.T, beginnings ...string) map[string]int64 {
	t.Helper()
	ca, err := cluster.Set.CoreV1().ConfigMaps(home).Get(limit(t), "holdfast-etcd-ca", metav1.GetOptions{})
	check(t, err)
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(ca.Data["ca.crt"])) {
		t.Fatal("etcd's authority has no certificate")
	}
	forward, err := holdfast.startForward("holdfast-etcd-0", "2379")
	check(t, err)
	defer forward.end()
	<-forward.ready
	client, err := etcd.Dial(t.Context(), etcd.Options{
		Endpoints: []string{"https://127.0.0.1:" + forward.port}, TLS: &tls.Config{RootCAs: roots, ServerName: "holdfast-etcd." + home + ".svc"},
	})
	check(t, err)
	defer client.Close()
	revisions := map[string]int64{}
	for _, beginning := range beginnings {
		pairs, _, err := etcd.ReadAll(limit(t), client, record.SitePrefix("default")+beginning, 100)
		check(t, err)
		for _, pair := range pairs {
			revisions[pair.Key] = pair.ModRevision
		}
	}
	return revisions
}
