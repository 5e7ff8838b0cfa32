package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/holdfast-dev/holdfast/webhook"
)

const pods = "../../webhook/testdata/pods/"

// jobManager is a pod that is injected.
const jobManager = `
apiVersion: v1
kind: Pod
metadata:
  name: orders-0
  labels: {component: jobmanager}
spec:
  containers:
  - {name: jobmanager, image: flink, args: [standalone-job], volumeMounts: [{name: c, mountPath: /opt/flink/conf}]}
  volumes:
  - {name: c, configMap: {name: flink-config}}
`

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file.yaml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func explain(t *testing.T, args ...string) string {
	t.Helper()
	code, out, errs := run(nil, append([]string{"webhook", "explain", "--archive", "auto"}, args...)...)
	if code != 0 || errs != "" {
		t.Fatalf("%q: exit code %d, complained %q", args, code, errs)
	}
	return out
}

func TestExplainForPeople(t *testing.T) {
	for golden_, args := range map[string][]string{
		"explain-inject.txt":   {"-f", pods + "native-application-2.3.yaml"},
		"explain-hostile.txt":  {"-f", pods + "hostile-annotations.yaml"},
		"explain-skip.txt":     {"-f", pods + "taskmanager.yaml"},
		"explain-plain.txt":    {"-f", pods + "native-session-1.20.yaml", "--kubernetes-version", "v1.28.3"},
		"explain-workload.txt": {"-f", "testdata/jobmanager-job.yaml", "-n", "team-a", "--read-configmaps"},
	} {
		golden(t, golden_, explain(t, args...))
	}
}

// The form for programs has these members, and no others.
func TestExplainForPrograms(t *testing.T) {
	type answer struct {
		Decision, Reason, Mode string
		Archive                struct{ Decision, Reason string }
		Patch                  []webhook.Operation
		Pod                    json.RawMessage
	}
	members := []string{"archive", "decision", "mode", "patch", "pod", "reason"}
	for file, want := range map[string]string{
		"native-application-2.3": "inject JobManager native inject DecidedInPod", "windows": "skip Platform  skip NotInjected",
		"docs-job": "inject JobManager native skip ConfigUnknown", "opted-out": "skip OptedOut  skip NotInjected",
	} {
		for _, form := range []string{"json", "yaml"} {
			out := []byte(explain(t, "-f", pods+file+".yaml", "-o", form))
			var all map[string]json.RawMessage
			if err := yaml.Unmarshal(out, &all); err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, name := range members {
				if _, has := all[name]; has {
					names = append(names, name)
				}
			}
			if diff := cmp.Diff(members, names); diff != "" || len(all) != len(members) {
				t.Errorf("%s as %s has %d members: %s", file, form, len(all), diff)
			}
			var a answer
			if err := yaml.Unmarshal(out, &a); err != nil {
				t.Fatal(err)
			}
			got := strings.Join([]string{a.Decision, a.Reason, a.Mode, a.Archive.Decision, a.Archive.Reason}, " ")
			if got != want {
				t.Errorf("%s as %s: %s, want %s", file, form, got, want)
			}
			before, err := os.ReadFile(pods + file + ".yaml")
			if err != nil {
				t.Fatal(err)
			}
			raw, err := yaml.YAMLToJSON(before)
			if err != nil {
				t.Fatal(err)
			}
			after, err := webhook.Apply(raw, a.Patch)
			if err != nil {
				t.Fatalf("%s: the patch that is printed does not apply to the pod: %v", file, err)
			}
			var mine, theirs corev1.Pod
			if yaml.Unmarshal(after, &mine) != nil || yaml.Unmarshal(a.Pod, &theirs) != nil {
				t.Fatalf("%s: %s", file, a.Pod)
			}
			if diff := cmp.Diff(mine, theirs); diff != "" {
				t.Errorf("%s: the pod is not what the patch makes:\n%s", file, diff)
			}
		}
	}
}

func reasonOf(t *testing.T, args ...string) string {
	t.Helper()
	var a struct {
		Reason  string
		Archive struct{ Reason string }
	}
	if err := json.Unmarshal([]byte(explain(t, append(args, "-o", "json")...)), &a); err != nil {
		t.Fatal(err)
	}
	return a.Reason + " " + a.Archive.Reason
}

