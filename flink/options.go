package flink

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Bounds of one question where Options leave them open.
const (
	defaultTimeout = 3 * time.Second
	// Ten thousand jobs are about 4 MB of /jobs/overview.
	defaultMaxBody = 32 << 20
	// Answers about one job, or about the JobManager, are some kilobytes; the plan of a large job makes some megabytes.
	singleMaxBody = 8 << 20
)

// Options say where a JobManager is and how long to wait for it.
type Options struct {
	// Hosts are tried in order, names or addresses without a port: "127.0.0.1", then the pod's IP, since
	// rest.bind-address may leave loopback out. The one that answered is remembered and asked first from then on.
	Hosts []string
	// Port is where Flink listens (rest.bind-port, else rest.port; 8081 unless configured), 1 to 65535.
	Port int
	// Scheme is "http", "https" or "", which finds out: http is tried first, and where Flink speaks TLS it answers
	// plain requests with a redirect to https (RedirectingSslHandler.java), which is taken as "speak TLS to this
	// port". The host in the redirect is the advertised one, often not reachable from here, and is never followed.
	Scheme string
	// TLS is used as it is. Flink's certificate names the host that Flink advertises, so whoever verifies sets
	// ServerName and RootCAs; security.ssl.rest.authentication-enabled wants a client certificate here. If it is nil,
	// certificates are verified against the system's roots, except where every host is a loopback or private
	// address (RFC 1918, 4193, 6598: pod IPs), which no certificate of Flink's names: there they are not verified.
	TLS *tls.Config
	// Timeout bounds one question, from the first dial to the last byte, all hosts and retries included. 0 is 3 s.
	Timeout time.Duration
	// Retries is how often a question is asked again on a connection that broke before any answer, 0 to 10. Whoever
	// asks again by itself wants 0. Questions that change something are never asked twice.
	Retries int
	// MaxBody bounds the bytes read of one answer; what is longer is Malformed. 0 is 32 MiB. Answers other than
	// /jobs/overview are bounded by 8 MiB, if MaxBody is not less. Whatever the size, no more than about 2 MiB
	// of an answer are in memory at once, besides what is returned.
	MaxBody int64
}

// New makes a client. It asks nothing yet. An error names the field that is wrong.
func New(o Options) (*Client, error) {
	if len(o.Hosts) == 0 {
		return nil, errors.New("flink: Hosts is empty: give at least one, such as 127.0.0.1")
	}
	for _, host := range o.Hosts {
		if err := checkHost(host); err != nil {
			return nil, fmt.Errorf("flink: Hosts: %w", err)
		}
	}
	if o.Port < 1 || o.Port > 65535 {
		return nil, fmt.Errorf("flink: Port %d: give Flink's rest.port, 1 to 65535 (usually 8081)", o.Port)
	}
	if o.Scheme != "" && o.Scheme != "http" && o.Scheme != "https" {
		return nil, fmt.Errorf("flink: Scheme %q: give http, https, or nothing to find out", clean(o.Scheme, 64))
	}
	if o.Timeout < 0 {
		return nil, fmt.Errorf("flink: Timeout %s: give a positive duration, or 0 for %s", o.Timeout, defaultTimeout)
	}
	if o.Retries < 0 || o.Retries > 10 {
		return nil, fmt.Errorf("flink: Retries %d: give 0 to 10", o.Retries)
	}
	if o.MaxBody < 0 {
		return nil, fmt.Errorf("flink: MaxBody %d: give a positive number of bytes, or 0 for %d", o.MaxBody, defaultMaxBody)
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	if o.MaxBody == 0 {
		o.MaxBody = defaultMaxBody
	}
	return newClient(o), nil
}

// Dial makes a client for a URL as people have it: http://host:8081, https://host, http://proxy/some/prefix. Hosts,
// Port and Scheme of o must be empty. A URL with http still finds out whether the port speaks TLS. It asks nothing yet.
func Dial(address string, o Options) (*Client, error) {
	if len(o.Hosts) > 0 || o.Port != 0 || o.Scheme != "" {
		return nil, errors.New("flink: Hosts, Port and Scheme come from the URL: leave them empty")
	}
	bad := func(do string) (*Client, error) {
		return nil, fmt.Errorf("flink: URL %q: %s, such as http://localhost:8081", clean(redacted(address), 200), do)
	}
	if !strings.Contains(address, "://") {
		return bad("give it with http:// or https://")
	}
	u, err := url.Parse(address)
	switch {
	case err != nil:
		return bad("it cannot be read; give host and port of Flink's REST API")
	case u.Scheme != "http" && u.Scheme != "https":
		return bad("Flink's REST API speaks http or https")
	case u.Hostname() == "":
		return bad("the host is missing; give host and port")
	case u.User != nil:
		return bad("user and password are not supported; give host and port only")
	case u.RawQuery != "" || u.Fragment != "":
		return bad("what follows ? or # belongs to a page; give the address only")
	}
	port := u.Port()
	switch {
	case port == "" && u.Scheme == "http":
		port = "80"
	case port == "":
		port = "443"
	}
	o.Hosts = []string{u.Hostname()}
	if o.Port, err = strconv.Atoi(port); err != nil || o.Port < 1 || o.Port > 65535 {
		return bad("the port must be 1 to 65535; give host and port")
	}
	if u.Scheme == "https" {
		o.Scheme = "https"
	}
	c, err := New(o)
	if err != nil {
		return nil, err
	}
	c.prefix = strings.TrimRight(u.Path, "/")
	return c, nil
}

func checkHost(host string) error {
	switch {
	case host == "":
		return errors.New("an empty host: give a name or an address")
	case strings.Contains(host, "://"):
		return fmt.Errorf("%q is a URL: give the host alone", clean(host, 200))
	case strings.HasPrefix(host, "["):
		return fmt.Errorf("%q: give an IPv6 address without brackets", clean(host, 200))
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return nil
	}
	if strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || strings.ContainsRune(`/\?#@:%"<>`, r) }) {
		return fmt.Errorf("%q is neither a name nor an address: give the host alone, without port or path", clean(host, 200))
	}
	return nil
}

// redacted keeps what may be a password out of an error.
func redacted(address string) string {
	at := strings.LastIndexByte(address, '@')
	start := strings.Index(address, "://")
	if at < 0 || start < 0 || at < start {
		return address
	}
	return address[:start+3] + "…" + address[at:]
}

// podAddress says whether no certificate can be expected to name the host: loopback, or one of the ranges that pod
// networks use.
func podAddress(host string) bool {
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	ip = ip.Unmap()
	return ip.IsLoopback() || ip.IsPrivate() || sharedRange(ip)
}

// sharedRange is 100.64.0.0/10 of RFC 6598, from which some clouds give addresses to pods.
func sharedRange(ip netip.Addr) bool {
	if !ip.Is4() {
		return false
	}
	b := ip.As4()
	return b[0] == 100 && b[1]&0xc0 == 64
}

func hostPort(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }
