package webhook

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func container(name string, args ...string) *corev1.Container {
	return &corev1.Container{Name: name, Args: args}
}

// podOf is a JobManager's pod that changes make special.
func podOf(changes ...func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "orders-0", Labels: map[string]string{"component": "jobmanager"}, Annotations: map[string]string{}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{*container("jobmanager", "jobmanager")}},
	}
	for _, change := range changes {
		change(pod)
	}
	return pod
}

func decide(t *testing.T, s Settings, pod *corev1.Pod) Decision {
	t.Helper()
	raw, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	d := Decide(s, Request{Pod: raw})
	checkDecision(t, s, Request{Pod: raw}, d)
	return d
}

func annotated(name, value string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) { pod.Annotations[name] = value }
}

func labelled(pairs ...string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		for i := 0; i < len(pairs); i += 2 {
			pod.Labels[pairs[i]] = pairs[i+1]
		}
	}
}

func owned(kind, name string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		yes := true
		pod.OwnerReferences = append(pod.OwnerReferences, metav1.OwnerReference{Kind: kind, Name: name, Controller: &yes})
	}
}

func generated(pod *corev1.Pod) { pod.GenerateName, pod.Name = "x-", "x-7zk2p" }

func withArgs(args ...string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) { pod.Spec.Containers[0].Args = args }
}

func withEnv(name, value string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		pod.Spec.Containers[0].Env = append(pod.Spec.Containers[0].Env, corev1.EnvVar{Name: name, Value: value})
	}
}

func TestClusterID(t *testing.T) {
	native := labelled("type", "flink-native-kubernetes", "app", "orders")
	for _, c := range []struct {
		name    string
		changes []func(*corev1.Pod)
		want    string
	}{
		{"the annotation first", []func(*corev1.Pod){native, annotated(AnnotationClusterID, "mine")}, "mine"},
		{"a bad annotation falls back", []func(*corev1.Pod){native, annotated(AnnotationClusterID, "a/b")}, "orders"},
		{"an empty annotation falls back", []func(*corev1.Pod){native, annotated(AnnotationClusterID, "")}, "orders"},
		{"a long annotation falls back", []func(*corev1.Pod){native, annotated(AnnotationClusterID, strings.Repeat("a", 254))}, "orders"},
		{"dots are no name", []func(*corev1.Pod){native, annotated(AnnotationClusterID, "..")}, "orders"},
		{"Flink's own argument", []func(*corev1.Pod){owned("Deployment", "d"), withArgs("jobmanager", "-Dkubernetes.cluster-id=a")}, "a"},
		{"in two words", []func(*corev1.Pod){owned("Deployment", "d"), withArgs("jobmanager", "-D", "kubernetes.cluster-id=a")}, "a"},
		{"within a shell's string", []func(*corev1.Pod){withArgs("bash", "-c", "jobmanager.sh start -D'kubernetes.cluster-id=b' x")}, "b"},
		{"the last of two", []func(*corev1.Pod){withArgs("jobmanager", "-Dkubernetes.cluster-id=a", "-Dkubernetes.cluster-id=b")}, "b"},
		{"a variable in it is none", []func(*corev1.Pod){owned("Job", "j"), withArgs("jobmanager", "-Dkubernetes.cluster-id=$(ID)")}, "j"},
		{"FLINK_PROPERTIES", []func(*corev1.Pod){owned("Job", "j"), withEnv("FLINK_PROPERTIES", "a: b\nkubernetes.cluster-id: c # d\n")}, "c"},
		{"native", []func(*corev1.Pod){native, owned("ReplicaSet", "orders-5d8f7"), generated}, "orders"},
		{"the operator, standalone", []func(*corev1.Pod){labelled("type", "flink-standalone-kubernetes", "app", "o"), generated}, "o"},
		{"Lyft's", []func(*corev1.Pod){labelled("flink-app", "clicks", "flink-app-hash", "ab12"), generated}, "clicks-ab12"},
		{"Lyft's without a hash", []func(*corev1.Pod){labelled("flink-app", "clicks"), generated}, "clicks"},
		{"Spotify's", []func(*corev1.Pod){labelled("app", "flink", "cluster", "wc"), owned("StatefulSet", "wc-jobmanager")}, "wc"},
		{"a label cluster of somebody else's", []func(*corev1.Pod){labelled("app", "x", "cluster", "prod"), owned("StatefulSet", "wc")}, "wc"},
		{"docs: every cluster is app flink", []func(*corev1.Pod){labelled("app", "flink"), owned("Job", "etl-jobmanager"), generated}, "etl"},
		{"a ReplicaSet, by its label", []func(*corev1.Pod){labelled("pod-template-hash", "abc"), owned("ReplicaSet", "fl-abc"), generated}, "fl"},
		{"a ReplicaSet, by its look", []func(*corev1.Pod){owned("ReplicaSet", "fl-jobmanager-589967dcfc"), generated}, "fl"},
		{"a ReplicaSet of a plain name", []func(*corev1.Pod){owned("ReplicaSet", "my-cluster"), generated}, "my-cluster"},
		{"a Job's whole name", []func(*corev1.Pod){owned("Job", "etl-589967dcfc"), generated}, "etl-589967dcfc"},
		{"only what says JobManager", []func(*corev1.Pod){owned("Job", "-jobmanager"), generated}, "-jobmanager"},
		{"the owner before the release", []func(*corev1.Pod){labelled("app.kubernetes.io/instance", "r"), owned("Job", "j"), generated}, "j"},
		{"the release", []func(*corev1.Pod){labelled("app.kubernetes.io/instance", "r"), generated}, "r"},
		{"a pod that nobody owns", nil, "orders-0"},
		{"a name that Kubernetes made up", []func(*corev1.Pod){generated}, ""},
	} {
		d := decide(t, settings(), podOf(c.changes...))
		if d.ClusterID != c.want || (c.want == "") != (d.Reason == ReasonNoClusterID) {
			t.Errorf("%s: %q (%s), want %q", c.name, d.ClusterID, d.Reason, c.want)
		}
		bad := strings.Contains(c.name, "annotation falls back") || c.name == "dots are no name"
		if bad != (len(d.Warnings) > 0) {
			t.Errorf("%s: it is warned of %q", c.name, d.Warnings)
		}
	}
}

