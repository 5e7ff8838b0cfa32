// Package member is one member of an etcd cluster whose members are known by name, as the pods of a StatefulSet are. It makes its
// own certificates and renews them, finds its place in the cluster, and runs etcd's own server in this process. It knows no
// Holdfast word.
package member

import (
	"cmp"
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/holdfast-dev/holdfast/etcd/etcdlocal"
	"github.com/holdfast-dev/holdfast/pki"
)

// Options say which member this is, and of what.
type Options struct {
	// Name is this member's, one of Members.
	Name string
	// Members are all that there shall be, this one included.
	Members []Member
	// Token tells this cluster from others that might use the same addresses.
	Token string
	// Data is the folder of the data, and Certs that of this member's certificate and key: a folder in memory.
	Data, Certs string
	// Persistent says that the data of a member outlives it. Then a member without data never begins a cluster that has Begun.
	Persistent bool
	// Begun says that the cluster has had data; Begin remembers that.
	Begun bool
	Begin func(context.Context) error
	// Listen is the address to listen at; "" is all of this machine's.
	Listen string
	// ClientPort and PeerPort are the same for all members.
	ClientPort, PeerPort int
	// Health is the address at which /livez, /readyz and /metrics are served, without TLS.
	Health string
	// Hosts are further names and addresses by which clients know this member.
	Hosts []string
	// Authority signs this member's certificate, and those of all others.
	Authority *pki.Authority
	// Quota bounds the database, in bytes. When it is reached, writes and new leases fail, until history is compacted and the database
	// defragmented, which happens by itself, or the quota is raised.
	Quota int64
	// Retention is how old history may be before it is compacted.
	Retention time.Duration
	Log       *slog.Logger

	key         crypto.Signer
	upkeepEvery time.Duration // 0: the constant's
}

// Member is where one member is.
type Member struct{ Name, Host string }

const (
	// certificateLife is how long a certificate is good for. It is renewed after two thirds of that.
	certificateLife = 90 * 24 * time.Hour
	// askTimeout bounds one question to another member, and askAgain is the time between two rounds of questions.
	askTimeout = 3 * time.Second
	askAgain   = 2 * time.Second
	// alone is how long a member whose data does not outlive it waits for the others, before it takes them for gone, too.
	alone = 60 * time.Second
)

// Run runs the member until ctx ends, and then stops it in order: a leader hands over first. Any other end is an error, which says what to
// do.
func Run(ctx context.Context, o Options) error { return o.run(ctx) }

func (o *Options) run(ctx context.Context) error {
	if err := o.check(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := o.certify(time.Now()); err != nil {
		return err
	}
	go o.renew(ctx)
	place, err := o.find(ctx)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	o.Log.Info("etcd starts", "name", o.Name, "state", place.state, "cluster", place.cluster)
	server, err := etcdlocal.Start(ctx, etcdlocal.Options{
		Dir: o.Data, Token: o.Token, Quota: o.Quota, Logger: o.Log,
		Configure: func(c *embed.Config) error { return o.configure(c, place) },
	})
	if err != nil {
		if ctx.Err() != nil {
			return nil // asked to end while it waited for the others
		}
		if errors.Is(err, etcdlocal.ErrDamaged) && len(o.Members) > 1 {
			return fmt.Errorf("%w; or empty it: this member then joins the others anew, which have all that it had", err)
		}
		return err
	}
	defer server.Close()
	o.Log.Info("etcd serves", "name", o.Name)
	go o.remember(ctx)
	go o.upkeep(ctx)
	select {
	case <-ctx.Done():
		return nil
	case <-server.Done():
		return server.Err()
	}
}

func (o *Options) check() error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if _, ok := o.self(); !ok {
		return fmt.Errorf("member %q is none of %v", o.Name, o.Members)
	}
	if o.Authority == nil {
		return errors.New("a member needs an authority for its certificate")
	}
	return nil
}

func (o *Options) self() (Member, bool) {
	for _, m := range o.Members {
		if m.Name == o.Name {
			return m, true
		}
	}
	return Member{}, false
}

func (o *Options) peerURL(m Member) string {
	return "https://" + net.JoinHostPort(m.Host, strconv.Itoa(o.PeerPort))
}
func (o *Options) clientURL(m Member) string {
	return "https://" + net.JoinHostPort(m.Host, strconv.Itoa(o.ClientPort))
}

// configure makes etcd one of several, with TLS: clients check the server, and peers each other.
func (o *Options) configure(c *embed.Config, p place) error {
	self, _ := o.self()
	c.Name = o.Name
	c.ClusterState, c.InitialCluster = p.state, p.cluster
	c.AutoCompactionRetention = o.Retention.String()
	c.StrictReconfigCheck = true
	c.ListenClientUrls = []url.URL{o.listen(o.ClientPort)}
	c.ListenPeerUrls = []url.URL{o.listen(o.PeerPort)}
	var err error
	if c.AdvertiseClientUrls, err = one(o.clientURL(self)); err != nil {
		return err
	}
	if c.AdvertisePeerUrls, err = one(o.peerURL(self)); err != nil {
		return err
	}
	if c.ListenMetricsUrls, err = one("http://" + o.health()); err != nil {
		return fmt.Errorf("address for health: %w", err)
	}
	c.ClientTLSInfo = transport.TLSInfo{CertFile: o.file("tls.crt"), KeyFile: o.file("tls.key")}
	// Whoever has a certificate of this authority is a member; by which address it comes, a pod's network decides.
	c.PeerTLSInfo = transport.TLSInfo{
		CertFile: o.file("tls.crt"), KeyFile: o.file("tls.key"), TrustedCAFile: o.file("ca.crt"), ClientCertAuth: true,
		SkipClientSANVerify: true,
	}
	return nil
}

