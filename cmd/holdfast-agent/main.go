// Command holdfast-agent is the sidecar in a JobManager's pod: it tells Holdfast what the JobManager says of its jobs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/holdfast-dev/holdfast/agent"
	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/flink"
)

// version is set by the linker.
var version string

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	// One look a second needs no second core. On a node of 64 each further one costs memory for its caches, and a garbage
	// collection wakes them all. Whoever sets GOMAXPROCS knows better.
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(min(2, runtime.NumCPU()))
	}
	os.Exit(run(ctx, os.Args[1:], os.LookupEnv, os.Stdout, os.Stderr))
}

// run is main with everything that it takes from outside, and gives the exit code.
func run(ctx context.Context, args []string, lookup func(string) (string, bool), out, errs io.Writer) int {
	o, err := parse(args, lookup, out)
	switch {
	case errors.Is(err, flag.ErrHelp), err == nil && o.showVersion:
		return 0
	case err == nil && o.idle:
		<-ctx.Done()
		return 0
	case err != nil:
		return refuse(ctx, o, err, errs)
	}
	a, done, err := o.agent(ctx, programVersion(lookup), slog.New(slog.NewTextHandler(errs, &slog.HandlerOptions{Level: o.level})))
	if err != nil {
		return refuse(ctx, o, err, errs)
	}
	defer done()
	_ = a.Run(ctx) // it ends with ctx, and in order
	return 0
}

// refuse says what is wrong with the options and then waits for the end of the pod: the Flink operator takes a deployment for
// failed if any container of its pod ends again and again, and an agent must not be the cause. With --strict it gives up at once.
func refuse(ctx context.Context, o options, err error, errs io.Writer) int {
	log := slog.New(slog.NewTextHandler(errs, nil))
	if o.strict {
		log.Error("the agent cannot start", "error", err)
		return 2
	}
	log.Error("the agent cannot start, and does nothing until its pod ends: correct its options and restart the pod", "error", err)
	<-ctx.Done()
	return 0
}

// agent makes the agent and the clients that it uses. done closes them.
func (o options) agent(ctx context.Context, version string, log *slog.Logger) (a *agent.Agent, done func(), err error) {
	jobManager, err := o.jobManager()
	if err != nil {
		return nil, nil, err
	}
	secrets, err := o.tls()
	if err != nil {
		return nil, nil, err
	}
	store, err := etcd.Dial(ctx, etcd.Options{Endpoints: o.endpoints, TLS: secrets})
	if err != nil {
		return nil, nil, err
	}
	a, err = agent.New(agent.Options{
		Site: o.site, SiteUID: o.siteUID, Agent: o.witness, Pod: o.pod, Version: version, Flink: jobManager, Etcd: store,
		Poll: o.poll, Lease: o.lease, Listen: o.listen, Log: log,
	})
	if err != nil {
		store.Close()
		return nil, nil, err
	}
	return a, func() {
		store.Close()
		jobManager.Close()
	}, nil
}

// jobManager is the client for the JobManager of this pod, on loopback first and then on the pod's own address, since Flink
// need not listen on both.
func (o options) jobManager() (*flink.Client, error) {
	if o.flink != "" {
		return flink.Dial(o.flink, flink.Options{})
	}
	hosts := []string{"127.0.0.1"}
	if o.podIP != "" {
		hosts = append(hosts, o.podIP)
	}
	c, err := flink.New(flink.Options{Hosts: hosts, Port: o.restPort, Scheme: o.restScheme})
	if err != nil {
		return nil, fmt.Errorf("--pod-ip, --rest-port, --rest-scheme: %w", err)
	}
	return c, nil
}