// An owner that is not the controller is better than none, and a pod's own name is none where an owner made it.
func TestClusterIDOfOtherOwners(t *testing.T) {
	pod := podOf(generated)
	pod.OwnerReferences = []metav1.OwnerReference{{Kind: "FlinkThing", Name: "thing"}}
	if d := decide(t, settings(), pod); d.ClusterID != "thing" {
		t.Errorf("%q", d.ClusterID)
	}
	pod.OwnerReferences[0].Name = "a/b"
	pod.Name, pod.GenerateName = "x-7zk2p", ""
	if d := decide(t, settings(), pod); d.Reason != ReasonNoClusterID {
		t.Errorf("%q, %s", d.ClusterID, d.Reason)
	}
}

func TestPort(t *testing.T) {
	port := func(name string, number int32) func(*corev1.Pod) {
		return func(pod *corev1.Pod) {
			pod.Spec.Containers[0].Ports = append(pod.Spec.Containers[0].Ports, corev1.ContainerPort{Name: name, ContainerPort: number})
		}
	}
	hostNetwork := func(pod *corev1.Pod) { pod.Spec.HostNetwork = true }
	native := func(args string) func(*corev1.Pod) {
		return withArgs("bash", "-c", "kubernetes-jobmanager.sh kubernetes-session "+args)
	}
	for _, c := range []struct {
		name    string
		changes []func(*corev1.Pod)
		want    int // 0: it cannot be told
		warned  bool
	}{
		{"nothing says it", nil, 8081, false},
		{"the annotation first", []func(*corev1.Pod){annotated(AnnotationRESTPort, "1"), withArgs("jobmanager", "-Drest.port=9000")}, 1, false},
		{"the annotation at its most", []func(*corev1.Pod){annotated(AnnotationRESTPort, "65535")}, 65535, false},
		{"too high", []func(*corev1.Pod){annotated(AnnotationRESTPort, "65536"), port("rest", 9000)}, 9000, true},
		{"zero", []func(*corev1.Pod){annotated(AnnotationRESTPort, "0")}, 8081, true},
		{"below zero", []func(*corev1.Pod){annotated(AnnotationRESTPort, "-1")}, 8081, true},
		{"no number", []func(*corev1.Pod){annotated(AnnotationRESTPort, "8081; reboot")}, 8081, true},
		{"an endless number", []func(*corev1.Pod){annotated(AnnotationRESTPort, strings.Repeat("9", 100_000))}, 8081, true},
		{"an argument", []func(*corev1.Pod){withArgs("jobmanager", "-Drest.port=9000"), port("rest", 1)}, 9000, false},
		{"an argument in two words", []func(*corev1.Pod){withArgs("jobmanager", "-D", "rest.port=9000")}, 9000, false},
		{"in a shell's string", []func(*corev1.Pod){native(`-Da=b -Drest.port="9000"`), port("rest", 1)}, 9000, false},
		{"bind-port beats port", []func(*corev1.Pod){withArgs("jobmanager", "-Drest.bind-port=1", "-Drest.port=2")}, 1, false},
		{"FLINK_PROPERTIES' bind-port beats an argument's port",
			[]func(*corev1.Pod){withArgs("jobmanager", "-Drest.port=2"), withEnv("FLINK_PROPERTIES", "rest.bind-port: 1")}, 1, false},
		{"an argument beats FLINK_PROPERTIES",
			[]func(*corev1.Pod){withArgs("jobmanager", "-Drest.port=2"), withEnv("FLINK_PROPERTIES", "rest.port: 1")}, 2, false},
		{"FLINK_PROPERTIES, nested", []func(*corev1.Pod){withEnv("FLINK_PROPERTIES", "rest:\n  port: '1'\n")}, 1, false},
		{"a range", []func(*corev1.Pod){withArgs("jobmanager", "-Drest.bind-port=9000-9010")}, 9000, false},
		{"a list", []func(*corev1.Pod){withArgs("jobmanager", "-Drest.bind-port=9001,9000-9010")}, 9001, false},
		{"a variable", []func(*corev1.Pod){withArgs("jobmanager", "-Drest.port=$(PORT)"), port("ui", 7)}, 7, true},
		{"an argument too high", []func(*corev1.Pod){withArgs("jobmanager", "-Drest.port=65536"), port("ui", 7)}, 7, true},
		{"an argument below zero", []func(*corev1.Pod){withArgs("jobmanager", "-Drest.port=-1"), port("ui", 7)}, 7, true},
		{"an endless argument", []func(*corev1.Pod){withArgs("jobmanager", "-Drest.port="+strings.Repeat("9", 100_000))}, 8081, true},
		{"a range too high", []func(*corev1.Pod){withArgs("jobmanager", "-Drest.bind-port=70000-70010")}, 8081, true},
		{"FLINK_PROPERTIES too high", []func(*corev1.Pod){withEnv("FLINK_PROPERTIES", "rest.port: 65536"), port("ui", 7)}, 7, true},
		{"declared too high", []func(*corev1.Pod){port("rest", 65536), port("ui", 7)}, 7, false},
		{"declared below zero", []func(*corev1.Pod){port("rest", -1)}, 8081, false},
		{"a port named webui", []func(*corev1.Pod){port("rpc", 1), port("webui", 2)}, 2, false},
		{"a port named rest before one named webui", []func(*corev1.Pod){port("webui", 1), port("rest", 2)}, 2, false},
		{"any port", []func(*corev1.Pod){withArgs("jobmanager", "-Drest.port=0"), port("rest", 1)}, 0, false},
		{"any port, native: Flink takes its default", []func(*corev1.Pod){native("-Drest.port=0")}, 8081, false},
		{"on the node's network, nothing said", []func(*corev1.Pod){hostNetwork}, 0, false},
		{"on the node's network, declared", []func(*corev1.Pod){hostNetwork, port("webui", 9)}, 9, false},
		{"on the node's network, the default declared", []func(*corev1.Pod){hostNetwork, port("x", 8081)}, 8081, false},
		{"on the node's network, annotated", []func(*corev1.Pod){hostNetwork, annotated(AnnotationRESTPort, "9")}, 9, false},
		{"on the node's network, native", []func(*corev1.Pod){hostNetwork, native("-Drest.port=9"), port("rest", 9)}, 0, false},
	} {
		d := decide(t, settings(), podOf(c.changes...))
		if d.RESTPort != c.want || (c.want == 0) != (d.Reason == ReasonPortUnknown) || c.warned != (len(d.Warnings) > 0) {
			t.Errorf("%s: %d (%s, %q), want %d", c.name, d.RESTPort, d.Reason, d.Warnings, c.want)
		}
	}
	// The mounted configuration comes below what stands in the pod, and above what the container declares.
	pod := podOf(port("rest", 1), func(pod *corev1.Pod) {
		pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "c", MountPath: "/opt/flink/conf/"}}
		pod.Spec.Volumes = []corev1.Volume{{Name: "c", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{}}}}
	})
	raw, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	if d := Decide(settings(), Request{Pod: raw, FlinkConfig: map[string]string{"config.yaml": "rest:\n  port: 5"}}); d.RESTPort != 5 {
		t.Errorf("the configuration says 5, and the port is %d", d.RESTPort)
	}
}

