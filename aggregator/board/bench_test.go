package board

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
)

// fleet makes the pairs of n jobs whose names and evidence are as long as real ones, sorted by key.
func fleet(n int) []etcd.Pair {
	const at job.Stamp = "2026-01-02T15:04:05.000Z"
	pairs := make([]etcd.Pair, n)
	for i := range pairs {
		cluster := fmt.Sprintf("orders-%06d", i)
		key := job.Key{Namespace: "team-a", Cluster: cluster, ID: fmt.Sprintf("%032x", i)}
		value := record.EncodeAccount(job.Account{
			Key: key,
			Verdict: job.Verdict{
				Name: "Orders enrichment", Pipeline: cluster, State: job.Running, Over: job.No, Certainty: job.Witnessed,
				Since: at, LastSeen: at, Attempt: job.Attempt{Number: 1, StartTime: at}, Tasks: job.Tasks{Total: 4, Running: 4},
				Via:      job.ViaREST,
				Evidence: []job.Statement{{Source: "agent", Subject: "pod/" + cluster + "-7d9c5b6f4-x2x7k", Says: "RUNNING", At: at}},
			},
			Books: job.Books{
				Sequence: 3, Marks: []job.Mark{{Witness: "0d8c4c7e-8d9d-4d3b-a4e5-2d1a5b0f7f11", Number: 3}},
				Recent: []job.State{job.Initializing, job.Created, job.Running},
			},
		})
		pairs[i] = etcd.Pair{Key: record.VerdictKey("default", key), Value: value, ModRevision: int64(i + 10), Version: 1}
	}
	return pairs
}

func emptyBoard(t testing.TB) *Board {
	t.Helper()
	b, err := New(Options{Site: "default", Hold: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// The whole aggregator may use 2 KiB a job; the board is the larger part of what it keeps, and gets less than a half.
const jobBudget = 900

func TestAJobCostsLittleMemory(t *testing.T) {
	const jobs = 100_000
	pairs := fleet(jobs)
	b := emptyBoard(t)
	before := heap()
	b.Apply(Verdicts, etcd.Update{Kind: etcd.Listed, Epoch: 1, Revision: jobs + 10, Pairs: pairs})
	used := heap() - before
	if got := b.Snapshot().Len(); got != jobs {
		t.Fatalf("the board has %d jobs, want %d", got, jobs)
	}
	runtime.KeepAlive(pairs)
	t.Logf("%d bytes a job", used/jobs)
	if used/jobs > jobBudget {
		t.Errorf("a job costs %d bytes, the budget is %d", used/jobs, jobBudget)
	}
}

func BenchmarkList100000(b *testing.B) {
	pairs := fleet(100_000)
	for b.Loop() {
		emptyBoard(b).Apply(Verdicts, etcd.Update{Kind: etcd.Listed, Epoch: 1, Revision: 200_000, Pairs: pairs})
	}
}

func BenchmarkChange(b *testing.B) {
	pairs := fleet(100_000)
	board := emptyBoard(b)
	board.Apply(Verdicts, etcd.Update{Kind: etcd.Listed, Epoch: 1, Revision: 200_000, Pairs: pairs})
	revision := int64(200_000)
	for b.Loop() {
		revision++
		pair := pairs[revision%100_000]
		pair.ModRevision = revision
		board.Apply(Verdicts, etcd.Update{Kind: etcd.Changed, Epoch: 1, Revision: revision, Pairs: []etcd.Pair{pair}})
	}
}

func BenchmarkAppendJob(b *testing.B) {
	board := emptyBoard(b)
	board.Apply(Verdicts, etcd.Update{Kind: etcd.Listed, Epoch: 1, Revision: 200_000, Pairs: fleet(1000)})
	s := board.Snapshot()
	path := "team-a/orders-000500/" + fmt.Sprintf("%032x", 500)
	var buf []byte
	for b.Loop() {
		view := s.At(board.Now())
		buf = view.AppendJob(buf[:0], s.Get(path), true)
	}
	b.Logf("%s", buf)
}
