//go:build kubernetes

package certs

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	admissionreview "k8s.io/api/admission/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/holdfast-dev/holdfast/pki"
	"github.com/holdfast-dev/holdfast/test/kubernetes/node"
)

// The tests below need a real API server: conflicts, rights by name, field managers, watches, and admission itself are its work.
var server *node.APIServer

func TestMain(m *testing.M) {
	os.Exit(func() int {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute) // the first time compiles
		defer cancel()
		var err error
		if server, err = node.StartAPIServer(ctx, os.Stderr); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer server.Stop()
		return m.Run()
	}())
}

// real is a namespace of the API server's, with what the chart renders in it, named as the namespace is.
type real struct {
	t         *testing.T
	namespace string
	admin     kubernetes.Interface
	config    *rest.Config
}

func newReal(t *testing.T) *real {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", server.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1
	r := &real{t: t, config: config, admin: kubernetes.NewForConfigOrDie(config)}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "certs-"}}
	ns, err = r.admin.CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r.namespace = ns.Name
	secret, configuration := chart(r.namespace)
	if _, err := r.admin.CoreV1().Secrets(r.namespace).Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := r.apply("helm", configuration); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.Background()
		err := r.admin.AdmissionregistrationV1().MutatingWebhookConfigurations().Delete(ctx, r.namespace, metav1.DeleteOptions{})
		if err != nil && !strings.Contains(err.Error(), "not found") {
			t.Error(err)
		}
	})
	return r
}

// apply is what Helm 4 and GitOps tools do.
func (r *real) apply(manager string, c *admissionv1.MutatingWebhookConfiguration) error {
	c.TypeMeta = metav1.TypeMeta{APIVersion: "admissionregistration.k8s.io/v1", Kind: "MutatingWebhookConfiguration"}
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	force := true
	_, err = r.admin.AdmissionregistrationV1().MutatingWebhookConfigurations().Patch(r.t.Context(), c.Name, types.ApplyPatchType, text,
		metav1.PatchOptions{FieldManager: manager, Force: &force})
	return err
}

func (r *real) update(c *admissionv1.MutatingWebhookConfiguration) {
	r.t.Helper()
	if _, err := r.admin.AdmissionregistrationV1().MutatingWebhookConfigurations().Update(r.t.Context(), c, metav1.UpdateOptions{}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *real) read() *admissionv1.MutatingWebhookConfiguration {
	r.t.Helper()
	c, err := r.admin.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(r.t.Context(), r.namespace, metav1.GetOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

// rights are those that the chart gives the webhook for its certificate.
func rights(namespace string) (inNamespace, inCluster []rbacv1.PolicyRule) {
	return []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{"ca"},
			Verbs: []string{"get", "watch", "update"}}},
		[]rbacv1.PolicyRule{{APIGroups: []string{"admissionregistration.k8s.io"}, Resources: []string{"mutatingwebhookconfigurations"},
			ResourceNames: []string{namespace}, Verbs: []string{"get", "watch", "patch"}}}
}

// as is a client that is allowed to do only this.
func (r *real) as(name string, inNamespace, inCluster []rbacv1.PolicyRule) kubernetes.Interface {
	r.t.Helper()
	ctx, name := r.t.Context(), r.namespace+"-"+name
	subjects := []rbacv1.Subject{{Kind: "ServiceAccount", Name: name, Namespace: r.namespace}}
	meta := metav1.ObjectMeta{Name: name}
	_, err1 := r.admin.RbacV1().Roles(r.namespace).Create(ctx, &rbacv1.Role{ObjectMeta: meta, Rules: inNamespace}, metav1.CreateOptions{})
	_, err2 := r.admin.RbacV1().RoleBindings(r.namespace).Create(ctx, &rbacv1.RoleBinding{ObjectMeta: meta, Subjects: subjects,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name}}, metav1.CreateOptions{})
	_, err3 := r.admin.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: meta, Rules: inCluster}, metav1.CreateOptions{})
	_, err4 := r.admin.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: meta, Subjects: subjects,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name}}, metav1.CreateOptions{})
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		r.t.Fatal(err)
	}
	config := rest.CopyConfig(r.config)
	config.Impersonate = rest.ImpersonationConfig{UserName: "system:serviceaccount:" + r.namespace + ":" + name}
	return kubernetes.NewForConfigOrDie(config)
}