func (o *Options) listen(port int) url.URL {
	host := o.Listen
	if host == "" {
		// etcd wants an address. The one for both families there is only where there is IPv6.
		host = "::"
		if probe, err := net.Listen("tcp6", "[::]:0"); err != nil {
			host = "0.0.0.0"
		} else {
			probe.Close()
		}
	}
	return url.URL{Scheme: "https", Host: net.JoinHostPort(host, strconv.Itoa(port))}
}

// health is the address for health with a host: etcd wants one.
func (o *Options) health() string {
	if port, ok := strings.CutPrefix(o.Health, ":"); ok {
		number, _ := strconv.Atoi(port)
		u := o.listen(number)
		return u.Host
	}
	return o.Health
}

func one(text string) ([]url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, err
	}
	return []url.URL{*u}, nil
}

// place is where a member begins.
type place struct{ state, cluster string }

// find finds this member's place. With data it goes on where it was. Without, a cluster that others are in is joined anew; only where
// there is none yet, it is begun.
func (o *Options) find(ctx context.Context) (place, error) {
	begin := place{embed.ClusterStateFlagNew, o.everybody()}
	switch _, err := os.Stat(filepath.Join(o.Data, "member")); {
	case err == nil, len(o.Members) == 1:
		return begin, nil // with data, what is configured does not count
	case !errors.Is(err, os.ErrNotExist):
		return place{}, fmt.Errorf("look into data folder %s: %w", o.Data, err)
	}
	told := ""
	for since := time.Now(); ; {
		p, err := o.join(ctx)
		switch {
		case err == nil:
			return p, nil
		case errors.Is(err, errNobody) && !o.Begun:
			return begin, nil
		case errors.Is(err, errNobody) && !o.Persistent && time.Since(since) > alone:
			o.Log.Warn("no other member has answered: the cluster begins anew, without data", "waited", alone.String())
			return begin, nil
		}
		if text := err.Error(); text != told && ctx.Err() == nil {
			o.Log.Warn("waiting for the others: this member has no data, and the cluster has had some", "error", err, "persistent", o.Persistent)
			told = text
		}
		select {
		case <-ctx.Done():
			return place{}, ctx.Err()
		case <-time.After(askAgain):
		}
	}
}

// everybody is the initial cluster as all members name it.
func (o *Options) everybody() string {
	var all []string
	for _, m := range o.Members {
		all = append(all, m.Name+"="+o.peerURL(m))
	}
	return strings.Join(all, ",")
}

// errNobody says that no other member answers.
var errNobody = errors.New("no other member answers; where all of them have lost their data, remove the key begun from the Secret of the authority")

// join makes this member one of a cluster that others are in: under its old name it is removed first, since its data, and with it what it
// had promised to the others, is gone.
func (o *Options) join(ctx context.Context) (place, error) {
	client, members, err := o.ask(ctx)
	if err != nil {
		return place{}, err
	}
	defer client.Close()
	self, _ := o.self()
	ctx, cancel := context.WithTimeout(ctx, 5*askTimeout)
	defer cancel()
	for _, m := range members {
		if len(m.PeerURLs) == 1 && m.PeerURLs[0] == o.peerURL(self) {
			if _, err := client.MemberRemove(ctx, m.ID); err != nil {
				return place{}, fmt.Errorf("remove this member's former self from the cluster: %w", err)
			}
			o.Log.Warn("this member has lost its data: it leaves the cluster and joins it anew", "name", o.Name)
		}
	}
	answer, err := client.MemberAdd(ctx, []string{o.peerURL(self)})
	if err != nil {
		return place{}, fmt.Errorf("join the cluster: %w", err)
	}
	var all []string
	for _, m := range answer.Members {
		for _, u := range m.PeerURLs {
			all = append(all, o.nameOf(m, u)+"="+u)
		}
	}
	return place{embed.ClusterStateFlagExisting, strings.Join(all, ",")}, nil
}

// nameOf is the name of a member. One that has not started yet has none in etcd; it counts all the same, by its address.
func (o *Options) nameOf(m *pb.Member, peerURL string) string {
	for _, known := range o.Members {
		if o.peerURL(known) == peerURL {
			return known.Name
		}
	}
	return cmp.Or(m.Name, strconv.FormatUint(m.ID, 16))
}

// ask asks the other members who is in the cluster, until one answers that hears from a leader.
func (o *Options) ask(ctx context.Context) (*clientv3.Client, []*pb.Member, error) {
	var errs []error
	for _, m := range o.Members {
		if m.Name == o.Name {
			continue
		}
		client, err := o.dial(o.clientURL(m))
		if err != nil {
			return nil, nil, err
		}
		one, cancel := context.WithTimeout(ctx, askTimeout)
		list, err := client.MemberList(one) // linearizable: it needs a quorum
		cancel()
		if err == nil {
			return client, list.Members, nil
		}
		client.Close()
		errs = append(errs, fmt.Errorf("%s: %w", m.Name, err))
	}
	return nil, nil, fmt.Errorf("%w: %w", errNobody, errors.Join(errs...))
}

// remember notes that the cluster has begun, once it takes part in it.
func (o *Options) remember(ctx context.Context) {
	for o.Begin != nil && !o.Begun {
		err := o.Begin(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		o.Log.Warn("cannot note that the cluster has begun", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(askAgain):
		}
	}
}
