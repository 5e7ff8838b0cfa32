// Package house holds the tree to its own plan: who may import whom, who may say No, and that every package says what it is.
package house

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
)

const module = "github.com/holdfast-dev/holdfast/"

// rooms says what each package may import of this module: the table of ARCHITECTURE.md. What is not named may import anything.
var rooms = map[string][]string{
	"job":                     {},
	"evidence":                {"job"},
	"record":                  {"job", "evidence"},
	"settle":                  {"job", "evidence"},
	"flink":                   {"job"},
	"flink/flinktest":         {"job"},
	"etcd":                    {},
	"etcd/etcdlocal":          {"etcd"},
	"etcd/member":             {"etcd/etcdlocal", "pki"},
	"etcd/etcdlocal/etcdproc": {"etcd", "etcd/etcdlocal"},
	"kube":                    {"job", "evidence"},
	"pki":                     {},
	"webhook/certs":           {"pki"},
	"agent/view":              {"job", "evidence"},
	"agent/look":              {"job", "flink", "agent/view"},
	"agent":                   {"job", "evidence", "record", "flink", "etcd", "agent/look", "agent/view"},
	"aggregator/board":        {"job", "evidence", "record", "etcd"},
	"aggregator/api":          {"job", "evidence", "record", "aggregator/board"},
	"aggregator/probe":        {"job", "evidence", "flink", "agent/look", "agent/view"},
	"aggregator/intake":       {"record", "settle", "etcd"},
	"aggregator": {
		"job", "evidence", "record", "settle", "flink", "etcd", "aggregator/board", "aggregator/api", "aggregator/intake", "aggregator/probe",
	},
	"sim":                   {"job", "evidence", "record", "settle", "etcd", "agent/view", "aggregator/board", "aggregator/intake"},
	"webhook":               {"record"},
	"webhook/breaker":       {},
	"webhook/limits":        {"webhook"},
	"webhook/server":        {"webhook", "webhook/breaker", "webhook/certs"},
	"test/flink/flinkproc":  {"job", "test/machine"},
	"test/machine":          {},
	"test/kubernetes/image": {},
	"test/kubernetes/node":  {"test/kubernetes/image", "test/machine"},
	"test/kubernetes/flinkimage": {
		"test/flink/flinkproc", "test/kubernetes/image", "test/kubernetes/node", "test/machine",
	},
	"test/kubernetes/flinkpod": {"test/flink/flinkproc", "test/kubernetes/flinkimage", "test/machine"},
}

// deniers are the only files outside of settle that may turn something into a No: a positive answer of somebody who knows.
var deniers = map[string]string{
	"agent/look/look.go":              "Flink said that it could not find the job",
	"agent/view/known.go":             "Flink said so in two rounds",
	"cmd/holdfast-aggregator/pods.go": "the pod itself says that it starts a session cluster",
	"kube/workload.go":                "the API server was asked for one object by its name, and said 404 or gave another",
	"flink/jobmanager.go":             "the JobManager's own configuration says that high availability is off",
}

type listed struct {
	ImportPath, Dir  string
	Imports, GoFiles []string
}

func packages(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Imports,GoFiles", module+"...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []listed
	for decoder := json.NewDecoder(bytes.NewReader(out)); decoder.More(); {
		var p listed
		if err := decoder.Decode(&p); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < len(rooms) {
		t.Fatalf("%d packages, and %d rooms are planned", len(all), len(rooms))
	}
	return all
}

func TestNobodyImportsWhatIsNotTheirs(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		allowed, planned := rooms[name]
		seen[name] = true
		if !planned {
			continue
		}
		for _, path := range p.Imports {
			if other, ours := strings.CutPrefix(path, module); ours && !slices.Contains(allowed, other) {
				t.Errorf("%s imports %s", name, other)
			}
		}
	}
	for name := range rooms {
		if !seen[name] {
			t.Errorf("there is no package %s: mend the plan here and in ARCHITECTURE.md", name)
		}
	}
}

// Three answers (S2): only few places may make a No, and each of them must have been told one. Comparing with a No is free.
func TestOnlyFewMaySayNo(t *testing.T) {
	said := map[string]bool{}
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		if name == "job" || name == "settle" || name == "bench" || name == "sim" {
			continue
		}
		for _, file := range p.GoFiles {
			path := name + "/" + file
			for range noes(t, filepath.Join(p.Dir, file)) {
				said[path] = true
				if deniers[path] == "" {
					t.Errorf("%s makes a No: could it not have been that nobody could be asked?", path)
				}
			}
		}
	}
	for path, why := range deniers {
		if !said[path] {
			t.Errorf("%s makes no No any more (%s): take it from the list", path, why)
		}
	}
}

