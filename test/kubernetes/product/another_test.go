//go:build kubernetes

package product

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfast-dev/holdfast/pki"
	"github.com/holdfast-dev/holdfast/test/flink/flinkproc"
	"github.com/holdfast-dev/holdfast/test/kubernetes/flinkpod"
	"github.com/holdfast-dev/holdfast/test/kubernetes/rig"
)

// A second Holdfast beside the first, with all that the first leaves at its defaults: for one namespace alone, three members of etcd, a
// certificate that is given and renewed, and agents that are plain containers. Its configuration comes first by its name, so that pods of its
// namespace get its agent, and the other webhook leaves those alone.
func TestAnotherInstallation(t *testing.T) {
	t.Parallel()
	const name = "another"
	another := newSite(name, name)
	t.Cleanup(another.close)
	mine := namespace(t, "mine", nil)
	certificate := givenCertificate(t, another)
	values := filepath.Join(t.TempDir(), "values.yaml")
	check(t, os.WriteFile(values, fmt.Appendf(nil, `
site: another
fullnameOverride: another
rbac: {scope: namespaces, namespaces: [%s]}
agent: {mode: plain}
webhook: {certificates: {mode: secret, secretName: given}}
etcd: {replicas: 3, persistence: {size: 1Gi}, quota: 256Mi}
tests: {enabled: false}
`, mine), 0o600))
	begin := time.Now()
	if err := another.install(limit(t), "--values", values); err != nil {
		t.Fatal(err, another.describe())
	}
	t.Logf("from helm install to ready, with three members: %.1f s", time.Since(begin).Seconds())
	another.mayOnly(t, mine)

	dist := cluster.Flinks[len(cluster.Flinks)-1]
	r := application(t, flinkpod.Options{Dist: dist, Namespace: mine, ID: "orders"}, flinkproc.Job{})
	if pod := r.jobManager(t); !isPlain(pod) {
		t.Fatalf("pod %s has no agent that is a plain container: %s", pod.Name, flinkpod.DescribePod(&pod))
	}
	if v := another.until(t, r.jobs(), prompt, "RUNNING Witnessed over=no attempt=1", "FAILED", "UNKNOWN"); v.Site != name {
		t.Errorf("the job is of site %s", v.Site)
	}
	// The first one hears nothing of the agent. After a while it asks the JobManager from outside, and says what that says.
	all, err := holdfast.jobs(limit(t), r.jobs())
	check(t, err)
	for _, v := range all {
		if v.Site == name || !strings.HasPrefix(v.String(), "RUNNING Witnessed over=no attempt=1") {
			t.Errorf("the first installation shows the other's job as %s, of site %s", v, v.Site)
		}
	}

	// Neither the loss of any member nor another certificate is noticed by anybody.
	record, created := another.record(t, r.jobs()), createThroughout(t, mine, isPlain)
	for i := range 3 {
		member := fmt.Sprintf("another-etcd-%d", i)
		uid := another.pod(t, member).UID
		begin := time.Now()
		deletePod(t, name, member)
		_, err := cluster.AwaitPod(limit(t), name, member, "there again", func(pod *corev1.Pod) bool { return pod.UID != uid && rig.Ready(pod) })
		check(t, err)
		t.Logf("%s was deleted, and is ready again %.1f s later", member, time.Since(begin).Seconds())
	}
	before := another.serves(t)
	certificate()
	begin = time.Now()
	eventually(t, 4*time.Minute, "both replicas serve the new certificate", func(context.Context) error {
		now := another.serves(t)
		for pod, serial := range before {
			if now[pod] == serial {
				return fmt.Errorf("%s serves the old one", pod)
			}
		}
		return nil
	})
	t.Logf("the renewed certificate is served after %.1f s", time.Since(begin).Seconds())
	t.Logf("%d JobManagers were created meanwhile", created())
	record.only(t, "RUNNING Witnessed over=no attempt=1")

	// A plain container gets its SIGTERM together with Flink, and does not use the pod's time up.
	pod := r.jobManager(t).Name
	begin = time.Now()
	check(t, r.flink.Cancel(limit(t), r.job))
	eventually(t, time.Minute, "the JobManager is gone", func(ctx context.Context) error {
		_, err := cluster.Set.CoreV1().Pods(mine).Get(ctx, pod, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(err, errors.New("it is there"))
	})
	took := time.Since(begin)
	t.Logf("gone %.1f s after its job was canceled", took.Seconds())
	if took > 15*time.Second {
		t.Error("an agent kept the pod")
	}
	for _, v := range onlyKnown(t, another, r.jobs()) {
		if !slices.ContainsFunc([]string{"CANCELED Witnessed over=yes", "CANCELLING Held over=no", "RUNNING Held over=no", "UNKNOWN Inferred over=yes"}, func(may string) bool {
			return strings.HasPrefix(v.String(), may)
		}) {
			t.Errorf("a job that was canceled is shown as %s", v)
		}
	}
}

// isPlain says whether a pod has an agent as the last of its ordinary containers.
func isPlain(pod corev1.Pod) bool {
	all := pod.Spec.Containers
	return pod.Labels["holdfast.dev/injected"] == "true" && len(all) > 1 && all[len(all)-1].Name == "holdfast-agent" && len(pod.Spec.InitContainers) == 0
}

// onlyKnown are a cluster's jobs, once none of them is Witnessed and not over.
func onlyKnown(t *testing.T, s *site, jobs flinkJobs) (all []verdict) {
	t.Helper()
	eventually(t, concluded(), "nobody is asked any more", func(ctx context.Context) (err error) {
		all, err = s.jobs(ctx, jobs)
		if err == nil && len(all) == 0 {
			err = errors.New("there are none")
		}
		for _, v := range all {
			if v.Certainty == "Witnessed" && v.Over != "yes" {
				return fmt.Errorf("one is shown as %s", v)
			}
		}
		return err
	})
	return all
}

// givenCertificate makes the namespace of a release, and in it the Secret "given" with a certificate for its webhook. Renew replaces it by
// another of the same authority.
func givenCertificate(t *testing.T, s *site) (renew func()) {
	t.Helper()
	_, err := cluster.Set.CoreV1().Namespaces().Create(limit(t), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.namespace}}, metav1.CreateOptions{})
	check(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		if t.Failed() {
			t.Log(s.describe())
		}
		_, err := cluster.Run(ctx, "helm", "uninstall", s.release, "--namespace", s.namespace, "--ignore-not-found", "--wait")
		if err := errors.Join(err, cluster.RemoveNamespace(ctx, s.namespace)); err != nil {
			t.Error(err)
		}
	})
	authority, err := pki.NewAuthority("test", time.Now(), 24*time.Hour)
	check(t, err)
	secret := func() *corev1.Secret {
		pair, err := authority.Sign(pki.Request{
			Name: s.release, Hosts: []string{s.release + "-webhook." + s.namespace + ".svc"}, Server: true, Life: 12 * time.Hour,
		}, time.Now())
		check(t, err)
		cert, key, err := pki.EncodePair(pair)
		check(t, err)
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "given"}, Data: map[string][]byte{
			"tls.crt": cert, "tls.key": key, "ca.crt": pki.EncodeCertificates(authority.Certificate()),
		}}
	}
	secrets := cluster.Set.CoreV1().Secrets(s.namespace)
	_, err = secrets.Create(limit(t), secret(), metav1.CreateOptions{})
	check(t, err)
	return func() {
		_, err := secrets.Update(limit(t), secret(), metav1.UpdateOptions{})
		check(t, err)
	}
}

