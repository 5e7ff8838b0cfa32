// Command holdfast is what people type: "holdfast local" runs all of Holdfast in one process beside a Flink, and the other
// commands show what an aggregator knows, wherever it runs. They only read.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-dev/holdfast/cmd/internal/client"
	"github.com/holdfast-dev/holdfast/cmd/internal/flags"
)

// version is set by the linker.
var version string

// exitNoJob is the exit code for a job, or a cluster, that is not there.
const exitNoJob = 3

// program is what the commands have from their surroundings.
type program struct {
	in       io.Reader
	out, err io.Writer
	lookup   flags.Lookup
	now      func() time.Time
	zone     *time.Location
}

func main() {
	p := &program{in: os.Stdin, out: os.Stdout, err: os.Stderr, lookup: os.LookupEnv, now: time.Now, zone: time.Local}
	os.Exit(p.run(context.Background(), os.Args[1:]))
}

// run runs one command and gives the exit code. The first SIGINT or SIGTERM ends the command in order, the second one the process.
func (p *program) run(ctx context.Context, args []string) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	root := p.root()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return flags.ExitFine
	}
	if errors.Is(err, context.Canceled) {
		err = flags.Failed(errors.New("interrupted"))
	}
	io.WriteString(p.err, flags.Complain(cmd, err))
	var problem *client.Problem
	if errors.Is(err, errNoJob) || errors.Is(err, errNoCluster) || errors.As(err, &problem) && problem.NotFound() {
		return exitNoJob
	}
	return flags.ExitCode(err)
}

func (p *program) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "holdfast",
		Short: "The true state of every Flink job: what it is, how that is known, and since when",
		Long: `Holdfast tells the true state of every Apache Flink job: what it is, how that is known, and since when.

Run "holdfast local --flink http://localhost:8081" beside a Flink, and ask in another terminal. Every flag can be
given as a variable too, whose name stands in brackets; the flag wins.

Exit codes: 0 fine, 1 error, 2 wrong command line, 3 no such job or cluster.`,
		Example: `  holdfast local --flink orders=http://localhost:8081
  holdfast get
  holdfast why orders`,
		Version:       flags.Version(version),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetIn(p.in)
	root.SetOut(p.out)
	root.SetErr(p.err)
	root.AddCommand(p.localCommand(), p.getCommand(), p.watchCommand(), p.whyCommand(), p.historyCommand(), p.statusCommand(),
		p.webhookCommand(),
		&cobra.Command{
			Use: "version", Short: "Show the version of this program", Args: cobra.NoArgs,
			Run: func(*cobra.Command, []string) { fmt.Fprintln(p.out, "holdfast", flags.Version(version)) },
		})
	flags.Bind(root, p.lookup)
	return root
}