func TestExplainSelectors(t *testing.T) {
	const installed = `
# Source: holdfast/templates/service.yaml
apiVersion: v1
kind: Service
metadata: {name: x}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: holdfast}
webhooks:
- name: other.example.com
  objectSelector: {}
- name: one.holdfast.dev
  namespaceSelector:
    matchLabels: {team: a}
    matchExpressions: [{key: kubernetes.io/metadata.name, operator: NotIn, values: [holdfast]}]
  objectSelector: {matchLabels: {component: jobmanager, flink: "yes"}}
`
	pod, labelled := file(t, jobManager), file(t, strings.Replace(jobManager, "component:", `flink: "yes", component:`, 1))
	unlabelled := file(t, strings.Replace(jobManager, "component:", "other:", 1))
	selectors := file(t, installed)
	list := file(t, `{"kind":"List","items":[{"kind":"MutatingWebhookConfiguration","webhooks":[{"name":"a.b.holdfast.dev"}]}]}`)
	for _, c := range []struct {
		name, want string
		args       []string
	}{
		{"the chart's", "JobManager", []string{"-f", pod}},
		{"the chart's, without a label", "NotSelected", []string{"-f", unlabelled}},
		{"in the cluster's own namespace", "NamespaceNotSelected", []string{"-f", pod, "-n", "kube-system"}},
		{"the installed, another namespace", "NamespaceNotSelected", []string{"-f", labelled, "--selectors", selectors}},
		{"the installed, the namespace's label", "JobManager", []string{"-f", labelled, "--selectors", selectors,
			"--namespace-labels", "team=a"}},
		{"the installed, another label", "NamespaceNotSelected", []string{"-f", labelled, "--selectors", selectors,
			"--namespace-labels", "team=b"}},
		{"the installed, the release's namespace", "NamespaceNotSelected",
			[]string{"-f", labelled, "--selectors", selectors, "--namespace-labels", "team=a", "-n", "holdfast"}},
		{"the installed, another pod", "NotSelected", []string{"-f", pod, "--selectors", selectors, "--namespace-labels", "team=a"}},
		{"a list that takes all", "JobManager", []string{"-f", unlabelled, "--selectors", list}},
		{"what opts out says so", "OptedOut", []string{"-f", file(t, strings.Replace(jobManager, "component:",
			`holdfast.dev/inject: "false", component:`, 1))}},
	} {
		if reason, _, _ := strings.Cut(reasonOf(t, c.args...), " "); reason != c.want {
			t.Errorf("%s: %s, want %s", c.name, reason, c.want)
		}
	}
}

