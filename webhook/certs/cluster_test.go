package certs

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
)

// chart is what the chart renders.
func chart(namespace string) (*corev1.Secret, *admissionv1.MutatingWebhookConfiguration) {
	none, url := admissionv1.SideEffectClassNone, "https://127.0.0.1:1/mutate"
	c := &admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	for _, name := range []string{"one.holdfast.dev", "two.holdfast.dev"} {
		c.Webhooks = append(c.Webhooks, admissionv1.MutatingWebhook{
			Name: name, ClientConfig: admissionv1.WebhookClientConfig{URL: &url}, SideEffects: &none,
			AdmissionReviewVersions: []string{"v1"},
			ObjectSelector:          &metav1.LabelSelector{MatchLabels: map[string]string{"holdfast.dev/test": "nobody"}},
		})
	}
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "ca", Namespace: namespace, Labels: map[string]string{"app": "holdfast"}}}, c
}

// The adapter does with a clientset what the cluster in memory does. (Conflicts, rights and watches: only a real API server knows them.)
func TestAPIServer(t *testing.T) {
	s, c := chart("ns")
	c.Annotations = map[string]string{"cert-manager.io/inject-ca-from": "ns/cert"}
	c.ManagedFields = []metav1.ManagedFieldsEntry{
		{Manager: "helm", FieldsV1: metav1.NewFieldsV1(`{"f:webhooks":{"k:{}":{"f:clientConfig":{"f:caBundle":{}}}}}`)},
		{Manager: "kubectl", FieldsV1: metav1.NewFieldsV1(`{"f:webhooks":{}}`)},
		{Manager: FieldManager, FieldsV1: metav1.NewFieldsV1(`{"f:webhooks":{"f:caBundle":{}}}`)},
	}
	client := fake.NewClientset(s, c)
	a := &apiServer{client: client, namespace: "ns", secretName: "ca", configName: "ns"}
	ctx := t.Context()

	p, err := a.configuration(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.entries) != 2 || p.entries[1].name != "two.holdfast.dev" || !p.injected || len(p.writers) != 1 || p.writers[0] != "helm" {
		t.Errorf("read %+v", p)
	}
	got, err := a.secret(ctx)
	if err != nil {
		t.Fatal(err)
	}
	got.Data = map[string][]byte{"ca.crt": []byte("x")}
	if err := a.save(ctx, got); err != nil {
		t.Fatal(err)
	}
	if got, err = a.secret(ctx); err != nil || string(got.Data["ca.crt"]) != "x" || got.Labels["app"] != "holdfast" {
		t.Errorf("the Secret is %+v, error %v", got, err)
	}

	for name, answer := range map[string]struct {
		err  error
		want error
		says string
	}{
		"gone":      {apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, "ca"), errGone, "does not exist"},
		"conflict":  {apierrors.NewConflict(schema.GroupResource{Resource: "secrets"}, "ca", errors.New("newer")), errLater, "faster"},
		"forbidden": {apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, "ca", errors.New("no")), nil, "lacks this right"},
		"silent":    {context.DeadlineExceeded, context.DeadlineExceeded, "Secret ns/ca"},
	} {
		client := fake.NewClientset()
		client.PrependReactor("*", "*", func(k8stesting.Action) (bool, runtime.Object, error) { return true, nil, answer.err })
		a := &apiServer{client: client, namespace: "ns", secretName: "ca", configName: "ns"}
		_, err1 := a.secret(ctx)
		err2 := a.save(ctx, got)
		_, err3 := a.configuration(ctx)
		err4 := a.publish(ctx, p, [][]byte{nil, nil})
		for i, err := range []error{err1, err2, err3, err4} {
			if err == nil || answer.want != nil && !errors.Is(err, answer.want) || i == 0 && !strings.Contains(err.Error(), answer.says) {
				t.Errorf("%s: question %d: %v", name, i, err)
			}
			if answer.want != errGone && errors.Is(err, errGone) || answer.want != errLater && errors.Is(err, errLater) {
				t.Errorf("%s: question %d counts as something else: %v", name, i, err)
			}
		}
	}
}

// A watch that ends, or that cannot be begun, is begun again, and each change is heard of.
func TestRewatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		heard, begun := make(chan struct{}, 1), 0
		var current *watch.FakeWatcher
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			rewatch(ctx, heard, func() (watch.Interface, error) {
				begun++
				if begun == 2 {
					return nil, errors.New("refused")
				}
				current = watch.NewFake()
				return current, nil
			})
		}()
		for want := range 3 {
			synctest.Wait()
			current.Modify(&corev1.Secret{})
			select {
			case <-heard:
			case <-time.After(time.Second):
				t.Fatalf("change %d was not heard of", want)
			}
			current.Stop()
			time.Sleep(5 * time.Second)
		}
		synctest.Wait()
		if begun != 5 {
			t.Errorf("begun %d times, want 5: once, once in vain, and after each of three ends", begun)
		}
		cancel()
		<-ended
	})
}

// A provider as it is used, on a clientset: from nothing to ready.
func TestOwnOnClientset(t *testing.T) {
	s, c := chart("ns")
	o := fast()
	o.Client, o.Namespace, o.Configuration = fake.NewClientset(s, c), "ns", "ns"
	own, err := NewOwn(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- own.Run(ctx) }()
	for deadline := time.Now().Add(20 * time.Second); own.Ready() != nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(own.Ready())
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
