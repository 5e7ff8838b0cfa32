package flags

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"
)

// Log are the flags of a program that logs.
type Log struct {
	level, format string
}

// Add adds the flags.
func (l *Log) Add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&l.level, "log-level", "info", "how much to log: debug, info, warn or error")
	cmd.Flags().StringVar(&l.format, "log-format", "text", "how to log: text or json")
}

// Logger makes the logger that the flags ask for.
func (l *Log) Logger(out io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.level)); err != nil {
		return nil, Usage(fmt.Errorf("--log-level %q does not exist: give debug, info, warn or error", l.level))
	}
	options := &slog.HandlerOptions{Level: level}
	switch l.format {
	case "text":
		return slog.New(slog.NewTextHandler(out, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(out, options)), nil
	}
	return nil, Usage(fmt.Errorf("--log-format %q does not exist: give text or json", l.format))
}
