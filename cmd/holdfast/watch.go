package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/holdfast-dev/holdfast/cmd/internal/client"
	"github.com/holdfast-dev/holdfast/cmd/internal/flags"
	"github.com/holdfast-dev/holdfast/cmd/internal/terminal"
)

func (p *program) watchCommand() *cobra.Command {
	var a asking
	var f filter
	cmd := &cobra.Command{
		Use:   "watch [JOB]",
		Short: "Show jobs, and their changes as they come",
		Long: `Show jobs, and then their changes as they come, one a line, until Ctrl-C. A lost connection is made again, and the watch
goes on from where it was. With -o json each event of the API is one line.`,
		Example: `  holdfast watch
  holdfast watch orders
  holdfast watch --certainty held`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 || len(args) == 1 && args[0] == "" {
				return errors.New("give no more than one job")
			}
			return nil
		},
		ValidArgsFunction: p.completeJobs(&a),
		RunE: flags.Run(func(cmd *cobra.Command, args []string) error {
			c, err := a.begin()
			if err != nil {
				return err
			}
			defer c.Close()
			return p.watch(cmd.Context(), c, &a, &f, strings.Join(args, ""))
		}),
	}
	a.add(cmd)
	f.add(cmd)
	return cmd
}

// watch prints what it sees until ctx ends. meant is "" for all jobs.
func (p *program) watch(ctx context.Context, c *client.Client, a *asking, f *filter, meant string) error {
	o := client.WatchOptions{
		Filter: f.query(), Connect: a.timeout, OnEvent: p.eventPrinter(a),
		OnLost:  func(err error) { fmt.Fprintf(p.err, "No connection, trying again: %v\n", err) },
		OnFound: func() { fmt.Fprintln(p.err, "Connected again.") },
	}
	if meant != "" {
		if err := p.narrow(ctx, c, a, f, meant, &o); err != nil {
			return err
		}
	}
	return c.Watch(ctx, o)
}

// narrow watches one job. Where it was named by its pipeline or its cluster, it watches that: the next job of it has another id.
func (p *program) narrow(ctx context.Context, c *client.Client, a *asking, f *filter, meant string, o *client.WatchOptions) error {
	ctx, cancel := a.bound(ctx)
	defer cancel()
	j, _, err := p.seek(ctx, c, meant, f)
	switch {
	case err != nil:
		return err
	case j.Pipeline == meant:
		o.Filter = url.Values{"namespace": {j.Namespace}, "cluster": {j.Cluster}, "pipeline": {j.Pipeline}}
	case j.Cluster == meant && j.Name != meant:
		o.Filter = url.Values{"namespace": {j.Namespace}, "cluster": {j.Cluster}}
	default:
		o.Filter, o.Job = nil, j
	}
	return nil
}

// eventPrinter prints events in the form that was asked for.
func (p *program) eventPrinter(a *asking) func(client.Event) error {
	switch a.output {
	case asJSON:
		return func(e client.Event) error {
			_, err := fmt.Fprintf(p.out, "%s\n", e.Raw)
			return err
		}
	case asYAML:
		return func(e client.Event) error {
			text, err := yaml.JSONToYAML(e.Raw)
			if err != nil {
				return fmt.Errorf("print the event as YAML: %w", err)
			}
			_, err = fmt.Fprintf(p.out, "---\n%s", text)
			return err
		}
	}
	lines := &eventLines{program: p, wide: a.output == asWide, shown: map[string]string{}}
	return lines.print
}

// eventLines prints events for people.
type eventLines struct {
	program *program
	wide    bool
	headed  bool
	// shown are the versions of the jobs that were printed: after a reconnection jobs may come again unchanged.
	shown map[string]string
}

// Widths of the columns of a watch, whose lines cannot know what will come.
const (
	watchCluster, watchJob, watchState, watchCertainty = 20, 24, 12, 9
	watchID, watchWideID                               = 8, 32
)

func (l *eventLines) idWidth() int {
	if l.wide {
		return watchWideID
	}
	return watchID
}

func (l *eventLines) print(e client.Event) error {
	j := e.Object
	if j == nil || e.Type == client.Put && l.shown[j.Path()] == j.Version {
		return nil
	}
	if e.Type == client.Delete {
		delete(l.shown, j.Path())
	} else {
		l.shown[j.Path()] = j.Version
	}
	if err := l.head(); err != nil {
		return err
	}
	return l.line(e.Type, j)
}

func (l *eventLines) head() error {
	if l.headed {
		return nil
	}
	l.headed = true
	v := l.program.view()
	heads := []string{
		terminal.Pad("TIME", 8), terminal.Pad("CLUSTER", watchCluster), terminal.Pad("JOB", watchJob), terminal.Pad("ID", l.idWidth()),
		terminal.Pad("STATE", watchState), terminal.Pad("CERTAINTY", watchCertainty), "WHY",
	}
	for i := range heads {
		heads[i] = v.paint(terminal.Bold, heads[i])
	}
	_, err := fmt.Fprintln(l.program.out, strings.Join(heads, "  "))
	return err
}

func (l *eventLines) line(kind string, j *client.Job) error {
	v := l.program.view()
	name, id, why := terminal.Clean(j.Name), shortID(j.JobID), terminal.Clean(j.Message)
	cluster := terminal.Clean(j.Namespace + "/" + j.Cluster)
	if l.wide {
		id = terminal.Clean(j.JobID)
	} else {
		name, cluster = terminal.Clip(name, watchJob), terminal.Clip(cluster, watchCluster)
	}
	state := terminal.Pad(terminal.Clean(j.State), watchState)
	certainty := terminal.Pad(terminal.Clean(j.Certainty), watchCertainty)
	if kind == client.Delete {
		why = "no longer shown: it is gone, or the flags do not fit it any more"
	}
	_, err := fmt.Fprintln(l.program.out, strings.Join([]string{
		v.now.In(v.zone).Format(time.TimeOnly), terminal.Pad(cluster, watchCluster), terminal.Pad(name, watchJob), terminal.Pad(id, l.idWidth()),
		v.paint(stateColour(j.State), state), v.paint(certaintyColour(j.Certainty), certainty), why,
	}, "  "))
	return err
}