func (r *real) webhook() kubernetes.Interface {
	return r.as("webhook", first(rights(r.namespace)), second(rights(r.namespace)))
}

func first[A, B any](a A, _ B) A  { return a }
func second[A, B any](_ A, b B) B { return b }

// own runs a replica. change may be nil.
func (r *real) own(client kubernetes.Interface, change func(*OwnOptions)) *replica {
	r.t.Helper()
	log := &journal{}
	o := fast()
	o.Client, o.Namespace, o.Configuration, o.Log = client, r.namespace, r.namespace, slog.New(slog.NewTextHandler(log, nil))
	if change != nil {
		change(&o)
	}
	own, err := NewOwn(o)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- own.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			r.t.Errorf("Run: %v", err)
		}
	})
	r.t.Cleanup(stop)
	return &replica{Own: own, log: log, stop: stop}
}

func (r *real) await(within time.Duration, what string, ok func() error) {
	r.t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%s: not within %s: %v", what, within, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// What is written depends on what was read; a configuration that is gone is not made anew; and Kubernetes knows whose the field is.
func TestRealConflicts(t *testing.T) {
	r := newReal(t)
	ctx := t.Context()
	a := &apiServer{client: r.webhook(), namespace: r.namespace, secretName: "ca", configName: r.namespace}
	r.await(10*time.Second, "the role is known", func() error { _, err := a.secret(ctx); return err })

	s1, err := a.secret(ctx)
	if err != nil {
		t.Fatal(err)
	}
	s2 := s1.DeepCopy()
	s1.Data, s2.Data = map[string][]byte{"ca.crt": []byte("first")}, map[string][]byte{"ca.crt": []byte("second")}
	if err := a.save(ctx, s1); err != nil {
		t.Fatal(err)
	}
	if err := a.save(ctx, s2); !errors.Is(err, errLater) {
		t.Errorf("the second write of a Secret: %v", err)
	}
	if s, err := a.secret(ctx); err != nil || string(s.Data["ca.crt"]) != "first" || s.Labels["app"] != "holdfast" {
		t.Errorf("the Secret is %+v, error %v", s, err)
	}

	var p published
	r.await(10*time.Second, "the cluster role is known", func() error { p, err = a.configuration(ctx); return err })
	bundle := pki.EncodeCertificates(authority(t, time.Hour).Certificate())
	other := pki.EncodeCertificates(authority(t, time.Hour).Certificate())
	if err := a.publish(ctx, p, [][]byte{bundle, nil}); err != nil {
		t.Fatal(err)
	}
	if err := a.publish(ctx, p, [][]byte{other, other}); !errors.Is(err, errLater) {
		t.Errorf("the second write of a caBundle: %v", err)
	}
	c := r.read()
	if string(c.Webhooks[0].ClientConfig.CABundle) != string(bundle) || len(c.Webhooks[1].ClientConfig.CABundle) != 0 {
		t.Errorf("the caBundles are %q and %q", c.Webhooks[0].ClientConfig.CABundle, c.Webhooks[1].ClientConfig.CABundle)
	}
	ours := ""
	for _, m := range c.ManagedFields {
		if m.Manager == FieldManager {
			ours = m.FieldsV1.String()
		}
	}
	if want := `{"f:webhooks":{"k:{\"name\":\"one.holdfast.dev\"}":{"f:clientConfig":{"f:caBundle":{}}}}}`; ours != want {
		t.Errorf("our fields are %s, want %s", ours, want)
	}
	if p, err := a.configuration(ctx); err != nil || len(p.writers) != 0 {
		t.Errorf("others who write the field: %v, error %v", p.writers, err)
	}
	if err := r.admin.AdmissionregistrationV1().MutatingWebhookConfigurations().Delete(ctx, r.namespace, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := a.publish(ctx, p, [][]byte{other, other}); !errors.Is(err, errGone) {
		t.Errorf("writing into what is gone: %v", err)
	}
	if _, err := a.configuration(ctx); !errors.Is(err, errGone) {
		t.Errorf("reading what is gone: %v", err)
	}
}

// With the chart's rights a replica comes from nothing to ready; without any one of them it says which, and heals when it gets it.
func TestRealRights(t *testing.T) {
	r := newReal(t)
	inNamespace, inCluster := rights(r.namespace)
	all := r.as("all", inNamespace, inCluster)
	without := func(rules []rbacv1.PolicyRule, verb string) []rbacv1.PolicyRule {
		rule := *rules[0].DeepCopy()
		var verbs []string
		for _, v := range rule.Verbs {
			if v != verb {
				verbs = append(verbs, v)
			}
		}
		rule.Verbs = verbs
		return []rbacv1.PolicyRule{rule}
	}
	for _, c := range []struct {
		name   string
		client kubernetes.Interface
		says   string
	}{
		{"secret-get", r.as("secret-get", without(inNamespace, "get"), inCluster),
			"read Secret " + r.namespace + "/ca: the role lacks this right"},
		{"secret-update", r.as("secret-update", without(inNamespace, "update"), inCluster),
			"update Secret " + r.namespace + "/ca: the role lacks this right"},
		{"configuration-get", r.as("configuration-get", inNamespace, without(inCluster, "get")),
			"read MutatingWebhookConfiguration " + r.namespace + ": the role lacks this right"},
		{"configuration-patch", r.as("configuration-patch", inNamespace, without(inCluster, "patch")),
			"patch MutatingWebhookConfiguration " + r.namespace + ": the role lacks this right"},
	} {
		replica := r.own(c.client, nil)
		r.await(20*time.Second, c.name, func() error {
			err := replica.Ready()
			if err == nil {
				t.Fatalf("%s: ready without that right", c.name)
			}
			if !strings.Contains(err.Error(), c.says) {
				return err
			}
			return nil
		})
		replica.stop()
	}
	if _, err := all.CoreV1().Secrets(r.namespace).List(t.Context(), metav1.ListOptions{}); err == nil {
		t.Fatal("these rights let it list all Secrets, so this test says nothing")
	}
	replica := r.own(all, nil)
	r.await(20*time.Second, "ready", replica.Ready)
	if log := replica.log.String(); strings.Contains(log, "level=WARN") {
		t.Errorf("it complained:\n%s", log)
	}
	// The watches work with these rights too: without them a change would be seen after half a minute only.
	for range 2 {
		c := r.read()
		c.Webhooks[1].ClientConfig.CABundle = nil
		r.update(c)
		r.await(5*time.Second, "put right", func() error {
			if len(r.read().Webhooks[1].ClientConfig.CABundle) == 0 {
				return errors.New("still empty")
			}
			return nil
		})
		time.Sleep(minRepairPause + maxRepairPause/30) // the pause after a repair: the next is at once again
	}
	old := authorityOf(t, replica)
	_, err := r.admin.CoreV1().Secrets(r.namespace).Patch(t.Context(), "ca", types.JSONPatchType,
		[]byte(`[{"op":"remove","path":"/data"}]`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r.await(5*time.Second, "a new authority", func() error {
		s, err := r.admin.CoreV1().Secrets(r.namespace).Get(t.Context(), "ca", metav1.GetOptions{})
		if err == nil && len(s.Data[currentCert]) == 0 {
			err = errors.New("not yet")
		}
		return err
	})
	if err := replica.Ready(); err != nil || authorityOf(t, replica) != old {
		t.Errorf("the old authority's certificate should serve on for the overlap: %v", err)
	}
}

// Many replicas on an empty Secret.
func TestRealRace(t *testing.T) {
	r := newReal(t)
	client := r.webhook()
	var replicas []*replica
	for range 6 {
		replicas = append(replicas, r.own(client, nil))
	}
	made := int64(0)
	for _, replica := range replicas {
		r.await(30*time.Second, "ready", replica.Ready)
		made += replica.Facts().Rotations
		if authorityOf(t, replica) != authorityOf(t, replicas[0]) {
			t.Error("the replicas have different authorities")
		}
	}
	if made != 1 {
		t.Errorf("%d authorities were made", made)
	}
}

// What people and their tools do to the configuration, and what becomes of the caBundle.
func TestRealOverwriting(t *testing.T) {
	r := newReal(t)
	replica := r.own(r.webhook(), nil)
	r.await(20*time.Second, "ready", replica.Ready)
	right := string(r.read().Webhooks[0].ClientConfig.CABundle)
	api := r.admin.AdmissionregistrationV1().MutatingWebhookConfigurations()
	rendered := func() *admissionv1.MutatingWebhookConfiguration { return second(chart(r.namespace)) }
	repairs := int64(0)
	for _, c := range []struct {
		name   string
		do     func() error
		repair bool
		says   string
	}{
		{"an apply of what the chart renders", func() error { return r.apply("helm", rendered()) }, false, ""},
		{"an apply of a chart that has one webhook less", func() error {
			c := rendered()
			c.Webhooks = c.Webhooks[:1]
			err := r.apply("helm", c)
			if n := len(r.read().Webhooks); n != 1 {
				t.Errorf("%d webhooks are left of one", n)
			}
			return err
		}, false, ""},
		{"an apply that brings it back", func() error { return r.apply("helm", rendered()) }, false, ""},
		{"an apply that empties it", func() error {
			c := rendered()
			c.Webhooks[0].ClientConfig.CABundle = []byte("\n")
			return r.apply("argocd", c)
		}, true, "argocd"},
		{"an update without it, such as kubectl replace", func() error {
			c := r.read()
			c.Webhooks[0].ClientConfig.CABundle, c.Webhooks[1].ClientConfig.CABundle = nil, nil
			_, err := api.Update(t.Context(), c, metav1.UpdateOptions{FieldManager: "kubectl"})
			return err
		}, true, ""},
		{"the strategic merge of kubectl apply and of Helm 3", func() error {
			_, err := api.Patch(t.Context(), r.namespace, types.StrategicMergePatchType,
				[]byte(`{"webhooks":[{"name":"one.holdfast.dev","timeoutSeconds":7}]}`), metav1.PatchOptions{FieldManager: "helm"})
			return err
		}, false, ""},
		{"another webhook, before ours", func() error {
			c := r.read()
			added := *c.Webhooks[0].DeepCopy()
			added.Name, added.ClientConfig.CABundle = "zero.holdfast.dev", nil
			c.Webhooks = append([]admissionv1.MutatingWebhook{added}, c.Webhooks...)
			_, err := api.Update(t.Context(), c, metav1.UpdateOptions{FieldManager: "kubectl"})
			return err
		}, false, ""},
	} {
		time.Sleep(2 * minRepairPause) // the pause after the last repair is over, and a repair comes at once again
		repairs = replica.Facts().BundleRepairs
		if err := c.do(); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		r.await(10*time.Second, c.name, func() error {
			for _, w := range r.read().Webhooks {
				if string(w.ClientConfig.CABundle) != right {
					return fmt.Errorf("webhook %s has %q", w.Name, w.ClientConfig.CABundle)
				}
			}
			return replica.Ready()
		})
		time.Sleep(100 * time.Millisecond) // time for a second repair, which must not come
		if got := replica.Facts().BundleRepairs - repairs; (got == 1) != c.repair || got > 1 {
			t.Errorf("%s: %d repairs", c.name, got)
		}
		if c.says != "" && !strings.Contains(replica.log.String(), c.says) {
			t.Errorf("%s: the log does not name %s", c.name, c.says)
		}
	}
}

// The API server goes away and comes back: what is changed afterwards is seen.
func TestRealRestart(t *testing.T) {
	r := newReal(t)
	replica := r.own(r.webhook(), nil)
	r.await(20*time.Second, "ready", replica.Ready)
	if err := server.Server().Kill(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * time.Second) // the outage
	if err := replica.Ready(); err != nil {
		t.Errorf("an API server that is away made it unready: %v", err)
	}
	if err := errors.Join(server.Server().Start(), server.AwaitReady(t.Context())); err != nil {
		t.Fatal(err)
	}
	c := r.read()
	c.Webhooks[1].ClientConfig.CABundle = nil
	r.update(c)
	r.await(time.Minute, "put right", func() error {
		if len(r.read().Webhooks[1].ClientConfig.CABundle) == 0 {
			return errors.New("still empty")
		}
		return replica.Ready()
	})
}

// The API server admits pods through three replicas while their authority is replaced several times. None may fail.
func TestRealRotation(t *testing.T) {
	r := newReal(t)
	ctx := t.Context()
	client := r.webhook()
	fail, none, all := admissionv1.Fail, admissionv1.SideEffectClassNone, admissionv1.AllScopes
	configuration := r.read()
	configuration.Webhooks = nil
	var replicas []*replica
	var calls [3]int
	var mu sync.Mutex
	for i := range 3 {
		replica := r.own(client, func(o *OwnOptions) {
			o.Overlap, o.LeafLife, o.AuthorityLife = 2*time.Second, 8*time.Second, 48*time.Second
		})
		replicas = append(replicas, replica)
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{
			TLSConfig: &tls.Config{GetCertificate: replica.GetCertificate, NextProtos: []string{"http/1.1"}},
			ErrorLog:  slog.NewLogLogger(slog.DiscardHandler, 0),
			Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				var review admissionreview.AdmissionReview
				body, _ := io.ReadAll(req.Body)
				if err := json.Unmarshal(body, &review); err != nil || review.Request == nil {
					http.Error(w, "no review", http.StatusBadRequest)
					return
				}
				mu.Lock()
				calls[i]++
				mu.Unlock()
				review.Response = &admissionreview.AdmissionResponse{UID: review.Request.UID, Allowed: true}
				json.NewEncoder(w).Encode(review)
			}),
		}
		s.SetKeepAlivesEnabled(false) // each admission is a new connection
		go s.ServeTLS(listener, "", "")
		t.Cleanup(func() { s.Close() })
		url := fmt.Sprintf("https://%s/mutate", listener.Addr())
		configuration.Webhooks = append(configuration.Webhooks, admissionv1.MutatingWebhook{
			Name: fmt.Sprintf("replica-%d.holdfast.dev", i), ClientConfig: admissionv1.WebhookClientConfig{URL: &url}, SideEffects: &none,
			AdmissionReviewVersions: []string{"v1"}, FailurePolicy: &fail,
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": r.namespace}},
			Rules: []admissionv1.RuleWithOperations{{Operations: []admissionv1.OperationType{admissionv1.Create},
				Rule: admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}, Scope: &all}}},
		})
	}
	api := r.admin.AdmissionregistrationV1().MutatingWebhookConfigurations()
	// The replicas may have written already; what is meant here is the whole list, so a conflict is tried again.
	r.await(10*time.Second, "the webhooks are set", func() error {
		configuration.ResourceVersion = r.read().ResourceVersion
		_, err := api.Update(ctx, configuration, metav1.UpdateOptions{})
		return err
	})
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "p-"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "x"}}},
	}
	admit := func() error {
		_, err := r.admin.CoreV1().Pods(r.namespace).Create(ctx, pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err
	}
	for _, replica := range replicas {
		r.await(20*time.Second, "ready", replica.Ready)
	}
	r.await(10*time.Second, "the API server trusts them", admit)
	seen, admitted, failed := map[string]bool{}, 0, 0
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err := admit(); err != nil {
			failed++
			t.Errorf("after %d admissions: %v", admitted, err)
			if failed > 3 {
				break
			}
		}
		admitted++
		for _, replica := range replicas {
			if err := replica.Ready(); err != nil {
				t.Errorf("not ready: %v", err)
			}
			seen[authorityOf(t, replica)] = true
		}
	}
	if len(seen) < 3 {
		t.Errorf("only %d authorities were seen", len(seen))
	}
	mu.Lock()
	defer mu.Unlock()
	for i, n := range calls {
		if n < admitted {
			t.Errorf("replica %d was called %d times for %d admissions", i, n, admitted)
		}
	}
	t.Logf("%d admissions through 3 replicas, %d authorities, %d failures", admitted, len(seen), failed)
}
