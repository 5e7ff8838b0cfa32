package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-dev/holdfast/aggregator"
	"github.com/holdfast-dev/holdfast/cmd/internal/client"
	"github.com/holdfast-dev/holdfast/cmd/internal/flags"
	"github.com/holdfast-dev/holdfast/cmd/internal/local"
	"github.com/holdfast-dev/holdfast/cmd/internal/terminal"
)

func (p *program) localCommand() *cobra.Command {
	var o local.Options
	var flinks []string
	var log flags.Log
	cmd := &cobra.Command{
		Use:   "local --flink [NAME=]URL",
		Short: "Run all of Holdfast in this process, beside one or more Flinks",
		Long: `Run all of Holdfast in this process: an agent for each JobManager, an embedded etcd with its data in a folder, and the aggregator
with its API. Ctrl-C ends it in order; a second one ends it at once. Started again with the same folder, it goes on with what it
knew.`,
		Example: `  holdfast local --flink http://localhost:8081
  holdfast local --flink orders=http://localhost:8081 --flink billing=https://flink.example:8443`,
		Args: cobra.NoArgs,
		RunE: flags.Run(func(cmd *cobra.Command, _ []string) error {
			for _, text := range flinks {
				o.Flinks = append(o.Flinks, local.ParseFlink(text))
			}
			if !cmd.Flags().Changed("grace") {
				o.Grace = o.Hold
			}
			logger, wrong := log.Logger(p.err)
			if !cmd.Flags().Changed("data") {
				var err error
				o.Data, err = p.stateFolder()
				wrong = errors.Join(wrong, err)
			}
			if err := errors.Join(wrong, o.Check()); err != nil {
				return flags.Usage(err)
			}
			o.Version, o.Log = flags.Version(version), logger

			l, err := local.New(cmd.Context(), o)
			if err != nil {
				return err
			}
			fmt.Fprint(p.out, welcome(&o, l.Address()))
			return l.Run(cmd.Context())
		}),
	}
	f := cmd.Flags()
	f.StringSliceVar(&flinks, "flink", nil, "a JobManager's REST API, as [NAME=]URL; may be given several times")
	f.StringVar(&o.Listen, "listen", "127.0.0.1:7070", "where the API listens; port 0 takes a free one")
	f.StringVar(&o.Data, "data", "", "the data folder (default: holdfast/local below $XDG_STATE_HOME or ~/.local/state)")
	f.DurationVar(&o.Hold, "hold", 30*time.Second, "how long a state counts as witnessed after its last proof; an agent that dies shows only when its lease has run out")
	f.DurationVar(&o.Lease, "lease", 20*time.Second, "how long an agent may be silent before that shows")
	f.DurationVar(&o.Poll, "poll", time.Second, "how often a JobManager is asked")
	f.DurationVar(&o.Grace, "grace", 0, "how long a negative fact must stand before it is concluded from (default: as --hold)")
	f.DurationVar(&o.CheckPeriod, "check-period", aggregator.DefaultCheckPeriod, "how often what is remembered is held against what lies in etcd; 0 never")
	log.Add(cmd)
	return cmd
}

// stateFolder is where programs keep what should outlive them, by the XDG base directory specification.
func (p *program) stateFolder() (string, error) {
	if state, found := p.lookup("XDG_STATE_HOME"); found && filepath.IsAbs(state) {
		return filepath.Join(state, "holdfast", "local"), nil
	}
	if home, found := p.lookup("HOME"); found && filepath.IsAbs(home) {
		return filepath.Join(home, ".local", "state", "holdfast", "local"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", errors.New("this user has no home folder for the data: give a folder with --data")
	}
	return filepath.Join(home, ".local", "state", "holdfast", "local"), nil
}

// welcome says what runs and what to type next.
func welcome(o *local.Options, address string) string {
	var text strings.Builder
	api, hint := reachable(address), ""
	if api != client.DefaultServer {
		hint = " --server " + api
	}
	text.WriteString("Holdfast watches\n")
	for _, f := range o.Flinks {
		fmt.Fprintf(&text, "  %s\n", terminal.Clean(terminal.Pad(f.Name, 24)+" "+f.URL))
	}
	fmt.Fprintf(&text, "and answers at %s. Its data is in %s.\n\n", api, terminal.Clean(o.Data))
	fmt.Fprintf(&text, "In another terminal:\n")
	for _, line := range []struct{ command, does string }{
		{"get", "the jobs, one a line"}, {"watch", "changes as they come"}, {"why JOB", "one job explained"},
	} {
		fmt.Fprintf(&text, "  %s  %s\n", terminal.Pad("holdfast "+line.command+hint, 17+len(hint)), line.does)
	}
	text.WriteString("Ctrl-C stops it.\n\n")
	return text.String()
}

// reachable is the URL under which this machine reaches an address that was listened on.
func reachable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "http://" + address
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port)
}
