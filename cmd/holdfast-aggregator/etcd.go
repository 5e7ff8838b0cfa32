package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-dev/holdfast/etcd"
)

// etcdFlags say where etcd is, and how to speak to it.
type etcdFlags struct {
	endpoints     []string
	ca, cert, key string
	pem           string // the certificates themselves, instead of those in the file ca
}

func (e *etcdFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringSliceVar(&e.endpoints, "etcd-endpoints", []string{"http://127.0.0.1:2379"}, "where etcd's members are")
	f.StringVar(&e.ca, "etcd-ca", "", "file with the certificates of the authorities that etcd's is checked against (default: the system's)")
	f.StringVar(&e.cert, "etcd-cert", "", "file with the certificate to show to etcd")
	f.StringVar(&e.key, "etcd-key", "", "file with the key of --etcd-cert")
}

func (e *etcdFlags) check() error {
	if (e.cert == "") != (e.key == "") {
		return errors.New("--etcd-cert and --etcd-key go together: give both, or neither")
	}
	return nil
}

// dial makes the client. It does not wait for etcd.
func (e *etcdFlags) dial(ctx context.Context) (*clientv3.Client, error) {
	config, err := e.tls()
	if err != nil {
		return nil, err
	}
	client, err := etcd.Dial(ctx, etcd.Options{Endpoints: e.endpoints, TLS: config})
	if err != nil {
		return nil, fmt.Errorf("--etcd-endpoints: %w", err)
	}
	return client, nil
}

// tls reads the files; nil without any.
func (e *etcdFlags) tls() (*tls.Config, error) {
	if e.ca == "" && e.cert == "" && e.pem == "" {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	from, pem := "the ConfigMap", []byte(e.pem)
	if e.ca != "" && e.pem == "" {
		var err error
		if pem, err = os.ReadFile(e.ca); err != nil {
			return nil, fmt.Errorf("--etcd-ca: %w", err)
		}
		from = e.ca
	}
	if len(pem) > 0 || e.ca != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--etcd-ca: %s has no certificate in PEM form", from)
		}
	}
	if e.cert != "" {
		pair := &keyPair{cert: e.cert, key: e.key}
		if _, err := pair.get(nil); err != nil {
			return nil, err
		}
		config.GetClientCertificate = pair.get
	}
	return config, nil
}

// keyPair is a certificate in files that are renewed from time to time.
type keyPair struct {
	cert, key string

	mu     sync.Mutex
	loaded *tls.Certificate
	at     time.Time
}

// rereadAfter is how long a certificate is used before its files are read again.
const rereadAfter = time.Minute

// get reads the files, for each connection that is made a minute or more after the last reading. Files that cannot be read
// at the moment do not end a certificate that is in use.
func (k *keyPair) get(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.loaded != nil && time.Since(k.at) < rereadAfter {
		return k.loaded, nil
	}
	pair, err := tls.LoadX509KeyPair(k.cert, k.key)
	switch {
	case err == nil:
		k.loaded, k.at = &pair, time.Now()
	case k.loaded == nil:
		return nil, fmt.Errorf("--etcd-cert and --etcd-key: %w", err)
	}
	return k.loaded, nil
}
