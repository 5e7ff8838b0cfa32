package certs

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dev/holdfast/pki"
)

// mount is a Secret that the kubelet has mounted: files are links through ..data, which is a link to a folder, and a renewal
// swaps that.
type mount struct {
	t   *testing.T
	dir string
	n   int
}

func (m *mount) path(name string) string { return filepath.Join(m.dir, name) }

func (m *mount) set(files map[string][]byte) {
	m.t.Helper()
	m.n++
	folder := "..2026_" + strings.Repeat("i", m.n)
	must := func(err error) {
		m.t.Helper()
		if err != nil {
			m.t.Fatal(err)
		}
	}
	must(os.Mkdir(m.path(folder), 0o700))
	for name, text := range files {
		must(os.WriteFile(filepath.Join(m.dir, folder, name), text, 0o600))
		if _, err := os.Lstat(m.path(name)); err != nil {
			must(os.Symlink("..data/"+name, m.path(name)))
		}
	}
	must(os.Symlink(folder, m.path("..data_tmp")))
	must(os.Rename(m.path("..data_tmp"), m.path("..data")))
}

// issue is what cert-manager leaves in a Secret.
func issue(t *testing.T, a *pki.Authority, hosts ...string) map[string][]byte {
	t.Helper()
	leaf, err := a.Sign(pki.Request{Name: "webhook", Hosts: hosts, Server: true, Life: 10 * time.Hour}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := pki.EncodePair(leaf)
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{"tls.crt": cert, "tls.key": key, "ca.crt": pki.EncodeCertificates(a.Certificate())}
}

type filesReplica struct {
	*Files
	log *journal
}

func runFiles(t *testing.T, c cluster, m *mount, ca string) *filesReplica {
	t.Helper()
	log := &journal{}
	f, err := newFiles(FilesOptions{
		Cert: m.path("tls.crt"), Key: m.path("tls.key"), CA: ca, Host: host, Configuration: "holdfast",
		Log: slog.New(slog.NewTextHandler(log, nil)),
	}, c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return &filesReplica{f, log}
}

// A given Secret is renewed while replicas on two nodes serve it: its authority is replaced as well, the nodes get the files a minute and
// a half apart, and the replicas publish what they have. No admission fails, and nobody fights.
func TestGivenSecretIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("a", "b")
		v := m.view(t, 5*time.Second)
		mounts := []*mount{{t: t, dir: t.TempDir()}, {t: t, dir: t.TempDir()}}
		first := authority(t, 100*time.Hour)
		var replicas []*filesReplica
		for _, n := range mounts {
			n.set(issue(t, first, host))
			replicas = append(replicas, runFiles(t, m, n, n.path("ca.crt")))
		}
		check := func(d time.Duration) {
			t.Helper()
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(7 * time.Second) {
				for _, r := range replicas {
					if err := errors.Join(r.Ready(), v.admit(r)); err != nil {
						t.Fatalf("%s: %v\n%s", time.Now(), err, r.log)
					}
				}
			}
		}
		for _, r := range replicas {
			eventually(t, 10*time.Second, "ready", r.Ready)
		}
		time.Sleep(10 * time.Second)
		check(time.Minute)
		time.Sleep(2 * time.Hour) // the first authority is well known

		renewed := issue(t, first, host) // the certificate alone
		for _, n := range mounts {
			n.set(renewed)
			check(90 * time.Second)
		}
		second := authority(t, 100*time.Hour)
		replaced := issue(t, second, host)
		for _, n := range mounts {
			n.set(replaced)
			check(90 * time.Second)
		}
		check(15 * time.Minute)
		for _, r := range replicas {
			pair, err := r.GetCertificate(nil)
			if err != nil || !bytes.Equal(pki.EncodeCertificates(pair.Leaf), replaced["tls.crt"]) {
				t.Errorf("the new certificate is not served: %v", err)
			}
		}
		patches := m.patches
		check(2 * time.Hour)
		_, entries := m.snapshot()
		for _, e := range entries {
			if !bytes.Equal(e.bundle, replaced["ca.crt"]) {
				t.Error("the old authority is still trusted, hours later")
			}
		}
		if patches != 2 || m.patches != 3 {
			t.Errorf("%d writes until both had the new files, and %d in all; want one for each authority, and one to drop the old one",
				patches, m.patches)
		}
		for _, r := range replicas {
			if f := r.Facts(); f.BundleRepairs != 0 || f.Renewals != 3 || f.LeafExpires.IsZero() ||
				!f.AuthorityExpires.Equal(second.Certificate().NotAfter) {
				t.Errorf("facts %+v", f)
			}
		}
		m.edit(func() { m.entries[1].bundle = nil })
		eventually(t, 10*time.Second, "put right", func() error { return v.admit(replicas[0]) })
		if n := replicas[0].Facts().BundleRepairs + replicas[1].Facts().BundleRepairs; n != 1 {
			t.Errorf("%d repairs, want 1", n)
		}
	})
}

