package main

import (
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dev/holdfast/aggregator/api"
	"github.com/holdfast-dev/holdfast/cmd/internal/client"
	"github.com/holdfast-dev/holdfast/job"
)

func TestMatch(t *testing.T) {
	list := []client.Job{
		{Namespace: "a", Cluster: "x", JobID: "aaaa1111", Name: "orders", Pipeline: "shop"},
		{Namespace: "a", Cluster: "x", JobID: "aaaa2222", Name: "aaaa1111", Pipeline: "shop"},
		{Namespace: "b", Cluster: "y", JobID: "bbbb3333", Name: "aaaa", Pipeline: "x/y"},
	}
	for meant, want := range map[string][]string{
		"orders":       {"aaaa1111"},
		"shop":         {"aaaa1111", "aaaa2222"},
		"aaaa1111":     {"aaaa1111"}, // an id outranks a name
		"aaaa":         {"bbbb3333"}, // a name outranks the beginning of an id
		"aaaa2":        {"aaaa2222"},
		"AAAA2":        {"aaaa2222"},
		"aaaa2222x":    nil,
		"bbb":          nil, // too short
		"bbbb":         {"bbbb3333"},
		"b/y/bbbb3333": {"bbbb3333"},
		"x/y":          {"bbbb3333"},
		"x":            {"aaaa1111", "aaaa2222"},
		"y":            {"bbbb3333"},
		"":             nil,
	} {
		var got []string
		found, named := match(list, meant)
		if want := slices.Contains([]string{"orders", "shop", "aaaa", "x/y", "x", "y"}, meant); named != want {
			t.Errorf("%q: by name %t, want %t", meant, named, want)
		}
		for _, j := range found {
			got = append(got, j.JobID)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: -want +got\n%s", meant, diff)
		}
	}
}

func TestFindTakesTheJobThatANameHasNow(t *testing.T) {
	ended := client.Job{Namespace: "a", Cluster: "x", JobID: "1", Name: "orders", Over: "yes"}
	runs := client.Job{Namespace: "a", Cluster: "x", JobID: "2", Name: "orders", Over: "no"}
	unclear := client.Job{Namespace: "a", Cluster: "x", JobID: "3", Name: "orders", Over: "unknown"}
	elsewhere := client.Job{Namespace: "a", Cluster: "z", JobID: "4", Name: "orders", Over: "yes"}
	for _, c := range []struct {
		name string
		jobs []client.Job
		want string
	}{
		{"one of one", []client.Job{ended}, "1"},
		{"the one that is not over", []client.Job{ended, runs}, "2"},
		{"two that are not over", []client.Job{runs, unclear}, ""},
		{"two that are over", []client.Job{ended, ended}, ""},
		{"another cluster", []client.Job{runs, elsewhere}, ""},
	} {
		got, note, err := find(client.JobList{Items: c.jobs}, "orders", &filter{})
		switch {
		case c.want == "" && err == nil:
			t.Errorf("%s: found %s, want an error", c.name, got.JobID)
		case c.want != "" && (err != nil || got.JobID != c.want):
			t.Errorf("%s: found %v, %v; want %s", c.name, got, err, c.want)
		case c.want != "" && (note != "") != (len(c.jobs) > 1):
			t.Errorf("%s: note %q", c.name, note)
		}
	}
}

