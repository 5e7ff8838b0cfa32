package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	heap "runtime/metrics"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/holdfast-dev/holdfast/pki"
	"github.com/holdfast-dev/holdfast/webhook"
	"github.com/holdfast-dev/holdfast/webhook/certs"
)

func TestOptionsAreComplete(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("a server of nothing was made")
	}
	o := Options{Certificates: &fixed{}, Breaker: &switchable{}, Registry: prometheus.NewRegistry()}
	if _, err := New(o); err != nil {
		t.Fatal(err)
	}
	if _, err := New(o); err == nil {
		t.Error("the metrics were registered twice")
	}
}

func TestListenSaysWhatIsWrong(t *testing.T) {
	taken, err := Listen("127.0.0.1:0", "--listen")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for address, want := range map[string]string{
		taken.Addr().String(): "another program already listens on " + taken.Addr().String() +
			": stop it, or choose another address with --listen",
		"nowhere": `listen on "nowhere", which must look like :10250 or 127.0.0.1:10250`,
	} {
		if _, err := Listen(address, "--listen"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", address, err, want)
		}
	}
}

// HTTP/2 would put all of an API server's reviews on one connection, to one replica, and is not spoken.
func TestSpeaksNoHTTP2(t *testing.T) {
	r := serving(t)
	conn, err := tls.Dial("tcp", r.address, &tls.Config{RootCAs: r.roots, ServerName: host, NextProtos: []string{"h2", "http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := conn.ConnectionState().NegotiatedProtocol; got != "http/1.1" {
		t.Errorf("spoken is %q", got)
	}
	if _, err := tls.Dial("tcp", r.address, &tls.Config{RootCAs: r.roots, ServerName: host, MaxVersion: tls.VersionTLS11}); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
}

// A replica that leaves answers on, and gives its connections up one by one.
func TestLeavesInOrder(t *testing.T) {
	r := serving(t)
	review := withLength(string(reviewOf(t, creation(t, application))))
	conn := r.dial(t)
	conn.send(review)
	if resp, _ := conn.answer(); resp.StatusCode != 200 || resp.Close {
		t.Fatalf("status %d, closes %t", resp.StatusCode, resp.Close)
	}
	r.server.Leave()
	conn.send(review)
	if resp, text := conn.answer(); resp.StatusCode != 200 || !resp.Close || !strings.Contains(text, "JSONPatch") {
		t.Errorf("while leaving: status %d, closes %t", resp.StatusCode, resp.Close)
	}
	if !conn.ended() {
		t.Error("the connection stays open")
	}
	conn = r.dial(t)
	conn.send(strings.Replace(review, "/mutate", "/nothing", 1))
	if resp, _ := conn.answer(); resp.StatusCode != 404 || !resp.Close {
		t.Errorf("a request that is none, while leaving: status %d, closes %t", resp.StatusCode, resp.Close)
	}
}

// What has been taken is answered, however long its decision takes.
func TestClosesWhenAllIsAnswered(t *testing.T) {
	begun, end := make(chan struct{}), make(chan struct{})
	r := serving(t)
	r.server.decide = func(s webhook.Settings, request webhook.Request) webhook.Decision {
		close(begun)
		<-end
		return webhook.Decide(s, request)
	}
	idle := r.dial(t)
	conn := r.dial(t)
	conn.send(withLength(string(reviewOf(t, creation(t, application)))))
	<-begun
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		r.close()
	}()
	eventually(t, "nothing new is taken", func() bool {
		conn, err := tls.Dial("tcp", r.address, &tls.Config{RootCAs: r.roots, ServerName: host})
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	select {
	case <-closed:
		t.Fatal("closed with a review under way")
	default:
	}
	close(end)
	if resp, text := conn.answer(); resp.StatusCode != 200 || !strings.Contains(text, "JSONPatch") {
		t.Errorf("status %d, %s", resp.StatusCode, text)
	}
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Fatal("not closed, though all is answered")
	}
	// It has been idle for as long as a first request may take, and may be told so at its end.
	if _, err := io.ReadAll(idle.in); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("an idle connection stays open")
	}
}

// load is many clients that create pods in a dry run, each with a body of its own.
func (r *rig) load(clients, reviews int, client func() *http.Client) (took []time.Duration, failed []error) {
	r.t.Helper()
	request := creation(r.t, application)
	yes := true
	request.DryRun = &yes
	body := reviewOf(r.t, request)
	var mu sync.Mutex
	var left atomic.Int64
	left.Store(int64(reviews))
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				begin := time.Now()
				err := send(client(), body)
				mu.Lock()
				took = append(took, time.Since(begin))
				if err != nil {
					failed = append(failed, err)
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	slices.Sort(took)
	return took, failed
}

// send sends one review, and says why it was not answered as it should be.
func send(client *http.Client, body []byte) error {
	resp, err := client.Post("https://"+host+"/mutate?timeout=5s", "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != 200 || !bytes.Contains(text, []byte(`"patchType":"JSONPatch"`)) {
		return fmt.Errorf("status %d: %s", resp.StatusCode, text)
	}
	return nil
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// The figures are for people: with 200 creations at a time, and 25 connections kept as the API server keeps them. What fails is asserted.
func TestTwoHundredCreationsAtATime(t *testing.T) {
	r := serving(t, quietly)
	all := 0
	for _, reviews := range []int{200, 1000} {
		all += reviews
		took, failed := r.load(200, reviews, func() *http.Client { return r.client })
		if len(failed) > 0 {
			t.Fatalf("%d of %d reviews failed, such as: %v", len(failed), reviews, failed[0])
		}
		t.Logf("%d creations, 200 at a time, %d processors: p50 %s, p99 %s, most %s", reviews, runtime.GOMAXPROCS(0),
			quantile(took, .5).Round(10*time.Microsecond), quantile(took,
				.99).Round(10*time.Microsecond), took[len(took)-1].Round(10*time.Microsecond))
	}
	if n := r.counted("dry_runs_total", "inject", "JobManager"); n != float64(all) {
		t.Errorf("counted %v times", n)
	}
}

func quietly(o *Options) { o.Log = nil }

// patiently lets requests take longer than any client of a test does.
func patiently(o *Options) { o.slow = time.Minute }

// A burst of a thousand creations, each on a connection of its own, is answered; and what the program holds meanwhile is bounded.
func TestBurstOfAThousand(t *testing.T) {
	r := serving(t, quietly, patiently)
	var most atomic.Uint64
	decide := r.server.decide
	var under, mostUnder atomic.Int64
	r.server.decide = func(s webhook.Settings, request webhook.Request) webhook.Decision {
		n := under.Add(1)
		defer under.Add(-1)
		for old := mostUnder.Load(); n > old && !mostUnder.CompareAndSwap(old, n); old = mostUnder.Load() {
		}
		return decide(s, request)
	}
	stop := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() {
		sample := []heap.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				heap.Read(sample)
				most.Store(max(most.Load(), sample[0].Value.Uint64()))
			}
		}
	})
	runtime.GC()
	_, failed := r.load(1000, 1000, func() *http.Client {
		c := r.newClient()
		c.Timeout = time.Minute // all share the machine's processors
		return c
	})
	close(stop)
	watcher.Wait()
	if len(failed) > 0 {
		t.Fatalf("%d of 1000 reviews failed, such as: %v", len(failed), failed[0])
	}
	if got := mostUnder.Load(); got > int64(cap(r.server.processors)) {
		t.Errorf("%d decisions at a time, want %d at most", got, cap(r.server.processors))
	}
	t.Logf("1000 connections: at most %d MiB of heap, clients included; %d decisions at a time", most.Load()>>20, mostUnder.Load())
}