func TestContainer(t *testing.T) {
	rest := func(c *corev1.Container) *corev1.Container {
		c.Ports = []corev1.ContainerPort{{Name: "webui", ContainerPort: 8081}}
		return c
	}
	with := func(command ...string) *corev1.Container { return &corev1.Container{Name: "c", Command: command} }
	for _, c := range []struct {
		name       string
		annotation string
		containers []*corev1.Container
		want       string // "" for none
	}{
		{"the annotation", "b", []*corev1.Container{container("flink-main-container"), container("b")}, "b"},
		{"an annotation of no container", "x", []*corev1.Container{container("b"), container("flink-main-container")}, "flink-main-container"},
		{"native before docs", "", []*corev1.Container{container("jobmanager"), container("flink-main-container")}, "flink-main-container"},
		{"native up to 1.12", "", []*corev1.Container{container("x"), container("flink-job-manager")}, "flink-job-manager"},
		{"docs", "", []*corev1.Container{container("x"), container("jobmanager")}, "jobmanager"},
		{"a chart's", "", []*corev1.Container{container("x"), container("job-manager")}, "job-manager"},
		{"by argument", "", []*corev1.Container{container("x", "serve"), container("c", "jobmanager")}, "c"},
		{"by argument, application", "", []*corev1.Container{container("x"), container("c", "standalone-job", "--job-classname", "A")}, "c"},
		{"by a shell's command", "", []*corev1.Container{container("x"), container("c", "bash", "-c",
			"exec kubernetes-jobmanager.sh kubernetes-session")}, "c"},
		{"by command", "", []*corev1.Container{container("x"), with("/opt/flink/bin/jobmanager.sh", "start-foreground")}, "c"},
		{"behind an init", "", []*corev1.Container{container("x"), with("tini", "-s", "--", "/docker-entrypoint.sh", "jobmanager")}, "c"},
		{"by class", "", []*corev1.Container{container("x"), with("/opt/java/bin/java", "-Xmx1g", "-Da=b",
			"org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint")}, "c"},
		{"by port", "", []*corev1.Container{container("x"), rest(container("c"))}, "c"},
		{"the only one", "", []*corev1.Container{container("x")}, "x"},
		{"a word that is another's argument", "", []*corev1.Container{container("x", "--watch", "jobmanager"), container("y")}, ""},
		{"nothing tells", "", []*corev1.Container{container("x"), container("y")}, ""},
		{"none at all", "", nil, ""},
	} {
		pod := podOf()
		pod.Spec.Containers = nil
		for _, one := range c.containers {
			pod.Spec.Containers = append(pod.Spec.Containers, *one)
		}
		if c.annotation != "" {
			pod.Annotations[AnnotationContainer] = c.annotation
		}
		d := decide(t, settings(), pod)
		if d.Container != c.want || (c.want == "") != (d.Reason == ReasonNoContainer) {
			t.Errorf("%s: %q (%s), want %q", c.name, d.Container, d.Reason, c.want)
		}
	}
}

