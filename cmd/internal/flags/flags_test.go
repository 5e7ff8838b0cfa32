package flags

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

// sample is a program with one command that takes flags.
type sample struct {
	hold    time.Duration
	listen  string
	flinks  []string
	quiet   bool
	log     Log
	changed map[string]bool
	err     error
}

func (s *sample) root(env map[string]string) *cobra.Command {
	root := &cobra.Command{Use: "sample", SilenceErrors: true, SilenceUsage: true}
	cmd := &cobra.Command{Use: "run", Args: cobra.NoArgs, RunE: Run(func(cmd *cobra.Command, _ []string) error {
		s.changed = map[string]bool{}
		for _, name := range []string{"hold", "listen", "flink", "quiet"} {
			s.changed[name] = cmd.Flags().Changed(name)
		}
		return s.err
	})}
	cmd.Flags().DurationVar(&s.hold, "hold", 30*time.Second, "how long")
	cmd.Flags().StringVar(&s.listen, "listen", ":1", "where")
	cmd.Flags().StringSliceVar(&s.flinks, "flink", nil, "which")
	cmd.Flags().BoolVar(&s.quiet, "quiet", false, "less")
	s.log.Add(cmd)
	root.AddCommand(cmd)
	Bind(root, func(name string) (string, bool) { v, found := env[name]; return v, found })
	return root
}

func execute(root *cobra.Command, args ...string) (*cobra.Command, error) {
	root.SetArgs(args)
	root.SetOut(&bytes.Buffer{})
	root.SetErr(&bytes.Buffer{})
	return root.ExecuteC()
}

func TestVariablesSetFlags(t *testing.T) {
	var s sample
	root := s.root(map[string]string{
		"HOLDFAST_HOLD": "5s", "HOLDFAST_LISTEN": ":2", "HOLDFAST_FLINK": "a=http://a,http://b", "HOLDFAST_QUIET": "true",
	})
	if _, err := execute(root, "run", "--listen", ":3"); err != nil {
		t.Fatal(err)
	}
	want := sample{hold: 5 * time.Second, listen: ":3", flinks: []string{"a=http://a", "http://b"}, quiet: true}
	got := sample{hold: s.hold, listen: s.listen, flinks: s.flinks, quiet: s.quiet}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(sample{}, Log{})); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if !s.changed["hold"] {
		t.Error("a flag that a variable set does not count as given")
	}
}

func TestCommandLineReplacesVariable(t *testing.T) {
	var s sample
	if _, err := execute(s.root(map[string]string{"HOLDFAST_FLINK": "http://a"}), "run", "--flink", "http://b"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"http://b"}, s.flinks); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestEmptyVariableIsNone(t *testing.T) {
	var s sample
	if _, err := execute(s.root(map[string]string{"HOLDFAST_HOLD": "", "HOLDFAST_LISTEN": ""}), "run"); err != nil {
		t.Fatal(err)
	}
	if s.hold != 30*time.Second || s.listen != ":1" || s.changed["hold"] {
		t.Errorf("hold %s, listen %q, given %t: want the defaults", s.hold, s.listen, s.changed["hold"])
	}
}

func TestMalformedVariablesAreAllNamed(t *testing.T) {
	var s sample
	cmd, err := execute(s.root(map[string]string{"HOLDFAST_HOLD": "soon", "HOLDFAST_QUIET": "perhaps"}), "run")
	if ExitCode(err) != ExitUsage {
		t.Errorf("exit code %d, want %d", ExitCode(err), ExitUsage)
	}
	want := `sample: variable HOLDFAST_HOLD="soon" is not a duration such as 30s or 5m, which --hold takes: correct it, or remove it
sample: variable HOLDFAST_QUIET="perhaps" is not true or false, which --quiet takes: correct it, or remove it
Try 'sample run --help'.
`
	if diff := cmp.Diff(want, Complain(cmd, err)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if s.changed != nil {
		t.Error("the command ran all the same")
	}
}

func TestHelpNamesVariables(t *testing.T) {
	root := new(sample).root(nil)
	cmd, _, err := root.Find([]string{"run"})
	if err != nil {
		t.Fatal(err)
	}
	usage := cmd.UsageString()
	for _, want := range []string{"[HOLDFAST_HOLD]", "[HOLDFAST_FLINK]", "[HOLDFAST_LOG_LEVEL]"} {
		if strings.Count(usage, want) != 1 {
			t.Errorf("the help does not name %s once:\n%s", want, usage)
		}
	}
	if strings.Contains(usage, "HOLDFAST_HELP") {
		t.Errorf("the help says that --help has a variable:\n%s", usage)
	}
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		args []string
		want int
	}{
		{"fine", nil, []string{"run"}, ExitFine},
		{"a failure", errors.New("no"), []string{"run"}, ExitError},
		{"a usage error of the command", Usage(errors.New("no")), []string{"run"}, ExitUsage},
		{"a wrapped usage error", errors.Join(Usage(errors.New("no"))), []string{"run"}, ExitUsage},
		{"an unknown flag", nil, []string{"run", "--nope"}, ExitUsage},
		{"a malformed flag", nil, []string{"run", "--hold", "x"}, ExitUsage},
		{"an argument too many", nil, []string{"run", "x"}, ExitUsage},
		{"an unknown command", nil, []string{"walk"}, ExitUsage},
	} {
		s := sample{err: c.err}
		if _, err := execute(s.root(nil), c.args...); ExitCode(err) != c.want {
			t.Errorf("%s: exit code %d of %v, want %d", c.name, ExitCode(err), err, c.want)
		}
	}
}

func TestLogger(t *testing.T) {
	for _, c := range []struct{ level, format, want string }{
		{"info", "text", "level=INFO msg=hello n=1\n"}, {"warn", "text", ""}, {"debug", "json", `"level":"INFO","msg":"hello","n":1`},
	} {
		var out bytes.Buffer
		log, err := (&Log{level: c.level, format: c.format}).Logger(&out)
		if err != nil {
			t.Fatal(err)
		}
		log.Info("hello", slog.Int("n", 1))
		if !strings.Contains(out.String(), c.want) || c.want == "" && out.Len() > 0 {
			t.Errorf("%s, %s: logged %q, want %q in it", c.level, c.format, out.String(), c.want)
		}
	}
	for _, l := range []Log{{"loud", "text"}, {"info", "xml"}} {
		if _, err := l.Logger(&bytes.Buffer{}); ExitCode(err) != ExitUsage {
			t.Errorf("%+v: error %v, want one about the command line", l, err)
		}
	}
}