func TestErrors(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	nobody := closed.Addr().String()
	s := scripted(t)
	s.on("/flink/api/v1/jobs", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte("<html>"))
	})
	s.on("/bad/api/v1/jobs", refuse(400, "A parameter is wrong", `state "RUNING" does not exist (did you mean RUNNING?)`))
	s.on("/cut/api/v1/jobs", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", "100")
		_, _ = w.Write([]byte(`{"items":`))
	})
	s.on("/odd/api/v1/jobs", answer("no list"))
	s.on("/busy/api/v1/jobs", refuse(503, "The server is not ready", "it has not seen all of its site yet: try again"))
	s.on("/slow/api/v1/jobs", func(_ http.ResponseWriter, q *http.Request) { <-q.Context().Done() })
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"get", "nobody"}, 3, `holdfast: no such job: none of 5 jobs is named, or has an id that begins with, "nobody": 'holdfast get' shows those that there are` + "\n"},
		{[]string{"why", "abc", "-n", "x"}, 3, `none of 5 jobs that passes the other flags is named (and an id needs at least 4 letters) "abc"`},
		{[]string{"history", "a1b2"}, 1, `holdfast: "a1b2" may mean 2 jobs; give the id of one:
  default/orders/a1b2c3d4e5f60718293a4b5c6d7e8f90  orders  RUNNING
  default/orders/a1b2ffffffffffffffffffffffffffff  returns  FAILED
`},
		{[]string{"history", "orders"}, 3, "no route fits"},
		{[]string{"get", "--server", nobody}, 1, "nothing listens at http://" + nobody + ": start it with 'holdfast local'"},
		{[]string{"watch", "--server", nobody}, 1, "nothing listens at http://" + nobody},
		{[]string{"get", "--server", "http://no-such-host.invalid"}, 1, "holdfast: the API cannot be reached"},
		{[]string{"get", "--server", s.URL + "/flink"}, 1, "answers, but not as Holdfast's API does (status 200, \"text/html\")"},
		{[]string{"get", "--server", s.URL + "/bad"}, 1, "holdfast: state \"RUNING\" does not exist (did you mean RUNNING?)\n"},
		{[]string{"get", "--server", s.URL + "/cut"}, 1, "broke before the whole answer came"},
		{[]string{"get", "--server", s.URL + "/odd"}, 1, "cannot be read"},
		{[]string{"get", "--server", s.URL + "/busy", "--timeout", "300ms"}, 1, "holdfast: it has not seen all of its site yet: try again\n"},
		{[]string{"get", "--server", s.URL + "/slow", "--timeout", "50ms"}, 1, "gave no answer in time: try again, or allow more with --timeout"},
		{[]string{"watch", "--server", s.URL + "/slow", "--timeout", "50ms"}, 1, "gave no answer in time"},
		{[]string{"get", "--server", "ftp://x"}, 2, `server "ftp://x" is not an address of the API`},
		{[]string{"get", "--timeout", "-1s"}, 2, "--timeout -1s: give a time of more than 0"},
		{[]string{"get", "-o", "xml"}, 2, `--output "xml" does not exist: give table, wide, json or yaml`},
		{[]string{"get", "a", "b"}, 2, "give no more than one job"},
		{[]string{"get", "jobs", ""}, 2, "the job's name is empty"},
		{[]string{"why"}, 2, "give one job"},
		{[]string{"watch", "a", "b"}, 2, "give no more than one job"},
		{[]string{"status", "x"}, 2, "unknown command"},
		{[]string{"gte"}, 2, `unknown command "gte"`},
	} {
		code, out, errs := s.run(c.args...)
		if code != c.code || !strings.Contains(errs, c.want) || out != "" {
			t.Errorf("%v: exit code %d, want %d; out %q; said\n%s\nwant\n%s", c.args, code, c.code, out, errs, c.want)
		}
		if lines := strings.Count(errs, "\n"); c.code == 1 && lines != strings.Count(c.want, "\n") && lines != 1 {
			t.Errorf("%v: said more than one sentence:\n%s", c.args, errs)
		}
	}
}

// A server that is not ready yet is worth a little patience.
func TestGetWaitsForAServerThatStarts(t *testing.T) {
	s := newScript(t)
	asked := 0
	s.on("/api/v1/jobs", func(w http.ResponseWriter, q *http.Request) {
		if asked++; asked < 3 {
			refuse(503, "The server is not ready", "try again")(w, q)
			return
		}
		answer(api.JobList{Items: []api.Job{{Site: "s", Name: "orders", State: job.Running}}})(w, q)
	})
	began := time.Now()
	code, out, errs := s.run("get", "--timeout", "10s")
	if code != 0 || !strings.Contains(out, "orders") {
		t.Errorf("exit code %d after %s: %s%s", code, time.Since(began), out, errs)
	}
}

func TestVersion(t *testing.T) {
	for _, args := range [][]string{{"version"}, {"--version"}} {
		code, out, _ := run(nil, args...)
		if code != 0 || !strings.Contains(out, "dev") || !strings.HasPrefix(out, "holdfast") {
			t.Errorf("%v: exit code %d, %q", args, code, out)
		}
	}
}

func TestCompletion(t *testing.T) {
	s := scripted(t)
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"why", ""}, []string{"orders", "invoices"}},
		{[]string{"get", "--state", ""}, []string{"RUNNING", "UNKNOWN"}},
		{[]string{"get", "--output", ""}, []string{"yaml"}},
		{[]string{""}, []string{"history", "watch"}},
	} {
		code, out, errs := s.run(append([]string{"__complete"}, c.args...)...)
		for _, want := range c.want {
			if code != 0 || !strings.Contains("\n"+out, "\n"+want) {
				t.Errorf("%v: exit code %d, no %s in %q %q", c.args, code, want, out, errs)
			}
		}
	}
	if code, out, _ := run(nil, "completion", "bash"); code != 0 || !strings.Contains(out, "__holdfast") {
		t.Errorf("no script for the shell: exit code %d", code)
	}
}
