package main

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-dev/holdfast/cmd/internal/client"
	"github.com/holdfast-dev/holdfast/cmd/internal/flags"
	"github.com/holdfast-dev/holdfast/cmd/internal/terminal"
)

func (p *program) whyCommand() *cobra.Command {
	var a asking
	var f filter
	cmd := &cobra.Command{
		Use:   "why JOB",
		Short: "Explain what is said of a job: how it is known, by whom, and what would change it",
		Long: `Explain what is said of a job: how it is known, by whom, and what would change it. Where a cluster of that name has no job, as when
main() throws, it is the cluster that is explained.`,
		Example: `  holdfast why orders
  holdfast why a1b2c3d4`,
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
			found, frozen, err := p.seek(ctx, c, args[0], &f)
			if errors.Is(err, errNoJob) {
				if is, why := p.whyCluster(ctx, c, &a, &f, args[0]); is {
					return why
				}
			}
			if err != nil {
				return err
			}
			j, err := c.Job(ctx, found)
			switch {
			case err != nil:
				return err
			case a.people():
				return p.explain(&j, frozen)
			}
			return p.print(a.output, j)
		}),
	}
	a.add(cmd)
	f.addPlace(cmd)
	return cmd
}

// explain prints a verdict as sentences.
func (p *program) explain(j *client.Job, frozen *client.Frozen) error {
	v := p.view()
	var text strings.Builder
	fmt.Fprintf(&text, "%s\n\n", v.paint(terminal.Bold, v.headline(j)))
	if err := v.facts(j).Write(&text); err != nil {
		return err
	}
	text.WriteString("\nWho said what:\n")
	if len(j.Evidence) == 0 {
		text.WriteString("  nobody is on record\n")
	} else if err := v.evidence(j).Write(&text); err != nil {
		return err
	}
	fmt.Fprintf(&text, "\nWhat would change it:\n  %s\n", whatWouldChange(j))
	if frozen != nil {
		fmt.Fprintf(&text, "\n%s\n", v.frozen(frozen))
	}
	_, err := fmt.Fprint(p.out, text.String())
	return err
}

// headline is the verdict in a sentence.
func (v view) headline(j *client.Job) string {
	name, state := terminal.Clip(terminal.Clean(j.Name), 80), terminal.Clean(j.State)
	switch {
	case state == "UNKNOWN" && j.Over == "yes":
		return fmt.Sprintf("%s is over; how it ended is not known.", name)
	case state == "UNKNOWN":
		return fmt.Sprintf("The state of %s is not known.", name)
	case j.Over == "yes" && j.Certainty == "Held":
		return fmt.Sprintf("%s was %s when last heard of, and this attempt never runs again.", name, state)
	case j.Over == "yes":
		return fmt.Sprintf("%s is %s, and this attempt never runs again.", name, state)
	case j.Certainty == "Held":
		if age := v.age(j.LastSeen); age != "" {
			return fmt.Sprintf("%s was %s when last heard of, %s ago. Nothing says that this has changed.", name, state, age)
		}
		return fmt.Sprintf("%s was %s when last heard of. Nothing says that this has changed.", name, state)
	}
	return fmt.Sprintf("%s is %s.", name, state)
}

// facts is the verdict, field by field.
func (v view) facts(j *client.Job) *terminal.Table {
	t := &terminal.Table{Colours: v.colours, Indent: "  "}
	fact := func(name, text string) { t.Row(terminal.Cell{Text: name, Colour: terminal.Faint}, terminal.Text(text)) }
	fact("job", j.Path())
	if j.Pipeline != j.Name {
		fact("pipeline", j.Pipeline)
	}
	t.Row(terminal.Cell{Text: "state", Colour: terminal.Faint}, terminal.Cell{Text: j.State, Colour: stateColour(j.State)})
	if len(j.Possible) > 0 {
		fact("possible", strings.Join(j.Possible, ", "))
	}
	fact("since", v.when(j.Since))
	fact("over", over(j.Over))
	t.Row(terminal.Cell{Text: "known", Colour: terminal.Faint}, terminal.Cell{
		Text: j.Certainty + ": " + certaintyMeans(j), Colour: certaintyColour(j.Certainty),
	})
	fact("why", j.Reason+": "+j.Message)
	fact("last seen", v.when(j.LastSeen))
	fact("attempt", fmt.Sprintf("%d, which Flink started %s", j.Attempt.Number, v.when(j.Attempt.StartTime)))
	if j.Tasks.Total > 0 {
		text := tasks(j.Tasks)
		if j.Certainty != "Witnessed" {
			text += ", when last seen"
		}
		fact("tasks", text)
	}
	return t
}

