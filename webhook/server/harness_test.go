package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/holdfast-dev/holdfast/pki"
	"github.com/holdfast-dev/holdfast/webhook"
	"github.com/holdfast-dev/holdfast/webhook/breaker"
	"github.com/holdfast-dev/holdfast/webhook/certs"
)

const host = "holdfast-webhook.holdfast.svc"

// fixed is a certificate that never changes.
type fixed struct {
	pair *tls.Certificate
	wait time.Duration
}

func (f *fixed) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	time.Sleep(f.wait)
	return f.pair, nil
}
func (f *fixed) Ready() error       { return nil }
func (f *fixed) Facts() certs.Facts { return certs.Facts{LeafExpires: f.pair.Leaf.NotAfter} }

// switchable is a breaker that a test sets.
type switchable struct {
	mu     sync.Mutex
	answer breaker.Answer
	claims []bool
}

func (b *switchable) Ask(claim bool) breaker.Answer {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.claims = append(b.claims, claim)
	return b.answer
}

// output is what is logged.
type output struct {
	mu   sync.Mutex
	text strings.Builder
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

// rig is a server that serves on loopback.
type rig struct {
	t        testing.TB
	server   *Server
	registry *prometheus.Registry
	breaker  *switchable
	log      *output
	address  string
	roots    *x509.CertPool
	client   *http.Client
	closed   atomic.Bool
}

// settings are those of a site.
func settings() webhook.Settings {
	s := webhook.Defaults()
	s.Archive = webhook.ArchiveAuto
	s.Image, s.Version, s.SiteUID = "holdfast:1", "1.0.0", "4f9d1c1e-0000-4000-8000-000000000000"
	s.EtcdEndpoints = []string{"https://holdfast-etcd.holdfast.svc:2379"}
	return s
}

// serving starts a server; edit may change its options.
func serving(t testing.TB, edit ...func(*Options)) *rig {
	t.Helper()
	authority, err := pki.NewAuthority("test", time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := authority.Sign(pki.Request{Name: host, Hosts: []string{host}, Server: true, Life: time.Hour}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{
		t: t, registry: prometheus.NewPedanticRegistry(), breaker: &switchable{answer: breaker.Answer{Inject: true, Known: true}},
		log: &output{}, roots: x509.NewCertPool(),
	}
	r.roots.AddCert(authority.Certificate())
	o := Options{
		Certificates: &fixed{pair: pair}, Breaker: r.breaker, Registry: r.registry, Version: "1.0.0",
		Log: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, e := range edit {
		e(&o)
	}
	if r.server, err = New(o); err != nil {
		t.Fatal(err)
	}
	r.server.Set(settings())
	ln, err := Listen("127.0.0.1:0", "--listen")
	if err != nil {
		t.Fatal(err)
	}
	r.address = ln.Addr().String()
	served := make(chan error, 1)
	go func() { served <- r.server.Serve(ln) }()
	t.Cleanup(func() {
		r.close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	r.client = r.newClient()
	return r
}

func (r *rig) close() {
	if r.closed.Swap(true) {
		return
	}
	r.client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := r.server.Close(ctx); err != nil {
		r.t.Error(err)
	}
}

// newClient is one as the API server has: HTTP/1.1, since the server speaks nothing else, and 25 idle connections at most.
func (r *rig) newClient() *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: r.roots, ServerName: host}, MaxIdleConnsPerHost: 25, ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, r.address)
		},
	}}
}

// post sends a body to the webhook.
func (r *rig) post(body []byte) (int, []byte) {
	r.t.Helper()
	resp, err := r.client.Post("https://"+host+":443/mutate?timeout=5s", "application/json", bytes.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, text
}

// review sends a request, and gives the response. Whatever can be read must be allowed.
func (r *rig) review(request *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	r.t.Helper()
	code, text := r.post(reviewOf(r.t, request))
	if code != http.StatusOK {
		r.t.Fatalf("status %d: %s", code, text)
	}
	var review admissionv1.AdmissionReview
	if err := json.Unmarshal(text, &review); err != nil {
		r.t.Fatalf("%v in %s", err, text)
	}
	answer := review.Response
	if review.APIVersion != "admission.k8s.io/v1" || review.Kind != "AdmissionReview" || review.Request != nil || answer == nil {
		r.t.Fatalf("not a review's answer: %s", text)
	}
	if !answer.Allowed || answer.UID != request.UID || answer.Result != nil {
		r.t.Fatalf("allowed %t, uid %q, result %v: %s", answer.Allowed, answer.UID, answer.Result, text)
	}
	if (len(answer.Patch) > 0) != (answer.PatchType != nil) || answer.PatchType != nil && *answer.PatchType != "JSONPatch" {
		r.t.Fatalf("patch type %v of a patch of %d bytes", answer.PatchType, len(answer.Patch))
	}
	return answer
}

func reviewOf(t testing.TB, request *admissionv1.AdmissionRequest) []byte {
	t.Helper()
	text, err := json.Marshal(&admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"}, Request: request,
	})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// creation is the request for creating a pod of ../testdata/pods.
func creation(t testing.TB, name string) *admissionv1.AdmissionRequest {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "testdata", "pods", name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	// Some files say in a first document what holds of the installation.
	documents := strings.Split(string(text), "\n---\n")
	pod, err := yaml.YAMLToJSON([]byte(documents[len(documents)-1]))
	if err != nil {
		t.Fatal(err)
	}
	return &admissionv1.AdmissionRequest{
		UID:       types.UID(fmt.Sprintf("705ab4f5-6393-11e8-b7cc-%012d", serial.Add(1))),
		Kind:      metav1.GroupVersionKind{Version: "v1", Kind: "Pod"},
		Resource:  metav1.GroupVersionResource{Version: "v1", Resource: "pods"},
		Operation: admissionv1.Create, Namespace: "team-a", Object: runtime.RawExtension{Raw: pod},
	}
}

var serial atomic.Int64

const application = "native-application-2.3"

// counted gives a counter's or a gauge's value, by its labels' values in the order of their names.
func (r *rig) counted(name string, labels ...string) float64 {
	r.t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "holdfast_webhook_"+name {
			continue
		}
		for _, m := range f.Metric {
			var have []string
			for _, l := range m.Label {
				have = append(have, l.GetValue())
			}
			if strings.Join(have, " ") == strings.Join(labels, " ") {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return 0
}

// eventually waits until something holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}
