package kube

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"

	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/job"
)

// sessionJobs are the Flink operator's objects of one job each in a session cluster: spec.deploymentName is the cluster, and
// status.jobStatus.jobId the job that the operator submitted last (CRD flinksessionjobs.flink.apache.org, v1beta1).
var sessionJobs = schema.GroupVersionResource{Group: "flink.apache.org", Version: "v1beta1", Resource: "flinksessionjobs"}

// SessionJobsOptions say whose FlinkSessionJobs are followed. Client and Log are required.
type SessionJobsOptions struct {
	Client dynamic.Interface
	// Namespaces are followed one by one; nil follows all at once.
	Namespaces []string
	Log        *slog.Logger

	again time.Duration // askSessionJobsAgain, but in tests
}

// askSessionJobsAgain is how often it is asked whether there are FlinkSessionJobs at all, where there are none or none may be seen.
const askSessionJobsAgain = 5 * time.Minute

// FollowSessionJobs tells which job each FlinkSessionJob is, until ctx ends. tell may be called from several goroutines, and may wait.
//
// Unlike pods they are only names: one that comes late, or not at all, makes no job's state wrong. So an informer does, which keeps of each object
// only what is told; and where the operator is not installed, or its objects may not be read, that is said once and asked for again later.
func FollowSessionJobs(ctx context.Context, o SessionJobsOptions, tell func(evidence.SessionJob)) {
	if o.again == 0 {
		o.again = askSessionJobsAgain
	}
	namespaces := o.Namespaces
	if namespaces == nil {
		namespaces = []string{metav1.NamespaceAll}
	}
	var all sync.WaitGroup
	for _, namespace := range namespaces {
		f := &sessionJobFollower{o: o, namespace: namespace, tell: tell}
		all.Go(func() { f.run(ctx) })
	}
	all.Wait()
}

type sessionJobFollower struct {
	o         SessionJobsOptions
	namespace string
	tell      func(evidence.SessionJob)

	mu   sync.Mutex
	said string
}

// run waits until FlinkSessionJobs can be listed, and follows them from there.
func (f *sessionJobFollower) run(ctx context.Context) {
	for {
		err := f.ask(ctx)
		if err == nil {
			f.follow(ctx)
			return
		}
		f.say(err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(f.o.again):
		}
	}
}

func (f *sessionJobFollower) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	_, err := f.o.Client.Resource(sessionJobs).Namespace(f.namespace).List(ctx, metav1.ListOptions{Limit: 1})
	return err
}

func (f *sessionJobFollower) follow(ctx context.Context) {
	informer := dynamicinformer.NewFilteredDynamicInformer(f.o.Client, sessionJobs, f.namespace, 0, nil, nil).Informer()
	// The three fail only once it runs.
	_ = informer.SetTransform(func(object any) (any, error) { return trimSessionJob(object), nil })
	_ = informer.SetWatchErrorHandler(func(_ *cache.Reflector, err error) { f.say(err) })
	_, _ = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(is any) { f.changed(nil, is) },
		UpdateFunc: func(was, is any) { f.changed(was, is) },
		DeleteFunc: func(was any) {
			if last, is := was.(cache.DeletedFinalStateUnknown); is {
				was = last.Obj
			}
			f.changed(was, nil)
		},
	})
	informer.RunWithContext(ctx)
}

// changed tells what an object names now, and what it names no more.
func (f *sessionJobFollower) changed(was, is any) {
	before, after := told(was), told(is)
	if before == after {
		return
	}
	if before.Key.ID != "" && before.Key != after.Key {
		before.Gone = true
		f.tell(before)
	}
	if after.Key.ID != "" {
		f.tell(after)
	}
}

// say logs why FlinkSessionJobs cannot be followed: each cause once, one after the other.
func (f *sessionJobFollower) say(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	text, level := err.Error(), slog.LevelWarn
	switch {
	case apierrors.IsForbidden(err):
		text = fmt.Sprintf("give the aggregator's role list and watch of flinksessionjobs (rbac.scope of the chart): %v", err)
	case apierrors.IsNotFound(err): // as where the operator is not installed
		text, level = "there is no such resource", slog.LevelDebug
	case apierrors.IsResourceExpired(err), apierrors.IsGone(err):
		return // they are listed again
	}
	if text != f.said {
		f.said = text
		f.o.Log.Log(context.Background(), level, "FlinkSessionJobs cannot be followed: pipelines have the names of their jobs", "error", text)
	}
}

// trimmed is what is kept of a FlinkSessionJob.
type trimmed struct {
	metav1.ObjectMeta
	is evidence.SessionJob
}

func trimSessionJob(object any) any {
	whole, is := object.(*unstructured.Unstructured)
	if !is {
		return object // trimmed before
	}
	kept := &trimmed{ObjectMeta: metav1.ObjectMeta{
		Namespace: whole.GetNamespace(), Name: whole.GetName(), UID: whole.GetUID(), ResourceVersion: whole.GetResourceVersion(),
	}}
	cluster, _, _ := unstructured.NestedString(whole.Object, "spec", "deploymentName")
	id, _, _ := unstructured.NestedString(whole.Object, "status", "jobStatus", "jobId")
	if cluster != "" && id != "" {
		kept.is = evidence.SessionJob{Key: job.Key{Namespace: kept.Namespace, Cluster: cluster, ID: id}, Name: kept.Name}
	}
	return kept
}

func told(object any) evidence.SessionJob {
	if kept, is := object.(*trimmed); is {
		return kept.is
	}
	return evidence.SessionJob{}
}
