package flink

import (
	"crypto/tls"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestNewNamesTheBadField(t *testing.T) {
	good := Options{Hosts: []string{"127.0.0.1"}, Port: 8081}
	tests := map[string]struct {
		change func(*Options)
		says   string // "" for no error
	}{
		"good":            {func(*Options) {}, ""},
		"IPv6":            {func(o *Options) { o.Hosts = []string{"::1"} }, ""},
		"a name":          {func(o *Options) { o.Hosts = []string{"orders-rest.team-a.svc"} }, ""},
		"no hosts":        {func(o *Options) { o.Hosts = nil }, "Hosts is empty"},
		"an empty host":   {func(o *Options) { o.Hosts = []string{"127.0.0.1", ""} }, "Hosts: an empty host"},
		"a URL":           {func(o *Options) { o.Hosts = []string{"http://x"} }, "is a URL"},
		"host and port":   {func(o *Options) { o.Hosts = []string{"x:8081"} }, "without port"},
		"brackets":        {func(o *Options) { o.Hosts = []string{"[::1]"} }, "without brackets"},
		"a path":          {func(o *Options) { o.Hosts = []string{"x/y"} }, "without port or path"},
		"a line break":    {func(o *Options) { o.Hosts = []string{"x\r\nHost: y"} }, "neither a name"},
		"port zero":       {func(o *Options) { o.Port = 0 }, "Port 0"},
		"port too high":   {func(o *Options) { o.Port = 65536 }, "Port 65536"},
		"scheme":          {func(o *Options) { o.Scheme = "ftp" }, `Scheme "ftp"`},
		"timeout":         {func(o *Options) { o.Timeout = -time.Second }, "Timeout -1s"},
		"retries below":   {func(o *Options) { o.Retries = -1 }, "Retries -1"},
		"retries above":   {func(o *Options) { o.Retries = 11 }, "Retries 11"},
		"negative bodies": {func(o *Options) { o.MaxBody = -1 }, "MaxBody -1"},
	}
	for name, test := range tests {
		o := good
		test.change(&o)
		c, err := New(o)
		if test.says == "" {
			if err != nil || c.timeout != defaultTimeout || c.maxBody != defaultMaxBody {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err == nil || c != nil || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), "give") {
			t.Errorf("%s: %v, want %q and what to do", name, err, test.says)
		}
	}
}

func TestDial(t *testing.T) {
	tests := map[string]struct {
		want string // the address
		says string // or the error
	}{
		"http://localhost:8081":         {"http://localhost:8081", ""},
		"http://localhost:8081/":        {"http://localhost:8081", ""},
		"HTTP://localhost:8081":         {"http://localhost:8081", ""},
		"http://proxy/team-a/orders//":  {"http://proxy:80/team-a/orders", ""},
		"https://flink.example.com":     {"https://flink.example.com:443", ""},
		"https://[::1]:8081/x":          {"https://[::1]:8081/x", ""},
		"localhost:8081":                {"", "http://"},
		"":                              {"", "http://"},
		"8081":                          {"", "http://"},
		"ftp://localhost":               {"", "http or https"},
		"http://":                       {"", "host is missing"},
		"http://:8081":                  {"", "host is missing"},
		"http://localhost:0":            {"", "1 to 65535"},
		"http://localhost:99999":        {"", "1 to 65535"},
		"http://localhost:port":         {"", "cannot be read"},
		"http://local host:8081":        {"", "cannot be read"},
		"http://localhost:8081/#/job/1": {"", "page"},
		"http://localhost:8081/?x=1":    {"", "page"},
		"http://me:secret@localhost":    {"", "user and password"},
		"http://%zz:secret@localhost":   {"", "cannot be read"},
		"http://localhost:8081\x1b[2J":  {"", "cannot be read"},
	}
	for address, test := range tests {
		c, err := Dial(address, Options{})
		if test.says != "" {
			if err == nil || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), "such as http://localhost:8081") {
				t.Errorf("%q: %v, want %q", address, err, test.says)
			} else if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "\x1b") {
				t.Errorf("%q: the error shows too much: %v", address, err)
			}
			continue
		}
		if err != nil || c.Address() != test.want {
			t.Errorf("%q: %v, want %s", address, err, test.want)
		}
	}
	for _, o := range []Options{{Hosts: []string{"x"}}, {Port: 1}, {Scheme: "http"}} {
		if _, err := Dial("http://localhost:8081", o); err == nil {
			t.Errorf("%+v beside a URL is taken", o)
		}
	}
	if _, err := Dial("http://localhost:8081", Options{Retries: -1}); err == nil {
		t.Error("bad options are taken")
	}
}

// Certificates go unverified only where none can name the host, and never against a configuration.
func TestVerification(t *testing.T) {
	insecure := func(o Options) bool {
		t.Helper()
		o.Port = 8081
		c, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		return c.http.HTTPClient.Transport.(*http.Transport).TLSClientConfig.InsecureSkipVerify
	}
	for host, want := range map[string]bool{
		"127.0.0.1": true, "127.9.9.9": true, "::1": true, "::ffff:127.0.0.1": true, "10.1.2.3": true, "172.16.0.1": true,
		"192.168.1.1": true, "fd00::1": true, "100.64.0.1": true, "100.127.255.254": true, "100.128.0.1": false, "100.63.0.1": false,
		"172.32.0.1": false, "8.8.8.8": false, "2001:db8::1": false, "localhost": false, "flink.example.com": false,
	} {
		if got := insecure(Options{Hosts: []string{host}}); got != want {
			t.Errorf("%s: unverified %v, want %v", host, got, want)
		}
		if insecure(Options{Hosts: []string{host}, TLS: &tls.Config{}}) {
			t.Errorf("%s: unverified in spite of a configuration", host)
		}
	}
	if insecure(Options{Hosts: []string{"127.0.0.1", "flink.example.com"}}) {
		t.Error("a name beside loopback goes unverified")
	}
}

// A JobManager is asked directly, and the caller's TLS configuration stays the caller's.
func TestTransport(t *testing.T) {
	config := &tls.Config{ServerName: "a"}
	c, err := New(Options{Hosts: []string{"127.0.0.1"}, Port: 8081, TLS: config})
	if err != nil {
		t.Fatal(err)
	}
	tr := c.http.HTTPClient.Transport.(*http.Transport)
	if tr.Proxy != nil || !tr.DisableCompression || tr.TLSClientConfig == config || tr.TLSClientConfig.ServerName != "a" {
		t.Errorf("proxy set: %v, compression off: %v, configuration shared: %v", tr.Proxy != nil, tr.DisableCompression, tr.TLSClientConfig == config)
	}
	if c.http.Logger != nil {
		t.Error("the HTTP client logs")
	}
}
