package webhook

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	psaapi "k8s.io/pod-security-admission/api"
	psa "k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew; read the difference before you commit it")

// settings are those of the golden files.
func settings() Settings {
	s := Defaults()
	s.Archive = ArchiveAuto
	s.Image, s.Version = "registry.example/holdfast:1.0.0", "1.0.0"
	s.Site, s.SiteUID = "west", "0b1c2d3e-1111-4222-8333-444455556666"
	s.EtcdEndpoints = []string{"https://holdfast-etcd.holdfast.svc:2379"}
	return s
}

// given is what a pod's file says of the installation, in a document before the pod.
type given struct {
	NativeSidecars *bool
	ReadConfigMaps bool
	FlinkConfig    map[string]string
	EtcdCA         string
}

// Each file of testdata/pods is a pod as the API server sends it; beside it stands what becomes of it.
func TestPods(t *testing.T) {
	files, err := filepath.Glob("testdata/pods/*.yaml")
	if err != nil || len(files) < 30 {
		t.Fatalf("%d pods: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			s, request := readCase(t, file)
			d := Decide(s, request)
			patched := checkDecision(t, s, request, d)
			if d.Inject {
				checkPod(t, request, patched)
				checkAuthorities(t, s, patched)
			}

			golden := strings.TrimSuffix(file, ".yaml") + ".golden"
			got := []byte(tell(t, d, patched))
			if *rewrite {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatalf("%v: write it with -rewrite", err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("it became something else (-want +got); read it, then write it anew with -rewrite:\n%s", diff)
			}
		})
	}
}

func readCase(t testing.TB, file string) (Settings, Request) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := settings()
	var before struct{ Given given }
	pod := text
	if first, second, two := bytes.Cut(text, []byte("\n---\n")); two {
		if err := yaml.UnmarshalStrict(first, &before); err != nil {
			t.Fatal(err)
		}
		pod = second
	}
	if before.Given.NativeSidecars != nil {
		s.NativeSidecars = *before.Given.NativeSidecars
	}
	s.ReadConfigMaps, s.EtcdCA = before.Given.ReadConfigMaps, before.Given.EtcdCA
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	raw, err := yaml.YAMLToJSONStrict(pod)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(pod, new(corev1.Pod)); err != nil {
		t.Fatalf("the pod of this test is none of Kubernetes': %v", err)
	}
	return s, Request{Namespace: "team-a", Pod: raw, FlinkConfig: before.Given.FlinkConfig}
}

// checkDecision holds every decision to what is promised of all of them, and gives the pod that comes of it.
func checkDecision(t testing.TB, s Settings, r Request, d Decision) json.RawMessage {
	t.Helper()
	if d.Inject != (d.Reason == ReasonJobManager) || d.Inject != (d.Patch != nil) {
		t.Errorf("inject %t, reason %s, %d operations", d.Inject, d.Reason, len(d.Patch))
	}
	if d.Message == "" || d.Archive.Message == "" || d.Reason == "" || d.Archive.Reason == "" {
		t.Errorf("a decision says why: %+v", d)
	}
	for _, text := range append([]string{d.Message, d.Archive.Message}, d.Warnings...) {
		if len(text) > longestMessage {
			t.Errorf("%d bytes are said: %s", len(text), text)
		}
		for _, r := range text {
			if r < ' ' || r == 0x7f {
				t.Errorf("%q says a control character", text)
			}
		}
	}
	replaced := 0
	for i, op := range d.Patch {
		switch op.Op {
		case "add", "test":
		case "replace":
			replaced++
			if before := d.Patch[i-1]; before.Op != "test" || before.Path != op.Path {
				t.Errorf("%s is replaced and not tested before", op.Path)
			}
		default:
			t.Errorf("the patch has an operation %s", op.Op)
		}
	}
	if replaced > 1 {
		t.Errorf("%d values are replaced", replaced)
	}
	patched, err := Apply(r.Pod, d.Patch)
	if err != nil {
		t.Fatalf("the patch does not apply: %v", err)
	}
	if !d.Inject {
		return patched
	}
	if again := Decide(s, Request{Namespace: r.Namespace, Pod: patched, FlinkConfig: r.FlinkConfig}); again.Reason != ReasonAlreadyInjected {
		t.Errorf("what was injected once is %s the second time", again.Reason)
	}
	return patched
}

