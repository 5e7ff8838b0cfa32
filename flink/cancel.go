package flink

import (
	"context"
	"net/http"

	"github.com/holdfast-dev/holdfast/job"
)

// Cancel asks Flink to cancel a job (PATCH /jobs/ID?mode=cancel, JobCancellationHandler.java). It is the only question that
// changes anything, and it is here for demonstrations and tests: nothing that watches jobs may call it. Nil means that
// Flink accepted it; the job is canceled when Status says so. It is never asked twice, and after an error it is
// not known whether Flink heard it.
func (c *Client) Cancel(ctx context.Context, id string) error {
	if err := checkID(id); err != nil {
		return &failure{reach: job.NotAsked, err: err}
	}
	return c.ask(ctx, question{
		method: http.MethodPatch, path: "/jobs/" + id, query: "mode=cancel", id: id,
		read: func(a *answer) error { return a.skip() },
	})
}