func TestWhoIsLeftAlone(t *testing.T) {
	now := metav1.Now()
	windows := &corev1.PodOS{Name: corev1.Windows}
	affinity := func(operator corev1.NodeSelectorOperator, values ...[]string) func(*corev1.Pod) {
		return func(pod *corev1.Pod) {
			var terms []corev1.NodeSelectorTerm
			for _, v := range values {
				terms = append(terms, corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{
					{Key: "zone", Operator: corev1.NodeSelectorOpIn, Values: []string{"a"}}, {Key: "kubernetes.io/arch", Operator: operator, Values: v},
				}})
			}
			pod.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
				RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: terms},
			}}
		}
	}
	for _, c := range []struct {
		name   string
		change func(*corev1.Pod)
		want   Reason
	}{
		{"a JobManager", func(*corev1.Pod) {}, ReasonJobManager},
		{"asked for", labelled(LabelInject, "true"), ReasonJobManager},
		{"opted out", labelled(LabelInject, "false"), ReasonOptedOut},
		{"opted out in other words", labelled(LabelInject, "Off"), ReasonOptedOut},
		{"opted out by annotation", annotated(LabelInject, "false"), ReasonOptedOut},
		{"a word that says nothing", labelled(LabelInject, "perhaps"), ReasonJobManager},
		{"an agent among the init containers",
			func(p *corev1.Pod) { p.Spec.InitContainers = []corev1.Container{*container(ContainerName)} }, ReasonAlreadyInjected},
		{"an agent among the containers",
			func(p *corev1.Pod) { p.Spec.Containers = append(p.Spec.Containers, *container(ContainerName)) }, ReasonAlreadyInjected},
		{"being deleted", func(p *corev1.Pod) { p.DeletionTimestamp = &now }, ReasonEnding},
		{"ended", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, ReasonEnding},
		{"failed", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, ReasonEnding},
		{"running", func(p *corev1.Pod) { p.Status.Phase = corev1.PodRunning }, ReasonJobManager},
		{"a mirror", annotated(corev1.MirrorPodAnnotationKey, "x"), ReasonStaticPod},
		{"Windows", func(p *corev1.Pod) { p.Spec.OS = windows }, ReasonPlatform},
		{"Windows by node", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"kubernetes.io/os": "windows"} }, ReasonPlatform},
		{"Linux by node", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"kubernetes.io/os": "linux"} }, ReasonJobManager},
		{"another processor", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"kubernetes.io/arch": "ppc64le"} }, ReasonPlatform},
		{"another processor, by its old label",
			func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"beta.kubernetes.io/arch": "arm"} }, ReasonPlatform},
		{"a processor that fits", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"kubernetes.io/arch": "arm64"} },
			ReasonJobManager},
		{"another processor by affinity", affinity(corev1.NodeSelectorOpIn, []string{"s390x", "arm"}), ReasonPlatform},
		{"one processor of two by affinity", affinity(corev1.NodeSelectorOpIn, []string{"s390x", "amd64"}), ReasonJobManager},
		{"one term of two", affinity(corev1.NodeSelectorOpIn, []string{"s390x"}, []string{"amd64"}), ReasonJobManager},
		{"neither of two terms", affinity(corev1.NodeSelectorOpIn, []string{"s390x"}, []string{"arm"}), ReasonPlatform},
		{"no processor of some", affinity(corev1.NodeSelectorOpNotIn, []string{"s390x"}), ReasonJobManager},
		{"a TaskManager", labelled("component", "taskmanager", LabelInject, "true"), ReasonNotJobManager},
		{"Lyft's TaskManager", labelled("flink-deployment-type", "taskmanager"), ReasonNotJobManager},
		{"a TaskManager by its command", withArgs("taskmanager"), ReasonNotJobManager},
		{"a history server", withArgs("history-server"), ReasonNotJobManager},
		{"many annotations", annotated("x", strings.Repeat("x", 256<<10)), ReasonTooLarge},
		{"a large pod", withArgs("jobmanager", strings.Repeat("x", 1<<20)), ReasonTooLarge},
	} {
		if d := decide(t, settings(), podOf(c.change)); d.Reason != c.want {
			t.Errorf("%s: %s (%s), want %s", c.name, d.Reason, d.Message, c.want)
		}
	}
	for text, want := range map[string]Reason{
		"": ReasonUnreadable, "{": ReasonUnreadable, "[]": ReasonUnreadable, "7": ReasonUnreadable, "null": ReasonNoContainer,
		"{}":                    ReasonNoContainer,
		`{"kind":"Deployment"}`: ReasonUnreadable, `{"spec":{"containers":"x"}}`: ReasonUnreadable,
		`{"spec":{"containers":[{"name":"a","resources":{"limits":{"cpu":"much"}}}]}}`: ReasonUnreadable,
		`{"Spec":{"Containers":[{"name":"jobmanager"}]}}`:                              ReasonNoContainer,
		// Kubernetes reads names as they are written
	} {
		if d := Decide(settings(), Request{Pod: []byte(text)}); d.Reason != want {
			t.Errorf("%s: %s, want %s", text, d.Reason, want)
		}
	}
	anywhere := settings()
	anywhere.Architectures = nil
	far := podOf(func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"kubernetes.io/arch": "s390x"} })
	if d := decide(t, anywhere, far); !d.Inject {
		t.Errorf("an image for every processor: %s", d.Reason)
	}
}

