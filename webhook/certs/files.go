package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/holdfast-dev/holdfast/pki"
)

// FilesOptions say which files, and whether the caBundle is to be written.
type FilesOptions struct {
	// Cert and Key are files of PEM: a certificate with its chain, and its key.
	Cert, Key string
	// CA is a file with the certificates of the authorities that signed Cert. If it is given they are published in every entry's
	// caBundle. "" leaves the caBundle alone: cert-manager's injector, or a person, writes it.
	CA string
	// Client is the API server, and Configuration the MutatingWebhookConfiguration. The rights that takes: get and watch of the
	// configuration, by name, and patch where CA is given. Without a client nothing is known of the caBundle: Ready speaks of the
	// certificate alone.
	Client        kubernetes.Interface
	Configuration string
	// Host is the name that the API server calls, SERVICE.NAMESPACE.svc. The certificate must be for it.
	Host string
	// Overlap is how long a new authority must have been known before it is relied on; 0 means ten minutes.
	Overlap time.Duration
	// Log is told of everything that changes. nil means nobody is.
	Log *slog.Logger
}

// Files is a certificate in files that somebody else renews. They are read again every few seconds, through whatever links lead to
// them (the kubelet swaps a link to renew a mounted Secret), and used when they are whole. A certificate of another authority is taken
// into service when the API servers have been told of that authority for long enough; until then, or as long as the files are broken,
// the last one serves on.
type Files struct {
	options FilesOptions
	cluster cluster // nil without a client
	log     *slog.Logger
	holder  *holder
	publish *publisher

	// What follows is Run's alone.
	text      [2][]byte
	leaf      *tls.Certificate
	strangers map[pki.Fingerprint]time.Time // trusted, and not in the CA file: since when

	trouble trouble
	mu      sync.Mutex
	facts   Facts
}

// reread is how often the files are looked at. They are small, and in the page cache.
const reread = 5 * time.Second

// strangerGrace is how long certificates in a caBundle that are not in this replica's CA file are left there: while a mounted Secret is
// renewed, replicas on other nodes still serve, and publish, what was in it before. The kubelet takes about two minutes.
const strangerGrace = time.Hour

// NewFiles makes the provider. The files need not exist yet: they are waited for.
func NewFiles(o FilesOptions) (*Files, error) {
	if o.CA != "" && o.Client == nil {
		return nil, errors.New("certificates: a CA file without a client of the API server cannot be published")
	}
	var c cluster
	if o.Client != nil {
		c = &apiServer{client: o.Client, configName: o.Configuration}
	}
	return newFiles(o, c)
}

func newFiles(o FilesOptions, c cluster) (*Files, error) {
	if o.Cert == "" || o.Key == "" || o.Host == "" || c != nil && o.Configuration == "" {
		return nil, errors.New("certificates: a certificate file, a key file, a host and a configuration are needed")
	}
	o.Overlap = orElse(o.Overlap, 10*time.Minute)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Files{
		options: o, cluster: c, log: o.Log,
		holder:  &holder{host: o.Host, overlap: o.Overlap},
		publish: &publisher{cluster: c, log: o.Log},
	}, nil
}

// GetCertificate is for tls.Config. It does not wait; its error, before there is a certificate, ends the handshake.
func (f *Files) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return f.holder.getCertificate(hello)
}

// Ready is nil when the certificate that is served is valid and for the host, and every entry's caBundle, as last read, leads to its
// issuer. Otherwise it says why not. An empty caBundle that nobody is known to fill counts as wanted: then API servers use their
// system's roots, which cannot be known here.
func (f *Files) Ready() error {
	err := f.holder.ready(time.Now())
	if f.cluster == nil && !errors.Is(err, errNone) {
		err = f.alone()
	}
	return f.trouble.explain(err)
}

// alone is what can be said of the certificate without knowing the caBundle.
func (f *Files) alone() error {
	leaf := f.holder.serving.Load().Leaf
	if err := pki.ValidAt(leaf, time.Now()); err != nil {
		return fmt.Errorf("the certificate is %w", err)
	}
	return leaf.VerifyHostname(f.options.Host)
}

// Facts are numbers for metrics. AuthorityExpires is that of the first authority in the CA file.
func (f *Files) Facts() Facts {
	facts := f.holder.facts()
	f.mu.Lock()
	defer f.mu.Unlock()
	facts.AuthorityExpires, facts.BundleRepairs = f.facts.AuthorityExpires, f.facts.BundleRepairs
	return facts
}

