package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/holdfast-dev/holdfast/agent/look"
	"github.com/holdfast-dev/holdfast/agent/view"
	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/flink"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
)

// shelf is a store in memory.
type shelf struct {
	mu       sync.Mutex
	revision int64
	pairs    map[string]etcd.Pair
	writes   []etcd.Pair
	times    []time.Time // of writes
	err      error
}

func newShelf() *shelf { return &shelf{pairs: map[string]etcd.Pair{}} }

func (s *shelf) commit(ctx context.Context, guards []etcd.Guard, ops []etcd.Op) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	for _, g := range guards {
		if s.pairs[g.Key].ModRevision != g.ModRevision {
			return 0, etcd.ErrRefused
		}
	}
	s.revision++
	for _, op := range ops {
		p := etcd.Pair{Key: op.Key, Value: op.Value, ModRevision: s.revision, Version: s.pairs[op.Key].Version + 1, Lease: int64(op.Lease)}
		s.pairs[op.Key] = p
		s.writes, s.times = append(s.writes, p), append(s.times, time.Now())
	}
	return s.revision, nil
}

func (s *shelf) readAll(ctx context.Context, prefix string) ([]etcd.Pair, int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []etcd.Pair
	for key, p := range s.pairs {
		if strings.HasPrefix(key, prefix) {
			all = append(all, p)
		}
	}
	return all, s.revision, s.err
}

func (s *shelf) life(ctx context.Context) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pairs[record.IdentityKey(testSite)].ModRevision, s.err
}

func (s *shelf) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *shelf) written() []etcd.Pair {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.writes)
}

// scripted is a JobManager in memory whose jobs are a function of the time.
type scripted struct {
	jobs  func() ([]flink.Job, error)
	named string // the incarnation
	looks int
}

func (s *scripted) Jobs(context.Context) (flink.Overview, error) {
	s.looks++
	jobs, err := s.jobs()
	return flink.Overview{Jobs: jobs}, err
}

func (s *scripted) Status(_ context.Context, id string) (job.State, error) {
	return job.Unknown, flink.ErrNotFound
}

func (s *scripted) Detail(context.Context, string) (flink.Job, error) {
	return flink.Job{}, flink.ErrNotFound
}
func (s *scripted) Cause(context.Context, string) (string, error) { return "boom", nil }
func (s *scripted) Config(context.Context) (flink.Config, error) {
	return flink.Config{Version: "1.20.1"}, nil
}
func (s *scripted) JobManager(context.Context) (flink.JobManager, error) {
	return flink.JobManager{Incarnation: cmp.Or(s.named, "one"), HighAvailability: job.No}, nil
}

var someone = evidence.Agent{Namespace: "team", Cluster: "orders", PodUID: "uid-1"}

func jobID(n int) string { return fmt.Sprintf("%032x", n) }

// inMemory is an agent without a lease.
func inMemory(ask look.Flink, keep store) *Agent {
	return build(Options{
		Site: testSite, Agent: someone, Pod: "pod", Version: "test", Poll: time.Second, Burst: 100 * time.Millisecond,
		Lease: 20 * time.Second, Repair: time.Minute, Log: slog.New(slog.DiscardHandler),
	}, ask, keep)
}

// runFor runs an agent for a time, inside a bubble.
func runFor(a *Agent, d time.Duration, during ...func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var ran sync.WaitGroup
	ran.Go(func() { _ = a.Run(ctx) })
	for _, f := range during {
		f()
	}
	time.Sleep(d)
	cancel()
	ran.Wait()
}

// reportsOf decodes what was written of a job.
func reportsOf(t *testing.T, writes []etcd.Pair, id string) (all []evidence.Report) {
	t.Helper()
	for _, p := range writes {
		if p.Key != record.ReportKey(testSite, someone, id) {
			continue
		}
		r, err := record.DecodeReport(someone, id, p.Value)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

// A job that flaps each second for a day does not fill etcd, hastens few looks, and loses no transition.
func TestFlapIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		born := time.Now()
		jm := &scripted{jobs: func() ([]flink.Job, error) {
			state := job.Running
			if int(time.Since(born)/time.Second)%2 == 1 {
				state = job.Restarting
			}
			return []flink.Job{{ID: jobID(1), Name: "flapping", State: state, StartTime: "2026-01-01T00:00:00.000Z"}}, nil
		}}
		s := newShelf()
		const span = 24 * time.Hour
		runFor(inMemory(jm, s), span)
		reports := reportsOf(t, s.written(), jobID(1))
		if most := int(span/tokenEvery) + tokenLimit + 5; len(reports) > most {
			t.Errorf("%d writes in a day, want at most %d", len(reports), most)
		}
		if most := int(span.Seconds() * 1.6); jm.looks > most {
			t.Errorf("%d looks in a day, want at most %d", jm.looks, most)
		}
		last := int64(0)
		for _, r := range reports {
			if first := r.Transitions[0].Number; first > last+1 {
				t.Fatalf("after transition %d comes a report that begins with %d", last, first)
			}
			last = r.Transitions[len(r.Transitions)-1].Number
		}
		if last < 80_000 {
			t.Errorf("%d transitions were reported, the job had 86 400", last)
		}
	})
}

