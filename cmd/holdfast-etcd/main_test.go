package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/holdfast-dev/holdfast/pki"
)

func TestWrongFlags(t *testing.T) {
	whole := []string{"--name=e-0", "--namespace=n", "--service=e", "--peer-service=p", "--data=d", "--certs=c", "--ca-secret=s", "--ca-configmap=m"}
	for _, c := range []struct {
		args []string
		want []string
	}{
		{nil, []string{"--name is missing", "--data is missing", "--ca-secret is missing"}},
		{append(whole, "--name=etcd"), []string{`--name "etcd" does not end in a number`}},
		{append(whole, "--replicas=2"), []string{"--replicas is 2: give 1, 3, 5 or 7"}},
		{append(whole, "--quota=lots"), []string{`--quota is "lots"`}},
		{append(whole, "--quota=1Ki"), []string{`--quota is "1Ki"`}},
		{append(whole, "--compaction-retention=1s"), []string{"--compaction-retention is 1s"}},
		{whole, []string{"this is not a pod of a Kubernetes cluster: give --kubeconfig"}},
		{append(whole, "serve"), []string{`unknown command "serve"`}},
	} {
		var errs bytes.Buffer
		p := &program{out: &errs, err: &errs, lookup: func(string) (string, bool) { return "", false }}
		if code := p.run(t.Context(), c.args); code != 2 {
			t.Errorf("%v: exit code %d, want 2", c.args, code)
		}
		for _, want := range c.want {
			if !strings.Contains(errs.String(), want) {
				t.Errorf("%v: no %q in\n%s", c.args, want, errs.String())
			}
		}
	}
}

func newVault(objects ...runtime.Object) (*vault, *fake.Clientset) {
	if objects == nil {
		objects = []runtime.Object{&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "s", ResourceVersion: "1"}}}
	}
	objects = append(objects, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "m"}})
	c := fake.NewClientset(objects...)
	return &vault{client: c, namespace: "n", secret: "s", configMap: "m", log: slog.New(slog.DiscardHandler)}, c
}

func published(t *testing.T, c *fake.Clientset) string {
	t.Helper()
	m, err := c.CoreV1().ConfigMaps("n").Get(context.Background(), "m", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return m.Data["ca.crt"]
}

func TestTheAuthorityIsMadeOnceAndPublished(t *testing.T) {
	v, c := newVault()
	first, begun, err := v.open(t.Context())
	if err != nil || begun {
		t.Fatalf("begun %v, %v", begun, err)
	}
	if life := time.Until(first.Certificate().NotAfter); life < 19*365*24*time.Hour {
		t.Errorf("it lives %s: pods would outlive it", life)
	}
	second, _, err := v.open(t.Context())
	if err != nil || pki.Of(second.Certificate()) != pki.Of(first.Certificate()) {
		t.Errorf("the next member has another authority (%v)", err)
	}
	if text := published(t, c); text != string(pki.EncodeCertificates(first.Certificate())) {
		t.Errorf("published is %q", text)
	}
	if err := v.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	if third, begun, err := v.open(t.Context()); err != nil || !begun || pki.Of(third.Certificate()) != pki.Of(first.Certificate()) {
		t.Errorf("after the beginning: begun %v, %v", begun, err)
	}
}

// Two members find the Secret empty at the same time: the API server lets one of them write.
func TestTwoMembersMakeOneAuthority(t *testing.T) {
	v, c := newVault()
	var once sync.Once
	c.PrependReactor("update", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
		refused := false
		once.Do(func() {
			refused = true
			other, err := pki.NewAuthority("the other's", time.Now(), time.Hour)
			if err != nil {
				t.Error(err)
			}
			certificate, key, _ := other.Encode()
			secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "s"}, Data: map[string][]byte{"ca.crt": certificate, "ca.key": key}}
			if err := c.Tracker().Update(schema.GroupVersionResource{Version: "v1", Resource: "secrets"}, secret, "n"); err != nil {
				t.Error(err)
			}
		})
		if refused {
			return true, nil, apierrors.NewConflict(schema.GroupResource{Resource: "secrets"}, "s", errors.New("it has changed"))
		}
		return false, nil, nil
	})
	authority, _, err := v.open(t.Context())
	if err != nil || authority.Certificate().Subject.CommonName != "the other's" {
		t.Errorf("the second one took %v, %v", authority, err)
	}
	if published(t, c) == "" {
		t.Error("nothing is published")
	}
}

// A Secret that cannot be used is never written over: agents in running pods carry the authority that was in it.
func TestADamagedAuthorityIsLeftAlone(t *testing.T) {
	good, err := pki.NewAuthority("good", time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	certificate, key, _ := good.Encode()
	old, err := pki.NewAuthority("old", time.Now().Add(-48*time.Hour), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	expired, expiredKey, _ := old.Encode()
	for name, data := range map[string]map[string][]byte{
		"nonsense":         {"ca.crt": []byte("x"), "ca.key": []byte("y")},
		"half of it":       {"ca.crt": certificate},
		"another's key":    {"ca.crt": certificate, "ca.key": expiredKey},
		"an expired one":   {"ca.crt": expired, "ca.key": expiredKey},
		"the key is a pem": {"ca.crt": key, "ca.key": key},
	} {
		v, c := newVault(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "s"}, Data: data})
		_, _, err := v.open(t.Context())
		if err == nil || !strings.Contains(err.Error(), "restore it from a copy, or remove its keys ca.crt and ca.key") {
			t.Errorf("%s: %v", name, err)
		}
		for _, action := range c.Actions() {
			if action.GetVerb() != "get" {
				t.Errorf("%s: %s %s", name, action.GetVerb(), action.GetResource().Resource)
			}
		}
	}
}

func TestAMissingSecretIsWaitedFor(t *testing.T) {
	var said strings.Builder
	v, c := newVault(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "other"}})
	v.log = slog.New(slog.NewTextHandler(&said, nil))
	time.AfterFunc(100*time.Millisecond, func() {
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "s"}}
		if _, err := c.CoreV1().Secrets("n").Create(context.Background(), secret, metav1.CreateOptions{}); err != nil {
			t.Error(err)
		}
	})
	if _, _, err := v.open(t.Context()); err != nil {
		t.Error(err)
	}
	if !strings.Contains(said.String(), "there is no Secret n/s: the chart makes it, without data") {
		t.Errorf("it says %s", said.String())
	}
}