// checkPod looks at the pod that comes of an injection as Kubernetes does.
func checkPod(t testing.TB, r Request, patched json.RawMessage) {
	t.Helper()
	text, err := yaml.JSONToYAML(patched)
	if err != nil {
		t.Fatal(err)
	}
	var pod, before corev1.Pod
	if err := yaml.UnmarshalStrict(text, &pod); err != nil {
		t.Errorf("the pod that comes of it is none of Kubernetes': %v", err)
	}
	if err := json.Unmarshal(r.Pod, &before); err != nil {
		t.Fatal(err)
	}
	if isGuaranteed(&before.Spec) != isGuaranteed(&pod.Spec) && before.Spec.Resources == nil {
		t.Error("the pod is of another class of service with the agent")
	}
	checkSecurity(t, &pod)
}

// checkAuthorities holds that an agent gets the very bytes that its installation has of etcd's certificates.
func checkAuthorities(t testing.TB, s Settings, patched json.RawMessage) {
	t.Helper()
	var pod corev1.Pod
	if err := json.Unmarshal(patched, &pod); err != nil {
		t.Fatal(err)
	}
	got := ""
	each(&pod.Spec, func(c *corev1.Container) {
		for _, variable := range c.Env {
			if c.Name == ContainerName && variable.Name == "HOLDFAST_ETCD_CA_PEM" {
				got = variable.Value
			}
		}
	})
	if got != s.EtcdCA {
		t.Errorf("the agent gets other certificates than the installation has (-want +got):\n%s", cmp.Diff(s.EtcdCA, got))
	}
}

// checkSecurity asks Kubernetes' own Pod Security Admission of a pod in which the agent is all there is: it adds nothing that the
// strictest standard forbids.
func checkSecurity(t testing.TB, pod *corev1.Pod) {
	t.Helper()
	evaluator, err := psa.NewEvaluator(psa.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	alone := pod.DeepCopy()
	alone.Spec.InitContainers, alone.Spec.Containers, alone.Spec.Volumes, alone.Spec.HostNetwork = nil, nil, nil, false
	if of := alone.Spec.SecurityContext; of != nil && of.RunAsUser != nil && *of.RunAsUser == 0 {
		of.RunAsUser = nil // that one is the user's, and refused without us
	}
	each(&pod.Spec, func(c *corev1.Container) {
		if c.Name == ContainerName {
			alone.Spec.Containers = append(alone.Spec.Containers, *c)
		}
	})
	for _, volume := range pod.Spec.Volumes {
		if volume.Name == ArchiveVolume {
			alone.Spec.Volumes = append(alone.Spec.Volumes, volume)
		}
	}
	if len(alone.Spec.Containers) != 1 {
		t.Fatalf("there are %d agents", len(alone.Spec.Containers))
	}
	restricted := psaapi.LevelVersion{Level: psaapi.LevelRestricted, Version: psaapi.LatestVersion()}
	for _, result := range evaluator.EvaluatePod(restricted, &alone.ObjectMeta, &alone.Spec) {
		if !result.Allowed {
			t.Errorf("restricted Pod Security forbids the agent: %s: %s", result.ForbiddenReason, result.ForbiddenDetail)
		}
	}
}

// tell writes a decision down as people compare it.
func tell(t *testing.T, d Decision, pod json.RawMessage) string {
	t.Helper()
	var text strings.Builder
	fact := func(name string, value any) {
		if fmt.Sprint(value) != "" && value != 0 {
			fmt.Fprintf(&text, "%-10s %v\n", name, value)
		}
	}
	decision := func(inject bool, reason, message string) string {
		word := "skip"
		if inject {
			word = "inject"
		}
		return fmt.Sprintf("%s, %s: %s", word, reason, message)
	}
	fact("decision", decision(d.Inject, string(d.Reason), d.Message))
	fact("archive", decision(d.Archive.Inject, string(d.Archive.Reason), d.Archive.Message))
	fact("mode", d.Mode)
	fact("container", d.Container)
	fact("cluster", d.ClusterID)
	fact("REST port", d.RESTPort)
	for _, warning := range d.Warnings {
		fact("warning", warning)
	}
	if !d.Inject {
		return text.String()
	}
	text.WriteString("\n# patch\n")
	for _, op := range d.Patch {
		fmt.Fprintf(&text, "%-7s %s %s\n", op.Op, op.Path, op.Value)
	}
	text.WriteString("\n# pod\n")
	out, err := yaml.JSONToYAML(pod)
	if err != nil {
		t.Fatal(err)
	}
	text.Write(out)
	return text.String()
}
