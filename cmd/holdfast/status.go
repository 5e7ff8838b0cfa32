package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-dev/holdfast/cmd/internal/client"
	"github.com/holdfast-dev/holdfast/cmd/internal/flags"
	"github.com/holdfast-dev/holdfast/cmd/internal/terminal"
)

func (p *program) statusCommand() *cobra.Command {
	var a asking
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show Holdfast itself: who leads, which sources are healthy, whether conclusions are frozen",
		Args:  cobra.NoArgs,
		RunE: flags.Run(func(cmd *cobra.Command, _ []string) error {
			c, err := a.begin()
			if err != nil {
				return err
			}
			defer c.Close()
			ctx, cancel := a.bound(cmd.Context())
			defer cancel()
			status, err := c.Status(ctx)
			switch {
			case err != nil:
				return err
			case !a.people():
				return p.print(a.output, status.Raw)
			}
			return p.report(c.Server(), &status)
		}),
	}
	a.add(cmd)
	return cmd
}

// report prints the status for people.
func (p *program) report(server string, s *client.Status) error {
	v := p.view()
	var text strings.Builder
	t := &terminal.Table{Colours: v.colours}
	fact := func(name, text string, colour terminal.Colour) {
		t.Row(terminal.Cell{Text: name, Colour: terminal.Faint}, terminal.Cell{Text: text, Colour: colour})
	}
	fact("server", fmt.Sprintf("%s, version %s", server, s.Program), terminal.Plain)
	fact("site", s.Site, terminal.Plain)
	fact("jobs", strconv.Itoa(s.Jobs), terminal.Plain)
	if s.Leader.Leads {
		fact("leader", fmt.Sprintf("%s at %s, since %s", s.Leader.Name, s.Leader.Address, v.when(s.Leader.Since)), terminal.Plain)
	} else {
		fact("leader", "none: nothing new is settled until one leads", terminal.Red)
	}
	colour := terminal.Plain
	if s.Agents.Beating < s.Agents.Expected {
		colour = terminal.Yellow
	}
	fact("agents", fmt.Sprintf("%d of %d beat", s.Agents.Beating, s.Agents.Expected), colour)
	if s.Frozen == nil {
		fact("frozen", "no", terminal.Plain)
	} else {
		fact("frozen", v.frozen(s.Frozen), terminal.Yellow)
	}
	if w := s.Weakened; w != nil {
		fact("weakened", fmt.Sprintf("everything is shown as Held since %s: %s", v.when(w.Since), w.Reason), terminal.Yellow)
	}
	if err := t.Write(&text); err != nil {
		return err
	}
	text.WriteByte('\n')
	if err := v.sources(s.Sources).Write(&text); err != nil {
		return err
	}
	_, err := fmt.Fprint(p.out, text.String())
	return err
}

func (v view) sources(sources []client.Source) *terminal.Table {
	t := &terminal.Table{Colours: v.colours}
	t.Header("SOURCE", "HEALTHY", "PROVEN", "WHY NOT")
	for _, s := range sources {
		healthy, proven := terminal.Cell{Text: "yes", Colour: terminal.Green}, "never"
		if !s.Healthy {
			healthy = terminal.Cell{Text: "no", Colour: terminal.Red}
		}
		if s.Age >= 0 {
			proven = terminal.Age(time.Duration(s.Age*float64(time.Second))) + " ago"
		}
		t.Row(terminal.Text(s.Name), healthy, terminal.Text(proven), terminal.Text(s.Why))
	}
	return t
}
