//go:build kubernetes

package product

import (
	"context"
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

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfast-dev/holdfast/test/flink/flinkproc"
	"github.com/holdfast-dev/holdfast/test/kubernetes/flinkpod"
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
	created := createThroughout(t, ns)
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
		begin := time.Now()
		check(t, step.do())
		t.Logf("%s took %.1f s", step.what, time.Since(begin).Seconds())
		for _, r := range jobs {
			holdfast.until(t, r.jobs(), again, "RUNNING Witnessed over=no attempt=1", "FAILED", "UNKNOWN")
		}
	}
	t.Logf("%d JobManagers were created meanwhile", created())
	for i, r := range jobs {
		records[i].only(t, "RUNNING Witnessed over=no attempt=1", "RUNNING Held over=no attempt=1")
		untouched(t, r, pods[i])
	}
}

// createThroughout creates JobManagers one after another, of which nothing stays, and fails the test for each that gets no agent. What it
// gives ends it, and says how many there were.
func createThroughout(t *testing.T, namespace string) (created func() int64) {
	t.Helper()
	create := creator(t, namespace)
	ctx, cancel := context.WithCancel(context.Background())
	var n atomic.Int64
	var done sync.WaitGroup
	done.Go(func() {
		for ctx.Err() == nil {
			if err := create(ctx, nativeJobManager(), true); err != nil && ctx.Err() == nil {
				t.Errorf("a JobManager created at %s: %v", time.Now().Format(time.TimeOnly), err)
			}
			n.Add(1)
			time.Sleep(100 * time.Millisecond)
		}
	})
	t.Cleanup(func() { cancel(); done.Wait() })
	return func() int64 { cancel(); done.Wait(); return n.Load() }
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
	_, err := cluster.Run(limit(t), "helm", "uninstall", "holdfast", "--namespace", home, "--wait")
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
	stays := []string{"secret/holdfast-etcd-ca", "configmap/holdfast-etcd-ca", "configmap/holdfast-site", "configmap/kube-root-ca.crt"}
	eventually(t, time.Minute, "all else is gone", func(ctx context.Context) error {
		left, err := cluster.Run(ctx, "kubectl", "get", "all,secrets,configmaps,pvc,pdb,networkpolicies,roles,rolebindings", "-n", home, "-o", "name")
		if err != nil {
			return err
		}
		for name := range strings.FieldsSeq(left) {
			if !slices.Contains(stays, name) && !strings.HasPrefix(name, "persistentvolumeclaim/") {
				return fmt.Errorf("%s is left", name)
			}
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
	untouched(t, known, pod)

	begin := time.Now()
	check(t, holdfast.install(limit(t)))
	restored = true
	installed := time.Now()
	after := holdfast.until(t, known.jobs(), again, "RUNNING Witnessed over=no attempt=1", "FAILED", "UNKNOWN")
	t.Logf("installed again in %.1f s, and the job is witnessed %.1f s later", installed.Sub(begin).Seconds(), time.Since(installed).Seconds())
	if after.JobID != before.JobID {
		t.Errorf("job %s is shown, and it was %s", after.JobID, before.JobID)
	}
	untouched(t, known, pod)
}

// helm test says whether Holdfast works, and what does not.
func TestHelmTest(t *testing.T) {
	test := func(timeout string) (string, error) {
		return cluster.Run(limit(t), "helm", "test", "holdfast", "--namespace", home, "--logs", "--timeout", timeout)
	}
	if out, err := test("2m"); err != nil || !strings.Contains(out, "Succeeded") {
		t.Errorf("it works, and helm test says %v\n%s", err, out)
	}
	t.Run("without an aggregator", func(t *testing.T) {
		without("deployment/holdfast-aggregator")(t)
		if out, err := test("20s"); err == nil {
			t.Errorf("there is no aggregator, and helm test finds nothing wrong:\n%s", out)
		}
	})
}

// A name that another cluster took is refused: the one who comes second says so, is never ready, and changes nothing.
func TestForeignSite(t *testing.T) {
	const other = "holdfast-other"
	ctx := limit(t)
	before := identity(t)
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
	pods, err := cluster.Set.CoreV1().Pods(other).List(ctx, metav1.ListOptions{})
	check(t, err)
	for _, pod := range pods.Items {
		for _, s := range pod.Status.ContainerStatuses {
			if s.Ready {
				t.Errorf("container %s of pod %s is ready", s.Name, pod.Name)
			}
		}
	}
	if after := identity(t); after != before {
		t.Errorf("the site is %s now, and was %s", after, before)
	}
}

// identity is what the site says of itself.
func identity(t *testing.T) (is string) {
	t.Helper()
	eventually(t, time.Minute, "the site answers", func(ctx context.Context) error {
		err := errors.New("there is no aggregator")
		for _, r := range holdfast.replicas(ctx) {
			var status struct {
				Site  string
				Epoch int64
			}
			if err = r.ask(ctx, "/api/v1/status", &status); err == nil {
				is = fmt.Sprintf("%s, epoch %d", status.Site, status.Epoch)
				return nil
			}
		}
		return err
	})
	return is
}
