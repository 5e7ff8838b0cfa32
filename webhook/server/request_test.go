package server

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// raw speaks with the server in bytes.
type raw struct {
	t    *testing.T
	conn *tls.Conn
	in   *bufio.Reader
}

func (r *rig) dial(t *testing.T) *raw {
	t.Helper()
	conn, err := tls.Dial("tcp", r.address, &tls.Config{RootCAs: r.roots, ServerName: host})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return &raw{t, conn, bufio.NewReader(conn)}
}

func (c *raw) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c.conn, text); err != nil {
		c.t.Fatal(err)
	}
}

// answer reads one response.
func (c *raw) answer() (*http.Response, string) {
	c.t.Helper()
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp, string(body)
}

// ended says whether the server has closed the connection.
func (c *raw) ended() bool {
	_, err := c.in.ReadByte()
	return err != nil
}

const head = "POST /mutate?timeout=5s HTTP/1.1\r\nHost: holdfast-webhook.holdfast.svc\r\nContent-Type: application/json\r\n"

func withLength(body string) string {
	return fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", head, len(body), body)
}

func TestRequestsThatAreNoReviews(t *testing.T) {
	r := serving(t)
	fine := string(reviewOf(t, creation(t, application)))
	for _, c := range []struct {
		name, request string
		status        int
		says          string
		ends          bool
	}{
		{"nothing", withLength(""), 400, "this is no admission review", false},
		{"no JSON", withLength("hello"), 400, "this is no admission review", false},
		{"half a review", withLength(fine[:len(fine)/2]), 400, "this is no admission review", false},
		{"something after it", withLength(fine + "{}"), 400, "this is no admission review", false},
		{"a list", withLength("[]"), 400, "this is no admission review", false},
		{"null", withLength("null"), 400, `this is "" of ""`, false},
		{"nested too deeply", withLength(strings.Repeat("[", 100_000)), 400, "this is no admission review", false},
		{"an earlier version", withLength(strings.Replace(fine, "admission.k8s.io/v1", "admission.k8s.io/v1beta1", 1)), 400, "admissionReviewVersions", false},
		{"a later version", withLength(strings.Replace(fine, "admission.k8s.io/v1", "admission.k8s.io/v2", 1)), 400, "only AdmissionReview of admission.k8s.io/v1", false},
		{"another kind", withLength(strings.Replace(fine, `"AdmissionReview"`, `"ConversionReview"`, 1)), 400, `this is "ConversionReview"`, false},
		{"no request", withLength(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}`), 400, "has no request", false},
		{"null as a request", withLength(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":null}`), 400, "has no request", false},
		{"a request of another form", withLength(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":{}}}`), 400, "this is no admission review", false},
		{"another path", "POST /validate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}", 404, "/mutate", false},
		{"another method", "GET /mutate HTTP/1.1\r\nHost: x\r\n\r\n", 405, "POST", false},
		{"another type", "POST /mutate HTTP/1.1\r\nHost: x\r\nContent-Type: text/xml\r\nContent-Length: 2\r\n\r\n{}", 415, `not "text/xml"`, false},
		{"protobuf", "POST /mutate HTTP/1.1\r\nHost: x\r\nContent-Type: application/vnd.kubernetes.protobuf\r\nContent-Length: 2\r\n\r\n{}", 415, "application/json", false},
		{"no type", "POST /mutate HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", 415, "application/json", false},
		{"compressed", head + "Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}", 415, `"gzip"`, false},
		{"form", "POST /mutate HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: 2\r\n\r\n{}", 415, "application/json", false},
		{"10 MB, announced", head + "Content-Length: 10000000\r\n\r\n" + strings.Repeat("x", 9000), 413, "4 MiB", true},
		{"a length that is none", head + "Content-Length: many\r\n\r\n", 400, "HTTP/1.1", true},
		{"huge headers", head + "X-Much: " + strings.Repeat("x", headerLimit) + "\r\n\r\n", 431, "8192 bytes", true},
		{"a huge path", "POST /" + strings.Repeat("x", headerLimit) + " HTTP/1.1\r\n\r\n", 431, "8192 bytes", true},
		{"no HTTP", "\x00\x01\x02\x03\r\n\r\n", 400, "HTTP/1.1", true},
		{"chunks that are none", head + "Transfer-Encoding: chunked\r\n\r\nzz\r\n{}", 400, "HTTP/1.1", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := r.counted("refused_requests_total", fmt.Sprint(c.status))
			conn := r.dial(t)
			conn.send(c.request)
			resp, text := conn.answer()
			if resp.StatusCode != c.status || !strings.Contains(text, c.says) {
				t.Errorf("%d, %q; want %d with %q", resp.StatusCode, text, c.status, c.says)
			}
			if len(text) > 600 {
				t.Errorf("the answer has %d bytes", len(text))
			}
			if got := r.counted("refused_requests_total", fmt.Sprint(c.status)); got != before+1 {
				t.Errorf("counted %v times", got-before)
			}
			if c.ends {
				if !conn.ended() {
					t.Error("the connection stays open")
				}
				return
			}
			// The next review on the same connection is answered.
			conn.send(withLength(fine))
			if resp, text := conn.answer(); resp.StatusCode != 200 || !strings.Contains(text, `"allowed":true`) {
				t.Errorf("the review after it: %d, %s", resp.StatusCode, text)
			}
		})
	}
	if n := r.counted("requests_in_flight"); n != 0 {
		t.Errorf("%v requests are still under way", n)
	}
}

