//go:build kubernetes

package product

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfast-dev/holdfast/test/flink/flinkproc"
	"github.com/holdfast-dev/holdfast/test/kubernetes/flinkpod"
	"github.com/holdfast-dev/holdfast/test/kubernetes/rig"
)

// The Kubernetes Job of Flink's documentation is Complete when its Flink job is FINISHED, although an agent sits in its pod.
func TestDocumentedApplication(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, dist *flinkproc.Dist) {
		ns, steer := namespace(t, "documented", nil), control(t)
		flink, err := cluster.StartDocumentedApplication(limit(t), flinkpod.Documented{Dist: dist, Namespace: ns},
			flinkproc.Job{Name: "orders", Sources: []string{steer.Addr()}})
		check(t, err)
		r := &running{Cluster: flink, control: steer}
		r.removeAfter(t)
		r.await(t)
		holdfast.until(t, r.jobs(), prompt, "RUNNING Witnessed over=no attempt=1", "FAILED", "CANCELED", "UNKNOWN")
		name := r.jobManager(t).Name
		if !isInjected(r.jobManager(t)) {
			t.Fatalf("pod %s has no agent", name)
		}

		record := holdfast.record(t, r.jobs())
		finished := time.Now()
		check(t, steer.Finish())
		eventually(t, time.Minute, "the Job is Complete", func(ctx context.Context) error {
			job, err := cluster.Set.BatchV1().Jobs(ns).Get(ctx, "flink-jobmanager", metav1.GetOptions{})
			if err == nil && !isComplete(job) {
				err = fmt.Errorf("its conditions are %v", job.Status.Conditions)
			}
			return err
		})
		t.Logf("the Job is Complete %.1f s after its Flink job's end", time.Since(finished).Seconds())
		pod, err := cluster.AwaitPod(limit(t), ns, name, "over", rig.Ended)
		check(t, err)
		agent := slices.IndexFunc(pod.Status.InitContainerStatuses, func(s corev1.ContainerStatus) bool { return s.Name == "holdfast-agent" })
		if pod.Status.Phase != corev1.PodSucceeded || agent < 0 {
			t.Fatalf("the pod did not succeed: %s", flinkpod.DescribePod(pod))
		}
		if ended := pod.Status.InitContainerStatuses[agent].State.Terminated; ended == nil || ended.ExitCode != 0 {
			t.Errorf("the agent did not end well: %s", flinkpod.DescribePod(pod))
		}
		// Flink leaves soon after its job. What the agent did not hear before may not be known, but nothing else may be made of it.
		eventually(t, 2*time.Minute, "the end, or the silence, is noticed", func(ctx context.Context) error {
			all, err := holdfast.jobs(ctx, r.jobs())
			if err == nil && (len(all) != 1 || all[0].State == "RUNNING" && all[0].Certainty == "Witnessed") {
				err = fmt.Errorf("shown: %v", all)
			}
			return err
		})
		t.Logf("in the end it is shown as %s", onlyJob(t, r))
		record.never(t, "FAILED", "FAILING", "CANCELED", "CANCELLING")
	})
}

func isComplete(job *batchv1.Job) bool {
	return slices.ContainsFunc(job.Status.Conditions, func(c batchv1.JobCondition) bool {
		return c.Type == batchv1.JobComplete && c.Status == corev1.ConditionTrue
	})
}

// A JobManager that is scaled down leaves at once. Its grace period is long here, so that nobody is killed: the agent goes by itself.
func TestDocumentedSession(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, dist *flinkproc.Dist) {
		ns, grace := namespace(t, "documented", nil), int64(300)
		flink, err := cluster.StartDocumentedSession(limit(t), flinkpod.Documented{Dist: dist, Namespace: ns,
			Pod: func(pod *corev1.PodTemplateSpec) { pod.Spec.TerminationGracePeriodSeconds = &grace }})
		check(t, err)
		r := session(t, flink)
		id, _ := r.submit(t, dist, "orders")
		r.shown(t, id, "RUNNING Witnessed over=no attempt=1")
		if pod := r.jobManager(t); !isInjected(pod) {
			t.Errorf("pod %s has no agent", pod.Name)
		}
		check(t, r.flink.Cancel(limit(t), id))
		r.shown(t, id, "CANCELED Witnessed over=yes attempt=1")

		record := holdfast.record(t, r.jobs())
		scaled := time.Now()
		_, err = cluster.Run(limit(t), "kubectl", "scale", "--replicas=0", "-n", ns, "deployment/flink-jobmanager")
		check(t, err)
		eventually(t, time.Minute, "the JobManager's pod is gone", func(ctx context.Context) error {
			pods, err := r.JobManagers(ctx)
			if err == nil && len(pods) > 0 {
				err = errors.New(flinkpod.DescribePod(&pods[0]))
			}
			return err
		})
		t.Logf("the pod is gone after %.1f s", time.Since(scaled).Seconds())
		record.only(t, "CANCELED Witnessed over=yes attempt=1")
	})
}
