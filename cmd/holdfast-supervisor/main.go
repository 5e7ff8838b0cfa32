// Command holdfast-supervisor is the first process of an agent's container, and starts the agent anew whenever that ends.
//
// The kubelet would do so, too, but later each time, up to five minutes; and a pod with a container that does not run is not ready, so
// that Flink's services would lose their JobManager because of its agent. The container of a supervisor ends only with its pod.
//
// It is a program of its own because it must be small: what it takes comes on top of each agent.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"
)

const usage = `Usage: holdfast-supervisor PROGRAM [ARGUMENT...]

Runs a program, and starts it anew whenever it ends: within a second at first, and later each time, up to a minute. A program that
ran for five minutes begins anew with a second. One that takes more than three quarters of the container's memory is killed, and
started anew as well.

SIGTERM and SIGINT are passed on as SIGTERM; when the program has ended after that, the supervisor ends with code 0.
Otherwise it never ends.
`

func main() {
	runtime.GOMAXPROCS(1) // it waits
	debug.SetGCPercent(20)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	switch {
	case len(os.Args) < 2 || os.Args[1] == "":
		fmt.Fprint(os.Stderr, "holdfast-supervisor: no program is given\n\n"+usage)
		os.Exit(2)
	case os.Args[1] == "--help" || os.Args[1] == "-h":
		fmt.Print(usage)
		return
	}
	s := supervisor{
		command: os.Args[1:],
		backoff: backoff{least: time.Second, most: time.Minute, healthy: 5 * time.Minute},
		look:    time.Second,
		limit:   memoryLimit("/sys/fs/cgroup"),
		log:     slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
	s.run(ctx)
}
