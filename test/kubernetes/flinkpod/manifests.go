package flinkpod

import (
	"bufio"
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/template"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/holdfast-dev/holdfast/test/flink/flinkproc"
	"github.com/holdfast-dev/holdfast/test/kubernetes/flinkimage"
)

//go:embed manifests/*.yaml
var manifests embed.FS

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"indent": func(spaces int, text string) string {
		pad := strings.Repeat(" ", spaces)
		return pad + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n"+pad)
	},
}).ParseFS(manifests, "manifests/*.yaml"))

// Documented says how the manifests of Flink's documentation are filled in. Their names are always the same: a namespace takes one of
// them.
type Documented struct {
	Dist *flinkproc.Dist
	// Namespace needs no preparation but to be there.
	Namespace string
	// Pod changes the JobManager's pod before it is created. It may be nil.
	Pod func(*corev1.PodTemplateSpec)
}

// StartDocumentedApplication creates a Job with standalone-job, and its TaskManager. It returns when the objects are created.
func (c *Client) StartDocumentedApplication(ctx context.Context, documented Documented, job flinkproc.Job) (*Cluster, error) {
	return c.startDocumented(ctx, "application.yaml", documented, job.Args())
}

// StartDocumentedSession creates a Deployment of a session cluster, and its TaskManager. It returns when the objects are created.
func (c *Client) StartDocumentedSession(ctx context.Context, documented Documented) (*Cluster, error) {
	return c.startDocumented(ctx, "session.yaml", documented, nil)
}

func (c *Client) startDocumented(ctx context.Context, manifest string, documented Documented, args []string) (*Cluster, error) {
	objects, err := documented.objects(manifest, args)
	if err != nil {
		return nil, fmt.Errorf("fill in %s: %w", manifest, err)
	}
	cluster := &Cluster{
		client: c, namespace: documented.Namespace, name: "flink", rest: "flink-jobmanager", jobManagers: "app=flink,component=jobmanager",
		objects: objects,
	}
	for _, object := range objects {
		if err := object.create(ctx, c, documented.Namespace); err != nil {
			return nil, errors.Join(fmt.Errorf("create what is in %s: %w", manifest, err), cluster.Remove(context.WithoutCancel(ctx)))
		}
	}
	return cluster, nil
}

// objects fills a manifest in and reads what came of it.
func (d Documented) objects(manifest string, args []string) ([]object, error) {
	var text bytes.Buffer
	err := templates.ExecuteTemplate(&text, manifest, map[string]any{
		"Image": flinkimage.Name(d.Dist.Version), "Class": flinkproc.JobClass, "Args": args, "Logging": flinkproc.Logging,
	})
	if err != nil {
		return nil, err
	}
	var objects []object
	documents := utilyaml.NewYAMLReader(bufio.NewReader(&text))
	for {
		document, err := documents.Read()
		if err == io.EOF {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		read, _, err := scheme.Codecs.UniversalDeserializer().Decode(document, nil, nil)
		if err != nil {
			return nil, err
		}
		if pod := jobManagerPod(read); pod != nil && d.Pod != nil {
			d.Pod(pod)
		}
		objects = append(objects, object{read})
	}
}

// jobManagerPod is the template of the JobManager's pod in an object that has one.
func jobManagerPod(of runtime.Object) *corev1.PodTemplateSpec {
	var pod *corev1.PodTemplateSpec
	switch of := of.(type) {
	case *batchv1.Job:
		pod = &of.Spec.Template
	case *appsv1.Deployment:
		pod = &of.Spec.Template
	}
	if pod == nil || pod.Labels["component"] != "jobmanager" {
		return nil
	}
	return pod
}

// object is one of the few kinds that manifests here are made of.
type object struct{ runtime.Object }

func (o object) create(ctx context.Context, c *Client, namespace string) (err error) {
	options := metav1.CreateOptions{}
	switch o := o.Object.(type) {
	case *corev1.ConfigMap:
		_, err = c.Set.CoreV1().ConfigMaps(namespace).Create(ctx, o, options)
	case *corev1.Service:
		_, err = c.Set.CoreV1().Services(namespace).Create(ctx, o, options)
	case *appsv1.Deployment:
		_, err = c.Set.AppsV1().Deployments(namespace).Create(ctx, o, options)
	case *batchv1.Job:
		_, err = c.Set.BatchV1().Jobs(namespace).Create(ctx, o, options)
	default:
		err = fmt.Errorf("nobody has said how to create a %T", o)
	}
	return err
}

func (o object) remove(ctx context.Context, c *Client, namespace string) error {
	background := metav1.DeletePropagationBackground // a Job's pods would stay otherwise
	options := metav1.DeleteOptions{PropagationPolicy: &background}
	switch o := o.Object.(type) {
	case *corev1.ConfigMap:
		return c.Set.CoreV1().ConfigMaps(namespace).Delete(ctx, o.Name, options)
	case *corev1.Service:
		return c.Set.CoreV1().Services(namespace).Delete(ctx, o.Name, options)
	case *appsv1.Deployment:
		return c.Set.AppsV1().Deployments(namespace).Delete(ctx, o.Name, options)
	case *batchv1.Job:
		return c.Set.BatchV1().Jobs(namespace).Delete(ctx, o.Name, options)
	default:
		return fmt.Errorf("nobody has said how to delete a %T", o)
	}
}