func over(answer string) string {
	switch answer {
	case "yes":
		return "yes"
	case "no":
		return "no: this attempt may go on"
	}
	return "not known"
}

func certaintyMeans(j *client.Job) string {
	switch j.Certainty {
	case "Witnessed":
		if via, found := roads[j.Via]; found {
			return "a JobManager said it, " + via
		}
		return "a JobManager said it"
	case "Inferred":
		return "facts leave no other conclusion"
	case "Held":
		return "the last thing known; its witnesses are silent"
	}
	return "in a way that this program does not know"
}

var roads = map[string]string{
	"REST":      "over its REST API",
	"Archive":   "in the archive that it writes of ended jobs",
	"LastWords": "and the agent's last words carried it",
	"Probe":     "asked from outside its pod",
}

func tasks(t client.Tasks) string {
	text := fmt.Sprintf("%d of %d running", t.Running, t.Total)
	for _, more := range []struct {
		n    int
		word string
	}{{t.Finished, "finished"}, {t.Failed, "failed"}, {t.Canceled, "canceled"}} {
		if more.n > 0 {
			text += fmt.Sprintf(", %d %s", more.n, more.word)
		}
	}
	return text
}

func (v view) evidence(j *client.Job) *terminal.Table {
	t := &terminal.Table{Colours: v.colours, Indent: "  "}
	t.Header("SOURCE", "FOR", "SAID", "AT")
	for _, s := range j.Evidence {
		t.Row(terminal.Text(s.Source), terminal.Text(s.Subject), terminal.Text(s.Says), terminal.Text(v.when(s.At)))
	}
	return t
}

// whatWouldChange says what the verdict waits for.
func whatWouldChange(j *client.Job) string {
	if text, found := waitsFor[j.Reason]; found {
		return text
	}
	switch {
	case j.Reason != "FlinkSaid":
		return "A word of a JobManager about this job."
	case j.Over == "yes":
		return "For this attempt, nothing. A new attempt of the job replaces it at once."
	}
	return cmp.Or(flinkSaidOf[j.State], "Flink saying another state, which shows at once.") +
		" If its witnesses fall silent, it is held; silence never makes it another state."
}

var flinkSaidOf = map[string]string{
	"SUSPENDED": "The job coming back under a JobManager, or Flink saying how it ended.",
}

// waitsFor says what would change a verdict, by its reason.
var waitsFor = map[string]string{
	"AgentSilent": "The agent beating again: what Flink tells it then counts at once. Silence alone changes nothing, however long it lasts.",
	"AgentLeft": "An agent coming back to the job's cluster, with what Flink tells it. Until then this stays, unless Kubernetes tells more: that no " +
		"JobManager runs, or only one that has high availability off and does not know the job.",
	"AgentStale": "The agent asking Flink about this job: it has started anew, and has not told the answer yet.",
	"JobManagerUnreachable": "The JobManager answering again: the agent beside it, or who asks from outside. A JobManager that does not answer says nothing about its jobs; " +
		"look at its process, or its pod.",
	"JobUnanswered": "The JobManager answering about this job again. It leaves jobs out of its list whose JobMaster is slow.",
	"JobMissing": "The JobManager listing the job again. If it has high availability off and still denies the job after 10 minutes " +
		"(after the grace time, where it runs a newer job), the job counts as over.",
	"Vanished":    "Proof of how it ended: Flink's archive, or an agent's last words. Or a new attempt of the job.",
	"Replaced":    "Proof of how it ended: Flink's archive, or an agent's last words. The pipeline's newer job has a verdict of its own.",
	"AlreadyDone": "Proof of how it ended. Flink itself says only that it ended in an earlier life of the cluster.",
	"JobManagerDown": "A JobManager of the cluster starting again, and taking the job up. The job is over only when its Deployment or Job is gone, " +
		"and no high-availability record names it.",
	"ContainerExited":  "Proof of how it ended: Flink's archive, or an agent's last words. Or a new attempt of the job.",
	"StoreUnreachable": "The server reaching etcd, and reading this job's record, again. 'holdfast status' shows which source is sick.",
	"KubernetesSilent": "The API server telling of the cluster's pods again. 'holdfast status' shows whether it does.",
	"NoSettler":        "An aggregator leading again, and judging: one that does not hear etcd, or cannot write there, does not count. 'holdfast status' shows more.",
}
