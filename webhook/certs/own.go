package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/holdfast-dev/holdfast/pki"
)

// OwnOptions say where the authority is kept, and whom it is for.
type OwnOptions struct {
	// Client is the API server. It is asked for the Secret and the configuration by name, and for nothing else; the rights that takes:
	// get, update and watch of the Secret, and get, patch and watch of the configuration.
	Client kubernetes.Interface
	// Namespace and Secret name the Secret of the authority. It must exist, empty at first: only its data are written.
	Namespace, Secret string
	// Configuration names the MutatingWebhookConfiguration. It is waited for.
	Configuration string
	// Hosts are the names that the certificate is for; the first is the one that the API server calls, SERVICE.NAMESPACE.svc.
	Hosts []string
	// AuthorityLife is how long an authority is valid; 0 means a year. The next one is made when a third of it is left.
	AuthorityLife time.Duration
	// LeafLife is how long a certificate is valid; 0 means a day. The next one is made when half of it is left.
	LeafLife time.Duration
	// Overlap is how long a new authority must have been known before it is relied on; 0 means ten minutes. API servers hear of it by a
	// watch, in well under a second while they are well.
	Overlap time.Duration
	// Log is told of everything that is changed. nil means nobody is.
	Log *slog.Logger
}

// Own is a certificate authority of the webhook's own, in one Secret that all replicas share, and a certificate of this replica
// that lives in memory alone. Replicas need no leader: each writes only on top of what it read, and who comes second takes what the
// first one wrote.
//
// An authority is replaced under overlap. The next one is made known beside the current one; when a replica has read the live caBundle
// to hold it for the whole overlap, it puts it in its place; each replica takes a certificate of the new authority into service when it
// has itself read the caBundle to hold that authority for so long; and the old one stays in the caBundle for as long as anything that it
// signed is valid. Elapsed time is measured by local clocks alone, so a restart only makes it longer. Emptying the Secret replaces the
// authority in the same way.
type Own struct {
	options OwnOptions
	cluster cluster
	log     *slog.Logger
	holder  *holder
	publish *publisher
	name    string // of the authorities

	// What follows is Run's alone.
	state    state               // as it was last read or written
	leaf     *tls.Certificate    // what is offered to the holder
	signedBy pki.Fingerprint     // the authority of leaf
	usable   pki.Fingerprint     // the last authority that was tried out
	previous []*x509.Certificate // the previous ones, and
	since    time.Time           // since when this replica has seen them be so
	replaced time.Time           // when this replica last replaced an authority in a hurry
	failures int                 // rounds in a row

	trouble trouble
	mu      sync.Mutex
	facts   Facts
}

// NewOwn makes the provider. It asks nobody anything yet: Run does.
func NewOwn(o OwnOptions) (*Own, error) {
	if o.Client == nil {
		return nil, errors.New("certificates: no client of the API server")
	}
	return newOwn(o, &apiServer{client: o.Client, namespace: o.Namespace, secretName: o.Secret, configName: o.Configuration})
}

func newOwn(o OwnOptions, c cluster) (*Own, error) {
	if o.Namespace == "" || o.Secret == "" || o.Configuration == "" || len(o.Hosts) == 0 {
		return nil, errors.New("certificates: a namespace, a Secret, a configuration and at least one host are needed")
	}
	o.AuthorityLife = orElse(o.AuthorityLife, 365*24*time.Hour)
	o.LeafLife = orElse(o.LeafLife, 24*time.Hour)
	o.Overlap = orElse(o.Overlap, 10*time.Minute)
	if o.LeafLife < 4*o.Overlap || o.AuthorityLife < 6*o.LeafLife {
		return nil, fmt.Errorf("certificates: an authority's life (%s) must be six of a certificate's (%s) or more, and that four overlaps (%s)",
			o.AuthorityLife, o.LeafLife, o.Overlap)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Own{
		options: o, cluster: c, log: o.Log,
		holder:  &holder{host: o.Hosts[0], overlap: o.Overlap},
		publish: &publisher{cluster: c, log: o.Log},
		name:    "authority of " + o.Hosts[0],
	}, nil
}

func orElse(d, other time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return other
}

// GetCertificate is for tls.Config. It does not wait; its error, before there is a certificate, ends the handshake.
func (o *Own) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return o.holder.getCertificate(hello)
}

