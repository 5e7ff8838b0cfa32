package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-dev/holdfast/cmd/internal/client"
	"github.com/holdfast-dev/holdfast/cmd/internal/terminal"
)

// clipAt is the widest column of a table. Names are clipped in tables only.
const clipAt = 40

// view turns what the API says into what people read, at one moment. Ages are the difference between this clock and
// somebody else's: good enough to read, and nothing is decided by them.
type view struct {
	now     time.Time
	zone    *time.Location
	colours bool
}

func (p *program) view() view {
	return view{now: p.now(), zone: p.zone, colours: terminal.Colours(p.out, p.lookup)}
}

func (v view) paint(c terminal.Colour, text string) string {
	if !v.colours {
		return text
	}
	return c.Paint(text)
}

// moment is a stamp in local time; "" if there is none.
func (v view) moment(stamp string) string {
	t, err := time.Parse(time.RFC3339, stamp)
	if err != nil {
		return terminal.Clean(stamp)
	}
	return t.In(v.zone).Format(time.DateTime)
}

// age is the time since a stamp; "" if there is none.
func (v view) age(stamp string) string {
	t, err := time.Parse(time.RFC3339, stamp)
	if err != nil {
		return ""
	}
	return terminal.Age(v.now.Sub(t))
}

// when is both.
func (v view) when(stamp string) string {
	if age := v.age(stamp); age != "" {
		return fmt.Sprintf("%s (%s ago)", v.moment(stamp), age)
	}
	if stamp == "" {
		return "at a time that nobody told"
	}
	return v.moment(stamp)
}

func stateCell(j *client.Job) terminal.Cell {
	text := j.State
	if len(j.Possible) > 0 && len(j.Possible) <= 2 {
		text += ": " + strings.Join(j.Possible, " or ")
	}
	return terminal.Cell{Text: text, Colour: stateColour(j.State)}
}

func stateColour(state string) terminal.Colour {
	switch state {
	case "RUNNING", "FINISHED":
		return terminal.Green
	case "FAILED", "FAILING":
		return terminal.Red
	case "CANCELED":
		return terminal.Plain
	}
	return terminal.Yellow
}

func certaintyCell(certainty string) terminal.Cell {
	return terminal.Cell{Text: certainty, Colour: certaintyColour(certainty)}
}

func certaintyColour(certainty string) terminal.Colour {
	switch certainty {
	case "Held":
		return terminal.Yellow
	case "Inferred":
		return terminal.Cyan
	}
	return terminal.Plain
}

// shortID is enough of a job id to tell it from others, and to type it.
func shortID(id string) string { return terminal.Clean(id[:min(len(id), 8)]) }

// jobs makes the table of jobs.
func (v view) jobs(jobs []client.Job) *terminal.Table {
	t := &terminal.Table{Colours: v.colours, Limit: clipAt}
	t.Header("NAMESPACE", "CLUSTER", "JOB", "STATE", "CERTAINTY", "SINCE", "SEEN", "ID")
	for i := range jobs {
		j := &jobs[i]
		t.Row(terminal.Text(j.Namespace), terminal.Text(j.Cluster), terminal.Text(j.Name), stateCell(j),
			certaintyCell(j.Certainty), terminal.Text(v.age(j.Since)), terminal.Text(v.age(j.LastSeen)), terminal.Text(shortID(j.JobID)))
	}
	return t
}

// wideJobs makes the table with everything in it.
func (v view) wideJobs(jobs []client.Job) *terminal.Table {
	t := &terminal.Table{Colours: v.colours}
	t.Header("NAMESPACE", "CLUSTER", "JOB", "PIPELINE", "STATE", "POSSIBLE", "OVER", "CERTAINTY", "REASON", "VIA", "SINCE",
		"SEEN", "ATTEMPT", "TASKS", "ID")
	for i := range jobs {
		j := &jobs[i]
		t.Row(terminal.Text(j.Namespace), terminal.Text(j.Cluster), terminal.Text(j.Name), terminal.Text(j.Pipeline),
			terminal.Cell{Text: j.State, Colour: stateColour(j.State)}, terminal.Text(strings.Join(j.Possible, ",")),
			terminal.Text(j.Over), certaintyCell(j.Certainty), terminal.Text(j.Reason), terminal.Text(j.Via),
			terminal.Text(v.moment(j.Since)), terminal.Text(v.moment(j.LastSeen)), terminal.Text(strconv.Itoa(j.Attempt.Number)),
			terminal.Text(fmt.Sprintf("%d/%d", j.Tasks.Running, j.Tasks.Total)), terminal.Text(j.JobID))
	}
	return t
}

// frozen is a line about a freeze, for people.
func (v view) frozen(f *client.Frozen) string {
	return fmt.Sprintf("Conclusions about silent agents' jobs are frozen since %s: %s (%s).",
		v.when(f.Since), terminal.Clean(f.Why), terminal.Clean(f.Source))
}
