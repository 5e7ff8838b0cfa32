// Package rig is what the tests on Kubernetes share: the cluster that they run on, and what Flink needs there. The cluster is a node that
// is booted for them, or the one that KUBECONFIG names; tests that break the node itself are for the first alone.
package rig

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfast-dev/holdfast/test/flink/flinkproc"
	"github.com/holdfast-dev/holdfast/test/kubernetes/flinkimage"
	"github.com/holdfast-dev/holdfast/test/kubernetes/flinkpod"
	"github.com/holdfast-dev/holdfast/test/kubernetes/node"
	"github.com/holdfast-dev/holdfast/test/machine"
)

// Rig is a cluster to test on.
type Rig struct {
	*flinkpod.Client
	// Node is the machine's own node, nil on a cluster that KUBECONFIG names.
	Node *node.Node
	// Flinks are the versions of Flink to test with. Their images are in the cluster.
	Flinks []*flinkproc.Dist
}

// Open gives the cluster that KUBECONFIG names, if it is set, and boots a node otherwise. A node that was left running (go run
// ./test/kubernetes/cmd up) is used as it is. The first call on a machine takes about fifteen minutes: Kubernetes is compiled, and Flink
// downloaded.
//
// A cluster of KUBECONFIG must be able to pull the images: HOLDFAST_FLINK_IMAGE and HOLDFAST_PODTOOL_IMAGE say from where.
func Open(ctx context.Context, progress io.Writer) (*Rig, error) {
	progress = &lines{to: progress}
	r := &Rig{}
	ours, err := node.KubeconfigPath(-1)
	if err != nil {
		return nil, err
	}
	kubeconfig := os.Getenv("KUBECONFIG")
	if kubeconfig != "" && kubeconfig != ours {
		if r.Client, err = flinkpod.NewClient(kubeconfig, false); err != nil {
			return nil, fmt.Errorf("use the cluster that KUBECONFIG names: %w", err)
		}
		r.Flinks, err = distributions(ctx, progress)
		return r, err
	}
	if err := r.boot(ctx, progress); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (r *Rig) boot(ctx context.Context, progress io.Writer) (err error) {
	var images []string
	err = machine.Together(ctx,
		func(ctx context.Context) (err error) {
			if r.Node, err = node.Start(ctx, node.Options{Progress: progress}); err != nil {
				return err
			}
			r.Client, err = flinkpod.NewClient(r.Node.Kubeconfig(), true)
			return err
		},
		func(ctx context.Context) (err error) {
			if r.Flinks, err = distributions(ctx, progress); err != nil {
				return err
			}
			for _, dist := range r.Flinks {
				image, err := flinkimage.Build(ctx, dist, progress)
				if err != nil {
					return err
				}
				images = append(images, image)
			}
			return nil
		},
	)
	if err != nil {
		return err
	}
	tell := machine.NewTeller(progress, "images: ")
	begin := time.Now()
	for _, image := range images {
		if err := r.Node.EnsureImage(ctx, image); err != nil {
			return err
		}
	}
	tell.Sayf("in the node after %.1f s", time.Since(begin).Seconds())
	return nil
}

func distributions(ctx context.Context, progress io.Writer) (all []*flinkproc.Dist, err error) {
	for _, version := range flinkproc.Versions() {
		dist, err := flinkproc.Distribution(ctx, version, progress)
		if err != nil {
			return nil, err
		}
		all = append(all, dist)
	}
	return all, nil
}

// Close stops a node that was booted, and leaves any other cluster alone.
func (r *Rig) Close() error {
	if r.Node == nil {
		return nil
	}
	return r.Node.Stop(context.Background())
}

// Env is the environment for kubectl, helm and the like.
func (r *Rig) Env() []string {
	if r.Node != nil {
		return r.Node.Env()
	}
	return []string{"KUBECONFIG=" + r.Kubeconfig}
}

// Program gives the path of kubectl or helm: the node's own, or what is on the PATH.
func (r *Rig) Program(name string) string {
	if r.Node != nil {
		return r.Node.Program(name)
	}
	return name
}

// Run runs kubectl or helm on this cluster, and gives what it printed.
func (r *Rig) Run(ctx context.Context, name string, args ...string) (string, error) {
	return machine.Run(ctx, r.Env(), r.Program(name), args...)
}

// PodtoolImage is the image of the small program for small pods: node.PodtoolImage, or what HOLDFAST_PODTOOL_IMAGE names.
func PodtoolImage() string { return cmp.Or(os.Getenv("HOLDFAST_PODTOOL_IMAGE"), node.PodtoolImage) }

// ErrNoWayBack says that nobody knows how pods reach this machine.
var ErrNoWayBack = errors.New("pods of this cluster may not reach this machine: " +
	"HOLDFAST_KUBERNETES_HOST says by which of its addresses they do")

// NewControl gives the end of a socket that steers jobs in pods, where pods can reach it. The error is ErrNoWayBack on a cluster
// of which that is not known.
func (r *Rig) NewControl() (*flinkproc.Control, error) {
	if r.Node != nil {
		return flinkproc.NewControlOn(r.Node.HostAddress())
	}
	if host := os.Getenv("HOLDFAST_KUBERNETES_HOST"); host != "" {
		return flinkproc.NewControlOn(host)
	}
	return nil, ErrNoWayBack
}

// NewNamespace makes a namespace with a name of its own that begins with the given one, in which Flink may make pods.
func (r *Rig) NewNamespace(ctx context.Context, name string, labels map[string]string) (string, error) {
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: name + "-", Labels: labels}}
	made, err := r.Set.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("make a namespace: %w", err)
	}
	if err := r.Prepare(ctx, made.Name); err != nil {
		return "", errors.Join(err, r.RemoveNamespace(context.WithoutCancel(ctx), made.Name))
	}
	// Pods are refused until it is there.
	err = machine.Poll(ctx, func() (bool, error) {
		_, err := r.Set.CoreV1().ServiceAccounts(made.Name).Get(ctx, "default", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		return err == nil, err
	})
	return made.Name, err
}

// RemoveNamespace removes a namespace and kills its pods at once. It does not wait until all of it is gone.
func (r *Rig) RemoveNamespace(ctx context.Context, name string) error {
	err := r.Set.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	now := int64(0)
	return r.Set.CoreV1().Pods(name).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &now}, metav1.ListOptions{})
}

// AwaitPod waits until a pod is as wanted, and gives it.
func (r *Rig) AwaitPod(ctx context.Context, namespace, name, what string, wanted func(*corev1.Pod) bool) (*corev1.Pod, error) {
	var last *corev1.Pod
	problem := errors.New("nobody has seen it")
	err := machine.Poll(ctx, func() (bool, error) {
		pod, err := r.Set.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			problem = err
			return false, nil
		}
		last, problem = pod, errors.New(flinkpod.DescribePod(pod))
		return wanted(pod), nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("wait until pod %s/%s is %s: %w", namespace, name, what, err), problem)
	}
	return last, nil
}

// Ready says that all of a pod's containers run and are ready.
func Ready(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// Ended says that a pod has come to its end, well or not.
func Ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// lines lets several write progress at once.
type lines struct {
	mu sync.Mutex
	to io.Writer
}

func (l *lines) Write(text []byte) (int, error) {
	if l.to == nil {
		return len(text), nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.to.Write(text)
}
