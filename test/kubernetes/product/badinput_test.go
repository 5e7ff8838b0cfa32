//go:build kubernetes

package product

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/holdfast-dev/holdfast/test/kubernetes/flinkimage"
	"github.com/holdfast-dev/holdfast/test/kubernetes/flinkpod"
)

// What cannot be used of an annotation is warned of by its name, and the pod is made as if it did not stand there: nothing of its text
// comes into a command, an argument or the environment.
func TestHostileAnnotations(t *testing.T) {
	t.Parallel()
	ns := namespace(t, "hostile", nil)
	const container, clusterID = "holdfast.dev/container", "holdfast.dev/cluster-id"
	const restPort, archive = "holdfast.dev/rest-port", "holdfast.dev/archive"
	long := strings.Repeat("8081 ", 20<<10) // 100 KiB
	tests := []struct{ annotation, value string }{
		{restPort, "0"}, {restPort, "99999999"}, {restPort, "-1"}, {restPort, "8081; rm -rf /"}, {restPort, long}, {restPort, ""},
		{clusterID, "$(touch /tmp/x)"}, {clusterID, "`touch /tmp/x`"}, {clusterID, "orders\ntouch /tmp/x"}, {clusterID, `';"touch /tmp/x";'`},
		{clusterID, "$(HOLDFAST_POD_IP)"}, {clusterID, "../../other"}, {clusterID, "a/b"}, {clusterID, long}, {clusterID, ""},
		{container, "nobody"}, {container, "$(touch /tmp/x)"}, {container, "\x1b[31m\r\nWarning: 299"}, {container, long},
		{archive, "nonsense"}, {archive, "inject; touch /tmp/x"}, {archive, `"},{"op":"remove","path":"/spec/containers"}`}, {archive, long},
	}
	shapes := map[string]func() *corev1.Pod{"native": nativeJobManager, "standalone": standaloneJobManager}
	for shape, of := range shapes {
		plain, warnings := admit(t, ns, of())
		if !isInjected(*plain) || len(warnings) > 0 {
			t.Fatalf("%s: without annotations the pod is %+v, with the warnings %q", shape, plain, warnings)
		}
		all := of()
		for _, test := range tests {
			pod := of()
			pod.Annotations = map[string]string{test.annotation: test.value}
			got, warnings := admit(t, ns, pod)
			name := shape + ", " + test.annotation + "=" + test.value[:min(len(test.value), 40)]
			checkWarnings(t, name, warnings, test.annotation)
			if diff := cmp.Diff(plain.Spec, got.Spec); diff != "" {
				t.Errorf("%s changes the pod (-without +with):\n%s", name, diff)
			}
			delete(got.Annotations, test.annotation)
			if diff := cmp.Diff(plain.Annotations, got.Annotations); diff != "" {
				t.Errorf("%s changes the annotations (-without +with):\n%s", name, diff)
			}
			metav1.SetMetaDataAnnotation(&all.ObjectMeta, test.annotation, test.value[:min(len(test.value), 60<<10)])
		}
		got, warnings := admit(t, ns, all)
		checkWarnings(t, shape+", all at once", warnings, slices.Sorted(maps.Keys(all.Annotations))...)
		if diff := cmp.Diff(plain.Spec, got.Spec); diff != "" {
			t.Errorf("%s: all at once change the pod (-without +with):\n%s", shape, diff)
		}
	}
}

// A pod of which nothing but such an annotation could say what is needed goes without an agent, and its owner is told why.
func TestHostileAnnotationsLeftOut(t *testing.T) {
	t.Parallel()
	ns := namespace(t, "hostile", nil)
	nobodys := nativeJobManager()
	nobodys.Name, nobodys.GenerateName, nobodys.Labels = "", "orders-", map[string]string{"component": "jobmanager"}
	nobodys.Annotations = map[string]string{"holdfast.dev/cluster-id": "$(touch /tmp/x)"}
	two := nativeJobManager()
	two.Spec.Containers = []corev1.Container{{Name: "one", Image: "flink"}, {Name: "two", Image: "flink"}}
	two.Annotations = map[string]string{"holdfast.dev/container": "three; touch /tmp/x"}
	for reason, pod := range map[string]*corev1.Pod{"NoClusterID": nobodys, "NoContainer": two} {
		got, warnings := admit(t, ns, pod)
		checkWarnings(t, reason, warnings, append(slices.Sorted(maps.Keys(pod.Annotations)), reason)...)
		if isInjected(*got) || len(got.Spec.InitContainers) > 0 || !cmp.Equal(got.Annotations, pod.Annotations) {
			t.Errorf("%s: the pod is changed: %+v", reason, got)
		}
	}
}

// checkWarnings fails the test unless each word stands in a warning, and all of them are short and harmless to a terminal.
func checkWarnings(t *testing.T, name string, warnings []string, words ...string) {
	t.Helper()
	for _, word := range words {
		if !slices.ContainsFunc(warnings, func(w string) bool { return strings.Contains(w, word) }) {
			t.Errorf("%s: no warning says %s: %q", name, word, warnings)
		}
	}
	for _, w := range warnings {
		if !strings.HasPrefix(w, "holdfast: ") || len([]rune(w)) > 256 || strings.ContainsFunc(w, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%s: this is no warning to show to people: %q", name, w)
		}
	}
}

// nativeJobManager is a JobManager's pod as Flink itself makes it, without what Kubernetes makes anew for each pod.
func nativeJobManager() *corev1.Pod {
	pod := standaloneJobManager()
	pod.Labels = map[string]string{"app": "orders", "component": "jobmanager", "type": "flink-native-kubernetes"}
	main := &pod.Spec.Containers[0]
	main.Name = flinkpod.MainContainer
	main.Command = []string{"/docker-entrypoint.sh"}
	main.Args = []string{"bash", "-c", "kubernetes-jobmanager.sh kubernetes-application "}
	return pod
}

// standaloneJobManager is one as Flink's documentation has it.
func standaloneJobManager() *corev1.Pod {
	no, user := false, int64(flinkimage.User)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "orders-jobmanager", Labels: map[string]string{"app": "flink", "component": "jobmanager"}},
		Spec: corev1.PodSpec{
			AutomountServiceAccountToken: &no,
			Containers: []corev1.Container{{
				Name: "jobmanager", Image: flinkimage.Name(cluster.Flinks[0].Version), Args: []string{"standalone-job", "--job-classname", "Orders"},
				SecurityContext: &corev1.SecurityContext{RunAsUser: &user},
			}},
		},
	}
}

// admit lets the API server say what would become of a pod, and gives what it warns of. Nothing is created.
func admit(t *testing.T, namespace string, pod *corev1.Pod) (*corev1.Pod, []string) {
	t.Helper()
	set, warnings := warned(t)
	got, err := set.CoreV1().Pods(namespace).Create(limit(t), pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	check(t, err)
	return got, warnings.told()
}

// warned gives a client whose warnings are kept.
func warned(t *testing.T) (*kubernetes.Clientset, *warnings) {
	t.Helper()
	all, config := &warnings{}, rest.CopyConfig(cluster.Config)
	config.WarningHandler = all
	set, err := kubernetes.NewForConfig(config)
	check(t, err)
	return set, all
}

// warnings are what the API server warned of.
type warnings struct {
	mu  sync.Mutex
	all []string
}

func (w *warnings) HandleWarningHeader(_ int, _ string, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, text)
}

func (w *warnings) told() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.all)
}
