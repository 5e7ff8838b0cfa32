package agent

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-dev/holdfast/agent/look"
	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/flink"
	"github.com/holdfast-dev/holdfast/flink/flinktest"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
)

// What happens while etcd is away is written when it is back, and then the beat.
func TestEtcdAway(t *testing.T) {
	t.Parallel()
	for name, away := range map[string]struct{ leave, back func(*world) }{
		"down": {
			func(w *world) { w.etcd.Kill() },
			func(w *world) { w.etcd.Restart() },
		},
		"paused": {
			func(w *world) { w.etcd.Pause() },
			func(w *world) { w.etcd.Resume() },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 0)
			id := w.addJob("orders", job.Running)
			w.run()
			w.wantState(id, job.Running)
			w.wantBeat("a beat", anyBeat)
			away.leave(w)
			w.jm.SetState(id, job.Restarting)
			w.looks(10)
			w.jm.SetState(id, job.Running)
			w.looks(10)
			w.jm.SetState(id, job.Finished)
			time.Sleep(4 * time.Second) // two lease times
			away.back(w)
			r := w.wantState(id, job.Finished)
			if n := len(r.Transitions); n != 4 || r.Transitions[3].Number != 4 {
				t.Errorf("the transitions are %+v", r.Transitions)
			}
			w.wantLease()
		})
	}
}

// wantLease waits for a beat whose lease is still there a lease time later.
func (w *world) wantLease() {
	w.t.Helper()
	w.wantBeat("a beat", anyBeat)
	time.Sleep(3 * time.Second) // longer than a lease: one that is not kept alive ends
	if _, ok := w.beat(); !ok {
		w.t.Error("the beat does not last")
	}
}

// An etcd that lost everything gets everything back, what is over too, and the beat last.
func TestEtcdEmptied(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 0)
	running, over := w.addJob("running", job.Running), w.addJob("over", job.Finished)
	w.run()
	w.wantState(running, job.Running)
	w.wantState(over, job.Finished)
	w.wantBeat("a beat", anyBeat)
	w.etcd.Empty()
	w.etcd.Restart()
	w.wantBeat("a beat", anyBeat)
	for _, id := range []string{running, over} {
		if _, there := w.report(id); !there {
			t.Error("the beat is back before a report")
		}
	}
	events := w.events(1)
	for i, e := range events {
		if w.isBeat(e) && i < 2 {
			t.Errorf("the beat is write number %d", i+1)
		}
	}
}

// An etcd that was set back to an older state gets what it lost.
func TestEtcdSetBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 0)
	id := w.addJob("orders", job.Running)
	w.run()
	w.wantState(id, job.Running)
	w.wantBeat("a beat", anyBeat)
	old := w.etcd.Save()
	w.etcd.Restart()
	for _, s := range []job.State{job.Restarting, job.Running, job.Finished} {
		w.jm.SetState(id, s)
		w.wantState(id, s)
	}
	w.etcd.Restore(old)
	w.etcd.Restart()
	w.wantState(id, job.Finished)
	w.wantLease()
}

// A copy of etcd holds leases, too, and goes on with them: the beat stays, with reports that are older than what it vouched for. The answers to
// keepalives tell.
func TestEtcdSetBackUnderALivingLease(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 0)
	early := w.addJob("early", job.Running)
	o := w.options()
	o.Lease, o.Repair = 30*time.Second, time.Hour // no reading comes by itself
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	w.start(a)
	w.wantState(early, job.Running)
	w.wantBeat("a beat", anyBeat)
	old := w.etcd.Save()
	w.etcd.Restart()
	late := w.addJob("late", job.Running)
	w.wantState(late, job.Running)
	before, _ := w.pair(record.BeatKey(testSite, w.who))
	time.Sleep(o.Lease / 3) // a keepalive is answered

	w.etcd.Restore(old)
	w.etcd.Restart()
	w.wantState(late, job.Running)
	if after, _ := w.pair(record.BeatKey(testSite, w.who)); after.Lease != before.Lease {
		t.Error("the lease did not outlive it, so that nothing was tried")
	}
}