func (s *site) pod(t *testing.T, name string) *corev1.Pod {
	t.Helper()
	pod, err := cluster.Set.CoreV1().Pods(s.namespace).Get(limit(t), name, metav1.GetOptions{})
	check(t, err)
	return pod
}

// serves is the serial number of the certificate that each replica of the webhook shows.
func (s *site) serves(t *testing.T) map[string]string {
	t.Helper()
	pods, err := cluster.Set.CoreV1().Pods(s.namespace).List(limit(t), metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=webhook"})
	check(t, err)
	serials := map[string]string{}
	for _, pod := range pods.Items {
		forward, err := s.startForward(pod.Name, fmt.Sprint(webhookPort))
		check(t, err)
		<-forward.ready
		conn, err := tls.Dial("tcp", "127.0.0.1:"+forward.port, &tls.Config{InsecureSkipVerify: true}) // it is only looked at
		check(t, err)
		serials[pod.Name] = conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
		conn.Close()
		forward.end()
	}
	if len(serials) != 2 {
		t.Fatalf("there are %d replicas of the webhook, want two", len(serials))
	}
	return serials
}

// mayOnly fails the test if the webhook may read pods anywhere but in its namespace, or any Secret.
func (s *site) mayOnly(t *testing.T, namespace string) {
	t.Helper()
	as := "system:serviceaccount:" + s.namespace + ":" + s.release + "-webhook"
	for _, c := range []struct {
		what, where string
		may         bool
	}{{"pods", namespace, true}, {"pods", "default", false}, {"pods", home, false}, {"secrets", namespace, false}, {"secrets", s.namespace, false}} {
		review, err := cluster.Set.AuthorizationV1().SubjectAccessReviews().Create(limit(t), &authorizationv1.SubjectAccessReview{
			Spec: authorizationv1.SubjectAccessReviewSpec{
				User: as, ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "list", Resource: c.what, Namespace: c.where},
			},
		}, metav1.CreateOptions{})
		check(t, err)
		if may := review.Status.Allowed; may != c.may {
			t.Errorf("that the webhook may list %s in %s is %t", c.what, c.where, may)
		}
	}
}
