// Command holdfast-aggregator is one replica of a site's aggregator: it follows what the agents leave in etcd, settles it while
// it leads, and serves it.
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

	"github.com/holdfast-dev/holdfast/aggregator"
	"github.com/holdfast-dev/holdfast/cmd/internal/flags"
	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/settle"
)

// version is set by the linker.
var version string

// program is what the command has from its surroundings.
type program struct {
	out, err io.Writer
	lookup   flags.Lookup
}

func main() {
	p := &program{out: os.Stdout, err: os.Stderr, lookup: os.LookupEnv}
	os.Exit(p.run(context.Background(), os.Args[1:]))
}

// run runs the command and gives the exit code. The first SIGINT or SIGTERM ends it in order, the second one at once.
func (p *program) run(ctx context.Context, args []string) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	root := p.root()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil {
		io.WriteString(p.err, flags.Complain(cmd, err))
	}
	return flags.ExitCode(err)
}

func (p *program) root() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "holdfast-aggregator",
		Short: "Settle and serve the state of a site's Flink jobs",
		Long: `Settle and serve the state of a site's Flink jobs. Any number of replicas may run; one of them leads. Every flag can be given as
a variable too, whose name stands in brackets; the flag wins.

Exit codes: 0 fine, 1 error, 2 wrong command line.`,
		Example: `  holdfast-aggregator --site prod --site-uid 4f9d1c1e-… --etcd-endpoints http://etcd-0:2379,http://etcd-1:2379`,
		Args:    cobra.NoArgs,
		Version: flags.Version(version),
		RunE: flags.Run(func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd.Context(), p.err, cmd.Version)
		}),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.SetOut(p.out)
	cmd.SetErr(p.err)
	o.add(cmd)
	flags.Bind(cmd, p.lookup)
	return cmd
}

// options are the flags.
type options struct {
	site, siteUID, name, listen string
	etcd                        etcdFlags
	kubernetes                  kubernetesFlags
	leaderLease, checkPeriod    time.Duration
	patience                    settle.Config
	log                         flags.Log
}

func (o *options) add(cmd *cobra.Command) {
	o.patience = settle.DefaultConfig()
	f := cmd.Flags()
	f.StringVar(&o.site, "site", "default", "the site's name; each cluster that shares an etcd needs one of its own")
	f.StringVar(&o.siteUID, "site-uid", "", "whose site it is (default: the uid of the namespace kube-system, asked of Kubernetes)")
	f.StringVar(&o.name, "name", "", "this replica's name, for people (default: host name and process id)")
	f.StringVar(&o.listen, "listen", ":7070", "where the API listens; port 0 takes a free one")
	o.etcd.add(cmd)
	o.kubernetes.add(cmd)
	f.DurationVar(&o.patience.Hold, "hold", o.patience.Hold, "how long a state counts as witnessed after its last proof; an agent that dies shows only when its lease has run out")
	f.DurationVar(&o.patience.Lease, "lease", o.patience.Lease, "the time of the agents' leases: what their --lease is")
	f.DurationVar(&o.patience.Grace, "grace", o.patience.Grace, "how long a negative fact must stand before it is concluded from")
	f.DurationVar(&o.leaderLease, "leader-lease", 10*time.Second, "how long a dead leader is waited for")
	f.DurationVar(&o.checkPeriod, "check-period", aggregator.DefaultCheckPeriod, "how often what is remembered is held against what lies in etcd; 0 never")
	f.DurationVar(&o.patience.Retain, "retain", o.patience.Retain, "how long jobs that are over are kept")
	o.log.Add(cmd)
}

// check says all that is wrong with the flags.
func (o *options) check() error {
	var wrong []error
	if o.siteUID != "" && (o.kubernetes.siteConfigMap != "" || o.kubernetes.siteUIDFile != "") {
		wrong = append(wrong, errors.New("--site-uid and --site-configmap contradict each other: give one of them"))
	}
	if o.leaderLease < etcd.MinTTL {
		wrong = append(wrong, errors.New("--leader-lease is shorter than 2s, the shortest that etcd grants"))
	}
	if o.checkPeriod != 0 && o.checkPeriod < aggregator.MinCheckPeriod {
		wrong = append(wrong, fmt.Errorf("--check-period %s: give %s or more, or 0 for never", o.checkPeriod, aggregator.MinCheckPeriod))
	}
	wrong = append(wrong, o.patience.Validate(), o.etcd.check(), o.kubernetes.check())
	return errors.Join(wrong...)
}

// run serves until ctx ends.
func (o *options) run(ctx context.Context, logs io.Writer, version string) error {
	log, err := o.log.Logger(logs)
	if err != nil {
		return err
	}
	if err := o.check(); err != nil {
		return flags.Usage(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	refuted := make(chan error, 1)
	if o.siteUID == "" {
		if o.siteUID, err = o.kubernetes.siteUID(ctx, log); err != nil {
			return err
		}
		go func() {
			defer close(refuted)
			if err := o.kubernetes.confirm(ctx, o.siteUID, log); err != nil {
				refuted <- err
				cancel()
			}
		}()
	}
	if o.kubernetes.etcdCAConfigMap != "" {
		if o.etcd.pem, err = o.kubernetes.etcdCA(ctx, o.etcd.ca, log); err != nil {
			return err
		}
	}
	client, err := o.etcd.dial(ctx)
	if err != nil {
		return flags.Usage(err)
	}
	defer client.Close()
	settings := aggregator.Options{
		Site: o.site, UID: o.siteUID, Name: o.name, Listen: o.listen, Etcd: client, Settle: o.patience,
		LeaderLease: o.leaderLease, CheckPeriod: o.checkPeriod, Version: version, Log: log,
	}
	if o.kubernetes.watch {
		if settings.Kubernetes, err = o.kubernetes.newAPIServer(o.kubernetes.namespaces, log); err != nil {
			return flags.Usage(fmt.Errorf("--watch-pods: %w", err))
		}
		settings.Settle.Namespaces = o.kubernetes.namespaces
	}
	a, err := aggregator.New(settings)
	if err != nil {
		return err
	}
	log.Info("serving", "address", a.Address(), "site", o.site, "version", version, "etcd", o.etcd.endpoints)
	if err := a.Run(ctx); err != nil {
		return err
	}
	select {
	case err := <-refuted:
		return err
	default:
		return nil
	}
}
