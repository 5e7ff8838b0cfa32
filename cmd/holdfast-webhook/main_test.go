package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	apiversion "k8s.io/apimachinery/pkg/version"
	fakediscovery "k8s.io/client-go/discovery/fake"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/holdfast-dev/holdfast/pki"
	"github.com/holdfast-dev/holdfast/webhook"
)

// asProgram makes the test's own binary be the program.
const asProgram = "HOLDFAST_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

// output is what a program writes while somebody reads it.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// fine are flags with which all is well.
func fine(more ...string) []string {
	return append([]string{
		"--namespace", "holdfast", "--service", "holdfast-webhook", "--configuration", "holdfast", "--ca-secret", "ca",
		"--agent-image", "holdfast:1", "--etcd-endpoints", "https://holdfast-etcd.holdfast.svc:2379",
	}, more...)
}

// execute runs the program within a cluster.
func execute(ctx context.Context, client kubernetes.Interface, errs io.Writer, env map[string]string, args ...string) int {
	p := &program{
		out: &output{}, err: errs, lookup: func(name string) (string, bool) { v, found := env[name]; return v, found },
		connect:   func(string) (kubernetes.Interface, error) { return client, nil },
		libraries: func(*slog.Logger) {},
	}
	return p.run(ctx, args)
}

func TestWrongFlags(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing.pem")
	files := []string{
		"--namespace", "holdfast", "--service", "holdfast-webhook", "--configuration", "holdfast", "--agent-image", "holdfast:1",
		"--etcd-endpoints", "http://etcd:2379", "--tls-cert", "a", "--tls-key", "b",
	}
	for _, c := range []struct {
		args []string
		env  map[string]string
		want []string
	}{
		{nil, nil, []string{
			"--namespace is missing", "--service is missing", "--configuration is missing", "there is no certificate: give --ca-secret",
			`the agent's image ""`, "there is no address of etcd",
		}},
		{fine("--namespace", "Hold_fast"), nil, []string{`--namespace "Hold_fast" cannot be a name in Kubernetes`}},
		{fine("--namespaces", "a,b/c"), nil, []string{`--namespaces: "b/c" cannot be a namespace`}},
		{fine("--tls-cert", "x"), nil, []string{"--ca-secret and --tls-cert exclude one another"}},
		{fine("--ca-file", "x"), nil, []string{"--ca-file goes with --tls-cert"}},
		{fine("--manage-ca-bundle=false"), nil, []string{"--manage-ca-bundle=false goes with --tls-cert"}},
		{files, nil, []string{"--ca-file is missing: the configuration's caBundle is made of it"}},
		{append(files, "--ca-file", "c", "--manage-ca-bundle=false"), nil,
			[]string{"--ca-file and --manage-ca-bundle=false exclude one another"}},
		{append(files, "--tls-key", ""), nil, []string{"--tls-cert and --tls-key go together"}},
		{fine("--etcd-ca", missing), nil, []string{"--etcd-ca: open " + missing}},
		{fine("--archive", "maybe"), nil, []string{"maybe"}},
		{fine("--agent-mode", "native"), nil, []string{`the agent's mode "native" is neither auto nor plain`}},
		{fine("--agent-memory-limit", "much"), nil, []string{"much"}},
		{fine("--agent-pull-policy", "Sometimes"), nil, []string{"Sometimes"}},
		{fine("--breaker-pause", "1ms"), nil, []string{"--breaker-pause 1ms is shorter than a second"}},
		{fine("--shutdown-delay", "-1s"), nil, []string{"--shutdown-delay -1s is negative"}},
		{fine("--log-level", "loud"), nil, []string{`--log-level "loud" does not exist`}},
		{fine(), map[string]string{"HOLDFAST_BREAKER_PAUSE": "x"}, []string{`HOLDFAST_BREAKER_PAUSE="x" is not a duration`}},
		{fine("serve"), nil, []string{`unknown command "serve"`}},
	} {
		var errs output
		if code := execute(t.Context(), fake.NewClientset(), &errs, c.env, c.args...); code != 2 {
			t.Errorf("%v: exit code %d, want 2", c.args, code)
		}
		for _, want := range c.want {
			if !strings.Contains(errs.String(), want) {
				t.Errorf("%v: no %q in\n%s", c.args, want, &errs)
			}
		}
	}
}

