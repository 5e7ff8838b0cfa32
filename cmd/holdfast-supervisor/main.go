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

const usage = `holdfast-supervisor PROGRAM [ARGUMENT...] runs a program, and starts it anew whenever it ends: after a second at first, and after up
to a minute where it ends again and again. It is killed, and started anew, before it takes all the memory of the container.

At SIGTERM the program gets a SIGTERM too, and when it has ended, the supervisor ends with code 0. Otherwise it never ends.
`

func main() {
	runtime.GOMAXPROCS(1) // it waits
	debug.SetGCPercent(20)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if len(os.Args) < 2 || os.Args[1] == "--help" || os.Args[1] == "-h" {
		fmt.Fprint(os.Stderr, usage)
		if len(os.Args) < 2 {
			os.Exit(2)
		}
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
