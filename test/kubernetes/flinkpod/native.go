// Package flinkpod runs real Flink in the pods of a cluster, as people do: native application and session clusters, started by Flink's own
// command line, and the manifests of Flink's documentation. The images are those of flinkimage, and the job that of flinkproc.
//
// It starts, finds and removes. What a job's state is, Flink tells through flinkproc.REST; faults are the node's.
package flinkpod

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/holdfast-dev/holdfast/test/flink/flinkproc"
	"github.com/holdfast-dev/holdfast/test/kubernetes/flinkimage"
	"github.com/holdfast-dev/holdfast/test/machine"
)

// serviceAccount is the one that Flink's pods use in a prepared namespace.
const serviceAccount = "flink"

// MainContainer is the name that native Kubernetes gives to Flink's container, in JobManagers and TaskManagers.
const MainContainer = "flink-main-container"

// RESTPort is where every JobManager here listens.
const RESTPort = 8081

// Options say what a native cluster is made of. Dist, Namespace and ID are needed.
type Options struct {
	Dist *flinkproc.Dist
	// Namespace is one that Prepare has prepared.
	Namespace string
	// ID is kubernetes.cluster-id, and the name of the Deployment.
	ID string
	// HA makes Flink remember jobs in ConfigMaps and on a volume, so that a JobManager's next pod takes them up again.
	HA bool
	// JobManagers is how many there are, 1 by default. The second and further ones are standbys and need HA.
	JobManagers int
	// Pod is the template of the JobManager's pods: labels, annotations, further containers. What is to be changed of Flink's own
	// container stands under its name, MainContainer.
	Pod corev1.PodTemplateSpec
	// TaskManagerPod is the same of the TaskManagers' pods.
	TaskManagerPod corev1.PodTemplateSpec
	// Config is added to the command line, each as -Dkey=value, and beats what is set here.
	Config map[string]string
}

// Application says what an application cluster runs.
type Application struct {
	// JobID fixes the job's id: 32 hexadecimal digits. "" lets Flink choose.
	JobID string
	Job   flinkproc.Job
	// Attached makes the program wait for its job by itself. Flink then shuts down within 100 ms of the job's end, otherwise
	// within 2 s.
	Attached bool
}

// Prepare makes a namespace, if there is none, and a service account in it that Flink may make pods with.
func (c *Client) Prepare(ctx context.Context, namespace string) error {
	core := c.Set.CoreV1()
	_, err := core.Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: serviceAccount}}
	_, err = core.ServiceAccounts(namespace).Create(ctx, account, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: serviceAccount},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "edit"},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Name: serviceAccount, Namespace: namespace}},
	}
	_, err = c.Set.RbacV1().RoleBindings(namespace).Create(ctx, binding, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	return nil
}

// StartApplication starts a native application cluster with Flink's command line, as its users do. It returns when that has come to its
// end: the Deployment is there, its pods may not be yet.
func (c *Client) StartApplication(ctx context.Context, options Options, application Application) (*Cluster, error) {
	// Flink 2 has one command for both.
	args := []string{"run"}
	if strings.HasPrefix(options.Dist.Version, "1.") {
		args = []string{"run-application"}
	}
	args = append(args, "-t", "kubernetes-application")
	if !application.Attached {
		args = append(args, "-d") // the option execution.attached is overwritten by this flag's absence
	}
	if application.JobID != "" {
		args = append(args, "-D$internal.pipeline.job-id="+application.JobID)
	}
	return c.startNative(ctx, options, "org.apache.flink.client.cli.CliFrontend", args,
		append([]string{"-c", flinkproc.JobClass, flinkimage.JobJar}, application.Job.Args()...))
}

// StartSession starts a native session cluster with Flink's command line. It returns when that has come to its end.
func (c *Client) StartSession(ctx context.Context, options Options) (*Cluster, error) {
	return c.startNative(ctx, options, "org.apache.flink.kubernetes.cli.KubernetesSessionCli", []string{"-Dexecution.attached=false"}, nil)
}

func (c *Client) startNative(ctx context.Context, options Options, class string, args, program []string) (*Cluster, error) {
	// What is there already is not ours to remove when Flink refuses.
	if _, err := c.Set.AppsV1().Deployments(options.Namespace).Get(ctx, options.ID, metav1.GetOptions{}); err == nil {
		return nil, fmt.Errorf("start native Flink %s/%s: there is a Deployment of that name", options.Namespace, options.ID)
	}
	cluster := &Cluster{client: c, namespace: options.Namespace, name: options.ID, rest: options.ID + "-rest", native: true}
	cluster.jobManagers = "app=" + options.ID + ",component=jobmanager"
	if err := c.runNative(ctx, options, class, args, program); err != nil {
		return nil, errors.Join(fmt.Errorf("start native Flink %s/%s: %w", options.Namespace, options.ID, err),
			cluster.Remove(context.WithoutCancel(ctx)))
	}
	return cluster, nil
}

