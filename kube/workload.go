package kube

import (
	"context"
	"slices"
	"strings"
	"sync"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"

	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/job"
)

// kinds are the workloads that Holdfast knows to ask for.
var kinds = map[string]schema.GroupVersionResource{
	"Pod":             {Version: "v1", Resource: "pods"},
	"ReplicaSet":      {Group: "apps", Version: "v1", Resource: "replicasets"},
	"Deployment":      {Group: "apps", Version: "v1", Resource: "deployments"},
	"StatefulSet":     {Group: "apps", Version: "v1", Resource: "statefulsets"},
	"Job":             {Group: "batch", Version: "v1", Resource: "jobs"},
	"FlinkDeployment": {Group: "flink.apache.org", Version: "v1beta1", Resource: "flinkdeployments"},
}

// Asker asks the API server for single objects by their names: nothing is cached, so nothing is old.
type Asker struct {
	Client kubernetes.Interface
	// Metadata asks for what is known of every object.
	Metadata metadata.Interface
}

// Workload asks whether a workload is there. A Job is also asked whether it has ended.
func (a Asker) Workload(ctx context.Context, cluster job.ClusterKey, w job.Workload) (evidence.Workload, error) {
	answer := evidence.Workload{Cluster: cluster, Workload: w}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var uid types.UID
	var err error
	if w.Kind == "Job" {
		var found *batchv1.Job
		if found, err = a.Client.BatchV1().Jobs(cluster.Namespace).Get(ctx, w.Name, metav1.GetOptions{}); err == nil {
			uid = found.UID
			answer.Ended = slices.ContainsFunc(found.Status.Conditions, func(c batchv1.JobCondition) bool {
				return (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue
			})
		}
	} else {
		uid, _, err = a.object(ctx, cluster.Namespace, w.Kind, w.Name)
	}
	switch {
	case apierrors.IsNotFound(err):
		answer.There = job.No
		return answer, nil
	case apierrors.IsForbidden(err):
		answer.Forbidden = true
		return answer, nil
	case err != nil:
		return answer, err
	case string(uid) != w.UID:
		answer.There, answer.Ended = job.No, false // another of the same name
	default:
		answer.There = job.Yes
	}
	return answer, nil
}

// object gives an object's uid and owners.
func (a Asker) object(ctx context.Context, namespace, kind, name string) (types.UID, []metav1.OwnerReference, error) {
	resource, known := kinds[kind]
	if !known {
		return "", nil, errUnknownKind
	}
	found, err := a.Metadata.Resource(resource).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", nil, err
	}
	return found.UID, found.OwnerReferences, nil
}

const errUnknownKind = constant("a kind of workload that is not known")

type constant string

func (c constant) Error() string { return string(c) }

// HARecord asks for what Flink keeps of a cluster in a ConfigMap: jobGraph-ID up to 1.20, executionPlan-ID from 2.0 on, and application-ID, which
// names no job, from 2.3 on (KubernetesUtils, KubernetesHighAvailabilityServices, Constants of Flink 1.16 to 2.3).
func (a Asker) HARecord(ctx context.Context, cluster job.ClusterKey) (evidence.HARecord, error) {
	record := evidence.HARecord{Cluster: cluster}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	found, err := a.Client.CoreV1().ConfigMaps(cluster.Namespace).Get(ctx, cluster.Cluster+"-cluster-config-map", metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		record.There = job.No
		return record, nil
	case apierrors.IsForbidden(err):
		record.Forbidden = true
		return record, nil
	case err != nil:
		return record, err
	}
	record.There = job.Yes
	for key := range found.Data {
		for _, prefix := range []string{"jobGraph-", "executionPlan-"} {
			if id, is := strings.CutPrefix(key, prefix); is {
				record.Jobs = append(record.Jobs, id)
			}
		}
		record.All = record.All || strings.HasPrefix(key, "application-")
	}
	slices.Sort(record.Jobs)
	return record, nil
}

// Owners finds the outermost workload of pods, as far as it is of a kind that can be asked for. What a ReplicaSet or a Deployment
// is owned by never changes, so each is asked once.
type Owners struct {
	Asker Asker

	mu    sync.Mutex
	found map[types.UID]job.Workload
	under map[types.UID]bool
}

func (o *Owners) known(pod types.UID) (job.Workload, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	w, known := o.found[pod]
	return w, known
}

// begin says whether somebody has to find the pod's workload.
func (o *Owners) begin(pod *corev1.Pod) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.under[pod.UID] {
		return false
	}
	if o.under == nil {
		o.under, o.found = map[types.UID]bool{}, map[types.UID]job.Workload{}
	}
	o.under[pod.UID] = true
	return true
}

func (o *Owners) forget(pod types.UID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.found, pod)
}

// find climbs from the pod to its outermost owner. Where a step cannot be asked for, nothing is found: the next change of the pod asks again.
func (o *Owners) find(ctx context.Context, pod *corev1.Pod) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	w, err := job.Workload{Kind: "Pod", Name: pod.Name, UID: string(pod.UID)}, error(nil)
	for owner := controller(pod.OwnerReferences); owner != nil && kinds[owner.Kind].Resource != ""; {
		w = job.Workload{Kind: owner.Kind, Name: owner.Name, UID: string(owner.UID)}
		var owners []metav1.OwnerReference
		if w.Kind == "FlinkDeployment" {
			break
		}
		if _, owners, err = o.Asker.object(ctx, pod.Namespace, w.Kind, w.Name); err != nil {
			break
		}
		owner = controller(owners)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.under, pod.UID)
	if err == nil {
		o.found[pod.UID] = w
	}
}

func controller(owners []metav1.OwnerReference) *metav1.OwnerReference {
	for i := range owners {
		if c := owners[i].Controller; c != nil && *c {
			return &owners[i]
		}
	}
	// Flink's native mode lets kubernetes.jobmanager.owner.reference say whose a Deployment is, without its being a controller.
	if len(owners) > 0 {
		return &owners[0]
	}
	return nil
}