func TestOutsideOfACluster(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	var errs output
	p := &program{out: &errs, err: &errs, lookup: func(string) (string, bool) { return "", false }, connect: connect,
		libraries: func(*slog.Logger) {}}
	if code := p.run(t.Context(), fine()); code != 2 || !strings.Contains(errs.String(),
		"this is not a pod of a Kubernetes cluster: give --kubeconfig") {
		t.Errorf("exit code %d:\n%s", code, &errs)
	}
}

func TestAddressesThatAreTaken(t *testing.T) {
	taken, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{}}})
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, flag := range []string{"--listen", "--metrics-listen"} {
		var errs output
		args := fine("--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", flag, taken.Addr().String())
		if code := execute(t.Context(), cluster("v1.34.0"), &errs, nil, args...); code != 1 ||
			!strings.Contains(errs.String(), "choose another address with "+flag) {
			t.Errorf("%s: exit code %d:\n%s", flag, code, &errs)
		}
	}
}

// cluster is a Kubernetes with what the chart renders.
func cluster(gitVersion string, more ...runtime.Object) *fake.Clientset {
	client := fake.NewClientset(append(more,
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-system", UID: "cluster-1"}},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "holdfast", Name: "ca", ResourceVersion: "1"}},
		&admissionregistrationv1.MutatingWebhookConfiguration{
			ObjectMeta: metav1.ObjectMeta{Name: "holdfast", ResourceVersion: "1"},
			Webhooks:   []admissionregistrationv1.MutatingWebhook{{Name: "inject.holdfast.dev"}},
		},
	)...)
	client.Discovery().(*fakediscovery.FakeDiscovery).FakedServerVersion = &apiversion.Info{GitVersion: gitVersion}
	return client
}

// authority is a certificate as holdfast-etcd keeps it.
func authority(t *testing.T) *corev1.ConfigMap {
	t.Helper()
	a, err := pki.NewAuthority("etcd", time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "holdfast", Name: "etcd-ca"},
		Data:       map[string]string{"ca.crt": string(pki.EncodeCertificates(a.Certificate()))},
	}
}

// replica is the program while it runs.
type replica struct {
	t               *testing.T
	errs            output
	stop            context.CancelFunc
	ended           chan int
	reviews, health string
}

func start(t *testing.T, client kubernetes.Interface, args ...string) *replica {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	r := &replica{t: t, stop: stop, ended: make(chan int, 1)}
	go func() {
		r.ended <- execute(ctx, client, &r.errs, nil, fine(append([]string{"--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"},
			args...)...)...)
	}()
	r.await("it serves", func() bool {
		lines := bufio.NewScanner(strings.NewReader(r.errs.String()))
		for lines.Scan() {
			if _, err := fmt.Sscanf(after(lines.Text(), "msg=serving "), "address=%s health=%s", &r.reviews, &r.health); err == nil {
				return true
			}
		}
		return false
	})
	return r
}

func after(text, mark string) string {
	_, rest, _ := strings.Cut(text, mark)
	return rest
}

func (r *replica) await(what string, holds func() bool) {
	r.t.Helper()
	for end := time.Now().Add(30 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("not within 30 s: %s; it said\n%s", what, &r.errs)
		}
	}
}

// get asks the plain side.
func (r *replica) get(path string) (int, string) {
	resp, err := http.Get("http://" + r.health + path)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text)
}

func (r *replica) ready() bool { code, _ := r.get("/readyz"); return code == 200 }