// Every workload is explained by the pod that it would make.
func TestExplainWorkloads(t *testing.T) {
	_, template, _ := strings.Cut(jobManager, "metadata:\n")
	template = "metadata:\n" + template
	indent := func(text, by string) string { return by + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n"+by) }
	for kind, want := range map[string]string{
		"Deployment": "orders", "StatefulSet": "orders", "Job": "orders", "ReplicaSet": "orders", "DaemonSet": "orders",
		"CronJob": "orders-jobmanager-29000000",
	} {
		spec := "spec:\n  template:\n" + indent(template, "    ")
		if kind == "CronJob" {
			spec = "spec:\n  jobTemplate:\n    spec:\n      template:\n" + indent(template, "        ")
		}
		out := explain(t, "-f", file(t, "apiVersion: x/v1\nkind: "+kind+"\nmetadata: {name: orders-jobmanager}\n"+spec))
		headline := strings.ToLower(kind) + "/orders-jobmanager would get the agent"
		if !strings.Contains(out, headline) || !strings.Contains(out, "cluster id   "+want+"\n") {
			t.Errorf("%s:\n%s", kind, out)
		}
	}
}

func TestExplainSeveral(t *testing.T) {
	config := "\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: flink-config}\ndata: {config.yaml: 'a: b'}\n--- # another\n"
	both := file(t, "# nothing\n---\n"+jobManager+config+strings.Replace(jobManager, "component", "x", 1))
	if out := explain(t, "-f", both); strings.Count(out, "orders-0 would ") != 2 {
		t.Error(out)
	}
	decoder := json.NewDecoder(strings.NewReader(explain(t, "-f", both, "-o", "json")))
	for _, want := range []string{"inject", "skip"} {
		var a struct{ Decision string }
		if err := decoder.Decode(&a); err != nil || a.Decision != want {
			t.Errorf("%s, want %s: %v", a.Decision, want, err)
		}
	}
	if out := explain(t, "-f", both, "-o", "yaml"); strings.Count(out, "\n---\n") != 1 {
		t.Errorf("%s", out)
	}
	// ConfigMaps that lie beside a pod are read where the installation reads them.
	one := file(t, jobManager+config)
	if got := reasonOf(t, "-f", one); got != "JobManager ConfigUnknown" {
		t.Error(got)
	}
	if got := reasonOf(t, "-f", one, "--read-configmaps"); got != "JobManager NotConfigured" {
		t.Error(got)
	}
	if got := reasonOf(t, "-f", one, "--read-configmaps", "--archive", "off"); got != "JobManager PolicyOff" {
		t.Error(got)
	}
	list := "{kind: PodList, items: [{kind: Pod, metadata: {name: a, labels: {component: jobmanager}},\n spec: {containers: [{name: a}]}}]}"
	if got := reasonOf(t, "-f", file(t, list)); got != "JobManager CommandUnknown" {
		t.Error(got)
	}
}

// What the namespace allows its pods may stand beside them.
func TestExplainWithinLimits(t *testing.T) {
	beside := func(kind, spec string) string {
		return jobManager + "\n---\nkind: " + kind + "\nmetadata: {name: x, namespace: default}\nspec: " + spec + "\n"
	}
	for text, want := range map[string]string{
		beside("LimitRange", "{limits: [{type: Container, max: {memory: 8Mi}}]}"):                               "NamespaceLimits NotInjected",
		beside("LimitRange", "{limits: [{type: Container, max: {memory: 80Mi}}]}"):                              "JobManager ConfigUnknown",
		beside("ResourceQuota", "{hard: {requests.memory: 8Mi}}"):                                               "NamespaceLimits NotInjected",
		strings.Replace(beside("ResourceQuota", "{hard: {requests.memory: 8Mi}}"), "e: default", "e: other", 1): "JobManager ConfigUnknown",
	} {
		if got := reasonOf(t, "-f", file(t, text)); got != want {
			t.Errorf("%s, want %s:\n%s", got, want, text)
		}
	}
}

func TestExplainFromStandardInput(t *testing.T) {
	var out, errs bytes.Buffer
	p := newProgram(&out, &errs, nil)
	p.in = strings.NewReader(jobManager)
	code := p.run(context.Background(), []string{"webhook", "explain", "-f", "-"})
	if code != 0 || !strings.Contains(out.String(), "default/pod/orders-0") {
		t.Errorf("exit code %d: %s%s", code, out.String(), errs.String())
	}
}

func TestExplainRefuses(t *testing.T) {
	pod := file(t, jobManager)
	for _, c := range []struct {
		name, want string
		code       int
		args       []string
	}{
		{"no file", "--filename is missing", 2, nil},
		{"a file that is not there", "no such file", 1, []string{"-f", "/nowhere"}},
		{"an empty file", "is empty", 1, []string{"-f", file(t, "\n# nothing\n---\n")}},
		{"a LimitRange that is none", "LimitRange x", 1, []string{"-f", file(t, "kind: LimitRange\nmetadata: {name: x}\nspec: {limits: 7}\n")}},
		{"no YAML", "neither YAML nor JSON", 1, []string{"-f", file(t, "a: b: c")}},
		{"twice the same member", "already set in map", 1, []string{"-f", file(t, "kind: Pod\nkind: Pod\n")}},
		{"a list", "no object of Kubernetes", 1, []string{"-f", file(t, "- a\n")}},
		{"no kind", "no kind", 1, []string{"-f", file(t, "a: b\n")}},
		{"a FlinkDeployment", "kubectl get pods -l component=jobmanager", 1, []string{"-f", file(t,
			"kind: FlinkDeployment\nspec: {job: [1]}\n")}},
		{"a Service", "but Service", 1, []string{"-f", file(t, "kind: Service\nspec: {template: 1}\n")}},
		{"a Deployment without a template", "has no pod template", 1, []string{"-f", file(t, "kind: Deployment\nmetadata: {name: a}\n")}},
		{"a pod that Kubernetes could not read", "could read", 1, []string{"-f", file(t, "kind: Pod\nspec: {containers: 7}\n")}},
		{"another output", "text, json or yaml", 2, []string{"-f", pod, "-o", "table"}},
		{"a version that is none", "--kubernetes-version", 2, []string{"-f", pod, "--kubernetes-version", "new"}},
		{"an image that is none", "image", 2, []string{"-f", pod, "--agent-image", "a b"}},
		{"an archive policy that is none", "archive", 2, []string{"-f", pod, "--archive", "maybe"}},
		{"selectors without a configuration", "kubectl get mutatingwebhookconfiguration", 1, []string{"-f", pod, "--selectors", pod}},
		{"selectors from standard input", "standard input", 2, []string{"-f", pod, "--selectors", "-"}},
		{"conditions", "cannot be evaluated", 1, []string{"-f", pod, "--selectors",
			file(t, "kind: MutatingWebhookConfiguration\nwebhooks: [{name: a.holdfast.dev, matchConditions: [{name: a, expression: b}]}]\n")}},
		{"a selector that is none", "a.holdfast.dev", 1, []string{"-f", pod, "--selectors",
			file(t, "kind: MutatingWebhookConfiguration\nwebhooks:\n- name: a.holdfast.dev\n"+
				"  objectSelector: {matchExpressions: [{key: a, operator: Like}]}\n")}},
	} {
		code, out, errs := run(nil, append([]string{"webhook", "explain"}, c.args...)...)
		if code != c.code || out != "" || !strings.Contains(errs, c.want) {
			t.Errorf("%s: exit code %d, printed %q, complained %q", c.name, code, out, errs)
		}
	}
}
