// Guard outlives the process that booted a node, and removes the node when that process has died without doing so.
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"

	"github.com/holdfast-dev/holdfast/test/kubernetes/node"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("want the number of a node and its boot, not %q", args)
	}
	number, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	return node.Guard(context.Background(), number, args[1])
}