// Ready is nil when the certificate that is served is valid, and every entry's caBundle, as last read, leads to its issuer. Otherwise
// it says why not, and what stands in the way. An API server that cannot be asked makes nothing unready.
func (o *Own) Ready() error {
	return o.trouble.explain(o.holder.ready(time.Now()))
}

// Facts are numbers for metrics.
func (o *Own) Facts() Facts {
	f := o.holder.facts()
	o.mu.Lock()
	defer o.mu.Unlock()
	f.AuthorityExpires = o.facts.AuthorityExpires
	f.Rotations, f.SecretRepairs, f.BundleRepairs = o.facts.Rotations, o.facts.SecretRepairs, o.facts.BundleRepairs
	return f
}

// Run keeps the authority, the caBundle and the certificate what they must be, until ctx ends. It fails never: what cannot be
// done now is logged, said by Ready, and tried again.
func (o *Own) Run(ctx context.Context) error {
	heard := make(chan struct{}, 1)
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		o.cluster.watch(ctx, heard)
	}()
	defer func() { <-watching }()
	for {
		err := o.round(ctx)
		if ctx.Err() != nil {
			return nil
		}
		o.trouble.tell(o.log, err, o.holder.ready(time.Now()) == nil)
		if !pause(ctx, heard, o.rest(err)) {
			return nil
		}
	}
}

// rest is how long to wait for the next round, if nothing is heard of.
func (o *Own) rest(err error) time.Duration {
	wait := min(tick, o.options.Overlap/4)
	switch {
	case errors.Is(err, errLater):
		wait = 100 * time.Millisecond
	case err != nil:
		o.failures++
		wait = min(time.Second<<min(o.failures, 10), wait)
	default:
		o.failures = 0
	}
	return wait/2 + rand.N(wait/2)
}

// round looks at everything once, and does what is to be done next.
//
// The configuration is read before the Secret. So if a round sees a caBundle that another replica made for a newer state of the Secret, it
// sees that state too; and if the caBundle was made only afterwards, writing it on top of what was read is refused. Thus no replica
// takes back what another one published.
func (o *Own) round(ctx context.Context) error {
	defer o.renew()
	p, err := o.look(ctx)
	if err != nil && !errors.Is(err, errGone) {
		return err
	}
	exists, missing := err == nil, err
	secret, err := o.cluster.secret(ctx)
	if err != nil {
		return err
	}
	read, wrong := parse(secret.Data, o.try)
	next, change, err := read.step(o.sight(read, wrong), func() (*pki.Authority, error) {
		return pki.NewAuthority(o.name, time.Now(), o.options.AuthorityLife)
	})
	if err != nil {
		return err
	}
	if change != nil {
		if change.urgent {
			if since := time.Since(o.replaced); !o.replaced.IsZero() && since < time.Minute {
				return fmt.Errorf("the authority in the Secret is of no use again, %s after it was replaced: "+
					"does somebody else write it, or is a replica's clock wrong? %w", since.Round(time.Second), wrong)
			}
		}
		now := time.Now()
		secret = secret.DeepCopy()
		if secret.Data, err = next.encode(secret.Data, now.UTC().Format(time.RFC3339)+" "+change.what); err != nil {
			return err
		}
		if err := o.cluster.save(ctx, secret); err != nil {
			return err
		}
		if change.urgent {
			o.replaced = now
		}
		o.changed(*change)
	}
	o.adopt(next)
	if !exists {
		return missing
	}
	bundles := make([][]byte, len(p.entries))
	for i := range bundles {
		bundles[i] = next.bundle()
	}
	wrote, err := o.publish.write(ctx, p, bundles, time.Now())
	if err == nil && wrote {
		_, err = o.look(ctx)
	}
	o.mu.Lock()
	o.facts.BundleRepairs = o.publish.repairs
	o.mu.Unlock()
	if err == nil && change != nil {
		return errLater // there may be a next step
	}
	return err
}

