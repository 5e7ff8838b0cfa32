package settle

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/holdfast-dev/holdfast/"

// What the pure packages may import. Each addition wants a reason: these packages ask nobody, store nothing and start nothing.
var pure = map[string][]string{
	"job":      {"fmt", "math/bits", "strings", "time"},
	"evidence": {module + "job"},
	"record": {
		"encoding/json", "errors", "fmt", "slices", "strconv", "strings", "unicode/utf8", module + "evidence", module + "job",
	},
	"settle": {
		"cmp", "container/heap", "errors", "fmt", "iter", "maps", "slices", "strings", "time", module + "evidence", module + "job",
	},
}

// Of package time only durations, which are plain numbers; and of all of job only StampOf may make a text of a moment.
var durations = []string{"Duration", "Millisecond", "Second", "Minute", "Hour"}

func TestPurity(t *testing.T) {
	t.Parallel()
	for name, imports := range pure {
		files := token.NewFileSet()
		paths, err := filepath.Glob(filepath.Join("..", name, "*.go"))
		if err != nil || len(paths) == 0 {
			t.Fatalf("%s: %d files, %v", name, len(paths), err)
		}
		for _, path := range paths {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			complain := func(n ast.Node, format string) {
				t.Errorf("%s: %s", files.Position(n.Pos()), format)
			}
			checkImports(file, imports, complain)
			for _, declaration := range file.Decls {
				f, is := declaration.(*ast.FuncDecl)
				checkPure(declaration, name == "job" && is && f.Name.Name == "StampOf", complain)
			}
		}
	}
}

func checkImports(file *ast.File, allowed []string, complain func(ast.Node, string)) {
	for _, spec := range file.Imports {
		path, _ := strconv.Unquote(spec.Path.Value)
		if !slices.Contains(allowed, path) {
			complain(spec, path+" is not among what this package may import")
		}
		if spec.Name != nil {
			complain(spec, "imports keep their names here")
		}
	}
}

// checkPure complains of goroutines, channels, printing, and of every word of package time that needs a clock or a calendar.
func checkPure(declaration ast.Decl, stamps bool, complain func(ast.Node, string)) {
	ast.Inspect(declaration, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			complain(n, "starts a goroutine")
		case *ast.ChanType, *ast.SelectStmt, *ast.SendStmt:
			complain(n, "uses a channel")
		case *ast.UnaryExpr:
			if n.Op == token.ARROW {
				complain(n, "uses a channel")
			}
		case *ast.CallExpr:
			if f, is := n.Fun.(*ast.Ident); is && (f.Name == "print" || f.Name == "println" || f.Name == "panic") {
				complain(n, "calls "+f.Name)
			}
		case *ast.SelectorExpr:
			of, is := n.X.(*ast.Ident)
			switch {
			case !is:
			case of.Name == "time" && !slices.Contains(durations, n.Sel.Name) && !(stamps && n.Sel.Name == "UnixMilli"):
				complain(n, "uses time."+n.Sel.Name)
			case of.Name == "fmt" && (strings.HasPrefix(n.Sel.Name, "Print") || strings.HasPrefix(n.Sel.Name, "Scan")):
				complain(n, "does I/O by fmt."+n.Sel.Name)
			}
		}
		return true
	})
}

// The guard itself: each of the forbidden things is seen.
func TestPurityGuardSees(t *testing.T) {
	t.Parallel()
	for _, body := range []string{
		"go f()", "c <- 1", "<-c", "select {}", "var c chan int", "_ = time.Now()", "var t time.Time", "time.Sleep(1)",
		"time.After(time.Second)", "fmt.Println()", "panic(1)", "println(1)", "_ = time.UnixMilli(1)",
	} {
		file, err := parser.ParseFile(token.NewFileSet(), "", "package p\nfunc f() {\n"+body+"\n}", parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(body, err)
		}
		seen := 0
		checkPure(file.Decls[0], false, func(ast.Node, string) { seen++ })
		if seen == 0 {
			t.Errorf("not seen: %s", body)
		}
	}
}