func TestReviewsInOtherForms(t *testing.T) {
	r := serving(t)
	fine := string(reviewOf(t, creation(t, application)))
	chunked := fmt.Sprintf("%sTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n", head, 100, fine[:100], len(fine)-100, fine[100:])
	for name, request := range map[string]string{
		"in chunks":            chunked,
		"with a charset":       strings.Replace(withLength(fine), "application/json", "Application/JSON; charset=utf-8", 1),
		"with unknown fields":  withLength(strings.Replace(fine, `"request":{`, `"later":{"a":[1]},"request":{"hint":"x",`, 1)),
		"after a continuation": strings.Replace(withLength(fine), "Content-Length", "Expect: 100-continue\r\nContent-Length", 1),
	} {
		conn := r.dial(t)
		conn.send(request)
		resp, text := conn.answer()
		if resp.StatusCode == http.StatusContinue {
			resp, text = conn.answer()
		}
		if resp.StatusCode != 200 || !strings.Contains(text, `"patchType":"JSONPatch"`) {
			t.Errorf("%s: %d, %s", name, resp.StatusCode, text)
		}
	}
}

// 10 MB are refused before they are read, or as soon as they are too many, and never kept.
func TestLargeBodiesAreNotKept(t *testing.T) {
	r := serving(t)
	allocated := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.TotalAlloc
	}
	before := allocated()
	for range 10 {
		conn := r.dial(t)
		conn.send(head + "Content-Length: 10000000\r\n\r\n" + strings.Repeat(" ", 8<<10))
		if resp, _ := conn.answer(); resp.StatusCode != 413 {
			t.Fatalf("status %d", resp.StatusCode)
		}
	}
	if grown := allocated() - before; grown > 4<<20 && !raceEnabled {
		t.Errorf("%d bytes were allocated for 10 bodies that are refused", grown)
	}
	conn := r.dial(t)
	conn.send(head + "Transfer-Encoding: chunked\r\n\r\n")
	go func() {
		chunk := fmt.Sprintf("%x\r\n%s\r\n", 1<<20, strings.Repeat(" ", 1<<20))
		for range 10 {
			if _, err := io.WriteString(conn.conn, chunk); err != nil {
				return // it was refused
			}
		}
	}()
	if resp, text := conn.answer(); resp.StatusCode != 413 || !strings.Contains(text, "4 MiB") {
		t.Errorf("%d, %s", resp.StatusCode, text)
	}
	// The largest review that is taken, and what it took is given back.
	request := creation(t, application)
	request.Object.Raw = bytes.Replace(request.Object.Raw, []byte(`"metadata":{`), []byte(`"metadata":{"annotations":{"a":"`+strings.Repeat("x", 3<<20)+`"},`), 1)
	for range bodiesLimit/bodyLimit + 1 {
		if answer := r.review(request); answer.AuditAnnotations["reason"] == "Unreadable" {
			t.Errorf("a large pod: %v", answer.Warnings)
		}
	}
}