// S5: without space etcd answers keepalives and takes no puts. The agent knows better than what lies there, so its beat must
// go; when there is space again, the end of the job is told, and then the beat is back.
func TestEtcdWithoutSpace(t *testing.T) {
	t.Parallel()
	const quota = 16 << 20
	w := newWorld(t, quota)
	id := w.addJob("orders", job.Running)
	w.run()
	w.wantState(id, job.Running)
	w.wantBeat("a beat", anyBeat)
	filler := strings.Repeat("x", 1<<20)
	w.eventually("etcd to be full", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_, err := etcd.Commit(ctx, w.client, nil, []etcd.Op{{Key: "/filler", Value: []byte(filler)}})
		return errors.Is(err, etcd.ErrNoSpace)
	})
	w.jm.SetState(id, job.Finished)
	w.eventually("the beat to go", func() bool {
		_, found := w.pair(record.BeatKey(testSite, w.who))
		return !found
	})
	if r, _ := w.report(id); r.State != job.Running {
		t.Fatalf("the report says %s: etcd was not full", r.State)
	}
	w.makeSpace()
	r := w.wantState(id, job.Finished)
	if n := len(r.Transitions); n != 2 {
		t.Errorf("the transitions are %+v", r.Transitions)
	}
	w.wantLease()
	if n := w.log.count("cannot write to etcd"); n != 1 {
		t.Errorf("the lack of space is logged %d times", n)
	}
}

func (w *world) makeSpace() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	must := func(err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	gone, err := w.client.Delete(ctx, "/filler")
	must(err)
	_, err = w.client.Compact(ctx, gone.Header.Revision, clientv3.WithCompactPhysical())
	must(err)
	_, err = w.client.Defragment(ctx, w.etcd.Endpoint())
	must(err)
	_, err = w.client.AlarmDisarm(ctx, &clientv3.AlarmMember{})
	must(err)
}

// stuck is a JobManager whose list never comes, whatever the context says, once it is told to.
type stuck struct {
	look.Flink
	on     atomic.Bool
	let    chan struct{}
	waited atomic.Int32
}

func (s *stuck) Jobs(ctx context.Context) (flink.Overview, error) {
	if s.on.Load() {
		s.waited.Add(1)
		<-s.let
	}
	return s.Flink.Jobs(ctx)
}

// S5: a beat proves keepalives, not knowledge. An agent whose looks hang lets it go.
func TestHangingLookDropsTheBeat(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 0)
	id := w.addJob("orders", job.Running)
	s := &stuck{let: make(chan struct{})}
	release := sync.OnceFunc(func() { close(s.let) })
	w.run(func(a *Agent) {
		s.Flink = a.looker.Flink
		a.looker.Flink = s
	})
	t.Cleanup(release) // before the agent is stopped
	w.wantState(id, job.Running)
	w.wantBeat("a beat", anyBeat)
	s.on.Store(true)
	w.eventually("the beat to go", func() bool {
		_, found := w.pair(record.BeatKey(testSite, w.who))
		return !found
	})
	w.eventually("the log to say why", func() bool { return strings.Contains(w.log.String(), "a look at Flink is overdue") })
	s.on.Store(false)
	release()
	w.wantLease()
}

// deaf is etcd whose answers to writes get lost.
type deaf struct {
	store
	lose atomic.Int32 // how many more
	late atomic.Int32 // how many more are not carried out
}

func (d *deaf) commit(ctx context.Context, guards []etcd.Guard, ops []etcd.Op) (int64, error) {
	if d.late.Add(-1) >= 0 {
		return 0, etcd.ErrUnknown
	}
	revision, err := d.store.commit(ctx, guards, ops)
	if d.lose.Add(-1) >= 0 {
		return 0, etcd.ErrUnknown
	}
	return revision, err
}

// closed is etcd that takes no reports, but beats, while it is shut.
type closed struct {
	store
	shut atomic.Bool
}

