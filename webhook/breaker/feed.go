package breaker

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// feed brings the injected pods of a namespace, or of all. It is the store of a reflector, and stores nothing but which pods there are:
// of a pod, which may have a hundred kilobytes, an Agent is left.
type feed struct {
	breaker   *Breaker
	namespace string

	// What follows is guarded by the breaker's mutex.
	pods   map[types.UID]bool
	listed bool
	err    error
}

// run lists and watches until ctx ends.
func (f *feed) run(ctx context.Context) {
	// The reflector would log each failure by itself; the breaker says once that the watch is broken.
	logger := logr.Discard()
	lw := cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: f.list, WatchFuncWithContext: f.watch,
	}, f.breaker.o.Client)
	reflector := cache.NewReflectorWithOptions(lw, &corev1.Pod{}, f, cache.ReflectorOptions{
		Name: "injected pods", Logger: &logger,
		Backoff: &wait.Backoff{Duration: time.Second, Cap: 4 * time.Second, Steps: 3, Factor: 2, Jitter: 0.5},
	})
	ctx = klog.NewContext(ctx, logger)
	for ctx.Err() == nil {
		_ = reflector.ListAndWatchWithContext(ctx) // list and watch have heard why it ended
		select {
		case <-ctx.Done():
		case <-time.After(again + rand.N(again)):
		}
	}
}

// again is the least time between two lists. After an outage the watch must be back within the 10 s in which a stuck pod is to be
// noticed; the few replicas of a webhook harm no API server.
const again = 2 * time.Second

// list and watch are what the reflector asks, so that how it ended is heard.
func (f *feed) list(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	o.LabelSelector = f.breaker.o.Selector
	list, err := f.breaker.o.Client.CoreV1().Pods(f.namespace).List(ctx, o)
	f.hear(ctx, err)
	return list, err
}

func (f *feed) watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	o.LabelSelector = f.breaker.o.Selector
	w, err := f.breaker.o.Client.CoreV1().Pods(f.namespace).Watch(ctx, o)
	if !asksAgain(err) {
		f.hear(ctx, err)
	}
	return w, err
}

// asksAgain says that the API server answered, and the reflector goes on at once with a list: the revision is too old, or the server does
// not stream lists yet.
func asksAgain(err error) bool {
	return apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || apierrors.IsInvalid(err)
}

func (f *feed) hear(ctx context.Context, err error) {
	if ctx.Err() == nil {
		f.breaker.heard(f, err)
	}
}

// Transformer makes pods small as soon as they are read.
func (f *feed) Transformer() cache.TransformFunc { return shrink }

// shrink leaves of a pod what agentOf reads.
func shrink(obj any) (any, error) {
	pod, is := obj.(*corev1.Pod)
	if !is {
		return obj, nil
	}
	small := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: pod.Name, Namespace: pod.Namespace, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
			CreationTimestamp: pod.CreationTimestamp, DeletionTimestamp: pod.DeletionTimestamp,
		},
		Spec:   corev1.PodSpec{NodeName: pod.Spec.NodeName},
		Status: corev1.PodStatus{Phase: pod.Status.Phase, Reason: pod.Status.Reason, Message: pod.Status.Message, Conditions: pod.Status.Conditions},
	}
	small.Spec.InitContainers = names(pod.Spec.InitContainers)
	small.Spec.Containers = names(pod.Spec.Containers)
	small.Status.InitContainerStatuses = pod.Status.InitContainerStatuses
	small.Status.ContainerStatuses = pod.Status.ContainerStatuses
	return small, nil
}

func names(containers []corev1.Container) []corev1.Container {
	small := make([]corev1.Container, len(containers))
	for i := range containers {
		small[i] = corev1.Container{
			Name: containers[i].Name, Image: containers[i].Image, ImagePullPolicy: containers[i].ImagePullPolicy,
			RestartPolicy: containers[i].RestartPolicy,
		}
	}
	return small
}

// Add takes a pod that is new.
func (f *feed) Add(obj any) error { return f.take(obj) }

// Update takes a pod that changed.
func (f *feed) Update(obj any) error { return f.take(obj) }

func (f *feed) take(obj any) error {
	if pod, is := obj.(*corev1.Pod); is {
		a, counts := agentOf(pod, f.breaker.o.Agent)
		f.breaker.changed(f, pod.UID, a, counts)
	}
	return nil
}

// Delete takes a pod that is gone, or has lost the label.
func (f *feed) Delete(obj any) error {
	if pod, is := obj.(*corev1.Pod); is {
		f.breaker.changed(f, pod.UID, Agent{}, false)
	}
	return nil
}

// Replace takes all pods there are.
func (f *feed) Replace(list []any, _ string) error {
	var all []Agent
	for _, obj := range list {
		if pod, is := obj.(*corev1.Pod); is {
			if a, counts := agentOf(pod, f.breaker.o.Agent); counts {
				all = append(all, a)
			}
		}
	}
	f.breaker.told(f, all)
	return nil
}

// Resync has nothing to do: nothing is stored.
func (f *feed) Resync() error { return nil }
