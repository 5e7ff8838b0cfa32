package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-dev/holdfast/cmd/internal/client"
	"github.com/holdfast-dev/holdfast/cmd/internal/flags"
	"github.com/holdfast-dev/holdfast/cmd/internal/terminal"
	"github.com/holdfast-dev/holdfast/job"
)

// errNoCluster is wrapped by the error for a cluster that is not there.
var errNoCluster = errors.New("no such cluster")

// clusterFilter are the flags that choose clusters.
type clusterFilter struct {
	namespaces, conditions, certainties, overs []string
}

func (f *clusterFilter) add(cmd *cobra.Command) {
	set := cmd.Flags()
	set.StringSliceVarP(&f.namespaces, "namespace", "n", nil, "only these namespaces")
	set.StringSliceVar(&f.conditions, "condition", nil, "only these conditions, such as NoJob,CrashLoop")
	set.StringSliceVar(&f.certainties, "certainty", nil, "only conditions known so: Witnessed, Inferred, Held")
	set.StringSliceVar(&f.overs, "over", nil, "only clusters that are gone (yes), that are not (no), or of which it is unknown")
	offer(cmd, "condition", conditions()...)
	offer(cmd, "certainty", "Witnessed", "Inferred", "Held")
	offer(cmd, "over", "yes", "no", "unknown")
}

func conditions() (words []string) {
	for _, c := range job.Conditions() {
		words = append(words, c.String())
	}
	return words
}

// spellCondition gives the API's spelling of a condition, however it was typed.
func spellCondition(typed string) string {
	for _, word := range conditions() {
		if strings.EqualFold(word, typed) {
			return word
		}
	}
	return typed // the API says what there is
}

func (f *clusterFilter) query() url.Values {
	query := url.Values{}
	add := func(name string, values []string, spell func(string) string) {
		for _, value := range values {
			query.Add(name, spell(value))
		}
	}
	add("namespace", f.namespaces, func(s string) string { return s })
	add("condition", f.conditions, spellCondition)
	add("certainty", f.certainties, capital)
	add("over", f.overs, strings.ToLower)
	return query
}

func (p *program) getClustersCommand() *cobra.Command {
	var a asking
	var f clusterFilter
	cmd := &cobra.Command{
		Use:     "clusters [CLUSTER]",
		Aliases: []string{"cluster"},
		Short:   "Show Flink clusters as a whole, one a line",
		Long: `Show Flink clusters as a whole, one a line. Where main() throws, or no JobManager starts, there is no job to show, and this says
why. A CLUSTER is a name, or namespace/name.

SINCE is how long the cluster has been in its condition, SEEN how long ago somebody last vouched for that.`,
		Example: `  holdfast get clusters
  holdfast get clusters --condition nojob,crashloop -n team-a
  holdfast get clusters orders -o json`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 || len(args) == 1 && args[0] == "" {
				return errors.New("give no more than one cluster: its name, or namespace/name; to choose several, there are flags such as --condition")
			}
			return nil
		},
		ValidArgsFunction: p.completeClusters(&a),
		RunE: flags.Run(func(cmd *cobra.Command, args []string) error {
			c, err := a.begin()
			if err != nil {
				return err
			}
			defer c.Close()
			ctx, cancel := a.bound(cmd.Context())
			defer cancel()
			list, err := c.Clusters(ctx, f.query())
			switch {
			case err != nil:
				return err
			case len(args) == 1:
				return p.getCluster(ctx, c, &a, list.Items, args[0])
			case !a.people():
				return p.print(a.output, list)
			case len(list.Items) > 0:
				return p.clusterTable(&a, list.Items)
			case len(f.query()) > 0:
				fmt.Fprintln(p.err, "No cluster passes these flags.")
			default:
				fmt.Fprintln(p.err, "There are no clusters yet.")
			}
			return nil
		}),
	}
	a.add(cmd)
	f.add(cmd)
	return cmd
}

func (p *program) getCluster(ctx context.Context, c *client.Client, a *asking, all []client.Cluster, meant string) error {
	found, err := findCluster(all, meant)
	if err != nil {
		return err
	}
	if a.people() {
		return p.clusterTable(a, []client.Cluster{*found})
	}
	full, err := c.Cluster(ctx, found)
	if err != nil {
		return err
	}
	return p.print(a.output, full)
}