func (c *closed) commit(ctx context.Context, guards []etcd.Guard, ops []etcd.Op) (int64, error) {
	if c.shut.Load() && strings.Contains(ops[0].Key, "/jobs/") {
		return 0, errors.New("shut")
	}
	return c.store.commit(ctx, guards, ops)
}

// The beat says that the reports are this session's, so it comes last: at the start, and after a loss that may be etcd's own.
func TestBeatComesLast(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 0)
	id := w.addJob("orders", job.Running)
	c := &closed{}
	c.shut.Store(true)
	a, _ := w.run(func(a *Agent) {
		c.store = a.post.store
		a.post.store = c
		a.o.Repair = time.Hour // so that only the doubt reads again
	})
	noBeat := func(when string) {
		t.Helper()
		w.looks(15)
		if _, there := w.pair(record.BeatKey(testSite, w.who)); there {
			t.Errorf("%s: there is a beat, and no report", when)
		}
	}
	noBeat("at the start")
	c.shut.Store(false)
	w.wantBeat("a beat", anyBeat)

	c.shut.Store(true)
	w.delete(record.ReportKey(testSite, w.who, id))
	if _, err := w.client.Revoke(t.Context(), a.lease.ID()); err != nil {
		t.Fatal(err)
	}
	w.eventually("the agent to miss its lease", func() bool { return w.log.count("beat is lost") > 0 })
	noBeat("after a loss")
	c.shut.Store(false)
	w.wantBeat("a beat", anyBeat)
	if _, there := w.report(id); !there {
		t.Error("the beat is back before the report")
	}

	c.shut.Store(true)
	w.jm.SetState(id, job.Restarting)
	w.looks(2)
	if _, err := w.client.Revoke(t.Context(), a.lease.ID()); err != nil {
		t.Fatal(err)
	}
	w.eventually("the agent to miss its lease", func() bool { return w.log.count("beat is lost") > 1 })
	noBeat("after a loss, with a report waiting")
	c.shut.Store(false)
	w.wantBeat("a beat", anyBeat)
}

// A write whose outcome is not known is written again, the same, whether it had arrived or not.
func TestUnknownOutcome(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 0)
	id := w.addJob("orders", job.Running)
	d := &deaf{}
	d.lose.Store(2)
	a, _ := w.run(func(a *Agent) {
		d.store = a.post.store
		a.post.store = d
		a.o.Repair = time.Hour // which would put it right too
	})
	w.wantBeat("a beat", anyBeat)
	d.late.Store(2)
	w.jm.SetState(id, job.Restarting)
	r := w.wantState(id, job.Restarting)
	if len(r.Transitions) != 2 || r.Sequence != 2 {
		t.Errorf("the report is %+v", r)
	}
	w.eventually("nothing to wait", func() bool { return a.post.status().Waiting == 0 })
	sequences := map[int64][]byte{}
	for _, e := range w.events(1) {
		if w.isBeat(e) {
			continue
		}
		r, err := record.DecodeReport(w.who, id, e.Value)
		if err != nil {
			t.Fatal(err)
		}
		if before, seen := sequences[r.Sequence]; seen && string(before) != string(e.Value) {
			t.Errorf("number %d was written with two contents", r.Sequence)
		}
		sequences[r.Sequence] = e.Value
	}
}

// An agent that dies while a write is under way leaves it to chance whether it arrived. The next one goes on from what lies there.
func TestKilledDuringAWrite(t *testing.T) {
	t.Parallel()
	for _, arrives := range []bool{true, false} {
		w := newWorld(t, 0)
		id := w.addJob("orders", job.Running)
		d := &deaf{}
		first, stop := w.run(func(a *Agent) {
			d.store = a.post.store
			a.post.store = d
		})
		w.wantBeat("a beat", anyBeat)
		d.late.Store(1 << 20)
		if arrives {
			d.late.Store(0)
			d.lose.Store(1 << 20)
		}
		w.jm.SetState(id, job.Restarting)
		w.eventually("the write", func() bool { return first.post.status().Etcd != "fine" })
		first.o.Etcd.Close()

		w.jm.SetState(id, job.Running)
		second, _ := w.run()
		r := w.wantReport(id, "the next session's report", func(r evidence.Report) bool { return r.Session == second.session })
		want := 1
		if arrives {
			want = 3
		}
		if n := len(r.Transitions); n != want || r.Transitions[n-1].Number != int64(want) {
			t.Errorf("the write arrived: %v; the transitions are %+v, want %d", arrives, r.Transitions, want)
		}
		stop()
	}
}