// An end is written at once, even of a job that has used up its writes.
func TestEndIsNotHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		born := time.Now()
		state := func() job.State {
			switch n := int(time.Since(born) / time.Second); {
			case n > 600:
				return job.Finished
			case n%2 == 1:
				return job.Restarting
			}
			return job.Running
		}
		jm := &scripted{jobs: func() ([]flink.Job, error) {
			return []flink.Job{{ID: jobID(1), State: state(), StartTime: "2026-01-01T00:00:00.000Z"}}, nil
		}}
		s := newShelf()
		runFor(inMemory(jm, s), 640*time.Second)
		for i, r := range reportsOf(t, s.written(), jobID(1)) {
			if r.State != job.Finished {
				continue
			}
			// Without a lease there is no beat, so every write is a report.
			if late := s.times[i].Sub(born.Add(601 * time.Second)); late > 1200*time.Millisecond {
				t.Errorf("the end was written %s after it came", late)
			}
			return
		}
		t.Error("the end was not written")
	})
}

// While etcd is away memory stays that of the jobs, and what is written then is the newest, once.
func TestNewestWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		born := time.Now()
		jm := &scripted{jobs: func() ([]flink.Job, error) {
			state := job.Running
			if int(time.Since(born)/time.Second)%2 == 1 {
				state = job.Restarting
			}
			if time.Since(born) > 50*time.Second {
				state = job.Canceled
			}
			return []flink.Job{{ID: jobID(1), State: state, StartTime: "2026-01-01T00:00:00.000Z"}}, nil
		}}
		s := newShelf()
		a := inMemory(jm, s)
		runFor(a, time.Minute, func() {
			time.Sleep(500 * time.Millisecond)
			s.fail(etcd.ErrUnknown)
			time.Sleep(58 * time.Second)
			if n := a.post.status().Waiting; n != 1 {
				t.Errorf("%d letters wait", n)
			}
			if late := a.post.overdue(); late < 50*time.Second {
				t.Errorf("the write is overdue by %s", late)
			}
			if err := a.alive(); err == nil {
				t.Error("an agent that cannot write calls itself alive")
			}
			s.fail(nil)
		})
		reports := reportsOf(t, s.written(), jobID(1))
		if len(reports) != 2 || reports[1].State != job.Canceled {
			t.Errorf("%d reports were written, want the first and the newest: %v", len(reports), reports)
		}
	})
}

// Whoever denies a job has to say who it is: the process may have been replaced between two looks.
func TestDenierIsAskedWhoItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		born := time.Now()
		jm := &scripted{}
		jm.jobs = func() ([]flink.Job, error) {
			if time.Since(born) > 5*time.Second {
				jm.named = "two"
				return nil, nil
			}
			return []flink.Job{{ID: jobID(1), State: job.Running, StartTime: "2026-01-01T00:00:00.000Z"}}, nil
		}
		s := newShelf()
		runFor(inMemory(jm, s), 20*time.Second)
		reports := reportsOf(t, s.written(), jobID(1))
		if last := reports[len(reports)-1]; last.Known != job.No || last.Denier != "two" || last.Incarnation != "one" {
			t.Errorf("denied: %+v", last)
		}
	})
}

// What changes while it is being written is written again.
func TestNewerContentDuringAWrite(t *testing.T) {
	a := inMemory(&scripted{}, newShelf())
	p := a.post
	p.inStep(0)
	set := func(n int64) {
		p.set(view.Changes{Reports: []*evidence.Report{{JobID: jobID(1), Sequence: n, State: job.Running}}})
	}
	set(1)
	batch, floor, _ := p.due()
	set(2)
	p.done(batch, 1, floor)
	batch, floor, _ = p.due()
	if len(batch) != 1 || batch[0].report.Sequence != 2 {
		t.Fatalf("after the write waits %v", batch)
	}
	p.done(batch, 2, floor)
	if batch, _, _ = p.due(); len(batch) != 0 {
		t.Errorf("after both writes waits %v", batch)
	}
}

