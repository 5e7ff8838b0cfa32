//go:build kubernetes

package realkubernetes

import (
	"context"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/test/flink/flinkproc"
	"github.com/holdfast-dev/holdfast/test/kubernetes/flinkpod"
)

// A native application runs, has what its pod template gave it, and takes its pod with it when it is canceled.
func TestNativeApplication(t *testing.T) {
	eachFlink(t, func(ctx context.Context, t *testing.T, dist *flinkproc.Dist) {
		for _, mode := range []struct {
			name     string
			attached bool
		}{{"Attached", true}, {"Detached", false}} {
			t.Run(mode.name, func(t *testing.T) { testNativeApplication(ctx, t, dist, mode.attached) })
		}
	})
}

func testNativeApplication(ctx context.Context, t *testing.T, dist *flinkproc.Dist, attached bool) {
	namespace, control := newNamespace(ctx, t), newControl(t)
	options := flinkpod.Options{Dist: dist, Namespace: namespace, ID: "orders"}
	options.Pod.Labels = map[string]string{"holdfast.dev/inject": "true"}
	options.Pod.Annotations = map[string]string{"holdfast.dev/archive": "off"}
	application := flinkpod.Application{
		JobID: "00000000000000000000000000000042", Attached: attached, Job: flinkproc.Job{Sources: []string{control.Addr()}},
	}
	cluster, err := cluster.StartApplication(ctx, options, application)
	must(t, err)
	removed(t, cluster)
	flink, err := cluster.AwaitREST(ctx)
	must(t, err)
	id, err := cluster.AwaitJob(ctx, flink)
	must(t, err, control.WaitConnected(ctx))
	if id != application.JobID {
		t.Errorf("the job is %s, want %s", id, application.JobID)
	}
	pods, err := cluster.JobManagers(ctx)
	must(t, err)
	if len(pods) != 1 || pods[0].Labels["holdfast.dev/inject"] != "true" || pods[0].Annotations["holdfast.dev/archive"] != "off" {
		t.Fatalf("want one JobManager with what its template says: %+v", pods)
	}
	// The shape that native Kubernetes gives a pod, which the images have to fit.
	main := pods[0].Spec.Containers[0]
	if main.Name != flinkpod.MainContainer || len(main.Args) != 3 || main.Args[0] != "bash" || main.Command[0] != "/docker-entrypoint.sh" {
		t.Errorf("container %s runs %q %q", main.Name, main.Command, main.Args)
	}
	must(t, flink.Cancel(ctx, id))
	eventually(ctx, t, "the end of the JobManager", func() bool {
		pods, err := cluster.JobManagers(ctx)
		return err == nil && len(pods) == 0
	})
}

// With high availability the job of a JobManager whose pod is deleted goes on in the next one.
func TestHighAvailability(t *testing.T) {
	eachFlink(t, func(ctx context.Context, t *testing.T, dist *flinkproc.Dist) {
		namespace, control := newNamespace(ctx, t), newControl(t)
		cluster, err := cluster.StartApplication(ctx, flinkpod.Options{Dist: dist, Namespace: namespace, ID: "orders", HA: true},
			flinkpod.Application{Job: flinkproc.Job{Sources: []string{control.Addr()}}})
		must(t, err)
		removed(t, cluster)
		flink, err := cluster.AwaitREST(ctx)
		must(t, err)
		id, err := cluster.AwaitJob(ctx, flink)
		must(t, err, control.WaitConnected(ctx))
		before, err := flink.Job(ctx, id)
		must(t, err)
		deleteJobManagers(ctx, t, cluster)
		eventually(ctx, t, "another attempt of the job", func() bool {
			info, err := flink.Job(ctx, id)
			return err == nil && info.StartTime != before.StartTime
		})
		must(t, flink.WaitRunning(ctx, id), control.WaitConnected(ctx), flink.Cancel(ctx, id))
		eventually(ctx, t, "the end of the JobManager", func() bool {
			pods, err := cluster.JobManagers(ctx)
			return err == nil && len(pods) == 0
		})
	})
}

func deleteJobManagers(ctx context.Context, t *testing.T, flink *flinkpod.Cluster) {
	t.Helper()
	pods, err := flink.JobManagers(ctx)
	must(t, err)
	if len(pods) == 0 {
		t.Fatal("there is no JobManager")
	}
	for _, pod := range pods {
		must(t, cluster.Set.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{}))
	}
}

func TestNativeSession(t *testing.T) {
	eachFlink(t, func(ctx context.Context, t *testing.T, dist *flinkproc.Dist) {
		namespace := newNamespace(ctx, t)
		cluster, err := cluster.StartSession(ctx, flinkpod.Options{Dist: dist, Namespace: namespace, ID: "session"})
		must(t, err)
		removed(t, cluster)
		testSession(ctx, t, dist, cluster)
	})
}

func TestDocumentedSession(t *testing.T) {
	eachFlink(t, func(ctx context.Context, t *testing.T, dist *flinkproc.Dist) {
		namespace := newNamespace(ctx, t)
		cluster, err := cluster.StartDocumentedSession(ctx, flinkpod.Documented{Dist: dist, Namespace: namespace})
		must(t, err)
		removed(t, cluster)
		testSession(ctx, t, dist, cluster)
	})
}

// A session cluster takes a job and goes on when that has ended.
func testSession(ctx context.Context, t *testing.T, dist *flinkproc.Dist, cluster *flinkpod.Cluster) {
	control := newControl(t)
	flink, err := cluster.AwaitREST(ctx)
	must(t, err)
	id, err := flink.Submit(ctx, dist, flinkproc.Job{Sources: []string{control.Addr()}})
	must(t, err, flink.WaitRunning(ctx, id), control.WaitConnected(ctx), control.Finish(), flink.WaitState(ctx, id, job.Finished))
}

// The Job of Flink's documentation is Complete when Flink's is FINISHED.
func TestDocumentedApplication(t *testing.T) {
	eachFlink(t, func(ctx context.Context, t *testing.T, dist *flinkproc.Dist) {
		namespace, control := newNamespace(ctx, t), newControl(t)
		documented := flinkpod.Documented{Dist: dist, Namespace: namespace, Pod: func(pod *corev1.PodTemplateSpec) {
			pod.Annotations = map[string]string{"holdfast.dev/cluster-id": "orders"}
		}}
		flinks, err := cluster.StartDocumentedApplication(ctx, documented, flinkproc.Job{Name: "orders", Sources: []string{control.Addr()}})
		must(t, err)
		removed(t, flinks)
		flink, err := flinks.AwaitREST(ctx)
		must(t, err)
		_, err = flinks.AwaitJob(ctx, flink)
		must(t, err, control.WaitConnected(ctx), control.Finish())
		eventually(ctx, t, "the Job's completion", func() bool {
			job, err := cluster.Set.BatchV1().Jobs(namespace).Get(ctx, "flink-jobmanager", metav1.GetOptions{})
			return err == nil && complete(job)
		})
	})
}

func complete(job *batchv1.Job) bool {
	for _, condition := range job.Status.Conditions {
		if condition.Type == batchv1.JobComplete && condition.Status == corev1.ConditionTrue {
			return true
		}
	}
	return false
}