// A JobManager that comes back with high availability runs the same job again: another attempt, and another process.
func TestJobManagerRestarts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 0)
	id, lost := w.addJob("orders", job.Running), w.addJob("lost", job.Running)
	w.run()
	before := w.wantState(id, job.Running)
	w.wantState(lost, job.Running)
	w.jm.Behave("", flinktest.Refuse)
	w.wantBeat("a beat that says refused", func(b evidence.Beat) bool { return b.Reach == job.Refused })
	w.jm.Restart(id)
	w.jm.Behave("", flinktest.Fine)
	r := w.wantState(id, job.Initializing)
	if r.StartTime == before.StartTime || r.Incarnation != w.jm.Incarnation() || r.Incarnation == before.Incarnation {
		t.Errorf("the new attempt is %+v", r)
	}
	b := w.wantBeat("a beat of the new process", func(b evidence.Beat) bool { return b.Reach == job.Fine })
	if b.Incarnation != w.jm.Incarnation() {
		t.Errorf("the beat is of %s, the process is %s", b.Incarnation, w.jm.Incarnation())
	}
	r = w.wantReport(lost, "a denial", func(r evidence.Report) bool { return r.Known == job.No })
	if r.Denier != w.jm.Incarnation() || r.Incarnation != before.Incarnation {
		t.Errorf("the lost job is %+v", r)
	}
}

// A pod's end waits for its agent. Where etcd is away, it does not wait for etcd, whether there is something to say or not.
func TestLeavesWithoutEtcd(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name      string
		jobs, old bool
		within    time.Duration
		says      string
	}{
		{"etcd has not come yet", true, false, flushBound, "leaves without a goodbye: not all reports could be written"},
		{"etcd never came", true, true, outBound, "leaves without a goodbye: not all reports could be written"},
		{"etcd never came, and there is nothing to say", false, true, 0, "leaves without a goodbye: it has no beat to take away"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 0)
			w.etcd.Kill()
			if tt.jobs {
				w.addJob("orders", job.Running)
			}
			_, stop := w.run(func(a *Agent) {
				if tt.old {
					a.post.born = a.post.born.Add(-2 * arrival)
				}
			})
			w.looks(5)
			began := time.Now()
			stop()
			if took := time.Since(began); took > tt.within+time.Second {
				t.Errorf("leaving took %s", took)
			}
			if !strings.Contains(w.log.String(), tt.says) {
				t.Errorf("the log does not say %q", tt.says)
			}
		})
	}
}

// That a store was set back shows by a revision below one that was read, too: an agent that writes rarely knows the store's revision only from
// reading.
func TestSetBackBelowWhatWasRead(t *testing.T) {
	w := evidence.Agent{Namespace: "team", Cluster: "orders", PodUID: "uid-1"}
	p := newPost(Options{Site: testSite, Agent: w, Log: slog.New(slog.DiscardHandler)}, nil, time.Now())
	report := &evidence.Report{Agent: w, JobID: strings.Repeat("a", 32), Session: "s", Sequence: 1, State: job.Running, Known: job.Yes}
	p.letters[report.JobID] = &letter{id: report.JobID, report: report, revision: 10, tokens: tokenLimit}
	p.highest = 10
	key, value := record.ReportKey(testSite, w, report.JobID), record.EncodeReport(*report)

	// A write of it that was given up has landed since, the same, at revision 50.
	p.compare(reading{pairs: []etcd.Pair{{Key: key, Value: value, ModRevision: 50}}, revision: 60, floor: p.highest},
		map[string]etcd.Pair{report.JobID: {Key: key, Value: value, ModRevision: 50}})
	if p.letters[report.JobID].queued {
		t.Fatal("what lies in etcd as it should is written again")
	}
	// And now the store is at revision 40, without it.
	found := p.compare(reading{revision: 40, floor: p.highest}, nil)
	if found.different != 1 || !p.letters[report.JobID].queued {
		t.Errorf("%d differ, and the report is queued: %t", found.different, p.letters[report.JobID].queued)
	}
}