// Nothing is written before the prefix has been read: what an earlier session left would be lost.
func TestReadsBeforeItWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		earlier := evidence.Report{
			Agent: someone, JobID: jobID(1), Session: "earlier", Sequence: 9, State: job.Running, StartTime: "2026-01-01T00:00:00.000Z",
			LastAnswer: "2026-01-01T00:00:01.000Z", Known: job.Yes, Reach: job.Fine,
			Transitions: []evidence.Transition{{Number: 7, State: job.Running, StartTime: "2026-01-01T00:00:00.000Z"}},
		}
		s := newShelf()
		s.commit(t.Context(), nil, []etcd.Op{{Key: record.ReportKey(testSite, someone, jobID(1)), Value: record.EncodeReport(earlier)}})
		s.fail(etcd.ErrNoSpace)
		born := time.Now()
		jm := &scripted{jobs: func() ([]flink.Job, error) {
			state := job.Running
			if time.Since(born) > 5*time.Second {
				state = job.Restarting
			}
			return []flink.Job{{ID: jobID(1), State: state, StartTime: "2026-01-01T00:00:00.000Z"}}, nil
		}}
		a := inMemory(jm, s)
		runFor(a, time.Minute, func() {
			time.Sleep(10 * time.Second)
			s.fail(nil)
		})
		reports := reportsOf(t, s.written()[1:], jobID(1))
		want := []evidence.Transition{
			{Number: 7, State: job.Running, StartTime: "2026-01-01T00:00:00.000Z"},
			{Number: 8, State: job.Restarting, StartTime: "2026-01-01T00:00:00.000Z", At: reports[0].Transitions[1].At, Via: job.ViaREST},
		}
		if diff := gocmp.Diff(want, reports[0].Transitions); diff != "" || len(reports) != 1 {
			t.Errorf("%d reports, the first with: %s", len(reports), diff)
		}
	})
}

// A beat vouches for the reports, so it hangs only where they lie: not in an etcd that was emptied since they were written, however far that has
// come by then.
func TestNoBeatWithoutItsReports(t *testing.T) {
	const jobs = 5000
	for name, lost := range map[string]func(id string, written int64) bool{
		"all":        func(string, int64) bool { return true },
		"the newest": func(_ string, written int64) bool { return written > 1 },
		"the oldest": func(_ string, written int64) bool { return written == 1 },
	} {
		t.Run(name, func(t *testing.T) {
			s := newShelf()
			a := inMemory(&scripted{}, s)
			p := a.post
			p.inStep(0)
			write := func(from, to int) {
				c := view.Changes{Beat: &evidence.Beat{Session: "now"}}
				for i := from; i < to; i++ {
					c.Reports = append(c.Reports, &evidence.Report{JobID: jobID(i), Sequence: 1, State: job.Running})
				}
				for p.set(c); len(p.queue) > 0; {
					if _, err := p.write(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			}
			for _, part := range [][2]int{{0, 1}, {1, jobs - 1}, {jobs - 1, jobs}} {
				write(part[0], part[1])
			}
			if err := p.hang(t.Context(), 1); err != nil {
				t.Fatalf("where all is as it was written: %s", err)
			}
			p.unhang(1)
			first, last := record.ReportKey(testSite, someone, jobID(0)), record.ReportKey(testSite, someone, jobID(jobs-1))
			for key, pair := range s.pairs {
				if key != first && key != last && name != "all" || !lost(key, pair.ModRevision) {
					continue
				}
				delete(s.pairs, key)
			}
			if err := p.hang(t.Context(), 2); !errors.Is(err, errSetBack) || p.asserted() {
				t.Errorf("the beat hangs where reports are lost: %v", err)
			}
		})
	}
}

// Ten thousand jobs cost a kibibyte each, in the view and the post together.
func TestMemoryOfManyJobs(t *testing.T) {
	const jobs = 10_000
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	s := newShelf()
	a := inMemory(&scripted{}, s)
	a.post.inStep(0)
	before := heap()
	for round := range 3 {
		l := view.Look{At: stamp(time.Now()), Now: time.Duration(round+1) * time.Second, Reach: job.Fine, Process: &view.Process{Incarnation: "one"}}
		for i := range jobs {
			// Strings of their own, as a decoder makes them.
			l.Jobs = append(l.Jobs, view.Job{
				ID: jobID(i), Name: fmt.Sprintf("a job of a usual name %d", i), State: job.Running,
				StartTime: job.Stamp(fmt.Sprintf("2026-01-01T00:00:00.%03dZ", i%1000)), Tasks: job.Tasks{Total: 8, Running: 8},
			})
		}
		a.post.set(a.view.See(l))
		for len(a.post.queue) > 0 {
			if _, err := a.post.write(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.pairs, s.writes, s.times = nil, nil, nil
	each := (heap() - before) / jobs
	t.Logf("%d bytes a job", each)
	if each > 1024 {
		t.Errorf("%d bytes a job", each)
	}
	runtime.KeepAlive(a)
}

// A pod's end does not wait for an etcd that was out of reach anyway; right after its start an agent may be on its way there.
func TestLeavingDoesNotWaitForEtcd(t *testing.T) {
	for ran, most := range map[time.Duration]time.Duration{3 * time.Second: flushBound, time.Minute: outBound} {
		synctest.Test(t, func(t *testing.T) {
			jm := &scripted{jobs: func() ([]flink.Job, error) {
				return []flink.Job{{ID: jobID(1), State: job.Running, StartTime: "2026-01-01T00:00:00.000Z"}}, nil
			}}
			s := newShelf()
			s.fail(errors.New("no answer"))
			begin := time.Now()
			runFor(inMemory(jm, s), ran)
			if took := time.Since(begin) - ran; took != most {
				t.Errorf("after %s it takes %s to leave, want %s", ran, took, most)
			}
		})
	}
}