func TestPlainAgentsKeepNoPod(t *testing.T) {
	old, plain := settings(), settings()
	old.NativeSidecars, plain.Mode = false, ModePlain
	for policy, want := range map[corev1.RestartPolicy]Reason{
		corev1.RestartPolicyAlways: ReasonJobManager, "": ReasonJobManager,
		corev1.RestartPolicyOnFailure: ReasonNeedsNativeSidecars, corev1.RestartPolicyNever: ReasonNeedsNativeSidecars,
	} {
		pod := podOf(func(p *corev1.Pod) { p.Spec.RestartPolicy = policy })
		for why, s := range map[string]Settings{"Kubernetes is old": old, "it is wanted": plain} {
			if d := decide(t, s, pod); d.Reason != want || d.Inject && d.Mode != Plain {
				t.Errorf("plain since %s, %s: %s, %s", why, policy, d.Reason, d.Mode)
			}
		}
		if d := decide(t, settings(), pod); d.Reason != ReasonJobManager || d.Mode != Native {
			t.Errorf("native, %s: %s", policy, d.Reason)
		}
	}
}

// decideWithin decides upon a pod of a namespace with limits, and gives the pod that comes of it.
func decideWithin(t *testing.T, s Settings, pod *corev1.Pod, limits Limits) (Decision, *corev1.Pod) {
	t.Helper()
	raw, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	r := Request{Pod: raw, Limits: limits}
	d := Decide(s, r)
	patched := checkDecision(t, s, r, d)
	after := new(corev1.Pod)
	if err := json.Unmarshal(patched, after); err != nil {
		t.Fatal(err)
	}
	return d, after
}

