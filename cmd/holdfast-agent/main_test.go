package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast-dev/holdfast/etcd/etcdlocal/etcdproc"
	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/flink/flinktest"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
)

func TestMain(m *testing.M) {
	etcdproc.Main()
	goleak.VerifyTestMain(m)
}

var least = []string{"--namespace", "team", "--cluster-id", "orders", "--pod-uid", "u", "--etcd-endpoints", "http://127.0.0.1:2379"}

func none(string) (string, bool) { return "", false }

func with(args ...string) []string { return append(append([]string(nil), least...), args...) }

func TestOptions(t *testing.T) {
	o, err := parse(with("--flink", "http://jm:8081", "--poll=2s", "--log-level=debug"), func(name string) (string, bool) {
		v, ok := map[string]string{
			"HOLDFAST_SITE": "west", "HOLDFAST_POLL": "9s", "HOLDFAST_LEASE": "30s", "HOLDFAST_POD_IP": "10.0.0.1", "HOLDFAST_REST_PORT": "",
		}[name]
		return v, ok
	}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	want := evidence.Agent{Namespace: "team", Cluster: "orders", PodUID: "u"}
	if o.site != "west" || o.poll != 2*time.Second || o.lease != 30*time.Second || o.witness != want || o.podIP != "10.0.0.1" ||
		o.restPort != 8081 || len(o.endpoints) != 1 || o.level.String() != "DEBUG" {
		t.Errorf("options are %+v", o)
	}
}

// Each mistake is named together with what to do.
func TestWrongOptions(t *testing.T) {
	for _, c := range []struct {
		args []string
		env  map[string]string
		want string
	}{
		{nil, nil, "--namespace (or HOLDFAST_NAMESPACE) is missing"},
		{nil, nil, "--etcd-endpoints (or HOLDFAST_ETCD_ENDPOINTS) is missing"},
		{with("--nonsense"), nil, "nonsense"},
		{with("word"), nil, `"word" is not a flag`},
		{with("--poll=often"), nil, "poll"},
		{with(), map[string]string{"HOLDFAST_POLL": "often"}, `HOLDFAST_POLL is "often"`},
		{with("--flink=http://x:1", "--rest-port=8082"), nil, "--flink and --rest-port contradict each other"},
		{with("--flink=http://x:1"), map[string]string{"HOLDFAST_REST_PORT": "8082"}, "--flink and --rest-port contradict each other"},
		{with("--flink=http://x:1", "--rest-scheme=https"), nil, "--flink and --rest-scheme contradict each other"},
		{with("--etcd-ca=/a", "--etcd-ca-pem=x"), nil, "--etcd-ca and --etcd-ca-pem contradict each other"},
		{with("--etcd-cert=/a"), nil, "--etcd-cert and --etcd-key go together"},
		{with("--etcd-ca=/does/not/exist"), nil, "--etcd-ca"},
		{with("--etcd-ca-pem=nonsense"), nil, "no certificate"},
		{with("--flink=jm:8081"), nil, "http://"},
		{with("--rest-port=70000"), nil, "--rest-port"},
		{with("--namespace=a/b"), nil, "namespace"},
		{with("--poll=1ms"), nil, "poll interval"},
		{with("--lease=1s"), nil, "lease time"},
		{with("--etcd-endpoints=nonsense"), nil, "endpoint"},
	} {
		var errs bytes.Buffer
		lookup := func(name string) (string, bool) { v, ok := c.env[name]; return v, ok }
		// Strictly it ends by itself, with 2.
		if code := run(t.Context(), append([]string{"--strict"}, c.args...), lookup, io.Discard, &errs); code != 2 {
			t.Errorf("%q: code %d", c.args, code)
		}
		if !strings.Contains(errs.String(), c.want) && !strings.Contains(strings.ReplaceAll(errs.String(), `\"`, `"`), c.want) {
			t.Errorf("%q: said %s, want %q", c.args, errs.String(), c.want)
		}
	}
}

// The pod that keeps the image on its node waits without a word, and ends at once when it is told to.
func TestIdle(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	var out, errs bytes.Buffer
	code := make(chan int)
	go func() { code <- run(ctx, []string{"--idle"}, none, &out, &errs) }()
	select {
	case c := <-code:
		t.Fatalf("it ended by itself, with %d", c)
	case <-time.After(300 * time.Millisecond):
	}
	cancel()
	if c := <-code; c != 0 || out.Len()+errs.Len() > 0 {
		t.Errorf("code %d, said %s%s", c, &out, &errs)
	}
}

// In a pod a wrong option must not make a container that ends again and again: it waits for its end, and ends well.
func TestWrongOptionsWait(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	var errs bytes.Buffer
	code := make(chan int)
	go func() { code <- run(ctx, []string{"--nonsense"}, none, io.Discard, &errs) }()
	select {
	case c := <-code:
		t.Fatalf("it ended by itself, with %d", c)
	case <-time.After(300 * time.Millisecond):
	}
	cancel()
	if c := <-code; c != 0 || !strings.Contains(errs.String(), "correct its options") {
		t.Errorf("code %d, said %s", c, errs.String())
	}
}

func TestHelpAndVersion(t *testing.T) {
	var out bytes.Buffer
	if code := run(t.Context(), []string{"--help"}, none, &out, io.Discard); code != 0 || !strings.Contains(out.String(), "-etcd-endpoints") {
		t.Errorf("help: %d, %s", code, out.String())
	}
	out.Reset()
	if code := run(t.Context(), []string{"--version"}, none, &out, io.Discard); code != 0 || !strings.HasPrefix(out.String(), "holdfast-agent ") {
		t.Errorf("version: %d, %s", code, out.String())
	}
	out.Reset()
	image := func(name string) (string, bool) { return "v9", name == "HOLDFAST_IMAGE_VERSION" }
	if code := run(t.Context(), []string{"--version"}, image, &out, io.Discard); code != 0 || out.String() != "holdfast-agent v9\n" {
		t.Errorf("version in an image: %d, %s", code, out.String())
	}
	if _, err := parse([]string{"-h"}, none, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("-h: %v", err)
	}
}

// The whole program, from flags to etcd, and what it says of itself.
func TestProgram(t *testing.T) {
	jm, store := flinktest.New(t), etcdproc.Start(t, 0)
	id := flinktest.NewID()
	jm.SetJob(flinktest.Job{ID: id, Name: "orders", State: job.Running})
	_, port := jm.HostPort()
	address := freeAddress(t)
	ctx, cancel := context.WithCancel(context.Background())
	var errs bytes.Buffer
	code := make(chan int)
	go func() {
		code <- run(ctx, []string{
			"--namespace=team", "--cluster-id=orders", "--pod-uid=u", "--etcd-endpoints", store.Endpoint(), "--poll=100ms", "--lease=2s",
			fmt.Sprintf("--rest-port=%d", port), "--listen", address,
		}, none, io.Discard, &errs)
	}()
	get := func(path string) (int, []byte) {
		answer, err := http.Get("http://" + address + path)
		if err != nil {
			return 0, nil
		}
		defer answer.Body.Close()
		body, _ := io.ReadAll(answer.Body)
		return answer.StatusCode, body
	}
	healthy := false
	for end := time.Now().Add(30 * time.Second); !healthy && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		status, _ := get("/healthz")
		healthy = status == http.StatusOK
	}
	var said struct {
		Agent, Alive, Etcd string
		Beat               json.RawMessage
		Jobs               map[string]json.RawMessage
	}
	_, body := get("/jobs")
	if err := json.Unmarshal(body, &said); err != nil || !healthy {
		t.Fatalf("healthy: %v; %v: %s", healthy, err, body)
	}
	r, err := record.DecodeReport(evidence.Agent{}, id, said.Jobs[id])
	if err != nil || r.State != job.Running || said.Agent != "team/orders/u" || said.Alive != "yes" || said.Etcd != "fine" || said.Beat == nil {
		t.Errorf("it says of itself %s", body)
	}
	http.DefaultClient.CloseIdleConnections()
	cancel()
	if c := <-code; c != 0 {
		t.Errorf("code %d: %s", c, errs.String())
	}
}

func freeAddress(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// What the agent links decides what it costs in each pod: three quarters of its memory are the executable.
func TestDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-tags", "grpcnotrace", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for dep := range strings.Lines(string(out)) {
		for _, never := range []string{
			"k8s.io/", "sigs.k8s.io/yaml", "gopkg.in/yaml", "go.yaml.in", "github.com/prometheus/", "github.com/spf13/", "github.com/valyala/",
			"go.etcd.io/etcd/server", "go.etcd.io/etcd/client/v3/concurrency", "go.etcd.io/bbolt", "holdfast/settle",
			"holdfast/aggregator", "holdfast/kube", "holdfast/webhook", "etcdlocal", "html/template",
		} {
			if dep = strings.TrimSpace(dep); strings.Contains(dep, never) {
				t.Errorf("the agent links %s", dep)
			}
		}
	}
}

// sizeBudget is what a node has to pull, and to map, once.
const sizeBudget = 15 << 20

func TestSize(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent")
	out, err := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-tags", "grpcnotrace", "-o", path, ".").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%.1f MiB", float64(info.Size())/(1<<20))
	if info.Size() > sizeBudget {
		t.Errorf("the agent has %d bytes, the budget is %d", info.Size(), sizeBudget)
	}
}
