package webhook

import (
	"encoding/json"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// Whoever watches pods that run takes each for the same cluster's as whoever injected it, with the agent in it and without.
func TestIdentify(t *testing.T) {
	files, err := filepath.Glob("testdata/pods/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	injected := 0
	for _, file := range files {
		s, request := readCase(t, file)
		d := Decide(s, request)
		if !d.Inject {
			continue
		}
		injected++
		patched, err := Apply(request.Pod, d.Patch)
		if err != nil {
			t.Fatal(file, err)
		}
		for what, text := range map[string][]byte{"before": request.Pod, "after": patched} {
			pod := new(corev1.Pod)
			if err := json.Unmarshal(text, pod); err != nil {
				t.Fatal(file, err)
			}
			id, ok := Identify(pod)
			if !ok || id.ClusterID != d.ClusterID || id.Container != d.Container || id.Injected != (what == "after") {
				t.Errorf("%s, %s it is injected: %+v, %t; want cluster %s and container %s", file, what, id, ok, d.ClusterID, d.Container)
			}
			// The webhook may have read a configuration that is not in the pod: only an agent knows then.
			if what == "after" && id.RESTPort != d.RESTPort {
				t.Errorf("%s: port %d, want %d", file, id.RESTPort, d.RESTPort)
			}
			if id.Application && id.Session {
				t.Errorf("%s: %+v", file, id)
			}
		}
	}
	if injected < 20 {
		t.Errorf("only %d pods", injected)
	}
}

func TestIdentifyNoJobManager(t *testing.T) {
	pod := func(labels map[string]string, containers ...corev1.Container) *corev1.Pod {
		p := &corev1.Pod{Spec: corev1.PodSpec{Containers: containers}}
		p.Name, p.Labels = "some", labels
		return p
	}
	for name, p := range map[string]*corev1.Pod{
		"no containers":  pod(nil),
		"a TaskManager":  pod(map[string]string{"component": "taskmanager"}, corev1.Container{Name: "flink-main-container"}),
		"by its command": pod(nil, corev1.Container{Name: "main", Args: []string{"taskmanager"}}),
		"nobody knows":   pod(nil, corev1.Container{Name: "one"}, corev1.Container{Name: "two"}),
		"an agent alone": pod(nil, corev1.Container{Name: ContainerName}),
		"without a name": {Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "jobmanager"}}}},
	} {
		if id, ok := Identify(p); ok {
			t.Errorf("%s: taken for %+v", name, id)
		}
	}
}

// What stands in an agent's container may have been written by anybody: what no agent could have been told does not count.
func TestIdentifyOfNonsense(t *testing.T) {
	for _, text := range []string{"", "0", "-1", "65536", "8082; reboot", "$(reboot)", "99999999999999999999"} {
		agent := corev1.Container{Name: ContainerName, Env: []corev1.EnvVar{
			{Name: "HOLDFAST_REST_PORT", Value: text}, {Name: "HOLDFAST_CLUSTER_ID", Value: "a/" + text},
		}}
		pod := podOf(func(p *corev1.Pod) { p.Spec.InitContainers = []corev1.Container{agent} })
		if id, ok := Identify(pod); !ok || id.RESTPort != 8081 || id.ClusterID != "orders-0" || !id.Injected {
			t.Errorf("%q: %+v, %t", text, id, ok)
		}
	}
}
