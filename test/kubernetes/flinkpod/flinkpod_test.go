package flinkpod

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/holdfast-dev/holdfast/test/flink/flinkproc"
	"github.com/holdfast-dev/holdfast/test/kubernetes/flinkimage"
)

func TestManifests(t *testing.T) {
	documented := Documented{
		Dist: &flinkproc.Dist{Version: "2.3.0"},
		Pod:  func(pod *corev1.PodTemplateSpec) { pod.Annotations = map[string]string{"seen": "yes"} },
	}
	hostile := `a"b: {c}`
	tests := []struct {
		manifest string
		kinds    []string
		args     []string // of the JobManager
	}{
		{"application.yaml", []string{"ConfigMap", "Service", "Job", "Deployment"},
			[]string{"standalone-job", "--job-classname", flinkproc.JobClass, "source=10.0.0.1:1", hostile}},
		{"session.yaml", []string{"ConfigMap", "Service", "Deployment", "Deployment"}, []string{"jobmanager"}},
	}
	for _, test := range tests {
		objects, err := documented.objects(test.manifest, []string{"source=10.0.0.1:1", hostile})
		if err != nil {
			t.Fatal(err)
		}
		var kinds []string
		var managers, workers []corev1.PodTemplateSpec
		for _, object := range objects {
			kinds = append(kinds, object.GetObjectKind().GroupVersionKind().Kind)
			var pod corev1.PodTemplateSpec
			switch o := object.Object.(type) {
			case *corev1.ConfigMap:
				var config map[string]any
				err := yaml.UnmarshalStrict([]byte(o.Data["config.yaml"]), &config)
				if err != nil || config["jobmanager.rpc.address"] != "flink-jobmanager" {
					t.Errorf("%s: the configuration is %v, %v", test.manifest, config, err)
				}
				if got := o.Data["log4j-console.properties"]; strings.TrimSpace(got) != strings.TrimSpace(flinkproc.Logging) {
					t.Errorf("%s: logging is %q", test.manifest, got)
				}
				continue
			case *batchv1.Job:
				pod = o.Spec.Template
			case *appsv1.Deployment:
				pod = o.Spec.Template
			default:
				continue
			}
			if pod.Labels["component"] == "jobmanager" {
				managers = append(managers, pod)
			} else {
				workers = append(workers, pod)
			}
		}
		if diff := cmp.Diff(test.kinds, kinds); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.manifest, diff)
		}
		if len(managers) != 1 || len(workers) != 1 {
			t.Fatalf("%s: %d JobManagers and %d TaskManagers", test.manifest, len(managers), len(workers))
		}
		main := managers[0].Spec.Containers[0]
		if diff := cmp.Diff(test.args, main.Args); diff != "" {
			t.Errorf("%s: the JobManager's args (-want +got):\n%s", test.manifest, diff)
		}
		if main.Name != "jobmanager" || main.Image != flinkimage.Name("2.3.0") || managers[0].Annotations["seen"] != "yes" {
			t.Errorf("%s: %s of %s with annotations %v", test.manifest, main.Name, main.Image, managers[0].Annotations)
		}
		if workers[0].Annotations["seen"] != "" || !cmp.Equal(workers[0].Spec.Containers[0].Args, []string{"taskmanager"}) {
			t.Errorf("%s: the TaskManager is changed too, or runs %q", test.manifest, workers[0].Spec.Containers[0].Args)
		}
	}
}

// What the caller says of Flink's own container stays, and storage is added to it and to nothing else.
func TestTemplate(t *testing.T) {
	options := Options{ID: "orders", Dist: &flinkproc.Dist{Version: "2.3.0"}}
	if got := options.template(); len(got.Spec.Containers) != 1 || got.Spec.Containers[0].Name != MainContainer || got.Spec.Volumes != nil {
		t.Errorf("an empty template becomes %+v", got.Spec)
	}
	options.HA = true
	options.Pod.Labels = map[string]string{"a": "b"}
	options.Pod.Spec.Containers = []corev1.Container{{Name: "beside"}, {Name: MainContainer, Env: []corev1.EnvVar{{Name: "X"}}}}
	for range 2 { // the caller's own is not changed
		got := options.template()
		main := got.Spec.Containers[1]
		if len(got.Spec.Containers) != 2 || got.Labels["a"] != "b" || len(got.Spec.Volumes) != 1 || len(main.Env) != 1 ||
			len(main.VolumeMounts) != 1 || main.VolumeMounts[0].MountPath != storageDir || got.Spec.Containers[0].VolumeMounts != nil {
			t.Errorf("the template becomes %+v", got)
		}
		if group := got.Spec.SecurityContext.FSGroup; group == nil || *group != flinkimage.User {
			t.Errorf("Flink cannot write to its storage: %+v", got.Spec.SecurityContext)
		}
	}
	if dir := options.config()["high-availability.storageDir"]; dir != "file://"+storageDir {
		t.Errorf("storage is looked for in %s", dir)
	}
}

func TestDescribePod(t *testing.T) {
	pod := &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{
		{Name: "main", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull", Message: "no such image"}}},
		{Name: "other", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 3}}},
	}}}
	pod.Name = "orders"
	got := fmt.Sprint(DescribePod(pod))
	for _, want := range []string{"orders is Pending", "main waits: ErrImagePull no such image", "other ended with 3"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q lacks %q", got, want)
		}
	}
}