// look reads the configuration.
func (o *Own) look(ctx context.Context) (published, error) {
	p, err := o.cluster.configuration(ctx)
	if err == nil || errors.Is(err, errGone) {
		o.holder.saw(p, err != nil, false, time.Now())
	}
	return p, err
}

// try says whether an authority can sign what is needed: it may be forbidden to.
func (o *Own) try(a *pki.Authority) error {
	of := pki.Of(a.Certificate())
	if of == o.usable || pki.ValidAt(a.Certificate(), time.Now()) != nil {
		return nil // tried already; or no longer good for anything, which is said elsewhere
	}
	pair, err := o.sign(a)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.Certificate())
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: o.options.Hosts[0], Roots: roots}); err != nil {
		return err
	}
	o.usable = of
	return nil
}

func (o *Own) sign(a *pki.Authority) (*tls.Certificate, error) {
	return a.Sign(pki.Request{Name: o.options.Hosts[0], Hosts: o.options.Hosts, Server: true, Life: o.options.LeafLife}, time.Now())
}

// sight is what this replica saw for itself.
func (o *Own) sight(read state, wrong error) sight {
	now, live := time.Now(), o.holder.reading()
	saw := sight{now: now, wrong: wrong}
	if read.current != nil {
		saw.due = read.current.Certificate().NotAfter.Sub(now) < o.options.AuthorityLife/3
	}
	for _, c := range live.all() {
		if c.Subject.CommonName == o.name && pki.ValidAt(c, now) == nil {
			saw.trusted = append(saw.trusted, c)
		}
	}
	if read.next != nil {
		known, there := live.holds(read.next.Certificate())
		saw.nextIsKnown = there && known >= o.options.Overlap
	}
	if !slices.EqualFunc(o.previous, read.previous, (*x509.Certificate).Equal) {
		o.previous, o.since = read.previous, now
	}
	saw.previousAreOld = len(read.previous) > 0 && now.Sub(o.since) >= o.options.LeafLife
	return saw
}

func (o *Own) changed(c change) {
	level := slog.LevelInfo
	o.mu.Lock()
	if c.rotation {
		o.facts.Rotations++
	}
	if c.repair {
		o.facts.SecretRepairs++
		level = slog.LevelWarn
	}
	o.mu.Unlock()
	o.log.Log(context.Background(), level, "the certificate authority changed", "what", c.what,
		"secret", o.options.Namespace+"/"+o.options.Secret)
}

// adopt makes what the Secret says this replica's.
func (o *Own) adopt(s state) {
	o.state = s
	o.mu.Lock()
	defer o.mu.Unlock()
	o.facts.AuthorityExpires = s.current.Certificate().NotAfter
}

// renew offers a certificate of the current authority, and signs another one when it has half of its life behind it. Until the API
// servers know a new authority for long enough, the certificate of the old one stays in service, and the offer stands.
func (o *Own) renew() {
	a, now := o.state.current, time.Now()
	if a == nil || pki.ValidAt(a.Certificate(), now) != nil {
		return
	}
	if by := pki.Of(a.Certificate()); o.leaf == nil || o.signedBy != by || o.leaf.Leaf.NotAfter.Sub(now) < o.options.LeafLife/2 {
		leaf, err := o.sign(a)
		if err != nil {
			o.log.Error("cannot sign a certificate", "error", err)
			return
		}
		o.leaf, o.signedBy = leaf, by
	}
	o.holder.offer(o.leaf, now)
}
