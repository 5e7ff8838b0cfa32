package member

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/holdfast-dev/holdfast/pki"
)

func (o *Options) file(name string) string { return filepath.Join(o.Certs, name) }

// certify writes a new certificate, which etcd reads at the next handshake.
func (o *Options) certify(now time.Time) error {
	if o.key == nil {
		var err error
		if o.key, err = pki.NewKey(); err != nil {
			return err
		}
	}
	self, _ := o.self()
	hosts := append([]string{"localhost", "127.0.0.1", self.Host}, o.Hosts...)
	pair, err := o.Authority.Sign(pki.Request{Name: o.Name, Hosts: hosts, Server: true, Client: true, Life: certificateLife, Key: o.key}, now)
	if err != nil {
		return fmt.Errorf("sign this member's certificate: %w", err)
	}
	certificate, key, err := pki.EncodePair(pair)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.Certs, 0o700); err != nil {
		return fmt.Errorf("make the folder for certificates: %w", err)
	}
	// The two are read one after the other. So the key stays the same in a life of this process, and either certificate fits it.
	for name, content := range map[string][]byte{
		"ca.crt": pki.EncodeCertificates(o.Authority.Certificate()), "tls.key": key, "tls.crt": certificate,
	} {
		if err := replace(o.file(name), content); err != nil {
			return fmt.Errorf("write this member's certificate: %w", err)
		}
	}
	return nil
}

// replace writes a file so that nobody reads half of it.
func replace(file string, content []byte) error {
	if err := os.WriteFile(file+".new", content, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// renew makes a new certificate after two thirds of the life of each.
func (o *Options) renew(ctx context.Context) {
	wait := certificateLife * 2 / 3
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if err := o.certify(time.Now()); err != nil {
			o.Log.Error("cannot renew this member's certificate: trying again", "error", err)
			wait = time.Minute
			continue
		}
		o.Log.Info("this member's certificate is renewed")
		wait = certificateLife * 2 / 3
	}
}

// dial makes a client of one member.
func (o *Options) dial(endpoint string) (*clientv3.Client, error) {
	roots := x509.NewCertPool()
	roots.AddCert(o.Authority.Certificate())
	return clientv3.New(clientv3.Config{
		Endpoints: []string{endpoint}, TLS: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, Logger: zap.NewNop(),
		DialTimeout: askTimeout,
	})
}
