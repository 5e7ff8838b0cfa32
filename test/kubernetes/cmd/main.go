// Cmd boots a Kubernetes node on this machine for people, and leaves it running:
//
//	go run ./test/kubernetes/cmd up            # ten minutes the first time, ten seconds later
//	eval "$(go run ./test/kubernetes/cmd env)" # kubectl, helm and ctr work with it now, and the tests use it
//	go run ./test/kubernetes/cmd flink         # the images of Flink
//	go run ./test/kubernetes/cmd import FILE   # any other image
//	go run ./test/kubernetes/cmd down
//	go run ./test/kubernetes/cmd build         # only what takes the ten minutes
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/holdfast-dev/holdfast/test/flink/flinkproc"
	"github.com/holdfast-dev/holdfast/test/kubernetes/flinkimage"
	"github.com/holdfast-dev/holdfast/test/kubernetes/node"
	"github.com/holdfast-dev/holdfast/test/machine"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "cmd",
		Short:         "A real Kubernetes node on this machine, for development (HOLDFAST_KUBERNETES_NODE tells several apart)",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(
		&cobra.Command{
			Use: "up", Short: "boot the node, if it does not run, and leave it running", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return up(cmd.Context(), cmd.OutOrStdout()) },
		},
		&cobra.Command{
			Use: "build", Short: "compile what the node is made of, and boot nothing", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				return node.Build(cmd.Context(), machine.NewTeller(cmd.ErrOrStderr(), "node: "))
			},
		},
		&cobra.Command{
			Use: "env", Short: "print the environment that kubectl, helm and ctr need", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return env(cmd.OutOrStdout()) },
		},
		&cobra.Command{
			Use: "import FILE...", Short: "load images into the node", Args: cobra.MinimumNArgs(1),
			RunE: func(cmd *cobra.Command, files []string) error {
				return use(cmd.Context(), func(n *node.Node) error {
					for _, file := range files {
						if err := n.ImportImage(cmd.Context(), file); err != nil {
							return err
						}
					}
					return nil
				})
			},
		},
		&cobra.Command{
			Use: "flink [VERSION...]", Short: "make the images of Flink and load them into the node",
			RunE: func(cmd *cobra.Command, versions []string) error {
				return use(cmd.Context(), func(n *node.Node) error { return importFlink(cmd.Context(), n, versions) })
			},
		},
		&cobra.Command{
			Use: "down", Short: "remove the node", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return node.Remove(cmd.Context(), -1, os.Stderr) },
		},
	)
	return root
}

func up(ctx context.Context, out io.Writer) error {
	return use(ctx, func(n *node.Node) error { return printEnv(out, n.Env()) })
}

// use works with the node, which is booted if it does not run, and leaves it running.
func use(ctx context.Context, do func(*node.Node) error) error {
	n, err := node.Start(ctx, node.Options{Keep: true, Progress: os.Stderr})
	if err != nil {
		return err
	}
	defer n.Release()
	return do(n)
}

func importFlink(ctx context.Context, n *node.Node, versions []string) error {
	if len(versions) == 0 {
		versions = flinkproc.Versions()
	}
	for _, version := range versions {
		dist, err := flinkproc.Distribution(ctx, version, os.Stderr)
		if err != nil {
			return err
		}
		image, err := flinkimage.Build(ctx, dist, os.Stderr)
		if err != nil {
			return err
		}
		if err := n.EnsureImage(ctx, image); err != nil {
			return err
		}
	}
	return nil
}

func env(out io.Writer) error {
	env, err := node.Env(-1)
	if err != nil {
		return err
	}
	return printEnv(out, env)
}

// printEnv prints variables as a shell reads them.
func printEnv(out io.Writer, env []string) error {
	for _, variable := range env {
		name, value, _ := strings.Cut(variable, "=")
		if _, err := fmt.Fprintf(out, "export %s='%s'\n", name, strings.ReplaceAll(value, "'", `'\''`)); err != nil {
			return err
		}
	}
	return nil
}