// A store that was emptied, and then written by others, may lie beyond all that the agent had seen by the time it reads it again. What shows it
// then is the revision of the agent's own write, which was lower.
func TestSetBackShownByAWrite(t *testing.T) {
	w := evidence.Agent{Namespace: "team", Cluster: "orders", PodUID: "uid-1"}
	p := newPost(Options{Site: testSite, Agent: w, Log: slog.New(slog.DiscardHandler)}, nil, time.Now())
	over := &evidence.Report{Agent: w, JobID: strings.Repeat("a", 32), Session: "s", Sequence: 1, State: job.Finished, Known: job.No}
	p.letters[over.JobID] = &letter{id: over.JobID, report: over, revision: 10, tokens: tokenLimit}
	p.highest, p.read, p.lease, p.beat.beat = 10, true, 7, &evidence.Beat{Agent: w, Session: "s"}

	p.mu.Lock()
	p.reached(3, p.highest)
	p.mu.Unlock()
	select {
	case <-p.reread:
	default:
		t.Fatal("nothing is read again")
	}
	// The beat stands as it should, and the letter is missing: what would be a report that was taken away for good.
	beat := etcd.Pair{Key: p.beatIn, Value: record.EncodeBeat(*p.beat.beat), Lease: 7, ModRevision: 3}
	found := p.compare(reading{pairs: []etcd.Pair{beat}, revision: 40, floor: p.highest, doubts: p.doubts}, nil)
	if found.different != 1 || len(found.retired) != 0 || !p.letters[over.JobID].queued {
		t.Errorf("%d differ, %d were retired, and the report is queued: %t", found.different, len(found.retired), p.letters[over.JobID].queued)
	}
	if p.setBack {
		t.Error("a reading that began after it leaves the doubt")
	}
	// A reading that began before it cannot answer it.
	p.mu.Lock()
	p.reached(2, p.highest)
	p.mu.Unlock()
	p.compare(reading{revision: 41, floor: 40, doubts: p.doubts - 1}, nil)
	if !p.setBack {
		t.Error("a reading that began before it was taken for an answer")
	}
}

// An agent that lost its lease finds no trace of its own in etcd where its only report was taken away. That the store lives on is shown by
// the site's identity, and then the report does not come back.
func TestTakenAwayWhileThereWasNoLease(t *testing.T) {
	w := evidence.Agent{Namespace: "team", Cluster: "orders", PodUID: "uid-1"}
	over := &evidence.Report{Agent: w, JobID: strings.Repeat("a", 32), Session: "s", Sequence: 1, State: job.Running, Known: job.No}
	for name, c := range map[string]struct {
		before, now int64
		retired     bool
	}{
		"the same store":           {5, 5, true},
		"another":                  {5, 6, false},
		"nobody's store":           {5, 0, false},
		"nobody's store all along": {0, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPost(Options{Site: testSite, Agent: w, Log: slog.New(slog.DiscardHandler)}, nil, time.Now())
			p.letters[over.JobID] = &letter{id: over.JobID, report: over, revision: 10, tokens: tokenLimit}
			lies := etcd.Pair{Key: record.ReportKey(testSite, w, over.JobID), Value: record.EncodeReport(*over), ModRevision: 10}
			p.compare(reading{pairs: []etcd.Pair{lies}, revision: 20, life: c.before}, map[string]etcd.Pair{over.JobID: lies})
			found := p.compare(reading{revision: 40, life: c.now, floor: p.highest}, nil)
			if retired := len(found.retired) == 1; retired != c.retired || p.letters[over.JobID].queued == c.retired {
				t.Errorf("retired: %t, written again: %t", retired, p.letters[over.JobID].queued)
			}
		})
	}
}
