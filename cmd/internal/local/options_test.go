package local

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseFlink(t *testing.T) {
	for in, want := range map[string]Flink{
		"http://localhost:8081":        {"localhost-8081", "http://localhost:8081"},
		"orders=http://localhost:8081": {"orders", "http://localhost:8081"},
		"https://flink.example":        {"flink.example-443", "https://flink.example"},
		"http://flink.example/":        {"flink.example-80", "http://flink.example/"},
		"http://proxy:80/flink/a/":     {"proxy-80-flink-a", "http://proxy:80/flink/a/"},
		"http://[::1]:8081":            {"1-8081", "http://[::1]:8081"},
		"http://h/?a=b":                {"h-80", "http://h/?a=b"},
		"=http://h":                    {"", "http://h"},
		"localhost:8081":               {"", "localhost:8081"},
		"two words=http://h:1":         {"two words", "http://h:1"},
		"":                             {"", ""},
	} {
		if diff := cmp.Diff(want, ParseFlink(in)); diff != "" {
			t.Errorf("%q: -want +got\n%s", in, diff)
		}
	}
}

// fine are options with which nothing is wrong.
func fine(dir string) Options {
	return Options{
		Flinks: []Flink{{"orders", "http://localhost:8081"}}, Listen: "127.0.0.1:0", Data: dir,
		Hold: 30 * time.Second, Grace: 30 * time.Second, Lease: 20 * time.Second, Poll: time.Second,
	}
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Options)
		want   []string
	}{
		{"nothing", func(*Options) {}, nil},
		{"no JobManager", func(o *Options) { o.Flinks = nil }, []string{"no --flink: give at least one"}},
		{"two of one name", func(o *Options) { o.Flinks = append(o.Flinks, Flink{"orders", "http://localhost:8082"}) },
			[]string{`http://localhost:8081 and http://localhost:8082 are both called "orders": give each a NAME= of its own`}},
		{"the same twice", func(o *Options) { o.Flinks = append(o.Flinks, Flink{"again", "http://localhost:8081/"}) },
			[]string{`"orders" and "again" are the same JobManager, http://localhost:8081: give it once`}},
		{"a bad name", func(o *Options) { o.Flinks[0].Name = "or/ders" }, []string{`"or/ders" has the character '/'`}},
		{"no name", func(o *Options) { o.Flinks[0].Name = "" }, []string{`the NAME of "http://localhost:8081" is empty; give one before the URL`}},
		{"a name whose pod's is too long", func(o *Options) { o.Flinks[0].Name = strings.Repeat("x", 250) }, []string{"the pod's name that is made of the NAME has 256 characters"}},
		{"no scheme", func(o *Options) { o.Flinks[0].URL = "localhost:8081" }, []string{`URL "localhost:8081": give it with http:// or https://, such as http://localhost:8081`}},
		{"empty data", func(o *Options) { o.Data = "" }, []string{"--data is empty: give a folder"}},
		{"hold shorter than two polls", func(o *Options) { o.Hold = 1900 * time.Millisecond }, []string{"--hold 1.9s is shorter than two polls of 1s"}},
		{"lease shorter than two polls", func(o *Options) { o.Poll = 11 * time.Second }, []string{"--lease 20s is shorter than two polls of 11s"}},
		{"a lease that etcd does not grant", func(o *Options) { o.Lease = time.Second }, []string{"--lease 1s: give 2s to 1h"}},
		{"no poll", func(o *Options) { o.Poll = 0 }, []string{"--poll 0s: give 100ms to 1h"}},
		{"a negative check period", func(o *Options) { o.CheckPeriod = -time.Second }, []string{"--check-period -1s: give 1s or more, or 0 for never"}},
		{"no grace", func(o *Options) { o.Grace = -time.Second }, []string{"--grace -1s: give a time of more than 0"}},
		{"no port", func(o *Options) { o.Listen = "localhost" }, []string{`--listen "localhost": give a host and a port, such as 127.0.0.1:7070`}},
		{"a port that is none", func(o *Options) { o.Listen = "localhost:70700" }, []string{"the port must be a number from 0"}},
		{"much at once", func(o *Options) {
			o.Data, o.Listen, o.Hold = "", "x", 0
			o.Flinks = []Flink{{"a", "ftp://h"}, {"b", "http://h:1"}, {"b", "http://h:2"}}
		}, []string{"speaks http or https", `both called "b"`, "--data is empty", `--listen "x"`, "--hold 0s is shorter"}},
	} {
		o := fine("/somewhere")
		c.change(&o)
		text := ""
		if err := o.Check(); err != nil {
			text = err.Error()
		}
		for _, want := range c.want {
			if !strings.Contains(text, want) {
				t.Errorf("%s: no %q in\n%s", c.name, want, text)
			}
		}
		if lines := len(strings.Split(text, "\n")); text != "" && lines != max(len(c.want), 1) || text != "" && c.want == nil {
			t.Errorf("%s: %d complaints, want %d:\n%s", c.name, lines, len(c.want), text)
		}
	}
}