// No more connections are held than the limit says: the others wait for those that are busy, and those that are idle give way.
func TestConnectionsAreBounded(t *testing.T) {
	r := serving(t, quietly, patiently)
	review := reviewOf(t, creation(t, application))
	var open []*raw
	for range connectionLimit {
		open = append(open, r.dial(t))
	}
	late := make(chan error, 1)
	another := func() { late <- send(r.newClient(), review) }
	go another()
	select {
	case err := <-late:
		t.Fatalf("one more than the limit is served at once: %v", err)
	case <-time.After(200 * time.Millisecond): // a review takes a millisecond
	}
	open[0].conn.Close()
	if err := <-late; err != nil {
		t.Errorf("the one that waited for another's end: %v", err)
	}

	// Of the others, one is idle now; so one more finds room, and another when the next one is idle.
	go another()
	if err := <-late; err != nil {
		t.Errorf("the one for which an idle one gave way: %v", err)
	}
	for _, conn := range open[1:] {
		conn.send(withLength(string(review)))
		if resp, _ := conn.answer(); resp.StatusCode != 200 {
			t.Fatalf("status %d", resp.StatusCode)
		}
	}
	for range 3 {
		go another()
		if err := <-late; err != nil {
			t.Errorf("with idle ones only: %v", err)
		}
	}
	gone := 0
	for _, conn := range open[1:4] {
		_ = conn.conn.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := conn.in.ReadByte(); errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
			gone++
		}
	}
	if gone == 0 {
		t.Error("it is not the oldest that gave way")
	}
	if n := len(r.server.doorman.room); n > connectionLimit {
		t.Errorf("%d connections are held", n)
	}
}

// A review costs little: what is allocated for one is counted, not timed.
func BenchmarkReview(b *testing.B) {
	r := serving(b, quietly)
	body := reviewOf(b, creation(b, application))
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if _, p := r.server.review(body); p != nil {
			b.Fatal(p.text)
		}
	}
}

