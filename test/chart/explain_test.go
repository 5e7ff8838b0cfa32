package chart

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	"sigs.k8s.io/yaml"
)

// "holdfast webhook explain" believes to know the selectors that the chart installs: with those that it renders it says the same.
func TestExplainKnowsTheSelectors(t *testing.T) {
	program := filepath.Join(build(t), "holdfast")
	configuration := of[*admissionv1.MutatingWebhookConfiguration](render(t, ""))[0]
	text, err := yaml.Marshal(configuration)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	selectors, pods := filepath.Join(dir, "selectors.yaml"), filepath.Join(dir, "pods.yaml")
	var all bytes.Buffer
	names := 0
	for _, component := range []string{"", "jobmanager", "taskmanager"} {
		for _, kind := range []string{"", "jobmanager", "taskmanager"} {
			for _, inject := range []string{"", "true", "false", "perhaps"} {
				names++
				fmt.Fprintf(&all, "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: pod-%d\n  labels: {app: orders", names)
				for label, value := range map[string]string{"component": component, "flink-deployment-type": kind, "holdfast.dev/inject": inject} {
					if value != "" {
						fmt.Fprintf(&all, ", %s: %q", label, value)
					}
				}
				all.WriteString("}\nspec:\n  containers: [{name: jobmanager, image: flink, args: [standalone-job]}]\n")
			}
		}
	}
	for file, data := range map[string][]byte{selectors: text, pods: all.Bytes()} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	explain := func(more ...string) string {
		t.Helper()
		cmd := exec.Command(program, append([]string{"webhook", "explain", "-o", "text", "-f", pods}, more...)...)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("explain %v: %v\n%s", more, err, errs.String())
		}
		return string(out)
	}
	believed := explain()
	if diff := cmp.Diff(believed, explain("--selectors", selectors)); diff != "" {
		t.Errorf("the chart renders other selectors: -believed +rendered\n%s", diff)
	}
	// JobManagers by label that do not opt out (5 × 3), and pods that are no TaskManager's and ask for it.
	if selected := strings.Count(believed, "selected by"); selected != 16 || !strings.Contains(believed, "NotSelected") {
		t.Errorf("of %d pods, %d are selected: the pods of the test are of no use\n%s", names, selected, believed)
	}
}