func (c *Client) runNative(ctx context.Context, options Options, class string, args, program []string) error {
	dir, err := os.MkdirTemp("", "holdfast-flink-cli-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if options.HA {
		if err := c.claimStorage(ctx, options); err != nil {
			return err
		}
	}
	config := options.config()
	worker, _ := podOf(options.TaskManagerPod)
	for role, pod := range map[string]*corev1.Pod{"jobmanager": options.template(), "taskmanager": worker} {
		template, err := yaml.Marshal(pod)
		if err != nil {
			return err
		}
		file := filepath.Join(dir, role+"-pod.yaml")
		if err := os.WriteFile(file, template, 0o644); err != nil {
			return err
		}
		config["kubernetes.pod-template-file."+role] = file
	}
	maps.Copy(config, options.Config)
	err = errors.Join(
		// What every cluster has in common, as an administrator would put it. It goes into the cluster's ConfigMap.
		os.WriteFile(filepath.Join(dir, "config.yaml"), []byte("jobmanager.rpc.address: localhost\n"), 0o644),
		os.WriteFile(filepath.Join(dir, "log4j-console.properties"), []byte(flinkproc.Logging), 0o644),
	)
	if err != nil {
		return err
	}
	argv := append(flinkproc.JVMOptions(),
		"-Xmx256m", "-Dlog4j.configurationFile=file:"+filepath.Join(dir, "log4j-console.properties"),
		"-cp", filepath.Join(options.Dist.Lib, "*"), class)
	argv = append(argv, args...)
	for _, key := range slices.Sorted(maps.Keys(config)) {
		argv = append(argv, "-D"+key+"="+config[key])
	}
	env := []string{"KUBECONFIG=" + c.Kubeconfig, "FLINK_CONF_DIR=" + dir, "FLINK_LIB_DIR=" + options.Dist.Lib}
	_, err = machine.Run(ctx, env, options.Dist.Java, append(argv, program...)...)
	return err
}

// config makes small and modest pods: several clusters share a machine. Flink works a pod's limits out from these.
func (o Options) config() map[string]string {
	config := map[string]string{
		"kubernetes.cluster-id":                  o.ID,
		"kubernetes.namespace":                   o.Namespace,
		"kubernetes.container.image.ref":         flinkimage.Name(o.Dist.Version),
		"kubernetes.container.image.pull-policy": "IfNotPresent",
		"kubernetes.service-account":             serviceAccount,
		"kubernetes.rest-service.exposed.type":   "ClusterIP",

		"kubernetes.jobmanager.cpu.amount":       "0.1",
		"kubernetes.jobmanager.cpu.limit-factor": "20",
		"jobmanager.memory.heap.size":            "256m",
		"jobmanager.memory.off-heap.size":        "64m",
		"jobmanager.memory.jvm-metaspace.size":   "160m",
		"jobmanager.memory.jvm-overhead.min":     "128m",
		"jobmanager.memory.jvm-overhead.max":     "128m",

		"kubernetes.taskmanager.cpu.amount":          "0.1",
		"kubernetes.taskmanager.cpu.limit-factor":    "20",
		"taskmanager.numberOfTaskSlots":              "1",
		"taskmanager.memory.framework.heap.size":     "64m",
		"taskmanager.memory.framework.off-heap.size": "32m",
		"taskmanager.memory.task.heap.size":          "64m",
		"taskmanager.memory.task.off-heap.size":      "0m",
		"taskmanager.memory.network.min":             "16m",
		"taskmanager.memory.network.max":             "16m",
		"taskmanager.memory.managed.size":            "8m",
		"taskmanager.memory.jvm-metaspace.size":      "128m",
		"taskmanager.memory.jvm-overhead.min":        "128m",
		"taskmanager.memory.jvm-overhead.max":        "128m",

		// The wait after a connection that was refused, which is every first one when all start at once. 10 s by default.
		"cluster.registration.error-delay": "200ms",
	}
	if o.JobManagers > 1 {
		config["kubernetes.jobmanager.replicas"] = fmt.Sprint(o.JobManagers)
	}
	if o.HA {
		config["high-availability.type"] = "kubernetes"
		config["high-availability.storageDir"] = "file://" + storageDir
	}
	return config
}

// storageDir is where high availability keeps what is too large for ConfigMaps.
const storageDir = "/flink-ha"

// storageName is the name of the claim that has it, and of the volume in the pod.
func storageName(id string) string { return id + "-ha" }

// claimStorage claims a volume that outlives the cluster's pods.
func (c *Client) claimStorage(ctx context.Context, o Options) error {
	claim := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: storageName(o.ID)},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			},
		},
	}
	_, err := c.Set.CoreV1().PersistentVolumeClaims(o.Namespace).Create(ctx, claim, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil // a cluster that is started again under its id finds what it left
	}
	return err
}

// podOf makes a pod of a template, and tells which of its containers is Flink's.
func podOf(template corev1.PodTemplateSpec) (pod *corev1.Pod, main int) {
	pod = &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: *template.ObjectMeta.DeepCopy(),
		Spec:       *template.Spec.DeepCopy(),
	}
	// Flink wants one to be there, if only by its name.
	main = slices.IndexFunc(pod.Spec.Containers, func(c corev1.Container) bool { return c.Name == MainContainer })
	if main < 0 {
		main = len(pod.Spec.Containers)
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: MainContainer})
	}
	return pod, main
}

// template is the JobManager's pod as Flink is told to make it.
func (o Options) template() *corev1.Pod {
	pod, main := podOf(o.Pod)
	if !o.HA {
		return pod
	}
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{
		Name: storageName(o.ID),
		VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: storageName(o.ID)},
		},
	})
	if pod.Spec.SecurityContext == nil {
		pod.Spec.SecurityContext = &corev1.PodSecurityContext{}
	}
	if pod.Spec.SecurityContext.FSGroup == nil {
		group := int64(flinkimage.User)
		pod.Spec.SecurityContext.FSGroup = &group
	}
	pod.Spec.Containers[main].VolumeMounts = append(pod.Spec.Containers[main].VolumeMounts,
		corev1.VolumeMount{Name: storageName(o.ID), MountPath: storageDir})
	return pod
}
