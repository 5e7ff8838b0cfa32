// Command demo shows Holdfast's main job on real Flink, on this machine, and fails if any of it is not so: a job that runs is
// never shown as FAILED because somebody could not ask, what was settled survives the death of everything that settled it, and
// endings are witnessed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-dev/holdfast/test/flink/flinkproc"
)

const (
	hold  = 6 * time.Second
	lease = 5 * time.Second
	poll  = 500 * time.Millisecond
)

func main() {
	keep := flag.Bool("keep", false, "leave everything running at the end, until interrupted")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *keep); err != nil {
		fmt.Fprintf(os.Stderr, "\nThe demo failed: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, keep bool) (err error) {
	dir, err := os.MkdirTemp("", "holdfast-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	say("Getting Flink %s (and Java, if there is none)", flinkproc.Flink1)
	dist, err := flinkproc.Distribution(ctx, flinkproc.Flink1, os.Stdout)
	if err != nil {
		return err
	}
	say("Building holdfast")
	h := &holdfast{dir: dir}
	if err := h.build(ctx); err != nil {
		return err
	}
	say("Starting a JobManager and a TaskManager")
	flink, err := flinkproc.StartSession(ctx, flinkproc.Options{Dist: dist, Progress: os.Stdout})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, flink.Close()) }()
	orders, err := submit(ctx, flink, "orders")
	if err != nil {
		return err
	}
	defer orders.control.Close()

	say("Starting `holdfast local --flink demo=%s`", flink.URL())
	if err := h.start(ctx, flink.URL()); err != nil {
		return err
	}
	defer h.kill()
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, h.lastLog())
		}
	}()
	if err := h.until(ctx, orders.id, "RUNNING", "Witnessed"); err != nil {
		return err
	}
	if err := h.show(ctx, "get"); err != nil {
		return err
	}

	say("Stopping the JobManager where it stands (SIGSTOP), for longer than the hold time of %s", hold)
	if err := flink.JobManager().Pause(); err != nil {
		return err
	}
	if err := h.until(ctx, orders.id, "RUNNING", "Held"); err != nil {
		return err
	}
	if err := h.stays(ctx, orders.id, "RUNNING", "Held", 3*time.Second); err != nil {
		return err
	}
	held, err := h.verdict(ctx, orders.id)
	if err != nil {
		return err
	}
	if age := time.Since(held.LastSeen); held.Reason != "JobManagerUnreachable" || held.Message == "" || age < hold {
		return fmt.Errorf("the job is held for %s, last seen %s ago (%s)", held.Reason, age, held.Message)
	}
	if err := h.show(ctx, "why", orders.id); err != nil {
		return err
	}
	say("Letting it go on")
	if err := flink.JobManager().Continue(); err != nil {
		return err
	}
	if err := h.until(ctx, orders.id, "RUNNING", "Witnessed"); err != nil {
		return err
	}
	if err := h.show(ctx, "get"); err != nil {
		return err
	}

	say("Killing Holdfast (SIGKILL), and starting it again")
	was, err := h.verdict(ctx, orders.id)
	if err != nil {
		return err
	}
	before, err := h.history(ctx, orders.id)
	if err != nil {
		return err
	}
	h.kill()
	if err := h.start(ctx, flink.URL()); err != nil {
		return err
	}
	if err := h.until(ctx, orders.id, "RUNNING", "Witnessed"); err != nil {
		return err
	}
	if is, err := h.verdict(ctx, orders.id); err != nil || is.Attempt != was.Attempt || is.Over != was.Over {
		return fmt.Errorf("attempt %d, over %s became attempt %d, over %s (%v)", was.Attempt.Number, was.Over, is.Attempt.Number, is.Over, err)
	}
	after, err := h.history(ctx, orders.id)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(strings.Join(after, "\n"), strings.Join(before, "\n")) {
		return fmt.Errorf("the history changed over the restart: %v became %v", before, after)
	}
	say("The verdict and all %d entries of its history are there", len(before))

	say("Canceling the job")
	if err := flink.Cancel(ctx, orders.id); err != nil {
		return err
	}
	if err := h.until(ctx, orders.id, "CANCELED", "Witnessed"); err != nil {
		return err
	}
	say("Starting a second job, and making it fail")
	payments, err := submit(ctx, flink, "payments")
	if err != nil {
		return err
	}
	defer payments.control.Close()
	if err := h.until(ctx, payments.id, "RUNNING", "Witnessed"); err != nil {
		return err
	}
	if err := payments.control.Boom(); err != nil {
		return err
	}
	if err := h.untilFailed(ctx, payments.id); err != nil {
		return err
	}
	if err := h.show(ctx, "get"); err != nil {
		return err
	}
	if err := h.show(ctx, "history", orders.id); err != nil {
		return err
	}
	if err := h.show(ctx, "history", payments.id); err != nil {
		return err
	}
	if err := h.show(ctx, "status"); err != nil {
		return err
	}
	say("All of it was so.")
	if !keep {
		return nil
	}
	shipments, err := submit(ctx, flink, "shipments")
	if err != nil {
		return err
	}
	defer shipments.control.Close()
	say("Left running, with a third job. Flink: %s, Holdfast: %s\nTry, from another terminal:\n\n  export HOLDFAST_SERVER=%s\n  %s get\n  %s watch\n\nCtrl-C ends it.",
		flink.URL(), h.url, h.url, h.program, h.program)
	<-ctx.Done()
	return nil
}

// steered is a job and the socket that it listens to.
type steered struct {
	id      string
	control *flinkproc.Control
}

func submit(ctx context.Context, flink *flinkproc.Cluster, name string) (*steered, error) {
	control, err := flinkproc.NewControl()
	if err != nil {
		return nil, err
	}
	id, err := flink.Submit(ctx, flinkproc.Job{Name: name, Sources: []string{control.Addr()}})
	if err == nil {
		err = flink.WaitRunning(ctx, id)
	}
	if err != nil {
		return nil, errors.Join(err, control.Close())
	}
	return &steered{id: id, control: control}, nil
}

func say(format string, args ...any) { fmt.Printf("\n▸ "+format+"\n", args...) }
