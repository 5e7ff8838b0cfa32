package webhook

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// attacks are what people may write where a shell could come to read it: each would create a file named pwned where it runs.
var attacks = []string{
	"$(>pwned)", "`>pwned`", "; >pwned #", "' ; >pwned ; '", `" ; >pwned ; "`, "\n>pwned\n", "x\r\n>pwned", "| tee pwned", "&& >pwned",
	">pwned", "$((a[$(>pwned)]))", "a[$(>pwned)]", `\";>pwned;\"`, "$(HOLDFAST_CLUSTER_ID)", "$$(>pwned)",
}

// infest writes a text wherever a pod has room for one, but for what is a command already.
func infest(text string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		c := &pod.Spec.Containers[0]
		pod.Name, pod.Namespace, pod.GenerateName = text, text, text
		pod.Labels = map[string]string{
			"component": "jobmanager", labelType: "flink-native-kubernetes", labelApp: text, labelInstance: text, text: text,
		}
		pod.Annotations = map[string]string{
			AnnotationArchive: text, AnnotationClusterID: text, AnnotationContainer: text, AnnotationRESTPort: text, LabelInject: text,
			annotationEvictable: text, text: text,
		}
		pod.OwnerReferences = []metav1.OwnerReference{{Kind: text, Name: text, UID: "1"}}
		c.Name, c.Image, c.WorkingDir = text, text, text
		c.Ports = []corev1.ContainerPort{{Name: text, ContainerPort: 8081}}
		c.VolumeMounts = []corev1.VolumeMount{{Name: text, MountPath: "/mnt/" + text}}
		pod.Spec.Volumes = []corev1.Volume{{Name: text}}
		c.Env = []corev1.EnvVar{
			{Name: "FLINK_CONF_DIR", Value: text}, {Name: "FLINK_HOME", Value: text},
			{Name: propertiesVariable, Value: "a: " + text + "\n" + text + ": b"},
			// What the webhook's own shell line calls its variables must not be taken from the pod either.
			{Name: "k", Value: text}, {Name: "n", Value: text}, {Name: "r", Value: text}, {Name: "o", Value: text}, {Name: "f", Value: text},
			{Name: "c", Value: text}, {Name: "p", Value: text}, {Name: "i", Value: text}, {Name: "l", Value: text}, {Name: "d", Value: text},
			{Name: "b", Value: text}, {Name: "v", Value: text}, {Name: "q", Value: text},
		}
	}
}

// Nothing that somebody writes on a pod is run. The only shell line of a patch is a native application's own, and it is run here as
// the pod would run it, in bash, with every hostile text in every place at once, and in Flink's configuration.
func TestNothingOfAPodReachesAShell(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("there is no bash here: " + err.Error())
	}
	archive, bin := t.TempDir(), t.TempDir()
	starter := filepath.Join(bin, "kubernetes-jobmanager.sh")
	write(t, starter, "#!"+bash+"\nprintf '<%s>' \"$@\"\n")
	if err := os.Chmod(starter, 0o755); err != nil {
		t.Fatal(err)
	}
	const command = "kubernetes-jobmanager.sh kubernetes-application -Da=b"
	for _, text := range attacks {
		// None of them can be a cluster's id, so a pod with nothing else gets no agent.
		if d := decide(t, settings(), podOf(withArgs("bash", "-c", command), infest(text))); d.Reason != ReasonNoClusterID {
			t.Errorf("%q is taken for the cluster's id %q (%s)", text, d.ClusterID, d.Reason)
		}
		raw, err := json.Marshal(podOf(withArgs("bash", "-c", command), infest(text), labelled(labelApp, "orders")))
		if err != nil {
			t.Fatal(err)
		}
		d := Decide(settings(), Request{Pod: raw})
		if !d.Inject || !d.Archive.Inject {
			t.Fatalf("%q: %s, archive %s: nothing is tried", text, d.Reason, d.Archive.Reason)
		}
		patched, err := Apply(raw, d.Patch)
		if err != nil {
			t.Fatal(err)
		}
		var pod corev1.Pod
		if err := json.Unmarshal(patched, &pod); err != nil {
			t.Fatal(err)
		}

		// The agent's own container has no shell: a program, and words that no pod has a say in.
		agent := &pod.Spec.InitContainers[0]
		if !slices.Equal(agent.Command, []string{"/bin/holdfast-supervisor", "/bin/holdfast-agent"}) ||
			!slices.Equal(agent.Args, []string{"--listen="}) {
			t.Errorf("%q: the agent is started by %q %q", text, agent.Command, agent.Args)
		}
		for _, variable := range agent.Env {
			if strings.Contains(variable.Value, text) && len(text) > 1 {
				t.Errorf("%q: the agent's %s is %q", text, variable.Name, variable.Value)
			}
		}

		main := &pod.Spec.Containers[0]
		line := main.Args[2]
		if line != strings.Replace(command, "kubernetes-application", "kubernetes-application "+inPod, 1) {
			t.Fatalf("%q: the line is %s", text, line)
		}
		dir := t.TempDir()
		conf := filepath.Join(dir, "conf")
		if err := os.Mkdir(conf, 0o700); err != nil {
			t.Fatal(err)
		}
		config := text + "\n" + text + ": " + text + "\na: " + text + "\njobmanager: " + text + "\n  " + text + ":\n    x: " + text + "\n" + text
		write(t, filepath.Join(conf, "config.yaml"), config)
		for _, folder := range []string{conf, text} {
			expanded := expand(line, map[string]string{"HOLDFAST_CLUSTER_ID": ">pwned"})
			run := exec.Command(bash, "-c", strings.Replace(expanded, inPod, shell(t, archive), 1))
			run.Dir, run.Env = dir, []string{"PATH=" + bin}
			for _, variable := range main.Env {
				if variable.Name == "FLINK_CONF_DIR" {
					variable.Value = folder
				}
				run.Env = append(run.Env, variable.Name+"="+variable.Value)
			}
			out, err := run.CombinedOutput()
			got := strings.Replace(string(out), "<"+archiveOption+">", "", 1) // whether it is there, is not what this is about
			if err != nil || got != "<kubernetes-application><-Da=b>" {
				t.Errorf("%q in %s: %v, Flink is started with %s", text, folder, err, got)
			}
			if _, err := os.Stat(filepath.Join(dir, "pwned")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%q in %s was run (%v)", text, folder, err)
			}
		}
	}
}

// Each attack is one: put into a line without care, it runs. Otherwise the test above proves nothing.
func TestAttacksAreAttacks(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("there is no bash here: " + err.Error())
	}
	for _, text := range attacks {
		ran := false
		for _, careless := range []string{"echo X", `echo "X"`, "echo 'X'", "echo $(X)"} {
			line := expand(strings.ReplaceAll(careless, "X", text), map[string]string{"HOLDFAST_CLUSTER_ID": ">pwned"})
			run := exec.Command(bash, "-c", line)
			run.Dir, run.Env = t.TempDir(), []string{"PATH=/usr/bin:/bin"}
			_ = run.Run() // some are no commands any more after the attack
			_, err := os.Stat(filepath.Join(run.Dir, "pwned"))
			ran = ran || err == nil
		}
		if !ran {
			t.Errorf("%q harms nobody", text)
		}
	}
}
