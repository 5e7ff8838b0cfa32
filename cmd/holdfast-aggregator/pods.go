package main

import (
	"context"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"

	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/kube"
	"github.com/holdfast-dev/holdfast/settle"
	"github.com/holdfast-dev/holdfast/webhook"
)

// apiServer is Kubernetes as the settler asks it.
type apiServer struct {
	kube.Asker
	pods        kube.PodsOptions
	sessionJobs kube.SessionJobsOptions
}

// questionsPerSecond bounds what is asked of the API server. Renewed watches are most of it: with four selectors each, 200 namespaces
// renew 32 a second.
const questionsPerSecond = 50

// newAPIServer makes what asks the API server about pods and workloads: of some namespaces, or of all where there are none.
func (k *kubernetesFlags) newAPIServer(namespaces []string, log *slog.Logger) (*apiServer, error) {
	config, err := kube.Config(k.kubeconfig, "holdfast-aggregator")
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = questionsPerSecond, 2*questionsPerSecond
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	meta, err := metadata.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	objects, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	asker := kube.Asker{Client: client, Metadata: meta}
	return &apiServer{asker, kube.PodsOptions{
		Client: client, Namespaces: namespaces, Selectors: selectors(), Identify: identify, Owners: &kube.Owners{Asker: asker},
	}, kube.SessionJobsOptions{Client: objects, Namespaces: namespaces, Log: log}}, nil
}

// selectors are those of the webhook, but for what only keeps it from seeing a pod twice or against its owner's will: a JobManager that
// gets no agent is looked at all the same, from outside. And each pod that has an agent, whatever became of its other labels.
func selectors() (all []string) {
	for _, s := range webhook.Selectors() {
		all = append(all, metav1.FormatLabelSelector(&metav1.LabelSelector{MatchLabels: s.Selector.MatchLabels}))
	}
	return append(all, webhook.LabelInjected+"=true")
}

// identify reads a pod as the webhook does.
func identify(pod *corev1.Pod) (kube.Identity, bool) {
	is, ok := webhook.Identify(pod)
	if !ok {
		return kube.Identity{}, false
	}
	id := kube.Identity{Container: is.Container}
	id.Agent = evidence.Agent{Namespace: pod.Namespace, Cluster: is.ClusterID, PodUID: string(pod.UID)}
	id.Port, id.Injected, id.FlinkID = is.RESTPort, is.Injected, is.FlinkID
	switch {
	case is.Application:
		id.Application = job.Yes
	case is.Session:
		id.Application = job.No
	}
	return id, true
}

// Follow tells of the pods in the settler's words.
func (s *apiServer) Follow(ctx context.Context, tell func([]settle.Input)) {
	kube.FollowPods(ctx, s.pods, func(u kube.Update) { tell(inputs(u)) })
}

// FollowNames tells what FlinkSessionJobs call their jobs.
func (s *apiServer) FollowNames(ctx context.Context, tell func([]settle.Input)) {
	kube.FollowSessionJobs(ctx, s.sessionJobs, func(is evidence.SessionJob) { tell([]settle.Input{settle.SessionJob{SessionJob: is}}) })
}

func inputs(u kube.Update) []settle.Input {
	all := make([]settle.Input, 0, len(u.Pods)+len(u.Gone)+3)
	if u.Kind == kube.Listed {
		all = append(all, settle.Listing{Source: settle.Pods, Epoch: 1})
	}
	for _, p := range u.Pods {
		all = append(all, settle.Pod{Pod: p})
	}
	for _, a := range u.Gone {
		all = append(all, settle.PodGone{Agent: a})
	}
	switch u.Kind {
	case kube.Listed:
		all = append(all, settle.Synced{Source: settle.Pods}, settle.Progress{Source: settle.Pods})
	case kube.Alive:
		all = append(all, settle.Progress{Source: settle.Pods})
	case kube.Lost:
		all = append(all, settle.Lost{Source: settle.Pods, Why: u.Err.Error()})
	}
	return all
}
