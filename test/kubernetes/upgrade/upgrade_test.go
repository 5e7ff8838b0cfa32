//go:build kubernetes

package upgrade

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/holdfast-dev/holdfast/test/kubernetes/node"
)

const (
	chart     = "../../../charts/holdfast"
	tools     = "../node/build/tools/go.mod"
	namespace = "holdfast"
)

// site is an API server, with those who speak to it.
type site struct {
	t      *testing.T
	server *node.APIServer
	client kubernetes.Interface
}

// start starts an API server for a test.
func start(t *testing.T) *site {
	t.Helper()
	server, err := node.StartAPIServer(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	config, err := clientcmd.BuildConfigFromFlags("", server.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return &site{t: t, server: server, client: client}
}

// run runs a program and gives what it printed on standard output.
func (s *site) run(input, program string, args ...string) string {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), program, args...)
	home := s.t.TempDir()
	cmd.Env = append(os.Environ(), "KUBECONFIG="+s.server.Kubeconfig(),
		"HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	cmd.Stdin = bytes.NewReader([]byte(input))
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("%s %v: %v\n%s%s", filepath.Base(program), args, err, out, &errs)
	}
	return string(out)
}

// helm runs helm of the version that the node's tools name.
func (s *site) helm(args ...string) string {
	s.t.Helper()
	return s.run("", "go", append([]string{"tool", "-modfile", tools, "helm", "--namespace", namespace}, args...)...)
}

func (s *site) kubectl(input string, args ...string) string {
	s.t.Helper()
	return s.run(input, s.server.Program("kubectl"), args...)
}

// bundle is some certificate: the API server takes nothing else for a caBundle.
var bundle = []byte(`-----BEGIN CERTIFICATE-----
MIIBbTCCAROgAwIBAgIUJYM/Q2K9r7RQVnINDJ7Avga9M4kwCgYIKoZIzj0EAwIw
DDEKMAgGA1UEAwwBeDAeFw0yNjExMjMwNDEzMDBaFw0yNjEyMjMwNDEzMDBaMAwx
CjAIBgNVBAMMAXgwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARenN92dh9zjEIe
G8aGOUxK+lypHXGFhSxiA/FyQvvZKub4dEqEVfb7NsGtjlD6nn0u5dbePlqRNciv
XlakPxfGo1MwUTAdBgNVHQ4EFgQUPEuCPmBNiLD/Kagst4v5ihPayt8wHwYDVR0j
BBgwFoAUPEuCPmBNiLD/Kagst4v5ihPayt8wDwYDVR0TAQH/BAUwAwEB/zAKBggq
hkjOPQQDAgNIADBFAiEAzzGQKuoxnjHCsGDJU6pEchRUvB0SUwDEROmo8mdIl74C
IAmsCbVAov/jpGUsAjnO1NtqXme2qvdV7hVOX6ptn77t
-----END CERTIFICATE-----
`)

// written is what the programs wrote.
type written struct {
	Secrets    map[string]map[string][]byte
	ConfigMaps map[string]map[string]string
	CABundles  [][]byte
}

var (
	secrets    = []string{"holdfast-webhook-ca", "holdfast-etcd-ca"}
	configMaps = []string{"holdfast-site", "holdfast-etcd-ca"}
)