// With cert-manager the caBundle is its injector's: nothing is written, and a certificate of an authority that is not there yet waits.
func TestCertManagerWritesTheBundle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("a")
		m.injected = true
		n := &mount{t: t, dir: t.TempDir()}
		first, second := authority(t, 100*time.Hour), authority(t, 100*time.Hour)
		r, v := runFiles(t, m, n, ""), m.view(t, 0)
		time.Sleep(time.Minute)
		if err := r.Ready(); err == nil || !strings.Contains(err.Error(), "no certificate yet; certificate: open") {
			t.Errorf("without files: %v", err)
		}
		n.set(issue(t, first, host))
		time.Sleep(time.Minute)
		if err := r.Ready(); err == nil || !strings.Contains(err.Error(), "caBundle of webhook a cannot be used: empty") {
			t.Errorf("without a caBundle: %v", err)
		}
		inject := func(a ...*pki.Authority) {
			var text []byte
			for _, a := range a {
				text = append(text, pki.EncodeCertificates(a.Certificate())...)
			}
			m.edit(func() { m.entries[0].bundle = text })
		}
		inject(first)
		eventually(t, 10*time.Second, "ready", r.Ready)
		n.set(issue(t, second, host))
		time.Sleep(time.Minute)
		if err := errors.Join(r.Ready(), v.admit(r)); err != nil {
			t.Errorf("while the injector has not come by yet: %v", err)
		}
		inject(second) // the injector does not overlap: the one in service is of no use from now on
		eventually(t, 6*time.Second, "ready", r.Ready)
		if err := v.admit(r); err != nil {
			t.Error(err)
		}
		if m.patches != 0 {
			t.Errorf("the caBundle was written %d times", m.patches)
		}
		if strings.Contains(r.log.String(), "authorities") {
			t.Errorf("a CA file that was not given is missed\n%s", r.log)
		}
	})
}

// Files that are just being written, or that are wrong, change nothing, and are said.
func TestBrokenFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("a")
		n := &mount{t: t, dir: t.TempDir()}
		a := authority(t, 100*time.Hour)
		good := issue(t, a, host)
		n.set(good)
		r, v := runFiles(t, m, n, n.path("ca.crt")), m.view(t, 0)
		eventually(t, 10*time.Second, "ready", r.Ready)
		for name, files := range map[string]map[string][]byte{
			"gone":               {},
			"half":               {"tls.crt": good["tls.crt"][:100], "tls.key": good["tls.key"], "ca.crt": good["ca.crt"]},
			"another's key":      {"tls.crt": good["tls.crt"], "tls.key": issue(t, a, host)["tls.key"], "ca.crt": good["ca.crt"]},
			"for another name":   issue(t, a, "other.holdfast.svc"),
			"no authorities":     {"tls.crt": good["tls.crt"], "tls.key": good["tls.key"], "ca.crt": nil},
			"a key as authority": {"tls.crt": good["tls.crt"], "tls.key": good["tls.key"], "ca.crt": good["tls.key"]},
		} {
			before := len(r.log.String())
			n.set(files)
			time.Sleep(time.Minute)
			if err := errors.Join(r.Ready(), v.admit(r)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if said := r.log.String()[before:]; strings.Count(said, "level=WARN") != 1 {
				t.Errorf("%s: said %q, want one warning", name, said)
			}
			n.set(good)
			time.Sleep(time.Minute)
		}
		time.Sleep(11 * time.Hour)
		if err := r.Ready(); err == nil || !strings.Contains(err.Error(), "expired at") {
			t.Errorf("nobody renewed the certificate: %v", err)
		}
	})
}

// Without an API server Ready speaks of the certificate alone.
func TestFilesAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &mount{t: t, dir: t.TempDir()}
		n.set(issue(t, authority(t, time.Hour), host))
		r := runFiles(t, nil, n, "")
		eventually(t, 10*time.Second, "ready", r.Ready)
		time.Sleep(11 * time.Hour)
		if err := r.Ready(); err == nil || !strings.Contains(err.Error(), "expired at") {
			t.Errorf("Ready: %v", err)
		}
	})
}

func TestFilesOptionsThatCannotWork(t *testing.T) {
	for _, o := range []FilesOptions{
		{}, {Cert: "c", Key: "k"}, {Cert: "c", Host: host}, {Cert: "c", Key: "k", Host: host, CA: "ca"},
	} {
		if _, err := NewFiles(o); err == nil {
			t.Errorf("%+v: no error", o)
		}
	}
	if _, err := newFiles(FilesOptions{Cert: "c", Key: "k", Host: host}, newMemory()); err == nil {
		t.Error("no error without a configuration")
	}
}