// agentOf is the agent's container as a pod gets it.
func agentOf(t *testing.T, s Settings, pod *corev1.Pod) corev1.Container {
	t.Helper()
	_, after := decideWithin(t, s, pod, Limits{})
	for _, c := range append(after.Spec.InitContainers, after.Spec.Containers...) {
		if c.Name == ContainerName {
			return c
		}
	}
	t.Fatalf("there is no agent in %v", after)
	return corev1.Container{}
}

func TestUser(t *testing.T) {
	id := func(n int64) *int64 { return &n }
	said := func(c corev1.Container) string {
		text := func(n *int64) string {
			if n == nil {
				return "-"
			}
			return fmt.Sprint(*n)
		}
		return text(c.SecurityContext.RunAsUser) + " " + text(c.SecurityContext.RunAsGroup)
	}
	for _, c := range []struct {
		name              string
		pod, flink, group *int64
		want              string
	}{
		{"nobody says", nil, nil, nil, "- -"},
		{"the pod says", id(9999), nil, nil, "- -"},
		{"the container says", nil, id(9999), id(9998), "9999 9998"},
		{"the container says otherwise", id(1000), id(9999), nil, "9999 -"},
		{"both say the same", id(9999), id(9999), id(1), "- -"},
		{"the pod says root", id(0), nil, nil, "65532 65532"},
		{"the container says root", nil, id(0), nil, "- -"},
		{"the container says root, the pod does not", id(1000), id(0), nil, "- -"},
		{"the pod says root, the container does not", id(0), id(9999), nil, "9999 -"},
	} {
		pod := podOf()
		if c.pod != nil {
			pod.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: c.pod}
		}
		if c.flink != nil {
			pod.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{RunAsUser: c.flink, RunAsGroup: c.group}
		}
		if got := said(agentOf(t, settings(), pod)); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func requirements(requests, limits string) corev1.ResourceRequirements {
	list := func(text string) corev1.ResourceList {
		if text == "" {
			return nil
		}
		all := corev1.ResourceList{}
		for part := range strings.SplitSeq(text, " ") {
			name, value, _ := strings.Cut(part, "=")
			all[corev1.ResourceName(name)] = resource.MustParse(value)
		}
		return all
	}
	return corev1.ResourceRequirements{Requests: list(requests), Limits: list(limits)}
}

func TestResources(t *testing.T) {
	const burstable, guaranteed = "cpu=2m memory=16Mi", "cpu=50m memory=64Mi"
	for _, c := range []struct {
		name             string
		others           []corev1.ResourceRequirements // the last one is an init container's, where there is more than one
		annotation       string
		requests, limits string
	}{
		{"best effort", []corev1.ResourceRequirements{{}}, "", burstable, "memory=64Mi"},
		{"guaranteed", []corev1.ResourceRequirements{requirements("cpu=1 memory=1Gi", "cpu=1 memory=1Gi")}, "", guaranteed, guaranteed},
		{"guaranteed, by limits alone", []corev1.ResourceRequirements{requirements("", "cpu=1000m memory=1Gi")}, "", guaranteed, guaranteed},
		{"guaranteed, in other units", []corev1.ResourceRequirements{requirements("cpu=1 memory=1024Mi", "cpu=1000m memory=1Gi")}, "",
			guaranteed, guaranteed},
		{"cpu below its limit", []corev1.ResourceRequirements{requirements("cpu=1 memory=1Gi", "cpu=2 memory=1Gi")}, "", burstable, guaranteed},
		{"limits of zero", []corev1.ResourceRequirements{requirements("cpu=0 memory=0", "cpu=0 memory=0")}, "", burstable, guaranteed},
		{"an init container without", []corev1.ResourceRequirements{requirements("", "cpu=1 memory=1Gi"), {}}, "", burstable, "memory=64Mi"},
		{"an init container with another", []corev1.ResourceRequirements{requirements("", "cpu=1 memory=1Gi"), requirements("cpu=1",
			"cpu=2 memory=1Gi")}, "",
			burstable, guaranteed},
		{"no cpu limit", []corev1.ResourceRequirements{requirements("cpu=1 memory=1Gi", "memory=1Gi")}, "", burstable, "memory=64Mi"},
		{"LimitRanger set all", []corev1.ResourceRequirements{requirements("cpu=1", "cpu=2")},
			"LimitRanger plugin set: cpu, memory request for container a; cpu limit for container a", "", ""},
		{"LimitRanger set memory", []corev1.ResourceRequirements{requirements("cpu=1", "cpu=2")},
			"LimitRanger plugin set: memory request for container cpu", "cpu=2m", "cpu=50m"},
		{"a container that is called cpu", []corev1.ResourceRequirements{{}},
			"LimitRanger plugin set: ephemeral-storage request for container cpu", burstable, "memory=64Mi"},
	} {
		pod := podOf()
		pod.Spec.Containers[0].Resources = c.others[0]
		for _, more := range c.others[1:] {
			pod.Spec.InitContainers = append(pod.Spec.InitContainers, corev1.Container{Name: "init", Resources: more})
		}
		if c.annotation != "" {
			pod.Annotations[limitRanger] = c.annotation
		}
		got := agentOf(t, settings(), pod).Resources
		if diff := cmp.Diff(requirements(c.requests, c.limits), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
	pod := podOf()
	whole := requirements("memory=1Gi", "")
	pod.Spec.Resources = &whole
	if got := agentOf(t, settings(), pod).Resources; len(got.Requests)+len(got.Limits) > 0 {
		t.Errorf("the pod has resources as a whole, and the agent %v", got)
	}
}

// Whoever may empty a node is told that the archive folder keeps nobody there, beside what it was told before.
func TestArchiveKeepsNoNode(t *testing.T) {
	for was, want := range map[string]string{
		"": ArchiveVolume, "tmp": "tmp," + ArchiveVolume, "tmp," + ArchiveVolume: "tmp," + ArchiveVolume,
	} {
		pod := podOf(withArgs("standalone-job"), annotated(AnnotationArchive, "inject"))
		if was != "" {
			pod.Annotations[annotationEvictable] = was
		}
		if _, after := decideWithin(t, settings(), pod, Limits{}); after.Annotations[annotationEvictable] != want {
			t.Errorf("%q became %q", was, after.Annotations[annotationEvictable])
		}
	}
}

// What an installation says reaches the agent, and Kubernetes replaces nothing in it.
func TestEnvironment(t *testing.T) {
	s := settings()
	s.EtcdEndpoints = []string{"https://a:2379", "https://b:2379/$(HOME)"}
	s.EtcdCA = "-----BEGIN"
	got := map[string]string{}
	for _, variable := range agentOf(t, s, podOf()).Env {
		got[variable.Name] = expand(variable.Value, map[string]string{"HOME": "/root"})
		if variable.ValueFrom != nil {
			got[variable.Name] = "@" + variable.ValueFrom.FieldRef.FieldPath
		}
	}
	want := map[string]string{
		"HOLDFAST_SITE": "west", "HOLDFAST_SITE_UID": s.SiteUID, "HOLDFAST_NAMESPACE": "@metadata.namespace",
		"HOLDFAST_POD_NAME": "@metadata.name",
		"HOLDFAST_POD_UID":  "@metadata.uid", "HOLDFAST_POD_IP": "@status.podIP", "HOLDFAST_CLUSTER_ID": "orders-0", "HOLDFAST_REST_PORT": "8081",
		"HOLDFAST_ETCD_ENDPOINTS": "https://a:2379,https://b:2379/$(HOME)", "HOLDFAST_ETCD_CA_PEM": "-----BEGIN",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Whatever stands in a pod, what is said of it stays short.
func TestWarningsAreBounded(t *testing.T) {
	pod := podOf()
	for _, name := range []string{AnnotationArchive, AnnotationClusterID, AnnotationContainer, AnnotationRESTPort, LabelInject} {
		pod.Annotations[name] = strings.Repeat("\x1b\x00é\u2028日", 5_000)
	}
	pod.Spec.Containers[0].Args = []string{"jobmanager", "-Drest.port=" + strings.Repeat("\u0007", 1000), "-Drest.bind-port=" +
		strings.Repeat("x", 1000)}
	d := decide(t, settings(), pod)
	if len(d.Warnings) != mostWarnings { // there is more to say
		t.Errorf("%d warnings: %q", len(d.Warnings), d.Warnings)
	}
	for _, text := range d.Warnings {
		if len(text) > longestWarning || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' && r != '…' }) {
			t.Errorf("%d bytes: %q", len(text), text)
		}
	}
}
