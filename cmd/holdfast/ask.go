package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/holdfast-dev/holdfast/cmd/internal/client"
	"github.com/holdfast-dev/holdfast/cmd/internal/flags"
	"github.com/holdfast-dev/holdfast/job"
)

// The forms of output.
const (
	asTable = "table"
	asWide  = "wide"
	asJSON  = "json"
	asYAML  = "yaml"
)

// asking are the flags of every command that asks the API.
type asking struct {
	server  string
	timeout time.Duration
	output  string
}

func (a *asking) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&a.server, "server", client.DefaultServer, "where the API is")
	f.DurationVar(&a.timeout, "timeout", 10*time.Second, "how long to wait for an answer")
	f.StringVarP(&a.output, "output", "o", asTable, "table, wide, json or yaml")
	offer(cmd, "output", asTable, asWide, asJSON, asYAML)
}

// begin checks the flags and makes the client.
func (a *asking) begin() (*client.Client, error) {
	if !slices.Contains([]string{asTable, asWide, asJSON, asYAML}, a.output) {
		return nil, flags.Usage(fmt.Errorf("--output %q does not exist: give table, wide, json or yaml", a.output))
	}
	if a.timeout <= 0 {
		return nil, flags.Usage(fmt.Errorf("--timeout %s: give a time of more than 0, such as 10s", a.timeout))
	}
	c, err := client.New(a.server)
	return c, flags.Usage(err)
}

// people says whether the output is for people, not for programs.
func (a *asking) people() bool { return a.output == asTable || a.output == asWide }

// bound bounds the whole question.
func (a *asking) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, a.timeout)
}

// print prints an answer for programs, as it came.
func (p *program) print(output string, answer any) error {
	data, err := json.Marshal(answer)
	if err != nil {
		return fmt.Errorf("print the answer: %w", err)
	}
	var text []byte
	if output == asYAML {
		if text, err = yaml.JSONToYAML(data); err != nil {
			return fmt.Errorf("print the answer as YAML: %w", err)
		}
	} else {
		var indented bytes.Buffer
		if err := json.Indent(&indented, data, "", "  "); err != nil {
			return fmt.Errorf("print the answer as JSON: %w", err)
		}
		indented.WriteByte('\n')
		text = indented.Bytes()
	}
	_, err = p.out.Write(text)
	return err
}

// filter are the flags that choose jobs.
type filter struct {
	namespaces, clusters, pipelines, states, certainties, overs, reasons []string
}

// addPlace adds the flags that say where a job is.
func (f *filter) addPlace(cmd *cobra.Command) {
	cmd.Flags().StringSliceVarP(&f.namespaces, "namespace", "n", nil, "only these namespaces")
	cmd.Flags().StringSliceVar(&f.clusters, "cluster", nil, "only these Flink clusters")
}

func (f *filter) add(cmd *cobra.Command) {
	f.addPlace(cmd)
	set := cmd.Flags()
	set.StringSliceVar(&f.pipelines, "pipeline", nil, "only jobs that their owners call so")
	set.StringSliceVar(&f.states, "state", nil, "only these states, such as RUNNING,RESTARTING")
	set.StringSliceVar(&f.certainties, "certainty", nil, "only states known so: Witnessed, Inferred, Held")
	set.StringSliceVar(&f.overs, "over", nil, "only jobs that are over (yes), that are not (no), or of which it is unknown")
	set.StringSliceVar(&f.reasons, "reason", nil, "only verdicts with these reasons, such as AgentSilent")

	var states, reasons []string
	for _, s := range append(job.AllStates.List(), job.Unknown) {
		states = append(states, s.String())
	}
	for _, r := range job.Reasons() {
		reasons = append(reasons, r.String())
	}
	offer(cmd, "state", states...)
	offer(cmd, "certainty", "Witnessed", "Inferred", "Held")
	offer(cmd, "over", "yes", "no", "unknown")
	offer(cmd, "reason", reasons...)
}

// offer gives a flag's values to the shell's completion.
func offer(cmd *cobra.Command, flag string, values ...string) {
	// The only error is that of a flag that does not exist or has a completion already.
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

// query is the filter in the API's parameters. Words are spelled as the API spells them, however they were typed.
func (f *filter) query() url.Values {
	query := url.Values{}
	for _, p := range []struct {
		name   string
		values []string
		spell  func(string) string
	}{
		{"namespace", f.namespaces, nil}, {"cluster", f.clusters, nil}, {"pipeline", f.pipelines, nil},
		{"state", f.states, strings.ToUpper}, {"certainty", f.certainties, capital}, {"over", f.overs, strings.ToLower},
		{"reason", f.reasons, nil},
	} {
		for _, value := range p.values {
			if p.spell != nil {
				value = p.spell(value)
			}
			query.Add(p.name, value)
		}
	}
	return query
}

func capital(word string) string {
	if word == "" {
		return word
	}
	return strings.ToUpper(word[:1]) + strings.ToLower(word[1:])
}
