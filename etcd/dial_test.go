package etcd_test

import (
	"context"
	"crypto/tls"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/etcd/etcdlocal/etcdproc"
)

func TestDialRefusesOnlyWhatCanNeverWork(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		o    etcd.Options
		want string // of the error; "" is none
	}{
		{"nobody listens", etcd.Options{Endpoints: []string{"127.0.0.1:1", "127.0.0.1:2"}}, ""},
		{"nobody to ask for a token", etcd.Options{Endpoints: []string{"http://127.0.0.1:1"}, Username: "u", Password: "p"}, ""},
		{"socket", etcd.Options{Endpoints: []string{"unix:///nowhere"}}, ""},
		{"TLS", etcd.Options{Endpoints: []string{"https://etcd:2379"}, TLS: &tls.Config{}}, ""},
		{"none", etcd.Options{}, "no endpoints"},
		{"no port", etcd.Options{Endpoints: []string{"etcd"}}, "a host and a port"},
		{"the scheme's port", etcd.Options{Endpoints: []string{"https://etcd.example", "https://[fd00::1]"}, TLS: &tls.Config{}}, ""},
		{"empty", etcd.Options{Endpoints: []string{""}}, "a host and a port"},
		{"unknown scheme", etcd.Options{Endpoints: []string{"ftp://etcd:2379"}}, `scheme "ftp"`},
		{"not an address", etcd.Options{Endpoints: []string{"http://et cd:2379"}}, "endpoint"},
		{"mixed", etcd.Options{Endpoints: []string{"http://a:1", "https://b:1"}}, "differ in scheme"},
		{"TLS in plain text", etcd.Options{Endpoints: []string{"http://a:1"}, TLS: &tls.Config{}}, "write https://"},
		{"half a login", etcd.Options{Endpoints: []string{"http://a:1"}, Username: "u"}, "go together"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := etcd.Dial(t.Context(), tt.o)
			if err == nil {
				defer c.Close()
			}
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

// A client whose etcd asks for a password works with the first call, and a wrong password is a plain error.
func TestPassword(t *testing.T) {
	t.Parallel()
	p := etcdproc.Start(t, 0)
	admin := p.Client()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, step := range []func() error{
		func() error { _, err := admin.UserAdd(ctx, "root", "secret"); return err },
		func() error { _, err := admin.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := admin.AuthEnable(ctx); return err },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	dial := func(password string) func(key string) error {
		c, err := etcd.Dial(ctx, etcd.Options{Endpoints: []string{p.Endpoint()}, Username: "root", Password: password})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return func(key string) error {
			_, err := etcd.Commit(ctx, c, []etcd.Guard{{Key: key}}, []etcd.Op{{Key: key, Value: []byte("v")}})
			return err
		}
	}
	if err := dial("secret")("a"); err != nil {
		t.Errorf("with the password: %v", err)
	}
	if err := dial("wrong")("b"); err == nil || errors.Is(err, etcd.ErrUnknown) {
		t.Errorf("with a wrong password: %v", err)
	}
	if _, err := etcd.Commit(ctx, admin, nil, []etcd.Op{{Key: "c"}}); err == nil || errors.Is(err, etcd.ErrUnknown) {
		t.Errorf("without a password: %v", err)
	}
}
