package certs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// cluster is what this package needs of an API server. Reads are of the newest state, not of a cache: what is written depends on them.
// Errors are errGone where something does not exist, errLater where a write was based on an old state, and anything else where the
// API server could not be asked, or forbids it.
type cluster interface {
	// secret reads the Secret.
	secret(ctx context.Context) (*corev1.Secret, error)
	// save writes a Secret that was read, if nobody has written since.
	save(ctx context.Context, s *corev1.Secret) error
	// configuration reads the MutatingWebhookConfiguration.
	configuration(ctx context.Context) (published, error)
	// publish writes the caBundle of those entries of p that have another in bundles, if nobody has written since p was read.
	publish(ctx context.Context, p published, bundles [][]byte) error
	// watch tells heard about changes of both, until ctx ends. It may miss some: it saves waiting, and nothing relies on it.
	watch(ctx context.Context, heard chan<- struct{})
}

// errGone: the API server says that there is no such object.
var errGone = errors.New("does not exist")

// apiServer is the real cluster. It needs these rights, each by name: get, update and watch of the Secret; get, patch and watch of
// the configuration. Without secretName it needs none on Secrets.
type apiServer struct {
	client                            kubernetes.Interface
	namespace, secretName, configName string
}

func (a *apiServer) secret(ctx context.Context) (*corev1.Secret, error) {
	ctx, cancel := context.WithTimeout(ctx, callBound)
	defer cancel()
	s, err := a.client.CoreV1().Secrets(a.namespace).Get(ctx, a.secretName, metav1.GetOptions{})
	return s, said(err, "read", "Secret "+a.namespace+"/"+a.secretName)
}

func (a *apiServer) save(ctx context.Context, s *corev1.Secret) error {
	ctx, cancel := context.WithTimeout(ctx, callBound)
	defer cancel()
	_, err := a.client.CoreV1().Secrets(a.namespace).Update(ctx, s, metav1.UpdateOptions{FieldManager: FieldManager})
	return said(err, "update", "Secret "+a.namespace+"/"+a.secretName)
}

func (a *apiServer) configuration(ctx context.Context) (published, error) {
	ctx, cancel := context.WithTimeout(ctx, callBound)
	defer cancel()
	c, err := a.client.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(ctx, a.configName, metav1.GetOptions{})
	if err != nil {
		return published{}, said(err, "read", "MutatingWebhookConfiguration "+a.configName)
	}
	p := published{uid: string(c.UID), version: c.ResourceVersion}
	for _, w := range c.Webhooks {
		p.entries = append(p.entries, entry{name: w.Name, bundle: w.ClientConfig.CABundle})
	}
	for name := range c.Annotations {
		p.injected = p.injected || strings.HasPrefix(name, "cert-manager.io/inject-")
	}
	for _, m := range c.ManagedFields {
		if m.FieldsV1 != nil && strings.Contains(m.FieldsV1.String(), `"f:caBundle"`) && m.Manager != FieldManager &&
			!slices.Contains(p.writers, m.Manager) {
			p.writers = append(p.writers, m.Manager)
		}
	}
	return p, nil
}

// publish is a JSON patch: it creates nothing, and owns one field of each entry. Who applies a field of an entry owns the entry, too: Helm
// or a GitOps tool could then drop none that its next version does not have, since what we own of it would stay, and be invalid. (Tried
// with Kubernetes 1.34.)
func (a *apiServer) publish(ctx context.Context, p published, bundles [][]byte) error {
	type operation struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value any    `json:"value"`
	}
	// A resourceVersion in a patch is a condition: another one at the server is a conflict.
	patch := []operation{{"replace", "/metadata/resourceVersion", p.version}}
	for i, e := range p.entries {
		if string(e.bundle) != string(bundles[i]) {
			at := fmt.Sprintf("/webhooks/%d/", i)
			patch = append(patch, operation{"test", at + "name", e.name}, operation{"add", at + "clientConfig/caBundle", bundles[i]})
		}
	}
	text, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callBound)
	defer cancel()
	_, err = a.client.AdmissionregistrationV1().MutatingWebhookConfigurations().Patch(ctx, a.configName, types.JSONPatchType, text,
		metav1.PatchOptions{FieldManager: FieldManager})
	return said(err, "patch", "MutatingWebhookConfiguration "+a.configName)
}

// said sorts an API server's answers.
func said(err error, verb, what string) error {
	switch {
	case err == nil:
		return nil
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%s %w", what, errGone)
	case apierrors.IsConflict(err):
		return fmt.Errorf("%s %s: %w", verb, what, errLater)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%s %s: the role lacks this right: %w", verb, what, err)
	}
	return fmt.Errorf("%s %s: %w", verb, what, err)
}

const (
	minRewatch = time.Second
	maxRewatch = time.Minute
)

func (a *apiServer) watch(ctx context.Context, heard chan<- struct{}) {
	options := func(name string) metav1.ListOptions {
		// With the name as a field selector the right to watch can be given by name.
		return metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		rewatch(ctx, heard, func() (watch.Interface, error) {
			return a.client.AdmissionregistrationV1().MutatingWebhookConfigurations().Watch(ctx, options(a.configName))
		})
	}()
	if a.secretName != "" {
		rewatch(ctx, heard, func() (watch.Interface, error) {
			return a.client.CoreV1().Secrets(a.namespace).Watch(ctx, options(a.secretName))
		})
	}
	<-done
}

// rewatch watches, again and again: a watch ends after some minutes by itself. Why it ended is of no interest, because every round
// reads for itself, and says what it cannot read.
func rewatch(ctx context.Context, heard chan<- struct{}, begin func() (watch.Interface, error)) {
	wait := minRewatch
	for ctx.Err() == nil {
		if w, err := begin(); err == nil {
			stop := context.AfterFunc(ctx, w.Stop)
			for event := range w.ResultChan() {
				if event.Type != watch.Error && event.Type != watch.Bookmark {
					wait = minRewatch
					hear(heard)
				}
			}
			stop()
			w.Stop()
		}
		pause(ctx, nil, wait/2+rand.N(wait/2))
		wait = min(2*wait, maxRewatch)
	}
}

// hear says that there is something to look at. Once is enough for any number of changes.
func hear(heard chan<- struct{}) {
	select {
	case heard <- struct{}{}:
	default:
	}
}
