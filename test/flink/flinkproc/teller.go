package flinkproc

import (
	"fmt"
	"io"
)

// teller writes lines of progress for people, each with the same beginning.
type teller struct {
	to     io.Writer
	prefix string
}

func newTeller(to io.Writer, prefix string) teller {
	if to == nil {
		to = io.Discard
	}
	return teller{to, prefix}
}

// sayf writes a line. That progress cannot be shown is no reason to stop, so errors are dropped.
func (t teller) sayf(format string, args ...any) {
	fmt.Fprintf(t.to, "%s%s\n", t.prefix, fmt.Sprintf(format, args...))
}
