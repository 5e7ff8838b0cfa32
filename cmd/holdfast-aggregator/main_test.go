package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/etcd/etcdlocal"
)

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

func run(ctx context.Context, errs *output, env map[string]string, args ...string) int {
	p := &program{out: &output{}, err: errs, lookup: func(name string) (string, bool) { v, found := env[name]; return v, found }}
	return p.run(ctx, args)
}

func TestWrongFlags(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing.pem")
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		env  map[string]string
		want []string
	}{
		{nil, nil, []string{"this is not a pod of a Kubernetes cluster: give --kubeconfig, or --site-uid"}},
		{[]string{"--site-uid", "u", "--site-configmap", "c", "--namespace", "n"}, nil, []string{"--site-uid and --site-configmap contradict"}},
		{[]string{"--site-configmap", "c"}, nil, []string{"--namespace is missing"}},
		{[]string{"--site-uid-file", "f"}, nil, []string{"--site-uid-file needs --site-configmap"}},
		{[]string{"--kubeconfig", missing}, nil, []string{"find the API server", missing}},
		{[]string{"--site-uid", "u", "--etcd-cert", "x"}, nil, []string{"--etcd-cert and --etcd-key go together"}},
		{[]string{"--site-uid", "u", "--etcd-ca", missing}, nil, []string{"--etcd-ca: open " + missing}},
		{[]string{"--site-uid", "u", "--etcd-ca", empty}, nil, []string{"has no certificate in PEM form"}},
		{[]string{"--site-uid", "u", "--etcd-cert", missing, "--etcd-key", missing}, nil, []string{"--etcd-cert and --etcd-key: open " + missing}},
		{[]string{"--site-uid", "u", "--etcd-endpoints", "ftp://x:1"}, nil, []string{`--etcd-endpoints: etcd client: endpoint "ftp://x:1"`}},
		{[]string{"--hold", "1s", "--etcd-key", "x"}, nil, []string{"--etcd-cert and --etcd-key go together", "the tick is not shorter than the hold time"}},
		{[]string{"--site-uid", "u", "--leader-lease", "1s"}, nil, []string{"--leader-lease is shorter than 2s"}},
		{[]string{"--site-uid", "u", "--check-period", "10ms"}, nil, []string{"--check-period 10ms: give 1s or more, or 0 for never"}},
		{[]string{"--site-uid", "u", "--check-period", "-5m"}, nil, []string{"--check-period -5m0s: give 1s or more"}},
		{[]string{"--site-uid", "u", "--retain", "0s"}, nil, []string{"the retain time is 0s"}},
		{[]string{"--site-uid", "u", "--log-format", "xml"}, nil, []string{`--log-format "xml" does not exist`}},
		{[]string{"--site-uid", "u"}, map[string]string{"HOLDFAST_LEADER_LEASE": "x"}, []string{`HOLDFAST_LEADER_LEASE="x" is not a duration`}},
		{[]string{"serve"}, nil, []string{`unknown command "serve"`}},
	} {
		var errs output
		if code := run(t.Context(), &errs, c.env, c.args...); code != 2 {
			t.Errorf("%v: exit code %d, want 2", c.args, code)
		}
		for _, want := range c.want {
			if !strings.Contains(errs.String(), want) {
				t.Errorf("%v: no %q in\n%s", c.args, want, errs.String())
			}
		}
	}
}

// served waits until the program serves, and gives the API's address.
func served(t *testing.T, errs *output) string {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if _, after, found := strings.Cut(errs.String(), "msg=serving address="); found {
			address, _, _ := strings.Cut(after, " ")
			if resp, err := http.Get("http://" + address + "/readyz"); err == nil {
				resp.Body.Close()
				if resp.StatusCode == http.StatusOK {
					return address
				}
			}
		}
	}
	t.Fatalf("never ready; it said\n%s", errs)
	return ""
}

func TestServes(t *testing.T) {
	store, err := etcdlocal.Start(t.Context(), etcdlocal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	env := map[string]string{"HOLDFAST_ETCD_ENDPOINTS": store.Endpoint(), "HOLDFAST_SITE_UID": "ours", "HOLDFAST_LISTEN": "127.0.0.1:0"}
	ctx, stop := context.WithCancel(t.Context())
	var errs output
	ended := make(chan int, 1)
	go func() { ended <- run(ctx, &errs, env, "--site", "prod", "--name", "one") }()
	served(t, &errs)

	// Another cluster must not take the site.
	var others output
	if code := run(t.Context(), &others, env, "--site", "prod", "--site-uid", "theirs"); code != 1 || !strings.Contains(others.String(), "the site belongs to another cluster") {
		t.Errorf("another cluster's: exit code %d, said %s", code, others.String())
	}

	stop()
	select {
	case code := <-ended:
		if code != 0 {
			t.Errorf("exit code %d, said %s", code, errs.String())
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it does not stop")
	}
}

// A certificate that was renewed in its file is used without a restart; one that is being written at the moment ends nothing.
func TestKeyPairIsReadAgain(t *testing.T) {
	dir := t.TempDir()
	pair := &keyPair{cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem")}
	writePair(t, pair, 1)
	serial := func() int64 {
		t.Helper()
		c, err := pair.get(nil)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(c.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		return leaf.SerialNumber.Int64()
	}
	if got := serial(); got != 1 {
		t.Errorf("certificate %d, want 1", got)
	}
	writePair(t, pair, 2)
	if got := serial(); got != 1 {
		t.Errorf("certificate %d within the minute, want 1", got)
	}
	pair.at = pair.at.Add(-2 * rereadAfter)
	if got := serial(); got != 2 {
		t.Errorf("certificate %d after the minute, want 2", got)
	}
	if err := os.WriteFile(pair.cert, []byte("half a cert"), 0o600); err != nil {
		t.Fatal(err)
	}
	pair.at = pair.at.Add(-2 * rereadAfter)
	if got := serial(); got != 2 {
		t.Errorf("certificate %d while the file is broken, want 2", got)
	}
}

func writePair(t *testing.T, pair *keyPair, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []struct {
		path, kind string
		data       []byte
	}{{pair.cert, "CERTIFICATE", cert}, {pair.key, "EC PRIVATE KEY", private}} {
		if err := os.WriteFile(f.path, pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.data}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
