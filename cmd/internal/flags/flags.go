// Package flags is what the programs' command lines have in common: every flag can be given as a variable of the
// environment too, and errors end in an exit code that says whose mistake it was. It knows no command.
package flags

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Prefix begins the name of every variable.
const Prefix = "HOLDFAST_"

// Exit codes of every program.
const (
	ExitFine  = 0
	ExitError = 1
	// ExitUsage: the command line, or a variable, is wrong. Nothing was done.
	ExitUsage = 2
)

// Lookup reads a variable, as os.LookupEnv does.
type Lookup func(name string) (value string, found bool)

// Variable is the name of the variable of a flag: HOLDFAST_LOG_LEVEL for log-level.
func Variable(flag string) string {
	return Prefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// Bind lets every flag of root, and of the commands below it, be given as a variable, and says so in the help. A flag on
// the command line wins over its variable, and an empty variable counts as none. Call it when all commands are
// added; it takes root's PersistentPreRunE, so no command may have one of its own.
func Bind(root *cobra.Command, lookup Lookup) {
	each(root, document)
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		return FromEnvironment(cmd, lookup)
	}
}

func each(cmd *cobra.Command, do func(*pflag.Flag)) {
	cmd.LocalNonPersistentFlags().VisitAll(do)
	cmd.PersistentFlags().VisitAll(do)
	for _, sub := range cmd.Commands() {
		each(sub, do)
	}
}

// document names the variable in the flag's help.
func document(f *pflag.Flag) {
	if bound(f) {
		f.Usage = fmt.Sprintf("%s [%s]", f.Usage, Variable(f.Name))
	}
}

// bound says whether a flag has a variable. What asks the program about itself has none.
func bound(f *pflag.Flag) bool { return f.Name != "help" && f.Name != "version" && !f.Hidden }

// FromEnvironment sets the flags of a command that the command line left alone, and reports every variable that is malformed. Bind
// sees to it before a command runs; a function that completes arguments has to see to it by itself.
func FromEnvironment(cmd *cobra.Command, lookup Lookup) error {
	set := cmd.Flags()
	var wrong []error
	set.VisitAll(func(f *pflag.Flag) {
		if f.Changed || !bound(f) {
			return
		}
		value, found := lookup(Variable(f.Name))
		if !found || value == "" {
			return
		}
		if err := set.Set(f.Name, value); err != nil {
			wrong = append(wrong, fmt.Errorf("variable %s=%q is not %s, which --%s takes: correct it, or remove it",
				Variable(f.Name), value, kind(f.Value.Type()), f.Name))
		}
	})
	return errors.Join(wrong...)
}

// kind says in words what a flag takes.
func kind(of string) string {
	switch of {
	case "duration":
		return "a duration such as 30s or 5m"
	case "bool":
		return "true or false"
	case "stringSlice":
		return "a list with commas"
	}
	return "of the form"
}

// failed is an error of a command that was started rightly.
type failed struct{ error }

func (f failed) Unwrap() error { return f.error }

// usage is an error of the command line that only the command itself could see.
type usage struct{ error }

func (u usage) Unwrap() error { return u.error }

// Usage marks an error as a mistake on the command line. It is nil for nil.
func Usage(err error) error {
	if err == nil {
		return nil
	}
	return usage{err}
}

// Failed marks an error as one of a command that was started rightly.
func Failed(err error) error { return failed{err} }

// Run makes a command's function into a RunE whose errors count as ExitError, unless Usage marks them.
func Run(do func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		err := do(cmd, args)
		if err == nil || errors.As(err, new(usage)) {
			return err
		}
		return Failed(err)
	}
}

// ExitCode is the exit code for what Execute returned. Whatever does not come out of Run came before it: cobra and Bind
// found a mistake on the command line.
func ExitCode(err error) int {
	switch {
	case err == nil:
		return ExitFine
	case errors.As(err, new(failed)):
		return ExitError
	}
	return ExitUsage
}

// Complain is what to print of the error of a command: each of its lines under the program's name, but for those that go on
// with the one before, which begin with a space.
func Complain(cmd *cobra.Command, err error) string {
	var text strings.Builder
	for line := range strings.SplitSeq(err.Error(), "\n") {
		if !strings.HasPrefix(line, " ") {
			line = cmd.Root().Name() + ": " + line
		}
		text.WriteString(line + "\n")
	}
	if ExitCode(err) == ExitUsage {
		fmt.Fprintf(&text, "Try '%s --help'.\n", cmd.CommandPath())
	}
	return text.String()
}
