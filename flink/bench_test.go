package flink_test

import (
	"fmt"
	"net"
	"testing"

	"github.com/holdfast-dev/holdfast/flink"
	"github.com/holdfast-dev/holdfast/flink/flinktest"
	"github.com/holdfast-dev/holdfast/job"
)

// fixed answers every request with the same bytes and allocates nothing, so that what is measured is the client.
func fixed(tb testing.TB, body string) *raw {
	answer := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	return rawServer(tb, "127.0.0.1:0", func(conn net.Conn) {
		for request := make([]byte, 4096); ; {
			if _, err := conn.Read(request); err != nil {
				return
			}
			if _, err := conn.Write(answer); err != nil {
				return
			}
		}
	})
}

const oneJob = `{"jobs":[{"jid":"` + someID + `","name":"orders enrichment","start-time":1763800000123,"end-time":-1,` +
	`"duration":86400123,"state":"RUNNING","last-modification":1763800004567,"tasks":{"running":6,"canceling":0,"canceled":0,` +
	`"total":8,"created":0,"scheduled":0,"deploying":0,"reconciling":0,"finished":2,"initializing":0,"failed":0}}]}`

// The poll of one job, each second for years: most of what it allocates is net/http's own (about 55 of the allocations).
// Raise the budget in the change that needs it, and say why there.
func TestAllocationsOfAPoll(t *testing.T) {
	c := dial(t, "http://"+fixed(t, oneJob).address(), flink.Options{})
	poll := func() {
		if o, err := c.Jobs(t.Context()); err != nil || len(o.Jobs) != 1 {
			t.Fatal(o, err)
		}
	}
	poll()
	if got := testing.AllocsPerRun(200, poll); got > 110 {
		t.Errorf("%.0f allocations a poll", got)
	}
}

func BenchmarkPollOneJob(b *testing.B) {
	c := dial(b, "http://"+fixed(b, oneJob).address(), flink.Options{})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Jobs(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStatus(b *testing.B) {
	c := dial(b, "http://"+fixed(b, `{"status":"RUNNING"}`).address(), flink.Options{})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Status(b.Context(), someID); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPollTenThousandJobs(b *testing.B) {
	jm := flinktest.New(b)
	for range 10_000 {
		jm.SetJob(flinktest.Job{ID: flinktest.NewID(), Name: "one of many", State: job.Running})
	}
	c := dial(b, jm.URL(), flink.Options{})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Jobs(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