// findCluster gives the cluster that somebody means, by its path or its name.
func findCluster(all []client.Cluster, meant string) (*client.Cluster, error) {
	var found []*client.Cluster
	for i := range all {
		if c := &all[i]; c.Path() == meant || c.Cluster == meant {
			found = append(found, c)
		}
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("%w: none of %d clusters is named %q: 'holdfast get clusters' shows those that there are",
			errNoCluster, len(all), terminal.Clip(meant, 64))
	case 1:
		return found[0], nil
	}
	text := fmt.Sprintf("%q may mean %d clusters; give one as namespace/name:", terminal.Clip(meant, 64), len(found))
	for _, c := range found[:min(len(found), candidateLimit)] {
		text += "\n  " + c.Path()
	}
	return nil, errors.New(text)
}

func (p *program) completeClusters(a *asking) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if err := flags.FromEnvironment(cmd, p.lookup); err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		c, err := a.begin()
		if err != nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer c.Close()
		ctx, cancel := context.WithTimeout(cmd.Context(), min(a.timeout, completionTime))
		defer cancel()
		list, err := c.Clusters(ctx, nil)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []string
		for _, one := range list.Items {
			names = append(names, terminal.Clean(one.Cluster))
		}
		slices.Sort(names)
		return slices.Compact(names), cobra.ShellCompDirectiveNoFileComp
	}
}

func (p *program) clusterTable(a *asking, clusters []client.Cluster) error {
	v := p.view()
	t := &terminal.Table{Colours: v.colours, Limit: clipAt}
	if a.output == asWide {
		t.Limit = 0
		t.Header("NAMESPACE", "CLUSTER", "CONDITION", "OVER", "CERTAINTY", "REASON", "SINCE", "SEEN", "WORKLOAD", "PODS", "MESSAGE")
		for i := range clusters {
			c := &clusters[i]
			var pods []string
			for _, pod := range c.Pods {
				pods = append(pods, pod.Name)
			}
			t.Row(terminal.Text(c.Namespace), terminal.Text(c.Cluster), conditionCell(c), terminal.Text(c.Over), certaintyCell(c.Certainty),
				terminal.Text(c.Reason), terminal.Text(v.moment(c.Since)), terminal.Text(v.moment(c.LastSeen)), terminal.Text(c.Workload),
				terminal.Text(strings.Join(pods, ",")), terminal.Text(c.Message))
		}
		return t.Write(p.out)
	}
	t.Header("NAMESPACE", "CLUSTER", "CONDITION", "OVER", "CERTAINTY", "SINCE", "SEEN", "WORKLOAD")
	for i := range clusters {
		c := &clusters[i]
		t.Row(terminal.Text(c.Namespace), terminal.Text(c.Cluster), conditionCell(c), terminal.Text(c.Over), certaintyCell(c.Certainty),
			terminal.Text(v.age(c.Since)), terminal.Text(v.age(c.LastSeen)), terminal.Text(c.Workload))
	}
	return t.Write(p.out)
}

func conditionCell(c *client.Cluster) terminal.Cell {
	cell := terminal.Cell{Text: c.Condition, Colour: terminal.Yellow}
	switch c.Condition {
	case "Ready":
		cell.Colour = terminal.Green
	case "JobManagerDown", "CrashLoop", "ImagePull":
		if cell.Colour = terminal.Red; c.Over == "yes" {
			cell.Colour = terminal.Plain
		}
	}
	return cell
}

// whyCluster explains a cluster, where no job is meant: main() may have thrown before there was one. is says whether a cluster is meant; a
// server that is too old to know of clusters says that none is.
func (p *program) whyCluster(ctx context.Context, c *client.Client, a *asking, f *filter, meant string) (is bool, err error) {
	list, err := c.Clusters(ctx, url.Values{"namespace": f.namespaces, "cluster": f.clusters})
	if err != nil {
		var problem *client.Problem
		return !errors.As(err, &problem), err
	}
	found, err := findCluster(list.Items, meant)
	if err != nil {
		return !errors.Is(err, errNoCluster), err
	}
	full, err := c.Cluster(ctx, found)
	switch {
	case err != nil:
		return true, err
	case a.people():
		return true, p.explainCluster(&full)
	}
	return true, p.print(a.output, full)
}

