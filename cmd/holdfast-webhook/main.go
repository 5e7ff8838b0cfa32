// Command holdfast-webhook is one replica of the admission webhook that puts the agent into the pods of JobManagers.
package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"

	"github.com/holdfast-dev/holdfast/cmd/internal/flags"
	"github.com/holdfast-dev/holdfast/kube"
)

// version is set by the linker.
var version string

// program is what the command has from its surroundings.
type program struct {
	out, err io.Writer
	lookup   flags.Lookup
	// connect makes the client of the API server.
	connect func(kubeconfig string) (kubernetes.Interface, error)
	// libraries takes the logger for what libraries log.
	libraries func(*slog.Logger)
}

func main() {
	p := &program{out: os.Stdout, err: os.Stderr, lookup: os.LookupEnv, connect: connect, libraries: klog.SetSlogLogger}
	os.Exit(p.run(context.Background(), os.Args[1:]))
}

// connect makes a client that asks as fast as pods come: each admission may read a ConfigMap. The API server guards itself.
func connect(kubeconfig string) (kubernetes.Interface, error) {
	config, err := kube.Config(kubeconfig, "holdfast-webhook")
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = 200, 400
	return kubernetes.NewForConfig(config)
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
		Use:   "holdfast-webhook",
		Short: "Put the agent into the pods of JobManagers as they are created",
		Long: `Put the agent into the pods of JobManagers as they are created: the admission webhook that a MutatingWebhookConfiguration names. It
never denies a pod. Any number of replicas may run, and none leads. Every flag can be given as a variable too, whose name stands in brackets; the
flag wins.

At SIGTERM it stops being ready, serves on for --shutdown-delay, and ends when what it has begun is answered; at a second one it ends at once.

Exit codes: 0 fine, 1 error, 2 wrong command line.`,
		Example: `  holdfast-webhook --namespace holdfast --service holdfast-webhook --configuration holdfast --ca-secret holdfast-webhook-ca \
    --agent-image ghcr.io/holdfast-dev/holdfast:1.0 --site prod --etcd-endpoints https://holdfast-etcd.holdfast.svc:2379 \
    --etcd-ca-configmap holdfast-etcd-ca`,
		Args:    cobra.NoArgs,
		Version: flags.Version(version),
		RunE: flags.Run(func(cmd *cobra.Command, _ []string) error {
			log, err := o.log.Logger(p.err)
			if err != nil {
				return err
			}
			if err := o.check(); err != nil {
				return flags.Usage(err)
			}
			client, err := p.connect(o.kubeconfig)
			if err != nil {
				return flags.Usage(err)
			}
			p.libraries(log)
			return run(cmd.Context(), o, client, cmd.Version, log)
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
