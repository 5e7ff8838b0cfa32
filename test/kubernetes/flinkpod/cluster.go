package flinkpod

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/holdfast-dev/holdfast/test/flink/flinkproc"
	"github.com/holdfast-dev/holdfast/test/machine"
)

// describeTimeout bounds what is only for an error.
const describeTimeout = 10 * time.Second

// Client is how a Kubernetes cluster is reached.
type Client struct {
	// Kubeconfig is the path of the file, for programs.
	Kubeconfig string
	Config     *rest.Config
	Set        *kubernetes.Clientset
	// Direct says that this machine has a route to pods and services, so that Flink can be asked even while the API server cannot. Without
	// one, questions to Flink go through the API server.
	Direct bool
}

// NewClient reads a kubeconfig.
func NewClient(kubeconfig string, direct bool) (*Client, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	// Tests ask much in little time, and this limit is the client's own.
	config.QPS, config.Burst = 200, 400
	set, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return &Client{kubeconfig, config, set, direct}, nil
}

// Cluster is one Flink cluster in pods.
type Cluster struct {
	client      *Client
	namespace   string
	name        string
	rest        string // the Service of its REST port
	jobManagers string // a selector of its pods
	native      bool
	objects     []object // what it was created of, unless native
}

// Namespace and ID are where it is and how it is called: kubernetes.cluster-id, or the first part of the objects' names.
func (c *Cluster) Namespace() string { return c.namespace }
func (c *Cluster) ID() string        { return c.name }

// JobManagers gives the JobManagers' pods as the API server knows them, those that are going away too.
func (c *Cluster) JobManagers(ctx context.Context) ([]corev1.Pod, error) {
	list, err := c.client.Set.CoreV1().Pods(c.namespace).List(ctx, metav1.ListOptions{LabelSelector: c.jobManagers})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

// AwaitREST waits until Flink answers, and gives the address to ask at: a service's, so that it outlives pods.
func (c *Cluster) AwaitREST(ctx context.Context) (*flinkproc.REST, error) {
	var flink *flinkproc.REST
	var last error
	err := machine.Poll(ctx, func() (bool, error) {
		if flink == nil {
			flink, last = c.findREST(ctx)
		}
		if flink != nil {
			_, last = flink.Jobs(ctx)
		}
		return flink != nil && last == nil, nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("wait until Flink %s/%s answers: %w", c.namespace, c.name, err), last,
			c.describe(context.WithoutCancel(ctx)))
	}
	return flink, nil
}

func (c *Cluster) findREST(ctx context.Context) (*flinkproc.REST, error) {
	if !c.client.Direct {
		client, err := rest.HTTPClientFor(c.client.Config)
		if err != nil {
			return nil, err
		}
		proxy := fmt.Sprintf("/api/v1/namespaces/%s/services/%s:%d/proxy", c.namespace, c.rest, RESTPort)
		return flinkproc.NewREST(strings.TrimSuffix(c.client.Config.Host, "/")+proxy, client), nil
	}
	service, err := c.client.Set.CoreV1().Services(c.namespace).Get(ctx, c.rest, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	if service.Spec.ClusterIP == "" || service.Spec.ClusterIP == corev1.ClusterIPNone {
		return nil, fmt.Errorf("service %s has no address of its own", c.rest)
	}
	return flinkproc.NewREST(fmt.Sprintf("http://%s:%d", service.Spec.ClusterIP, RESTPort), http.DefaultClient), nil
}

// AwaitJob waits until the cluster has a job that runs, with all its tasks, and gives its id. It is for applications, which have one.
func (c *Cluster) AwaitJob(ctx context.Context, flink *flinkproc.REST) (id string, err error) {
	err = machine.Poll(ctx, func() (bool, error) {
		jobs, err := flink.Jobs(ctx)
		if err != nil || len(jobs) == 0 {
			return false, nil
		}
		id = jobs[0].ID
		return true, nil
	})
	if err == nil {
		err = flink.WaitRunning(ctx, id)
	}
	if err != nil {
		return "", errors.Join(fmt.Errorf("wait for the job of %s/%s: %w", c.namespace, c.name, err), c.describe(context.WithoutCancel(ctx)))
	}
	return id, nil
}

// describe is what the JobManagers' pods look like, as an error, for one that nobody could foresee.
func (c *Cluster) describe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, describeTimeout)
	defer cancel()
	pods, err := c.JobManagers(ctx)
	if err != nil {
		return err
	}
	if len(pods) == 0 {
		return errors.New("it has no JobManager's pod")
	}
	var errs []error
	for _, pod := range pods {
		text := DescribePod(&pod)
		log, err := c.client.Set.CoreV1().Pods(c.namespace).GetLogs(pod.Name, &corev1.PodLogOptions{Container: c.mainContainer()}).DoRaw(ctx)
		if err == nil {
			text += "; its log ends so:\n" + machine.LastLines(string(log), 20)
		}
		errs = append(errs, errors.New(text))
	}
	return errors.Join(errs...)
}

// DescribePod says for people how a pod is, and what its containers wait for or ended with.
func DescribePod(pod *corev1.Pod) string {
	var text strings.Builder
	fmt.Fprintf(&text, "pod %s is %s %s", pod.Name, pod.Status.Phase, pod.Status.Message)
	for _, container := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if waiting := container.State.Waiting; waiting != nil {
			fmt.Fprintf(&text, "; %s waits: %s %s", container.Name, waiting.Reason, waiting.Message)
		}
		if ended := container.State.Terminated; ended != nil {
			fmt.Fprintf(&text, "; %s ended with %d: %s", container.Name, ended.ExitCode, ended.Message)
		}
	}
	return text.String()
}

func (c *Cluster) mainContainer() string {
	if c.native {
		return MainContainer
	}
	return "jobmanager"
}

// Remove removes the cluster with all that it remembers, and returns when its pods are gone. That it is gone already is no error.
func (c *Cluster) Remove(ctx context.Context) error {
	if err := c.remove(ctx); err != nil {
		return fmt.Errorf("remove Flink %s/%s: %w", c.namespace, c.name, err)
	}
	return nil
}

func (c *Cluster) remove(ctx context.Context) error {
	set := c.client.Set
	// Whatever came of a pod: it is killed at once.
	now := int64(0)
	options := metav1.DeleteOptions{}
	if !c.native {
		for _, object := range c.objects {
			if err := ignoreNotFound(object.remove(ctx, c.client, c.namespace)); err != nil {
				return err
			}
		}
	} else if err := ignoreNotFound(set.AppsV1().Deployments(c.namespace).Delete(ctx, c.name, options)); err != nil {
		return err
	}
	all := metav1.ListOptions{LabelSelector: strings.TrimSuffix(c.jobManagers, ",component=jobmanager")}
	err := machine.Poll(ctx, func() (bool, error) {
		pods, err := set.CoreV1().Pods(c.namespace).List(ctx, all)
		if err != nil || len(pods.Items) == 0 {
			return err == nil, err
		}
		return false, set.CoreV1().Pods(c.namespace).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &now}, all)
	})
	if err != nil || !c.native {
		return err
	}
	// Only after the pods, which would write them again. Of high availability's ConfigMaps nobody is the owner.
	maps, err := set.CoreV1().ConfigMaps(c.namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + c.name})
	if err != nil {
		return err
	}
	for _, m := range maps.Items {
		if err := ignoreNotFound(set.CoreV1().ConfigMaps(c.namespace).Delete(ctx, m.Name, options)); err != nil {
			return err
		}
	}
	return ignoreNotFound(set.CoreV1().PersistentVolumeClaims(c.namespace).Delete(ctx, storageName(c.name), options))
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