// explainCluster prints what is said of a cluster as sentences.
func (p *program) explainCluster(c *client.Cluster) error {
	v := p.view()
	var text strings.Builder
	fmt.Fprintf(&text, "%s\n\n", v.paint(terminal.Bold, v.clusterHeadline(c)))
	t := &terminal.Table{Colours: v.colours, Indent: "  "}
	fact := func(name, text string) { t.Row(terminal.Cell{Text: name, Colour: terminal.Faint}, terminal.Text(text)) }
	fact("cluster", c.Path())
	cell := conditionCell(c)
	t.Row(terminal.Cell{Text: "condition", Colour: terminal.Faint}, cell)
	fact("since", v.when(c.Since))
	fact("known", c.Certainty)
	fact("why", c.Reason+": "+c.Message)
	fact("last seen", v.when(c.LastSeen))
	if c.Workload != "" {
		fact("workload", c.Workload)
	}
	if c.JobCount > 0 {
		fact("jobs", fmt.Sprintf("%s; 'holdfast get --cluster %s' shows them", counted(int64(c.JobCount), "job"), terminal.Clean(c.Cluster)))
	}
	if err := t.Write(&text); err != nil {
		return err
	}
	text.WriteString("\nIts JobManagers' pods:\n")
	if len(c.Pods) == 0 {
		text.WriteString("  none is known\n")
	} else if err := v.pods(c.Pods).Write(&text); err != nil {
		return err
	}
	fmt.Fprintf(&text, "\nWhat would change it:\n  %s\n", clusterWaitsFor(c))
	_, err := fmt.Fprint(p.out, text.String())
	return err
}

// clusterHeadline is the condition in a sentence.
func (v view) clusterHeadline(c *client.Cluster) string {
	name := terminal.Clean(c.Cluster)
	said, found := conditionSentences[c.Condition]
	if !found {
		said = [2]string{"is in the condition " + terminal.Clean(c.Condition), "was in the condition " + terminal.Clean(c.Condition)}
	}
	switch {
	case c.Over == "yes":
		return fmt.Sprintf("The cluster %s is gone.", name)
	case c.Condition == "Unknown":
		return fmt.Sprintf("The condition of the cluster %s is not known.", name)
	case c.Certainty == "Held":
		return fmt.Sprintf("The cluster %s %s when last heard of. Nothing says that this has changed.", name, said[1])
	}
	return fmt.Sprintf("The cluster %s %s.", name, said[0])
}

// conditionSentences say what is so, and what was.
var conditionSentences = map[string][2]string{
	"Ready":          {"is ready", "was ready"},
	"NoJob":          {"has no job", "had no job"},
	"JobManagerDown": {"has no JobManager that runs", "had no JobManager that ran"},
	"CrashLoop":      {"has a JobManager that ends again and again", "had a JobManager that ended again and again"},
	"ImagePull":      {"has no image for its JobManager", "had no image for its JobManager"},
}

func (v view) pods(pods []client.Pod) *terminal.Table {
	t := &terminal.Table{Colours: v.colours, Indent: "  "}
	t.Header("POD", "RUNNING", "RESTARTS", "EXIT CODE", "WAITING", "ASKED", "MESSAGE")
	for _, p := range pods {
		code := ""
		if p.ExitCode != nil {
			code = strconv.Itoa(*p.ExitCode)
		}
		t.Row(terminal.Text(p.Name), terminal.Text(p.Running), terminal.Text(strconv.Itoa(p.Restarts)), terminal.Text(code),
			terminal.Text(p.Waiting), terminal.Text(p.Reach), terminal.Text(p.Message))
	}
	return t
}

// clusterWaitsFor says what would change the condition.
func clusterWaitsFor(c *client.Cluster) string {
	if text, found := conditionWaitsFor[c.Condition]; found && c.Over != "yes" && c.Certainty != "Held" {
		return text
	}
	if c.Over == "yes" {
		return "A cluster of the same name being made again."
	}
	return "A JobManager of the cluster answering again, or the API server saying what has become of its pods. Silence alone changes nothing."
}

var conditionWaitsFor = map[string]string{
	"Unknown": "A JobManager of the cluster answering, or the API server saying what is wrong with its pods.",
	"Ready":   "Its JobManagers' pods going, or the only job of an application being forgotten by Flink. Silence alone changes nothing.",
	"NoJob": "main() submitting a job. If it has thrown, the JobManager's log says what: 'kubectl logs' shows it. Flink ends the JobManager then, " +
		"unless it is told to let it stand.",
	"JobManagerDown": "A JobManager's pod running. 'kubectl describe' on what makes the pods says why none does.",
	"CrashLoop": "A JobManager's container staying up for the hold time, or answering. 'kubectl logs --previous' on the pod says why it ended; " +
		"where main() throws, that is where it is to be read.",
	"ImagePull": "The image becoming available: look at its name, and at the pull secrets.",
}
