package settle

import (
	"fmt"
	"strings"

	"github.com/holdfast-dev/holdfast/job"
)

// The lines of a trace, as people read them.

func writeLines(e Write) []string {
	name := fmt.Sprintf("%s/%d", e.Account.Key.ID, e.Account.Verdict.Attempt.Number)
	if len(e.Entries) == 0 {
		v := e.Account.Verdict
		line := fmt.Sprintf("%s    %s, %d/%d tasks", name, v.State, v.Tasks.Running, v.Tasks.Total)
		if v.Cause != "" {
			line += fmt.Sprintf(", cause %q", v.Cause)
		}
		return []string{line}
	}
	var lines []string
	for _, entry := range e.Entries {
		lines = append(lines, fmt.Sprintf("%s/%d %s", e.Account.Key.ID, entry.Attempt.Number, entryLine(entry)))
	}
	return lines
}

func entryLine(t job.Transition) string {
	line := fmt.Sprintf("#%d ", t.Sequence)
	switch t.Kind {
	case job.Gap:
		return line + fmt.Sprintf("gap of %d", t.Count)
	case job.Fold:
		line += fmt.Sprintf("fold of %d (%s) ", t.Count, t.Folded)
	}
	line += certain(t.State, t.Possible, t.Over, t.Certainty, t.Reason)
	if t.Via != job.ViaREST && t.Via != job.ViaNone {
		line += " via " + t.Via.String()
	}
	if t.Cause != "" {
		line += fmt.Sprintf(", cause %q", t.Cause)
	}
	if t.Correction {
		line += ", a correction"
	}
	return line
}

// certain leaves away what goes without saying: that a witnessed state is what Flink said, and that an ending is over.
func certain(state job.State, possible job.States, over job.Answer, certainty job.Certainty, reason job.Reason) string {
	line := state.String()
	if possible != 0 {
		line += " (" + possible.String() + ")"
	}
	if over == job.Yes && !state.Terminal() {
		line += " over"
	}
	if over == job.Unanswered {
		line += " over?"
	}
	line += " " + certainty.String()
	if reason != job.FlinkSaid {
		line += " " + reason.String()
	}
	return line
}

func verdictLine(v job.Verdict) string {
	line := certain(v.State, v.Possible, v.Over, v.Certainty, v.Reason)
	if v.Cause != "" {
		line += fmt.Sprintf(", cause %q", v.Cause)
	}
	return line
}

func conditionLine(c Condition) string {
	line := fmt.Sprintf("condition: %d of %d agents beat", c.Beating, c.Expected)
	if c.Frozen {
		line += fmt.Sprintf("; FROZEN, %s is sick: %s", c.Source, c.Why)
	}
	return line
}

func clusterLine(c job.Cluster) string {
	line := c.Key.Cluster + ": " + c.Condition.String()
	if c.Over != job.No {
		line += fmt.Sprintf(" over %s", c.Over)
	}
	line += " " + c.Certainty.String()
	if c.Reason != job.FlinkSaid {
		line += " " + c.Reason.String()
	}
	for _, p := range c.Pods {
		line += ", " + p.Name
		if p.Running == job.Yes {
			line += " runs"
		}
		if p.Running == job.No {
			line += " does not run"
		}
		if p.Restarts > 0 {
			line += fmt.Sprintf(", restarts %d", p.Restarts)
		}
		if p.ExitCode != nil {
			line += fmt.Sprintf(", exit code %d", *p.ExitCode)
		}
		if p.Waiting != "" {
			line += ", waits: " + p.Waiting
		}
		if p.Reach != job.NotAsked {
			line += ", asked: " + p.Reach.String()
		}
	}
	return line
}

func sweepLine(e Sweep) string {
	ids := make([]string, len(e.Reports))
	for i, report := range e.Reports {
		ids[i] = report.JobID
	}
	return fmt.Sprintf("sweep the reports of %s: %s", e.Agent.PodUID, strings.Join(ids, " "))
}

func forgetLine(e Forget) string {
	line := "forget " + e.Key.ID
	if len(e.Reports) > 0 {
		var names []string
		for _, a := range e.Reports {
			names = append(names, a.PodUID)
		}
		line += ", reports of " + strings.Join(names, ", ")
	}
	return line
}

// clock is a moment of the day in the world.
func clock(s job.Stamp) string {
	if len(s) < 19 {
		return "-"
	}
	return string(s[11:19])
}
