package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// cluster is a Kubernetes with the objects that the chart renders, and the flags that the chart gives.
func cluster(t *testing.T, uid string) (*kubernetesFlags, *fake.Clientset) {
	t.Helper()
	c := fake.NewClientset(
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-system", UID: "cluster-1"}},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "holdfast", Name: "site"}},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "holdfast", Name: "ca"}},
	)
	file := filepath.Join(t.TempDir(), "uid")
	if uid != "" {
		if err := os.WriteFile(file, []byte(uid), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return &kubernetesFlags{
		namespace: "holdfast", siteConfigMap: "site", siteUIDFile: file, etcdCAConfigMap: "ca", client: c,
	}, c
}

func kept(t *testing.T, c *fake.Clientset) string {
	t.Helper()
	m, err := c.CoreV1().ConfigMaps("holdfast").Get(context.Background(), "site", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return m.Data["uid"]
}

// silent makes the API server one whose packets are lost: an error after each time-out.
func silent(c *fake.Clientset) {
	c.PrependReactor("*", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, errors.New("no answer")
	})
}

func TestTheSiteIsTheClusters(t *testing.T) {
	ctx, log := t.Context(), slog.New(slog.DiscardHandler)
	k, c := cluster(t, "")
	if uid, err := k.siteUID(ctx, log); err != nil || uid != "cluster-1" {
		t.Fatalf("the site's uid is %q, %v", uid, err)
	}
	if got := kept(t, c); got != "cluster-1" {
		t.Errorf("for the next start %q is kept", got)
	}
}

// The API server is out of reach, and a replica starts: that is when it is needed most.
func TestStartsWithoutTheAPIServer(t *testing.T) {
	ctx, log := t.Context(), slog.New(slog.DiscardHandler)
	k, c := cluster(t, "cluster-1\n")
	silent(c)
	if uid, err := k.siteUID(ctx, log); err != nil || uid != "cluster-1" {
		t.Errorf("the site's uid is %q, %v", uid, err)
	}
	file := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(file, []byte("-----BEGIN"), 0o600); err != nil {
		t.Fatal(err)
	}
	if pem, err := k.etcdCA(ctx, file, log); err != nil || pem != "-----BEGIN" {
		t.Errorf("etcd's authority is %q, %v", pem, err)
	}
	// What cannot be confirmed is not refuted.
	ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := k.confirm(ctx, "cluster-1", log); err != nil {
		t.Errorf("silence refuted the site: %v", err)
	}
}

func TestARestoredConfigMapIsCorrected(t *testing.T) {
	k, c := cluster(t, "cluster-0")
	log := slog.New(slog.DiscardHandler)
	uid, err := k.siteUID(t.Context(), log)
	if err != nil || uid != "cluster-0" {
		t.Fatalf("the site's uid is %q, %v", uid, err)
	}
	err = k.confirm(t.Context(), uid, log)
	if err == nil || !strings.Contains(err.Error(), "is that of cluster-0, and this cluster is cluster-1") {
		t.Errorf("another cluster's uid: %v", err)
	}
	if got := kept(t, c); got != "cluster-1" {
		t.Errorf("for the next start %q is kept", got)
	}
	if err := k.confirm(t.Context(), "cluster-1", log); err != nil {
		t.Errorf("the right one: %v", err)
	}
}

// The authority is made by etcd's first member, which may come up later than a replica, and the kubelet brings it later still.
func TestTheAuthorityIsWaitedFor(t *testing.T) {
	k, c := cluster(t, "")
	var said strings.Builder
	log := slog.New(slog.NewTextHandler(&said, nil))
	time.AfterFunc(200*time.Millisecond, func() {
		m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "holdfast", Name: "ca"}, Data: map[string]string{"ca.crt": "pem"}}
		if _, err := c.CoreV1().ConfigMaps("holdfast").Update(context.Background(), m, metav1.UpdateOptions{}); err != nil {
			t.Error(err)
		}
	})
	pem, err := k.etcdCA(t.Context(), filepath.Join(t.TempDir(), "ca.crt"), log)
	if err != nil || pem != "pem" {
		t.Errorf("etcd's authority is %q, %v", pem, err)
	}
	if !strings.Contains(said.String(), "key ca.crt of ConfigMap holdfast/ca, which holdfast-etcd writes") {
		t.Errorf("it does not say what it waits for: %s", said.String())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	silent(c)
	if _, err := k.etcdCA(ctx, "", log); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no answer") {
		t.Errorf("given up with %v", err)
	}
}
