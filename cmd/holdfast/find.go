package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-dev/holdfast/cmd/internal/client"
	"github.com/holdfast-dev/holdfast/cmd/internal/flags"
	"github.com/holdfast-dev/holdfast/cmd/internal/terminal"
)

// errNoJob is wrapped by the error for a job that is not there.
var errNoJob = errors.New("no such job")

// completionTime is how long the shell may have to wait for names.
const completionTime = time.Second

// prefixLeast is how much of a job id is needed to mean the job.
const prefixLeast = 4

// oneJob is an argument check for a command about one job.
func oneJob(_ *cobra.Command, args []string) error {
	if len(args) == 1 && args[0] != "" {
		return nil
	}
	return errors.New("give one job: its name, its pipeline, its cluster if that runs no other, its id, or the first letters of its id")
}

// find gives the job that somebody means. note is something that they should know about the choice; it may be empty.
func find(list client.JobList, meant string, filter *filter) (found *client.Job, note string, err error) {
	candidates, named := match(list.Items, meant)
	switch len(candidates) {
	case 0:
		return nil, "", missing(list, meant, filter)
	case 1:
		return candidates[0], "", nil
	}
	if current := current(candidates); named && current != nil {
		return current, fmt.Sprintf("%s also stands for %s of this cluster that ended; 'holdfast get' shows the ids",
			terminal.Clean(meant), counted(int64(len(candidates)-1), "job")), nil
	}
	return nil, "", ambiguous(candidates, meant)
}

// match gives the jobs that fit best: by id or path; else by name or pipeline; else by their cluster; else by the beginning of their id.
// named says that it was by name.
func match(jobs []client.Job, meant string) (found []*client.Job, named bool) {
	const byName, byCluster = 1, 2
	fits := []func(*client.Job) bool{
		func(j *client.Job) bool { return j.JobID == meant || j.Path() == meant },
		func(j *client.Job) bool { return j.Pipeline == meant || j.Name == meant },
		func(j *client.Job) bool { return j.Cluster == meant },
		func(j *client.Job) bool {
			return len(meant) >= prefixLeast && strings.HasPrefix(j.JobID, strings.ToLower(meant))
		},
	}
	for rank, fit := range fits {
		for i := range jobs {
			if fit(&jobs[i]) {
				found = append(found, &jobs[i])
			}
		}
		if found != nil {
			return found, rank == byName || rank == byCluster
		}
	}
	return nil, false
}

// current is the one job that is not over, where all are of one cluster: a name usually means the job that it has now.
func current(candidates []*client.Job) *client.Job {
	var current *client.Job
	for _, j := range candidates {
		switch {
		case j.Namespace != candidates[0].Namespace || j.Cluster != candidates[0].Cluster:
			return nil
		case j.Over == "yes":
		case current != nil:
			return nil
		default:
			current = j
		}
	}
	return current
}

func missing(list client.JobList, meant string, filter *filter) error {
	where := ""
	if len(filter.query()) > 0 {
		where = " that passes the other flags"
	}
	what := "is named, or has an id that begins with,"
	if len(meant) < prefixLeast {
		what = fmt.Sprintf("is named (and an id needs at least %d letters)", prefixLeast)
	}
	return fmt.Errorf("%w: none of %d jobs%s %s %q: 'holdfast get' shows those that there are",
		errNoJob, len(list.Items), where, what, terminal.Clip(meant, 64))
}

// candidateLimit bounds how many jobs an error lists.
const candidateLimit = 10

func ambiguous(candidates []*client.Job, meant string) error {
	slices.SortFunc(candidates, func(a, b *client.Job) int { return strings.Compare(a.Path(), b.Path()) })
	var text strings.Builder
	fmt.Fprintf(&text, "%q may mean %d jobs; give the id of one:", terminal.Clip(meant, 64), len(candidates))
	for i, j := range candidates {
		if i == candidateLimit {
			fmt.Fprintf(&text, "\n  and %d more", len(candidates)-i)
			break
		}
		fmt.Fprintf(&text, "\n  %s  %s  %s", j.Path(), terminal.Clean(terminal.Clip(j.Name, 40)), j.State)
	}
	return errors.New(text.String())
}

// seek lists the jobs and finds the one that is meant.
func (p *program) seek(ctx context.Context, c *client.Client, meant string, filter *filter) (*client.Job, *client.Frozen, error) {
	list, err := c.Jobs(ctx, filter.query())
	if err != nil {
		return nil, nil, err
	}
	j, note, err := find(list, meant, filter)
	if note != "" {
		fmt.Fprintf(p.err, "Note: %s.\n", note)
	}
	return j, list.Frozen, err
}

// completeJobs offers the names of jobs to the shell.
func (p *program) completeJobs(a *asking) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if err := flags.FromEnvironment(cmd, p.lookup); err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		c, err := a.begin()
		if err != nil || len(args) > 1 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer c.Close()
		ctx, cancel := context.WithTimeout(cmd.Context(), min(a.timeout, completionTime))
		defer cancel()
		list, err := c.Jobs(ctx, nil)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []string
		for _, j := range list.Items {
			names = append(names, terminal.Clean(j.Name))
		}
		slices.Sort(names)
		return slices.Compact(names), cobra.ShellCompDirectiveNoFileComp
	}
}