// write writes as the programs do: Secrets by update, ConfigMaps by merge patch, caBundles by JSON patch.
func (s *site) write(ctx context.Context) written {
	s.t.Helper()
	for _, name := range secrets {
		secret, err := s.client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
		if err == nil {
			secret.Data = map[string][]byte{"ca.crt": []byte("certificate of " + name), "ca.key": []byte("key of " + name)}
			_, err = s.client.CoreV1().Secrets(namespace).Update(ctx, secret, metav1.UpdateOptions{FieldManager: "holdfast"})
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
	for _, name := range configMaps {
		patch := []byte(`{"data":{"key":"of ` + name + `"}}`)
		if _, err := s.client.CoreV1().ConfigMaps(namespace).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			s.t.Fatal(err)
		}
	}
	var operations []map[string]any
	for _, path := range []string{"/webhooks/0", "/webhooks/1", "/webhooks/2"} {
		operations = append(operations, map[string]any{"op": "add", "path": path + "/clientConfig/caBundle", "value": bundle})
	}
	patch, err := json.Marshal(operations)
	if err == nil {
		_, err = s.client.AdmissionregistrationV1().MutatingWebhookConfigurations().Patch(ctx, "holdfast", types.JSONPatchType, patch,
			metav1.PatchOptions{FieldManager: "holdfast-webhook"})
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return s.read(ctx)
}

func (s *site) read(ctx context.Context) written {
	s.t.Helper()
	w := written{Secrets: map[string]map[string][]byte{}, ConfigMaps: map[string]map[string]string{}}
	for _, name := range secrets {
		secret, err := s.client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			s.t.Fatal(err)
		}
		w.Secrets[name] = secret.Data
	}
	for _, name := range configMaps {
		m, err := s.client.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			s.t.Fatal(err)
		}
		w.ConfigMaps[name] = m.Data
	}
	c, err := s.client.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(ctx, "holdfast", metav1.GetOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, webhook := range c.Webhooks {
		w.CABundles = append(w.CABundles, webhook.ClientConfig.CABundle)
	}
	return w
}

// stands holds that what was written still stands, and that the upgrade did happen.
func (s *site) stands(after string, want written, replicas int32) {
	s.t.Helper()
	if len(want.CABundles) != 3 || len(want.CABundles[0]) == 0 {
		s.t.Fatalf("nothing was written: %+v", want)
	}
	if diff := cmp.Diff(want, s.read(s.t.Context())); diff != "" {
		s.t.Errorf("after %s: -written +now\n%s", after, diff)
	}
	d, err := s.client.AppsV1().Deployments(namespace).Get(s.t.Context(), "holdfast-aggregator", metav1.GetOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	if *d.Spec.Replicas != replicas {
		s.t.Errorf("after %s: %d replicas, want %d", after, *d.Spec.Replicas, replicas)
	}
}

func TestUpgradesTakeNothingAway(t *testing.T) {
	s := start(t)
	s.helm("install", "holdfast", chart, "--create-namespace")
	w := s.write(t.Context())
	s.helm("upgrade", "holdfast", chart, "--set", "aggregator.replicas=3", "--set", "webhook.objectSelector.matchLabels.team=a")
	s.stands("an upgrade by server-side apply", w, 3)
	s.helm("upgrade", "holdfast", chart, "--server-side=false", "--set", "aggregator.replicas=4")
	s.stands("an upgrade by three-way merge", w, 4)
	s.helm("upgrade", "holdfast", chart, "--server-side=true", "--set", "aggregator.replicas=5")
	s.stands("a change back to server-side apply", w, 5)
	s.helm("rollback", "holdfast", "1")
	s.stands("a rollback", w, 2)

	// What agents in running pods trust outlives an uninstallation.
	s.helm("uninstall", "holdfast")
	s.helm("install", "holdfast", chart)
	now := s.read(t.Context())
	if diff := cmp.Diff(w.Secrets["holdfast-etcd-ca"], now.Secrets["holdfast-etcd-ca"]); diff != "" {
		t.Errorf("etcd's authority after an uninstallation: -written +now\n%s", diff)
	}
	if diff := cmp.Diff(w.ConfigMaps["holdfast-etcd-ca"], now.ConfigMaps["holdfast-etcd-ca"]); diff != "" {
		t.Errorf("its public part after an uninstallation: -written +now\n%s", diff)
	}
	if len(now.Secrets["holdfast-webhook-ca"]) > 0 {
		t.Error("the webhook's authority outlives an uninstallation: nobody needs it")
	}
}

func TestWithoutHelm(t *testing.T) {
	for name, apply := range map[string][]string{"client-side": {"apply", "-f", "-"}, "server-side": {"apply", "--server-side", "-f", "-"}} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			s.kubectl("", "create", "namespace", namespace)
			s.kubectl(s.helm("template", "holdfast", chart, "--skip-tests"), apply...)
			w := s.write(t.Context())
			next := s.helm("template", "holdfast", chart, "--skip-tests", "--set", "aggregator.replicas=3")
			s.kubectl(next, apply...)
			s.stands("another kubectl apply", w, 3)
			// kubectl diff ends with 1 where there is a difference.
			s.kubectl(next, append([]string{"diff"}, apply[1:]...)...)
		})
	}
}

// Values by which the chart renders other fields than by default: the API server has the last word on them.
func TestTheAPIServerTakesWhatIsRendered(t *testing.T) {
	s := start(t)
	for _, name := range []string{namespace, "team-a", "team-b"} {
		s.kubectl("", "create", "namespace", name)
	}
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca.crt")
	if err := os.WriteFile(ca, bundle, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, values := range [][]string{
		nil,
		{"--set", "webhook.enabled=false,agent.prepull.enabled=true,commonLabels.team=data"},
		{"--set", "etcd.replicas=3,etcd.persistence.enabled=false,etcd.podSecurityContext.fsGroup=null"},
		{"--set", "etcd.mode=external,etcd.endpoints={https://etcd.example:2379}", "--set-file", "etcd.tls.ca=" + ca},
		{"--set", "etcd.mode=external,etcd.endpoints={https://etcd.example},etcd.tls.caSecret=a,etcd.tls.clientSecret=b"},
		{"--set", "rbac.scope=namespaces,rbac.namespaces={team-a,team-b},endings.readConfigMaps=true"},
		{"--set", "webhook.certificates.mode=secret,webhook.certificates.secretName=a,webhook.hostNetwork=true,webhook.port=9443"},
		{"--set", "networkPolicy.flinkNamespaces={team-a},networkPolicy.apiServer.cidrs={10.0.0.1/32},image.pullPolicy=Always"},
	} {
		text := s.helm(append([]string{"template", "holdfast", chart, "--skip-tests"}, values...)...)
		s.kubectl(text, "apply", "--server-side", "--dry-run=server", "-f", "-")
	}
}