// Run reads the files, and keeps the caBundle what it must be, until ctx ends. It fails never: what cannot be done now is logged,
// said by Ready, and tried again.
func (f *Files) Run(ctx context.Context) error {
	heard := make(chan struct{}, 1)
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		if f.cluster != nil {
			f.cluster.watch(ctx, heard)
		}
	}()
	defer func() { <-watching }()
	for {
		err := f.load()
		if f.cluster != nil {
			err = errors.Join(err, f.round(ctx))
		}
		if f.leaf != nil {
			f.holder.offer(f.leaf, time.Now())
		}
		if ctx.Err() != nil {
			return nil
		}
		f.trouble.tell(f.log, err, f.holder.ready(time.Now()) == nil)
		wait := reread
		if errors.Is(err, errLater) {
			wait = 100 * time.Millisecond
		}
		if !pause(ctx, heard, wait/2+rand.N(wait/2)) {
			return nil
		}
	}
}

// load reads the certificate and the key, if they changed. Where they do not belong together they are just being renewed.
func (f *Files) load() error {
	cert, err := os.ReadFile(f.options.Cert)
	if err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	key, err := os.ReadFile(f.options.Key)
	if err != nil {
		return fmt.Errorf("key: %w", err)
	}
	if f.leaf != nil && bytes.Equal(cert, f.text[0]) && bytes.Equal(key, f.text[1]) {
		return nil
	}
	pair, err := tls.X509KeyPair(cert, key) // sets Leaf
	if err != nil {
		return fmt.Errorf("certificate %s and key %s: %w", f.options.Cert, f.options.Key, err)
	}
	if err := pair.Leaf.VerifyHostname(f.options.Host); err != nil {
		return fmt.Errorf("certificate %s is not for the name that the API server calls: %w", f.options.Cert, err)
	}
	f.leaf, f.text = &pair, [2][]byte{cert, key}
	f.log.Info("read a certificate", "file", f.options.Cert, "expires", pair.Leaf.NotAfter)
	return nil
}

// round looks at the configuration once, and publishes the CA file, if there is one.
func (f *Files) round(ctx context.Context) error {
	p, err := f.look(ctx)
	if err != nil || f.options.CA == "" {
		return err
	}
	text, err := os.ReadFile(f.options.CA)
	if err != nil {
		return fmt.Errorf("authorities: %w", err)
	}
	ours, err := pki.ParseCertificates(text)
	if err != nil {
		return fmt.Errorf("authorities %s: %w", f.options.CA, err)
	}
	now, live := time.Now(), f.holder.reading()
	f.meet(live.all(), ours, now)
	bundles := make([][]byte, len(p.entries))
	for i, e := range p.entries {
		bundles[i] = f.bundle(live.entry(e.name).certs, e, ours, now)
	}
	wrote, err := f.publish.write(ctx, p, bundles, now)
	if err == nil && wrote {
		_, err = f.look(ctx)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.facts.BundleRepairs, f.facts.AuthorityExpires = f.publish.repairs, ours[0].NotAfter
	return err
}

// look reads the configuration.
func (f *Files) look(ctx context.Context) (published, error) {
	p, err := f.cluster.configuration(ctx)
	if err == nil || errors.Is(err, errGone) {
		f.holder.saw(p, err != nil, f.options.CA == "", time.Now())
	}
	return p, err
}

// bundle is what an entry's caBundle is to be: ours, and what others put there or what was ours until not long ago. If that is what it
// holds, it stays as it is.
func (f *Files) bundle(seen []*x509.Certificate, e entry, ours []*x509.Certificate, now time.Time) []byte {
	want, right := ours, len(seen) > 0
	for _, c := range seen {
		switch {
		case contains(ours, c):
		case pki.ValidAt(c, now) == nil && now.Sub(f.strangers[pki.Of(c)]) < strangerGrace:
			want = append(want[:len(want):len(want)], c)
		default:
			right = false
		}
	}
	for _, c := range ours {
		right = right && contains(seen, c)
	}
	if right {
		return e.bundle
	}
	return pki.EncodeCertificates(want...)
}

// meet remembers since when certificates have been trusted that are not in the CA file.
func (f *Files) meet(trusted, ours []*x509.Certificate, now time.Time) {
	strangers := map[pki.Fingerprint]time.Time{}
	for _, c := range trusted {
		if contains(ours, c) {
			continue
		}
		since, known := f.strangers[pki.Of(c)]
		if !known {
			since = now
		}
		strangers[pki.Of(c)] = since
	}
	f.strangers = strangers
}
