package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/holdfast-dev/holdfast/cmd/internal/client"
	"github.com/holdfast-dev/holdfast/cmd/internal/flags"
)

func (p *program) getCommand() *cobra.Command {
	var a asking
	var f filter
	var watch bool
	cmd := &cobra.Command{
		Use:   "get [jobs] [JOB]",
		Short: "Show jobs, one a line",
		Long: `Show jobs, one a line. A JOB is a name, a pipeline, a cluster that runs one job, an id, or the first letters of
an id.

SINCE is how long the job has been in its state, SEEN how long ago somebody last vouched for that.`,
		Example: `  holdfast get
  holdfast get --state failed,restarting -n team-a
  holdfast get orders -o json`,
		Args:              getArgs,
		ValidArgsFunction: p.completeJobs(&a),
		RunE: flags.Run(func(cmd *cobra.Command, args []string) error {
			c, err := a.begin()
			if err != nil {
				return err
			}
			defer c.Close()
			meant := meantBy(args)
			switch {
			case watch:
				return p.watch(cmd.Context(), c, &a, &f, meant)
			case meant != "":
				return p.getOne(cmd, c, &a, &f, meant)
			}
			return p.getAll(cmd, c, &a, &f)
		}),
	}
	a.add(cmd)
	f.add(cmd)
	cmd.AddCommand(p.getClustersCommand())
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show changes as they come, like 'holdfast watch'")
	return cmd
}

func isJobs(word string) bool { return word == "jobs" || word == "job" }

func getArgs(_ *cobra.Command, args []string) error {
	switch {
	case len(args) > 2 || len(args) == 2 && !isJobs(args[0]):
		return errors.New("give no more than one job; to choose several, there are flags such as --state")
	case len(args) > 0 && args[len(args)-1] == "":
		return errors.New("the job's name is empty: give one, or leave it out to see all jobs")
	}
	return nil
}

// meantBy gives the JOB of the arguments; "" if there is none.
func meantBy(args []string) string {
	if len(args) == 0 || len(args) == 1 && isJobs(args[0]) {
		return ""
	}
	return args[len(args)-1]
}

func (p *program) getAll(cmd *cobra.Command, c *client.Client, a *asking, f *filter) error {
	ctx, cancel := a.bound(cmd.Context())
	defer cancel()
	list, err := c.Jobs(ctx, f.query())
	if err != nil {
		return err
	}
	if !a.people() {
		return p.print(a.output, list)
	}
	if len(list.Items) == 0 {
		fmt.Fprintln(p.err, none(f))
	} else if err := p.table(a, list.Items); err != nil {
		return err
	}
	if list.Frozen != nil {
		fmt.Fprintln(p.err, p.view().frozen(list.Frozen))
	}
	return nil
}

func none(f *filter) string {
	if len(f.query()) > 0 {
		return "No job passes these flags."
	}
	return "There are no jobs yet."
}

func (p *program) getOne(cmd *cobra.Command, c *client.Client, a *asking, f *filter, meant string) error {
	ctx, cancel := a.bound(cmd.Context())
	defer cancel()
	j, _, err := p.seek(ctx, c, meant, f)
	if err != nil {
		return err
	}
	if a.people() {
		return p.table(a, []client.Job{*j})
	}
	full, err := c.Job(ctx, j)
	if err != nil {
		return err
	}
	return p.print(a.output, full)
}

func (p *program) table(a *asking, jobs []client.Job) error {
	if a.output == asWide {
		return p.view().wideJobs(jobs).Write(p.out)
	}
	return p.view().jobs(jobs).Write(p.out)
}
