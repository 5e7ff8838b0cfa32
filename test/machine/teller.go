package machine

import (
	"fmt"
	"io"
)

// Teller writes lines of progress for people, each with the same beginning. Its zero value is silent.
type Teller struct {
	to     io.Writer
	prefix string
}

// NewTeller gives a Teller that writes to the given writer, which may be nil.
func NewTeller(to io.Writer, prefix string) Teller { return Teller{to, prefix} }

// Sayf writes a line. That progress cannot be shown is no reason to stop, so errors are dropped.
func (t Teller) Sayf(format string, args ...any) {
	if t.to != nil {
		fmt.Fprintf(t.to, "%s%s\n", t.prefix, fmt.Sprintf(format, args...))
	}
}
