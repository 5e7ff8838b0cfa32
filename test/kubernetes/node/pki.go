package node

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// authority signs all certificates of one cluster. It lives as long as the cluster does.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// Longer than any test cluster is left running.
const certificateLife = 365 * 24 * time.Hour

// newAuthority makes a certificate authority and writes it to dir, as ca.crt and ca.key.
func newAuthority(dir string) (*authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	a := &authority{dir: dir}
	template := certificate(pkix.Name{CommonName: "holdfast-test"})
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	if a.cert, err = x509.ParseCertificate(raw); err != nil {
		return nil, err
	}
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})
	return a, a.write("ca", a.pem, a.key)
}

// issue makes a certificate for a name and its groups, and writes it to FILE.crt and FILE.key. Hosts are host names and addresses.
func (a *authority) issue(file, name string, groups []string, hosts ...string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	return a.sign(file, name, groups, hosts, key)
}

// issueAdmin makes an administrator's certificate. Its key is of RSA: the Kubernetes client in Flink 1.20 can read no other.
func (a *authority) issueAdmin() error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	return a.sign("admin", "holdfast-test-admin", []string{"system:masters"}, nil, key)
}

func (a *authority) sign(file, name string, groups, hosts []string, key crypto.Signer) error {
	template := certificate(pkix.Name{CommonName: name, Organization: groups})
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return err
	}
	return a.write(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}), key)
}

func certificate(subject pkix.Name) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)) // rand.Reader never fails
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      subject,
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(certificateLife),
	}
}

// write writes keys in their own old forms: Kubernetes reads no other of service accounts' keys.
func (a *authority) write(file string, certificate []byte, key crypto.Signer) error {
	block := &pem.Block{Type: "RSA PRIVATE KEY"}
	switch key := key.(type) {
	case *rsa.PrivateKey:
		block.Bytes = x509.MarshalPKCS1PrivateKey(key)
	case *ecdsa.PrivateKey:
		raw, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			return err
		}
		block.Type, block.Bytes = "EC PRIVATE KEY", raw
	}
	if err := os.WriteFile(filepath.Join(a.dir, file+".crt"), certificate, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(a.dir, file+".key"), pem.EncodeToMemory(block), 0o600)
}

// kubeconfig writes a kubeconfig for the certificate in FILE.crt. Everything is in it, so that it can be copied.
func (a *authority) kubeconfig(path, server, file string) error {
	data := map[string]string{}
	for _, name := range []string{"ca.crt", file + ".crt", file + ".key"} {
		content, err := os.ReadFile(filepath.Join(a.dir, name))
		if err != nil {
			return err
		}
		data[name] = base64.StdEncoding.EncodeToString(content)
	}
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
- name: holdfast-test
  cluster:
    server: %s
    certificate-authority-data: %s
users:
- name: %s
  user:
    client-certificate-data: %s
    client-key-data: %s
contexts:
- name: holdfast-test
  context: {cluster: holdfast-test, user: %[3]s}
current-context: holdfast-test
`, server, data["ca.crt"], file, data[file+".crt"], data[file+".key"])
	return os.WriteFile(path, []byte(text), 0o600)
}

// clientTLS gives what a client needs that comes with the certificate in FILE.crt below dir.
func clientTLS(dir, file string) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, file+".crt"), filepath.Join(dir, file+".key"))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(bytes.TrimSpace(ca)) {
		return nil, fmt.Errorf("there is no certificate in %s", filepath.Join(dir, "ca.crt"))
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: roots}, nil
}
