package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-dev/holdfast/cmd/internal/client"
	"github.com/holdfast-dev/holdfast/cmd/internal/flags"
	"github.com/holdfast-dev/holdfast/cmd/internal/terminal"
)

func (p *program) historyCommand() *cobra.Command {
	var a asking
	var f filter
	cmd := &cobra.Command{
		Use:   "history JOB",
		Short: "Show what a job went through, newest last",
		Long: `Show what a job went through, newest last. A job that changes between the same states over and over has one line for all of
that, and what nobody recorded has a line that says how much is missing.`,
		Example:           `  holdfast history orders`,
		Args:              oneJob,
		ValidArgsFunction: p.completeJobs(&a),
		RunE: flags.Run(func(cmd *cobra.Command, args []string) error {
			c, err := a.begin()
			if err != nil {
				return err
			}
			defer c.Close()
			ctx, cancel := a.bound(cmd.Context())
			defer cancel()
			j, _, err := p.seek(ctx, c, args[0], &f)
			if err != nil {
				return err
			}
			history, err := c.History(ctx, j)
			switch {
			case err != nil:
				return err
			case !a.people():
				return p.print(a.output, history.Raw)
			}
			return p.tell(j, history, a.output == asWide)
		}),
	}
	a.add(cmd)
	f.addPlace(cmd)
	return cmd
}

// tell prints a history for people.
func (p *program) tell(j *client.Job, history client.History, wide bool) error {
	if len(history.Items) == 0 {
		fmt.Fprintf(p.err, "Nothing is recorded of %s yet.\n", terminal.Clip(terminal.Clean(j.Name), 80))
	} else if err := p.view().transitions(history.Items, wide).Write(p.out); err != nil {
		return err
	}
	if history.Unreadable > 0 {
		fmt.Fprintf(p.err, "%d entries are there that the server could not read; upgrading it may help.\n", history.Unreadable)
	}
	return nil
}

func (v view) transitions(items []client.Transition, wide bool) *terminal.Table {
	t := &terminal.Table{Colours: v.colours}
	if !wide {
		t.Limit = 2 * clipAt
	}
	t.Header("#", "AT", "AGO", "ATTEMPT", "STATE", "CERTAINTY", "REASON", "NOTE")
	for i := range items {
		e := &items[i]
		state := terminal.Cell{Text: e.State, Colour: stateColour(e.State)}
		switch e.Kind {
		case "fold":
			state = terminal.Cell{Text: strings.Join(e.Folded, " ~ "), Colour: terminal.Yellow}
		case "gap":
			state = terminal.Cell{Text: "(gap)", Colour: terminal.Yellow}
		}
		row := []terminal.Cell{
			terminal.Text(strconv.FormatInt(e.Sequence, 10)), terminal.Text(v.moment(e.At)), terminal.Text(v.age(e.At)),
			terminal.Text(attempt(e)), state, certaintyCell(e.Certainty), terminal.Text(e.Reason), terminal.Text(v.note(e)),
		}
		if e.Kind == "gap" {
			row[5], row[6] = terminal.Text(""), terminal.Text("")
		}
		t.Row(row...)
	}
	return t
}

func attempt(e *client.Transition) string {
	if e.Attempt.Number == 0 {
		return ""
	}
	return strconv.Itoa(e.Attempt.Number)
}

// note is what the other columns cannot say of an entry.
func (v view) note(e *client.Transition) string {
	switch e.Kind {
	case "gap":
		return fmt.Sprintf("%s, which nobody recorded", counted(e.Count, "change"))
	case "fold":
		text := counted(e.Count, "change") + " back and forth"
		if e.Since != "" {
			text += ", since " + v.when(e.Since)
		}
		return text + "; then " + e.State
	}
	var notes []string
	if e.Correction {
		notes = append(notes, "puts right what was inferred before")
	}
	if len(e.Possible) > 0 {
		notes = append(notes, "possible: "+strings.Join(e.Possible, ", "))
	}
	if e.Via != "" {
		notes = append(notes, "via "+e.Via)
	}
	if e.Cause != "" {
		notes = append(notes, e.Cause)
	}
	return strings.Join(notes, "; ")
}

func counted(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