func TestReviewsCostLittle(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates by itself")
	}
	r := serving(t, quietly)
	body := reviewOf(t, creation(t, application))
	got := testing.AllocsPerRun(200, func() {
		if _, p := r.server.review(body); p != nil {
			t.Error(p.text)
		}
	})
	t.Logf("%.0f allocations a review of %d bytes", got, len(body))
	if got > 5000 {
		t.Errorf("%.0f allocations a review", got)
	}
}

// While the authority is replaced and reviews come all the time, none fails: the whole road from the Secret to the live caBundle, as an API
// server goes it, which makes a client for each caBundle that it has seen.
func TestRotationUnderLoad(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	// An authority that has less than a third of its life before it: the next one is made at once.
	old, err := pki.NewAuthority("authority of "+host, time.Now().Add(-45*time.Minute), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := old.Encode()
	if err != nil {
		t.Fatal(err)
	}
	client := fake.NewClientset(
		&corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "holdfast", Name: "ca", ResourceVersion: "1"},
			Data:       map[string][]byte{"ca.crt": cert, "ca.key": key},
		},
		&admissionregistrationv1.MutatingWebhookConfiguration{
			ObjectMeta: metav1.ObjectMeta{Name: "holdfast", ResourceVersion: "1"},
			Webhooks:   []admissionregistrationv1.MutatingWebhook{{Name: "component.holdfast.dev"}, {Name: "inject.holdfast.dev"}},
		},
	)
	own, err := certs.NewOwn(certs.OwnOptions{
		Client: client, Namespace: "holdfast", Secret: "ca", Configuration: "holdfast", Hosts: []string{host},
		AuthorityLife: time.Hour, LeafLife: 5 * time.Minute, Overlap: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = own.Run(ctx) }() // is not waited for: the fake's watches outlive their context
	r := serving(t, quietly, func(o *Options) { o.Certificates = own })
	eventually(t, "the certificate can be trusted", func() bool { return own.Ready() == nil })

	// The API server's clients, by the caBundle that they trust.
	clients := map[string]*http.Client{}
	var mu sync.Mutex
	trusting := func() *http.Client {
		configuration, err := client.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(ctx, "holdfast", metav1.GetOptions{})
		if err != nil {
			t.Error(err)
			return r.client
		}
		bundle := string(configuration.Webhooks[1].ClientConfig.CABundle)
		mu.Lock()
		defer mu.Unlock()
		c := clients[bundle]
		if c == nil {
			c = r.newClient()
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM([]byte(bundle))
			transport := c.Transport.(*http.Transport)
			transport.TLSClientConfig.RootCAs = roots
			transport.MaxIdleConnsPerHost = 2 // so that connections are made all the time
			clients[bundle] = c
		}
		return c
	}

	body := reviewOf(t, creation(t, application))
	var reviews, failures atomic.Int64
	halt := make(chan struct{})
	var load sync.WaitGroup
	for range 8 {
		load.Go(func() {
			for {
				select {
				case <-halt:
					return
				default:
				}
				if err := send(trusting(), body); err != nil {
					if failures.Add(1) == 1 {
						t.Errorf("a review failed: %v", err)
					}
				}
				reviews.Add(1)
			}
		})
	}
	issuer := func() string {
		pair, err := own.GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		return string(pair.Leaf.AuthorityKeyId)
	}
	before := issuer()
	if before != string(old.Certificate().SubjectKeyId) {
		t.Fatal("the authority was replaced before anybody could know of the next one")
	}
	touched := 0
	eventually(t, "the next authority signs", func() bool {
		// Other objects wake whoever watches: the fake knows no field selectors.
		touched++
		other := &admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("other-", touched)}}
		if _, err := client.AdmissionregistrationV1().MutatingWebhookConfigurations().Create(ctx, other, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
		return issuer() != before && own.Ready() == nil
	})
	switched := reviews.Load()
	eventually(t, "the next authority has been used for a while", func() bool { return reviews.Load() > switched+100 })
	close(halt)
	load.Wait()
	if failures.Load() > 0 || reviews.Load() < 100 {
		t.Errorf("%d of %d reviews failed", failures.Load(), reviews.Load())
	}
	t.Logf("%d reviews during the rotation, with %d caBundles", reviews.Load(), len(clients))
	if n := r.counted("authority_rotations_total"); n != 2 {
		t.Errorf("counted %v rotations, want 2: one made, and put in its place", n)
	}
	if r.counted("certificate_trusted") != 1 || r.counted("certificate_expiry_timestamp_seconds") < float64(time.Now().Unix()) {
		t.Error("the metrics do not say that the certificate is fine")
	}
}