// review sends a JobManager's pod, and gives the answer; the certificate must be one that the live caBundle leads to.
func (r *replica) review(client kubernetes.Interface) (string, error) {
	r.t.Helper()
	configuration, err := client.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(r.t.Context(), "holdfast", metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(configuration.Webhooks[0].ClientConfig.CABundle) {
		return "", errors.New("the caBundle is empty")
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "holdfast-webhook.holdfast.svc"}}
	defer transport.CloseIdleConnections()
	body := `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u1","resource":{"group":"","version":"v1",
		"resource":"pods"},"operation":"CREATE","namespace":"team-a","object":{"apiVersion":"v1","kind":"Pod","metadata":{
		"generateName":"orders-","labels":
		{"app":"orders","component":"jobmanager","type":"flink-native-kubernetes"},"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet",
		"name":"orders-6b8f6c7d9c","uid":"u2","controller":true}]},"spec":{"containers":[{"name":"flink-main-container","image":"flink:2.3",
		"args":["bash","-c","kubernetes-jobmanager.sh kubernetes-session"],"ports":[{"name":"rest","containerPort":8081}]}]}}}}`
	resp, err := (&http.Client{Transport: transport, Timeout: 10 * time.Second}).Post("https://"+r.reviews+"/mutate", "application/json",
		strings.NewReader(body))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

func (r *replica) ends(want int) {
	r.t.Helper()
	select {
	case code := <-r.ended:
		if code != want {
			r.t.Errorf("exit code %d, want %d; it said\n%s", code, want, &r.errs)
		}
	case <-time.After(30 * time.Second):
		r.t.Fatalf("it does not end; it said\n%s", &r.errs)
	}
}

func TestFromStartToEnd(t *testing.T) {
	client := cluster("v1.34.2")
	r := start(t, client, "--etcd-ca-configmap", "etcd-ca", "--shutdown-delay", "1s", "--pod-name", "one")

	// Live, and not ready: etcd's first member has not made its authority yet.
	r.await("it says what it waits for", func() bool {
		code, text := r.get("/readyz?verbose")
		return code == 503 && strings.Contains(text, "[+]certificate ok\n") &&
			strings.Contains(text,
				"[-]settings failed: waiting for key ca.crt of ConfigMap holdfast/etcd-ca, which holdfast-etcd writes: it is not there yet")
	})
	if code, _ := r.get("/livez"); code != 200 {
		t.Errorf("livez: %d", code)
	}
	if answer, err := r.review(client); err != nil || !strings.Contains(answer, `"allowed":true`) ||
		!strings.Contains(answer, `"reason":"Starting"`) {
		t.Errorf("while it waits: %s, %v", answer, err)
	}
	ca := authority(t)
	if _, err := client.CoreV1().ConfigMaps("holdfast").Create(t.Context(), ca, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	r.await("it is ready", r.ready)
	answer, err := r.review(client)
	if err != nil || !strings.Contains(answer, `"reason":"JobManager"`) || !strings.Contains(answer, `"mode":"native"`) {
		t.Errorf("when it is ready: %s, %v", answer, err)
	}
	for _, want := range []string{`msg=waiting for="key ca.crt of ConfigMap holdfast/etcd-ca`,
		`msg="settings are complete" site=default uid=cluster-1 native-sidecars=true`, "msg=decided decision=inject"} {
		if n := strings.Count(r.errs.String(), want); n != 1 {
			t.Errorf("logged %d times: %s\n%s", n, want, &r.errs)
		}
	}
	if code, text := r.get("/readyz?verbose"); code != 200 || !strings.Contains(text, "[ ]breaker: closed\n") {
		t.Errorf("%d, %s", code, text)
	}
	_, text := r.get("/metrics")
	for _, want := range []string{
		`holdfast_webhook_decisions_total{decision="inject",reason="JobManager"} 1`, `holdfast_webhook_breaker_state{state="closed"} 1`,
		"holdfast_webhook_certificate_trusted 1", `holdfast_webhook_build_info{version="`, "holdfast_webhook_request_duration_seconds_bucket",
		"holdfast_webhook_stuck_pods 0", "holdfast_webhook_requests_in_flight 0",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the metrics have no %s", want)
		}
	}

	// Not ready any more at once, and serving on, until nobody sends anything.
	told := time.Now()
	r.stop()
	r.await("it says that it leaves", func() bool {
		code, text := r.get("/readyz?verbose")
		return code == 503 && strings.Contains(text, "[-]shutdown failed: this replica was told to end")
	})
	if answer, err := r.review(client); err != nil || !strings.Contains(answer, `"reason":"JobManager"`) {
		t.Errorf("while it leaves: %s, %v", answer, err)
	}
	r.ends(0)
	if took := time.Since(told); took < time.Second {
		t.Errorf("it ended after %s", took)
	}
}

func TestBeforeNativeSidecars(t *testing.T) {
	client := cluster("v1.28.15")
	r := start(t, client, "--site-uid", "given", "--shutdown-delay", "0s")
	r.await("it is ready", r.ready)
	if answer, err := r.review(client); err != nil || !strings.Contains(answer, `"mode":"plain"`) {
		t.Errorf("%s, %v", answer, err)
	}
	if !strings.Contains(r.errs.String(), "uid=given native-sidecars=false") {
		t.Errorf("it said\n%s", &r.errs)
	}
	r.stop()
	r.ends(0)
}

// A given certificate, whose authority the webhook publishes.
func TestGivenCertificate(t *testing.T) {
	dir := t.TempDir()
	a, err := pki.NewAuthority("given", time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := a.Sign(pki.Request{Name: "webhook", Hosts: []string{"holdfast-webhook.holdfast.svc"}, Server: true, Life: time.Hour},
		time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := pki.EncodePair(pair)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"tls.crt": cert, "tls.key": key, "ca.crt": pki.EncodeCertificates(a.Certificate())} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	client := cluster("v1.34.2")
	r := start(t, client, "--ca-secret", "", "--tls-cert", dir+"/tls.crt", "--tls-key", dir+"/tls.key", "--ca-file", dir+"/ca.crt",
		"--shutdown-delay", "0s")
	r.await("it is ready", r.ready)
	if answer, err := r.review(client); err != nil || !strings.Contains(answer, `"reason":"JobManager"`) {
		t.Errorf("%s, %v", answer, err)
	}
	r.stop()
	r.ends(0)
}

// What was learnt is asked for again: API servers are upgraded, and authorities replaced. What cannot be asked for stays.
func TestLearnsAgain(t *testing.T) {
	first, second := authority(t), authority(t)
	synctest.Test(t, func(t *testing.T) {
		client := cluster("v1.28.15", first)
		var silent, upgraded atomic.Bool
		client.PrependReactor("*", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
			if upgraded.Load() {
				client.Discovery().(*fakediscovery.FakeDiscovery).FakedServerVersion = &apiversion.Info{GitVersion: "v1.29.0"}
			}
			return silent.Load(), nil, errors.New("no answer")
		})
		o := options{namespace: "holdfast", etcdCAConfigMap: "etcd-ca", settings: webhook.Defaults()}
		o.settings.Image, o.settings.EtcdEndpoints = "holdfast:1", []string{"https://etcd:2379"}
		silent.Store(true)
		l := newLearner(o, client, slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(t.Context())
		var got []webhook.Settings
		done := make(chan struct{})
		go func() {
			defer close(done)
			l.run(ctx, func(s webhook.Settings) { got = append(got, s) })
		}()
		expect := func(what string, n int) {
			t.Helper()
			synctest.Wait()
			if len(got) != n {
				t.Fatalf("%s: settings were set %d times, want %d", what, len(got), n)
			}
		}
		time.Sleep(time.Minute)
		expect("while the API server is silent", 0)
		if err := l.missing(); err == nil || !strings.Contains(err.Error(), "waiting for the uid of namespace kube-system: ") ||
			!strings.Contains(err.Error(), "no answer") {
			t.Errorf("missing is %v", err)
		}
		silent.Store(false)
		time.Sleep(5 * time.Second)
		expect("when it answers", 1)
		if err := l.missing(); err != nil {
			t.Errorf("missing is %v", err)
		}
		if diff := cmp.Diff([]any{"cluster-1", first.Data["ca.crt"], false},
			[]any{got[0].SiteUID, got[0].EtcdCA, got[0].NativeSidecars}); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
		time.Sleep(time.Hour)
		expect("as long as nothing changes", 1)
		upgraded.Store(true)
		time.Sleep(learnAgain)
		expect("after an upgrade", 2)
		if !got[1].NativeSidecars {
			t.Error("native sidecars are not used after an upgrade")
		}
		if _, err := client.CoreV1().ConfigMaps("holdfast").Update(ctx, second, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(learnAgain)
		expect("after another authority came", 3)
		if got[2].EtcdCA != second.Data["ca.crt"] {
			t.Error("the new authority is not used")
		}
		second.Data["ca.crt"] = "half a certificate"
		if _, err := client.CoreV1().ConfigMaps("holdfast").Update(ctx, second, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(learnAgain)
		expect("with one that nobody can use", 3)
		silent.Store(true)
		time.Sleep(time.Hour)
		expect("while the API server is silent again", 3)
		if err := l.missing(); err != nil {
			t.Errorf("missing is %v", err)
		}
		stop()
		<-done
	})
}

// etcd's authority may be mounted, and not be there yet.
func TestAuthorityInAFile(t *testing.T) {
	ca := authority(t)
	file := filepath.Join(t.TempDir(), "ca.crt")
	o := options{namespace: "holdfast", etcdCA: file, etcdCAConfigMap: "etcd-ca", settings: webhook.Defaults()}
	o.settings.Image, o.settings.EtcdEndpoints = "holdfast:1", []string{"https://etcd:2379"}
	l := newLearner(o, cluster("v1.34.0"), slog.New(slog.DiscardHandler))
	if pem, err := l.askAuthority(t.Context()); err != nil || pem != "" {
		t.Errorf("of nowhere: %q, %v", pem, err)
	}
	if err := os.WriteFile(file, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := l.askAuthority(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("of nonsense: %v", err)
	}
	if err := os.WriteFile(file, []byte(ca.Data["ca.crt"]), 0o600); err != nil {
		t.Fatal(err)
	}
	if pem, err := l.askAuthority(t.Context()); err != nil || pem != strings.TrimSpace(ca.Data["ca.crt"]) {
		t.Errorf("of the file: %q, %v", pem, err)
	}
}

// The program itself, with an API server that nobody answers for: it lives, leaves slowly at the first signal, and ends at once at the
// second.
func TestSignals(t *testing.T) {
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	text := `{"apiVersion":"v1","kind":"Config","current-context":"c","contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}],
		"users":[{"name":"u","user":{}}],"clusters":[{"name":"c","cluster":{"server":"http://127.0.0.1:1"}}]}`
	if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], fine("--kubeconfig", kubeconfig, "--shutdown-delay", "1h", "--listen", "127.0.0.1:0",
		"--metrics-listen", "127.0.0.1:0")...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	r := &replica{t: t}
	cmd.Stderr = &r.errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer cmd.Process.Kill()
	r.await("it waits for the API server", func() bool {
		return strings.Contains(r.errs.String(), `msg=waiting for="the uid of namespace kube-system"`)
	})
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	r.await("it says that it ends", func() bool { return strings.Contains(r.errs.String(), "ending: not ready any more") })
	select {
	case err := <-ended:
		t.Fatalf("ended at the first signal: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("it does not end at the second signal")
	}
	for line := range strings.Lines(r.errs.String()) {
		if !strings.HasPrefix(line, "time=") {
			t.Errorf("logged in another form: %s", line)
		}
	}
}
