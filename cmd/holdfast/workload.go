package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kjson "k8s.io/apimachinery/pkg/util/json"

	"github.com/holdfast-dev/holdfast/cmd/internal/terminal"
	"github.com/holdfast-dev/holdfast/webhook"
)

// foundPod is a pod of a file, or one that a workload of it would make.
type foundPod struct {
	subject, namespace, note string
	labels                   map[string]string
	raw                      json.RawMessage
}

// document is what is read of any object.
type document struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        metav1.ObjectMeta `json:"metadata"`
	Items           []json.RawMessage `json:"items"`
	Data            map[string]string `json:"data"` // a ConfigMap's
	Spec            struct {
		Template    json.RawMessage `json:"template"`
		JobTemplate struct {
			Spec struct {
				Template json.RawMessage `json:"template"`
			} `json:"spec"`
		} `json:"jobTemplate"`
	} `json:"spec"`
}

// around is what lies beside pods in a file, and what the webhook would be told too.
type around struct {
	configMaps map[string]map[string]string // the data, by namespace/name
	limits     map[string]webhook.Limits    // by namespace
}

// add takes an object that the webhook would look at, and passes over all others.
func (a *around) add(d document, raw json.RawMessage) (err error) {
	limits := a.limits[d.Metadata.Namespace]
	switch d.Kind {
	case "ConfigMap":
		a.configMaps[d.Metadata.Namespace+"/"+d.Metadata.Name] = d.Data
	case "LimitRange":
		var one corev1.LimitRange
		err = kjson.Unmarshal(raw, &one)
		limits.Ranges = append(limits.Ranges, one)
	case "ResourceQuota":
		var one corev1.ResourceQuota
		err = kjson.Unmarshal(raw, &one)
		if one.Status.Hard == nil {
			one.Status.Hard = one.Spec.Hard // it is not in a cluster yet
		}
		limits.Quotas = append(limits.Quotas, one)
	default:
		return nil
	}
	if err != nil {
		return fmt.Errorf("the %s %s: %w", d.Kind, terminal.Clean(d.Metadata.Name), err)
	}
	a.limits[d.Metadata.Namespace] = limits
	return nil
}

// findPods finds the pods among documents, and what lies beside them. Everything else that files hold is passed over; where there is no
// pod, the error says what was there and what to give.
func findPods(documents []json.RawMessage, namespace string) (pods []foundPod, beside around, err error) {
	beside = around{configMaps: map[string]map[string]string{}, limits: map[string]webhook.Limits{}}
	var others []string
	var visit func(raw json.RawMessage) error
	visit = func(raw json.RawMessage) error {
		var d document
		if err := kjson.Unmarshal(raw, &d); err != nil {
			// What is no workload may have a spec of any form.
			var plain struct {
				metav1.TypeMeta `json:",inline"`
				Metadata        metav1.ObjectMeta `json:"metadata"`
			}
			if kjson.Unmarshal(raw, &plain) != nil {
				return fmt.Errorf("this is no object of Kubernetes: %w", err)
			}
			d = document{TypeMeta: plain.TypeMeta, Metadata: plain.Metadata}
		}
		if d.Metadata.Namespace == "" {
			d.Metadata.Namespace = namespace
		}
		switch {
		case d.Kind == "":
			return errors.New("a document has no kind: give whole objects, as 'kubectl get -o yaml' prints them")
		case strings.HasSuffix(d.Kind, "List"):
			for _, item := range d.Items {
				if err := visit(item); err != nil {
					return err
				}
			}
		case d.Kind == "Pod":
			pods = append(pods, foundPod{
				subject: "pod/" + nameOf(d.Metadata), namespace: d.Metadata.Namespace, labels: d.Metadata.Labels, raw: raw,
			})
		default:
			pod, is, err := podOfWorkload(d)
			if err != nil {
				return err
			}
			if is {
				pods = append(pods, pod)
				return nil
			}
			others = append(others, d.Kind)
			return beside.add(d, raw)
		}
		return nil
	}
	for _, raw := range documents {
		if err := visit(raw); err != nil {
			return nil, beside, err
		}
	}
	if len(pods) == 0 {
		return nil, beside, noPod(others)
	}
	return pods, beside, nil
}

func nameOf(meta metav1.ObjectMeta) string {
	if meta.Name == "" && meta.GenerateName != "" {
		return meta.GenerateName + "…"
	}
	return meta.Name
}

// noPod is the error for a file without a pod.
func noPod(kinds []string) error {
	for _, kind := range kinds {
		switch kind {
		case "FlinkDeployment", "FlinkSessionJob", "FlinkCluster", "FlinkApplication", "FlinkBlueGreenDeployment":
			return fmt.Errorf("a %s is not a pod: its operator makes the JobManager's. Give that one: "+
				"kubectl get pods -l component=jobmanager -o yaml | holdfast webhook explain -f -", kind)
		}
	}
	if len(kinds) == 0 {
		return errors.New("there is no pod in it, and no workload that would make one")
	}
	return fmt.Errorf("there is no pod in it, and no workload that would make one, but %s: give a pod, as 'kubectl get pod NAME -o yaml' "+
		"prints it, or a Deployment, StatefulSet, Job, CronJob, ReplicaSet or DaemonSet",
		terminal.Clip(terminal.Clean(strings.Join(kinds, ", ")), 200))
}