// noes gives the places where a file uses job.No for something else than a comparison.
func noes(t *testing.T, path string) []token.Pos {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	compared := map[ast.Expr]bool{}
	var found []token.Pos
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BinaryExpr:
			if n.Op == token.EQL || n.Op == token.NEQ {
				compared[n.X], compared[n.Y] = true, true
			}
		case *ast.CaseClause:
			for _, e := range n.List {
				compared[e] = true
			}
		case *ast.SelectorExpr:
			if of, is := n.X.(*ast.Ident); is && of.Name == "job" && n.Sel.Name == "No" && !compared[n] {
				found = append(found, n.Pos())
			}
		}
		return true
	})
	return found
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	for _, p := range packages(t) {
		said := false
		for _, file := range p.GoFiles {
			parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, file), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			said = said || parsed.Doc != nil && len(parsed.Doc.Text()) > 40
		}
		if !said && len(p.GoFiles) > 0 {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

// The agent sits in every JobManager's pod: what it links is counted.
func TestTheAgentStaysSmall(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-tags", "grpcnotrace", module+"cmd/holdfast-agent").Output()
	if err != nil {
		t.Fatal(err)
	}
	for path := range strings.FieldsSeq(string(out)) {
		for _, heavy := range []string{
			"k8s.io/client-go", "github.com/prometheus", "github.com/spf13/cobra", "yaml", "github.com/valyala/fasthttp",
			"go.etcd.io/etcd/server", "go.etcd.io/etcd/client/v3/concurrency", module + "settle", module + "aggregator",
		} {
			if strings.Contains(path, heavy) {
				t.Errorf("the agent links %s", path)
			}
		}
	}
}

// The supervisor comes on top of each agent, and what it links is most of what it takes.
func TestTheSupervisorStaysSmall(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{join .Imports "\n"}}`, module+"cmd/holdfast-supervisor").Output()
	if err != nil {
		t.Fatal(err)
	}
	allowed := []string{
		"bytes", "context", "errors", "fmt", "log/slog", "math/rand/v2", "os", "os/exec", "os/signal", "path/filepath", "runtime",
		"runtime/debug", "strconv", "syscall", "time",
	}
	for path := range strings.FieldsSeq(string(out)) {
		if !slices.Contains(allowed, path) {
			t.Errorf("the supervisor imports %s: it speaks with nobody, reads no configuration, and must stay small", path)
		}
	}
	file := filepath.Join(t.TempDir(), "supervisor")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", file, module+"cmd/holdfast-supervisor")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if budget := int64(3 << 20); info.Size() > budget { // it had 2.3 MiB when this was written
		t.Errorf("the supervisor has %d bytes, the budget is %d", info.Size(), budget)
	}
	if runtime.GOOS != "linux" {
		return
	}

	// What only it has in memory, after it has started a program three times: 0.8 to 1.1 MiB when this was written. The rest of what is
	// resident is the program's own file.
	supervisor := exec.Command(file, "sh", "-c", "echo up")
	lines, err := supervisor.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := supervisor.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = supervisor.Process.Signal(syscall.SIGTERM)
		if err := supervisor.Wait(); err != nil {
			t.Error(err)
		}
	}()
	starts := bufio.NewScanner(lines)
	for n := range 3 {
		if !starts.Scan() {
			t.Fatalf("the supervisor started its program %d times only: %v", n, starts.Err())
		}
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", supervisor.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, anonymous, found := strings.Cut(string(status), "RssAnon:")
	var kib int
	if _, err := fmt.Sscanf(anonymous, "%d kB", &kib); err != nil || !found {
		t.Fatalf("%v in\n%s", err, status)
	}
	t.Logf("%d bytes, %d KiB anonymous", info.Size(), kib)
	if kib == 0 || kib > 2<<10 {
		t.Errorf("the supervisor has %d KiB of its own in memory, the budget is 2 MiB", kib)
	}
}

// What the webhook decides is also said offline, by a program that need not carry all that serving takes.
func TestTheWebhooksDecisionsLinkNoClient(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", module+"webhook").Output()
	if err != nil {
		t.Fatal(err)
	}
	for path := range strings.FieldsSeq(string(out)) {
		for _, heavy := range []string{"k8s.io/client-go", "github.com/valyala/fasthttp", "github.com/prometheus"} {
			if strings.HasPrefix(path, heavy) {
				t.Errorf("package webhook links %s", path)
			}
		}
	}
}
