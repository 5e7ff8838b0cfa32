//go:build kubernetes

package realkubernetes

import (
	"context"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/holdfast-dev/holdfast/test/kubernetes/rig"
)

// What an ordinary chart needs works: services and their names, a StatefulSet's own names, and volumes that fsGroup makes writable.
func TestServicesAndVolumes(t *testing.T) {
	ctx := bounded(t)
	namespace := newNamespace(ctx, t)
	labels := map[string]string{"app": "web"}
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: corev1.ServiceSpec{
			Selector: labels,
			Ports:    []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}},
		},
	}
	_, err := cluster.Set.CoreV1().Services(namespace).Create(ctx, service, metav1.CreateOptions{})
	must(t, err)
	web := podtool("web", "serve", ":8080")
	web.ReadinessProbe = &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(8080)}},
		PeriodSeconds: 1,
	}
	web.VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	write := podtool("write", "write", "/data/file")
	write.VolumeMounts = web.VolumeMounts
	two, group := int32(2), int64(65532)
	set := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.StatefulSetSpec{
			ServiceName: "web", Replicas: &two, PodManagementPolicy: appsv1.ParallelPodManagement,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					SecurityContext: &corev1.PodSecurityContext{FSGroup: &group},
					InitContainers:  []corev1.Container{write},
					Containers:      []corev1.Container{web},
				},
			},
			VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{
				ObjectMeta: metav1.ObjectMeta{Name: "data"},
				Spec: corev1.PersistentVolumeClaimSpec{
					AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
					Resources: corev1.VolumeResourceRequirements{
						Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
					},
				},
			}},
		},
	}
	_, err = cluster.Set.AppsV1().StatefulSets(namespace).Create(ctx, set, metav1.CreateOptions{})
	must(t, err)
	for _, name := range []string{"web-0", "web-1"} {
		awaitPod(ctx, t, namespace, name, "ready", rig.Ready)
	}
	for name, want := range map[string]string{
		"http://web":              "web-", // either
		"http://web." + namespace: "web-",
		"http://web-1.web." + namespace + ".svc.cluster.local:8080": "web-1",
	} {
		if got := get(ctx, t, namespace, name); !strings.HasPrefix(got, want) {
			t.Errorf("GET %s from a pod says %q, want %s", name, got, want)
		}
	}
}

// get asks a URL from a pod until it is answered: a name or a service's rules may take a moment. It gives the answer.
func get(ctx context.Context, t *testing.T, namespace, url string) string {
	t.Helper()
	const name = "ask"
	spec := corev1.PodSpec{RestartPolicy: corev1.RestartPolicyOnFailure, Containers: []corev1.Container{podtool("get", "get", url)}}
	createPod(ctx, t, namespace, name, spec)
	awaitPod(ctx, t, namespace, name, "at its end", rig.Ended)
	pods := cluster.Set.CoreV1().Pods(namespace)
	log, err := pods.GetLogs(name, &corev1.PodLogOptions{}).DoRaw(ctx)
	must(t, err, pods.Delete(ctx, name, metav1.DeleteOptions{}))
	eventually(ctx, t, "the end of pod "+name, func() bool {
		_, err := pods.Get(ctx, name, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	return strings.TrimSpace(string(log))
}

// A pod is over when its containers are, though a native sidecar would run for ever; that is told to go afterwards.
func TestNativeSidecar(t *testing.T) {
	ctx := bounded(t)
	namespace := newNamespace(ctx, t)
	always, grace := corev1.ContainerRestartPolicyAlways, int64(30)
	sidecar := podtool("sidecar")
	sidecar.RestartPolicy = &always
	createPod(ctx, t, namespace, "pod", corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: &grace,
		InitContainers: []corev1.Container{sidecar},
		Containers:     []corev1.Container{podtool("main", "exit", "0")},
	})
	pod := awaitPod(ctx, t, namespace, "pod", "at its end", rig.Ended)
	if pod.Status.Phase != corev1.PodSucceeded {
		t.Errorf("the pod is %s, want Succeeded", pod.Status.Phase)
	}
	main, beside := pod.Status.ContainerStatuses[0].State.Terminated, pod.Status.InitContainerStatuses[0].State.Terminated
	if main == nil || beside == nil {
		t.Fatalf("main: %+v, sidecar: %+v, want both terminated", main, beside)
	}
	if beside.ExitCode != 0 || beside.FinishedAt.Before(&main.FinishedAt) {
		t.Errorf("the sidecar ended with %d at %s, and the container at %s", beside.ExitCode, beside.FinishedAt, main.FinishedAt)
	}
}

// The admission that the chart must live with is switched on.
func TestAdmission(t *testing.T) {
	ctx := bounded(t)
	namespace := newNamespace(ctx, t)
	root := int64(0)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "pod"}, Spec: corev1.PodSpec{Containers: []corev1.Container{podtool("main")}}}
	pod.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{RunAsUser: &root}
	create := func() error {
		_, err := cluster.Set.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err
	}
	must(t, create())
	refused := func(by, words string) {
		t.Helper()
		// A policy is heeded a moment after it was made.
		var err error
		eventually(ctx, t, "a refusal by "+by, func() bool { err = create(); return err != nil })
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v, want it forbidden with the words %q", by, err, words)
		}
	}
	must(t, label(ctx, namespace, `{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"restricted"}}}`))
	refused("PodSecurity", `violates PodSecurity "restricted:latest"`)
	must(t, label(ctx, namespace, `{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":null}}}`))
	eventually(ctx, t, "no more refusal", func() bool { return create() == nil })

	quota := &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "quota"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"requests.memory": resource.MustParse("1Gi")}},
	}
	_, err := cluster.Set.CoreV1().ResourceQuotas(namespace).Create(ctx, quota, metav1.CreateOptions{})
	must(t, err)
	refused("ResourceQuota", "must specify requests.memory")

	limits := &corev1.LimitRange{
		ObjectMeta: metav1.ObjectMeta{Name: "limits"},
		Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{
			Type: corev1.LimitTypeContainer, DefaultRequest: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("16Mi")},
		}}},
	}
	_, err = cluster.Set.CoreV1().LimitRanges(namespace).Create(ctx, limits, metav1.CreateOptions{})
	must(t, err)
	eventually(ctx, t, "a LimitRange to help", func() bool { return create() == nil })
}

func label(ctx context.Context, namespace, patch string) error {
	_, err := cluster.Set.CoreV1().Namespaces().Patch(ctx, namespace, "application/merge-patch+json", []byte(patch), metav1.PatchOptions{})
	return err
}

// eventually waits until something is so.
func eventually(ctx context.Context, t *testing.T, what string, is func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for !is() {
		select {
		case <-ctx.Done():
			t.Fatalf("there never was %s", what)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