// stands for what Kubernetes makes up: the hash of a pod template, and the last part of a name.
const madeUp = "5d8f7b6c9d"

// podOfWorkload makes the pod that a workload's controller would make: the template, with the names and the owner that the controller
// gives it.
func podOfWorkload(d document) (pod foundPod, is bool, err error) {
	name, template := d.Metadata.Name, d.Spec.Template
	owner := metav1.OwnerReference{APIVersion: d.APIVersion, Kind: d.Kind, Name: name, UID: "00000000-0000-4000-8000-000000000000"}
	generated, hash := name+"-", ""
	switch d.Kind {
	case "Deployment":
		hash = madeUp
		owner.Kind, owner.Name, generated = "ReplicaSet", name+"-"+hash, name+"-"+hash+"-"
	case "CronJob":
		template = d.Spec.JobTemplate.Spec.Template
		owner.Kind, owner.Name = "Job", name+"-29000000" // the minute of the run
		generated = owner.Name + "-"
	case "StatefulSet", "ReplicaSet", "ReplicationController", "DaemonSet", "Job":
	default:
		return foundPod{}, false, nil
	}
	if len(template) == 0 {
		return foundPod{}, false, fmt.Errorf("the %s %s has no pod template", terminal.Clean(d.Kind), terminal.Clean(name))
	}
	decoder := json.NewDecoder(bytes.NewReader(template))
	decoder.UseNumber()
	var whole map[string]any
	if err := decoder.Decode(&whole); err != nil {
		return foundPod{}, false, fmt.Errorf("the pod template of the %s %s: %w", terminal.Clean(d.Kind), terminal.Clean(name), err)
	}
	if whole == nil {
		whole = map[string]any{}
	}
	meta := memberMap(whole, "metadata")
	if hash != "" {
		memberMap(meta, "labels")["pod-template-hash"] = hash
	}
	yes := true
	owner.Controller = &yes
	meta["namespace"], meta["ownerReferences"] = d.Metadata.Namespace, []any{owner}
	if d.Kind == "StatefulSet" {
		meta["name"] = name + "-0"
	} else {
		meta["generateName"] = generated
	}
	whole["apiVersion"], whole["kind"] = "v1", "Pod"
	raw, err := json.Marshal(whole)
	if err != nil {
		return foundPod{}, false, err
	}
	var made struct {
		Metadata metav1.ObjectMeta `json:"metadata"`
	}
	if err := kjson.Unmarshal(raw, &made); err != nil {
		return foundPod{}, false, fmt.Errorf("the pod template of the %s %s: %w", terminal.Clean(d.Kind), terminal.Clean(name), err)
	}
	return foundPod{
		subject: strings.ToLower(d.Kind) + "/" + name, namespace: d.Metadata.Namespace, labels: made.Metadata.Labels, raw: raw,
		note: "This is about the pod that it would make; what Kubernetes makes up of its name is an example.",
	}, true, nil
}

// memberMap is a member that is a map; it is made where it is not.
func memberMap(of map[string]any, name string) map[string]any {
	member, is := of[name].(map[string]any)
	if !is {
		member = map[string]any{}
		of[name] = member
	}
	return member
}

// ours ends the name of every entry of Holdfast's configuration.
const ours = ".holdfast.dev"

// installedSelectors reads what the installed configuration selects.
func installedSelectors(documents []json.RawMessage) (entries []webhook.NamedSelector, err error) {
	for _, raw := range documents {
		var list struct {
			Kind  string            `json:"kind"`
			Items []json.RawMessage `json:"items"`
		}
		if kjson.Unmarshal(raw, &list) == nil && strings.HasSuffix(list.Kind, "List") {
			more, err := selectorsIn(list.Items)
			if err != nil {
				return nil, err
			}
			entries = append(entries, more...)
			continue
		}
		more, err := selectorsIn([]json.RawMessage{raw})
		if err != nil {
			return nil, err
		}
		entries = append(entries, more...)
	}
	if len(entries) == 0 {
		return nil, errors.New("there is no MutatingWebhookConfiguration of Holdfast's in it: its entries' names end with " + ours +
			". Give 'kubectl get mutatingwebhookconfiguration holdfast -o yaml'")
	}
	return entries, nil
}

func selectorsIn(documents []json.RawMessage) (entries []webhook.NamedSelector, err error) {
	for _, raw := range documents {
		var kind metav1.TypeMeta
		if kjson.Unmarshal(raw, &kind) != nil || kind.Kind != "MutatingWebhookConfiguration" {
			continue
		}
		var installed admissionregistrationv1.MutatingWebhookConfiguration
		if err := kjson.Unmarshal(raw, &installed); err != nil {
			return nil, fmt.Errorf("the MutatingWebhookConfiguration cannot be read: %w", err)
		}
		for _, entry := range installed.Webhooks {
			if !strings.HasSuffix(entry.Name, ours) {
				continue
			}
			if len(entry.MatchConditions) > 0 {
				return nil, fmt.Errorf("%s has matchConditions, which cannot be evaluated here: try 'kubectl apply --dry-run=server' of the pod",
					terminal.Clean(entry.Name))
			}
			named := webhook.NamedSelector{Name: entry.Name, Namespaces: entry.NamespaceSelector}
			if entry.ObjectSelector != nil {
				named.Selector = *entry.ObjectSelector
			}
			entries = append(entries, named)
		}
	}
	return entries, nil
}