// Whoever sends slowly is cut off, and takes nothing from those who do not, but while there is no room at all.
func TestSlowRequests(t *testing.T) {
	r := serving(t)
	fine := withLength(string(reviewOf(t, creation(t, application))))
	var all sync.WaitGroup
	slow := func(name, text string, status int) {
		conn := r.dial(t)
		conn.send(text)
		all.Go(func() {
			begin := time.Now()
			resp, err := http.ReadResponse(conn.in, nil)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body) // its end is the connection's
			if took := time.Since(begin); resp.StatusCode != status || took > requestTimeout+3*time.Second {
				t.Errorf("%s: %d after %s", name, resp.StatusCode, took)
			}
			if !conn.ended() {
				t.Errorf("%s: the connection stays open", name)
			}
		})
	}
	slow("half a head", head[:40], 408)
	slow("no body", head+"Content-Length: 100\r\n\r\n", 408)
	slow("half a body", head+"Content-Length: 100000\r\n\r\n"+strings.Repeat(" ", 50_000), 408)
	slow("half a chunk", head+"Transfer-Encoding: chunked\r\n\r\nff\r\nxx", 408)
	for range 3 { // with the chunks, whose length is not known, all the room there is
		slow("a large body", fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", head, bodyLimit-200_000, strings.Repeat(" ", 9000)), 408)
	}
	room := func(n int64) bool {
		free := r.server.large.TryAcquire(n)
		if free {
			r.server.large.Release(n)
		}
		return free
	}
	eventually(t, "all the room is taken", func() bool { return !room(bodyLimit - 200_000) })
	late := r.dial(t)
	late.send(fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", head, bodyLimit, strings.Repeat(" ", 9000)))
	for range 10 {
		conn := r.dial(t)
		begin := time.Now()
		conn.send(fine)
		if resp, text := conn.answer(); resp.StatusCode != 200 || time.Since(begin) > bodiesWait/2 {
			t.Errorf("a small review meanwhile: %d after %s, %s", resp.StatusCode, time.Since(begin), text)
		}
	}
	if resp, text := late.answer(); resp.StatusCode != 503 || !strings.Contains(text, "too many reviews") {
		t.Errorf("a large review meanwhile: %d, %s", resp.StatusCode, text)
	}
	all.Wait()
	if !room(bodiesLimit) {
		t.Error("room was not given back")
	}
	if n := r.counted("refused_requests_total", "408"); n != 7 {
		t.Errorf("counted %v times", n)
	}
}

// A client that says nothing, or does not get on with TLS, takes no place for long.
func TestSilentConnections(t *testing.T) {
	r := serving(t)
	conn, err := net.Dial("tcp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	begin := time.Now()
	if err := conn.SetDeadline(begin.Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, conn); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > requestTimeout+3*time.Second {
		t.Errorf("cut off after %s", took)
	}
}

func TestClientsThatDoNotTrust(t *testing.T) {
	r := serving(t)
	for range 3 {
		if _, err := tls.Dial("tcp", r.address, &tls.Config{RootCAs: x509.NewCertPool(), ServerName: host}); err == nil {
			t.Fatal("a client without roots trusts the certificate")
		}
	}
	eventually(t, "all are counted", func() bool { return r.counted("distrusted_total") == 3 })
	if n := strings.Count(r.log.String(), "a client refuses the certificate"); n != 1 {
		t.Errorf("logged %d times", n)
	}
	// Plain HTTP is somebody's mistake, and nobody's distrust.
	resp, err := http.Get("http://" + r.address + "/mutate")
	if err == nil {
		resp.Body.Close()
	}
	if n := r.counted("distrusted_total"); n != 3 {
		t.Errorf("plain HTTP counts as distrust")
	}
}
