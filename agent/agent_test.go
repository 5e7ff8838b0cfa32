package agent

import (
	"fmt"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/flink/flinktest"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
)

// What a JobManager says is in etcd, under this session, and the beat comes after the reports.
func TestRunningAppears(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 0)
	w.jm.SetHA(true)
	id := w.addJob("orders", job.Running)
	a, _ := w.run()
	r := w.wantState(id, job.Running)
	if r.Session != a.session || r.Incarnation != w.jm.Incarnation() || r.Known != job.Yes || r.Reach != job.Fine ||
		r.Name != "orders" || r.Pod != "orders-7d" || r.Via != job.ViaREST || r.LastAnswer == "" || len(r.Transitions) != 1 {
		t.Errorf("the report is %+v", r)
	}
	b := w.wantBeat("a beat", anyBeat)
	if b.Session != a.session || b.Incarnation != w.jm.Incarnation() || b.Reach != job.Fine || b.HighAvailability != job.Yes || b.Application != job.No ||
		b.FlinkVersion != "1.20.1" || b.ReachSince == "" || b.Goodbye {
		t.Errorf("the beat is %+v", b)
	}
	events := w.events(1)
	if len(events) != 2 || !w.isBeat(events[1]) {
		t.Errorf("etcd saw %d writes, the beat must be the second of two: %v", len(events), events)
	}
	w.jm.SetState(id, job.Restarting)
	w.wantState(id, job.Restarting)
	w.jm.SetState(id, job.Running)
	r = w.wantState(id, job.Running)
	if n := len(r.Transitions); n != 3 || r.Transitions[2].Number != 3 {
		t.Errorf("the transitions are %+v", r.Transitions)
	}
}

// A hung JobManager changes the beat, once, and no report.
func TestHungJobManager(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 0)
	id := w.addJob("orders", job.Running)
	w.run()
	before := w.wantState(id, job.Running)
	w.wantBeat("a beat", anyBeat)
	w.jm.Behave("", flinktest.Hang)
	w.wantBeat("a beat that says timed out", func(b evidence.Beat) bool { return b.Reach == job.TimedOut })
	w.jm.Behave("", flinktest.Refuse)
	w.wantBeat("a beat that says refused", func(b evidence.Beat) bool { return b.Reach == job.Refused })
	w.jm.Behave("", flinktest.NoLeader)
	w.wantBeat("a beat that says no leader", func(b evidence.Beat) bool { return b.Reach == job.NoLeader })
	w.jm.Behave("", flinktest.Fine)
	w.wantBeat("a beat that says fine", func(b evidence.Beat) bool { return b.Reach == job.Fine })
	if after, _ := w.report(id); after.Sequence != before.Sequence || after.Reach != job.Fine {
		t.Errorf("the report has changed: %+v, was %+v", after, before)
	}
}

// One slow JobMaster can make Flink's list hang. Then each job is asked about, and what is wrong with one is said of that one.
func TestHungList(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 0)
	good, bad := w.addJob("good", job.Running), w.addJob("bad", job.Running)
	w.run()
	w.wantState(good, job.Running)
	w.wantState(bad, job.Running)
	w.jm.Behave("/jobs/overview", flinktest.Hang)
	w.jm.Behave("/jobs/"+bad, flinktest.Hang)
	w.wantReport(bad, "a report that says timed out", func(r evidence.Report) bool {
		return r.Reach == job.TimedOut && r.State == job.Running && r.Known == job.Yes
	})
	w.jm.SetState(good, job.Restarting)
	w.wantState(good, job.Restarting)
	if b := w.wantBeat("a beat", anyBeat); b.Reach != job.Fine {
		t.Errorf("the JobManager answers, and the beat says %s", b.Reach)
	}
}

// S6: a job that Flink leaves out of its list is asked about, and is not gone.
func TestHiddenJobIsKnown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 0)
	id := w.addJob("orders", job.Running)
	w.run()
	before := w.wantState(id, job.Running)
	w.jm.Hide(id)
	w.looks(10)
	if w.jm.Requests()["/jobs/"+id+"/status"] == 0 {
		t.Fatal("the hidden job was not asked about")
	}
	if after, _ := w.report(id); after.Known != job.Yes || after.State != job.Running || after.Sequence != before.Sequence {
		t.Errorf("the hidden job is %+v, was %+v", after, before)
	}
	w.jm.SetState(id, job.Restarting)
	r := w.wantState(id, job.Restarting)
	if r.StartTime != before.StartTime {
		t.Errorf("start-time %s, want %s", r.StartTime, before.StartTime)
	}
	// An ending counts only with its attempt, which is asked for too.
	w.jm.SetState(id, job.Finished)
	r = w.wantState(id, job.Finished)
	if r.StartTime != before.StartTime || r.EndTime == "" {
		t.Errorf("finished: start-time %s, want %s; end-time %q", r.StartTime, before.StartTime, r.EndTime)
	}
}

// S6: a job that Flink cannot find, twice, is No, and it says who said so.
func TestForgottenJobIsDenied(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 0)
	id := w.addJob("orders", job.Running)
	w.run()
	w.wantState(id, job.Running)
	w.jm.Remove(id)
	r := w.wantReport(id, "a report that Flink does not know the job", func(r evidence.Report) bool { return r.Known == job.No })
	if r.State != job.Running || r.Denier != w.jm.Incarnation() {
		t.Errorf("denied: %+v", r)
	}
	if n := w.jm.Requests()["/jobs/"+id+"/status"]; n < 2 {
		t.Errorf("it was asked about %d times", n)
	}
	// Another process has to deny it for itself.
	w.jm.Behave("", flinktest.Refuse)
	w.wantBeat("a beat that says refused", func(b evidence.Beat) bool { return b.Reach == job.Refused })
	w.jm.Restart()
	w.jm.Behave("", flinktest.Fine)
	w.wantReport(id, "the denial of the new process", func(r evidence.Report) bool {
		return r.Known == job.No && r.Denier == w.jm.Incarnation()
	})
}

// A failure's cause is asked for in the look that sees it; where that cannot be, later, under the same number.
func TestCause(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 0)
	id := flinktest.NewID()
	w.jm.SetJob(flinktest.Job{ID: id, Name: "orders", State: job.Running, Stack: "java.lang.RuntimeException: boom\n\tat x.Y.z(Y.java:1)\n"})
	w.run()
	w.wantState(id, job.Running)
	w.jm.SetState(id, job.Failed)
	r := w.wantState(id, job.Failed)
	if last := r.Transitions[len(r.Transitions)-1]; last.CauseAsked != job.Yes || !strings.Contains(last.Cause, "boom") {
		t.Errorf("the first report of the failure has %+v", last)
	}

	other := flinktest.NewID()
	w.jm.Behave("/jobs/"+other+"/exceptions", flinktest.Error500)
	w.jm.SetJob(flinktest.Job{ID: other, Name: "other", State: job.Failed, Stack: "java.lang.RuntimeException: bang\n\tat x.Y.z(Y.java:1)\n"})
	r = w.wantState(other, job.Failed)
	if last := r.Transitions[len(r.Transitions)-1]; last.CauseAsked != job.Unanswered || last.Cause != "" {
		t.Errorf("the cause could not be asked, and the report has %+v", last)
	}
	w.jm.Behave("/jobs/"+other+"/exceptions", flinktest.Fine)
	r = w.wantReport(other, "the cause", func(r evidence.Report) bool { return r.Transitions[0].CauseAsked == job.Yes })
	if len(r.Transitions) != 1 || r.Transitions[0].Number != 1 || !strings.Contains(r.Transitions[0].Cause, "bang") {
		t.Errorf("the transitions are %+v", r.Transitions)
	}
}

// A restarted agent goes on where it was, numbers and all, and says goodbye before its beat goes.
func TestRestartAdopts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 0)
	id, lost := w.addJob("orders", job.Running), w.addJob("lost", job.Running)
	first, stop := w.run()
	w.wantState(id, job.Running)
	w.wantState(lost, job.Running)
	w.jm.SetState(id, job.Restarting)
	w.wantState(id, job.Restarting)
	w.wantBeat("a beat", anyBeat)
	stop()
	events := w.events(1)
	if n := len(events); n < 2 || !events[n-1].Deleted || !w.isBeat(events[n-1]) || !w.isBeat(events[n-2]) {
		t.Fatalf("the last events are not a goodbye and its deletion: %v", events)
	}
	if b, err := record.DecodeBeat(w.who, events[len(events)-2].Value); err != nil || !b.Goodbye || b.Session != first.session {
		t.Errorf("the goodbye is %+v, %v", b, err)
	}

	w.jm.SetState(id, job.Running)
	w.jm.Remove(lost)
	second, _ := w.run()
	r := w.wantReport(id, "the new session's report", func(r evidence.Report) bool { return r.Session == second.session })
	if n := len(r.Transitions); n != 3 || r.Transitions[2].Number != 3 || r.State != job.Running {
		t.Errorf("the transitions go on as %+v", r.Transitions)
	}
	r = w.wantReport(lost, "what became of the other job", func(r evidence.Report) bool { return r.Known == job.No })
	if r.Session != second.session || len(r.Transitions) != 1 {
		t.Errorf("the other job: %+v", r)
	}
}

// An adopted report is asserted under the new session even while Flink cannot be asked, and says so.
func TestAdoptsWithoutFlink(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 0)
	id := w.addJob("orders", job.Running)
	_, stop := w.run()
	before := w.wantState(id, job.Running)
	stop()
	w.jm.Behave("", flinktest.Refuse)
	second, _ := w.run()
	r := w.wantReport(id, "the new session's report", func(r evidence.Report) bool { return r.Session == second.session })
	if r.Reach != job.NotAsked || r.State != job.Running || r.LastAnswer != before.LastAnswer || len(r.Transitions) != 1 {
		t.Errorf("adopted as %+v", r)
	}
	b := w.wantBeat("a beat", anyBeat)
	if b.Reach != job.Refused || b.Incarnation != "" {
		t.Errorf("the beat is %+v", b)
	}
}

// Reports that the agent cannot read: a newer one is left alone for ever, a corrupt one until there is something to say.
func TestUnreadableReports(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 0)
	newer, corrupt, absent := w.addJob("newer", job.Running), w.addJob("corrupt", job.Running), flinktest.NewID()
	wrote := w.put(record.ReportKey(testSite, w.who, newer), []byte(`{"v":99}`))
	w.put(record.ReportKey(testSite, w.who, corrupt), []byte(`{"v":1,`))
	kept := w.put(record.ReportKey(testSite, w.who, absent), []byte(`nonsense`))
	odd := w.put(record.AgentPrefix(testSite, w.who)+"jobs/../../etc", []byte(`x`))
	w.run()
	w.wantState(corrupt, job.Running)
	w.wantBeat("a beat", anyBeat)
	w.jm.SetState(newer, job.Restarting)
	w.looks(15)
	for _, c := range []struct {
		key      string
		revision int64
	}{
		{record.ReportKey(testSite, w.who, newer), wrote}, {record.ReportKey(testSite, w.who, absent), kept},
		{record.AgentPrefix(testSite, w.who) + "jobs/../../etc", odd},
	} {
		if p, ok := w.pair(c.key); !ok || p.ModRevision != c.revision {
			t.Errorf("%s was touched", c.key)
		}
	}
	if n := w.log.count("a newer Holdfast wrote"); n != 1 {
		t.Errorf("the newer report is logged %d times", n)
	}
	// Once it is gone, the agent speaks.
	w.delete(record.ReportKey(testSite, w.who, newer))
	w.wantState(newer, job.Restarting)
}

// A foreign change below the agent's prefix is put right within a repair interval.
func TestRepair(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 0)
	changed, deleted := w.addJob("changed", job.Running), w.addJob("deleted", job.Running)
	a, _ := w.run()
	w.wantState(changed, job.Running)
	before := w.wantState(deleted, job.Running)
	w.wantBeat("a beat", anyBeat)

	foreign := before
	foreign.JobID, foreign.State, foreign.Transitions = changed, job.Failed, nil
	w.put(record.ReportKey(testSite, w.who, changed), record.EncodeReport(foreign))
	w.wantState(changed, job.Running)
	w.delete(record.ReportKey(testSite, w.who, deleted))
	if after := w.wantState(deleted, job.Running); after.Sequence != before.Sequence {
		t.Errorf("the deleted report came back as number %d, was %d", after.Sequence, before.Sequence)
	}
	beat, _ := w.pair(record.BeatKey(testSite, w.who))
	w.put(beat.Key, beat.Value) // the same, but without the lease
	w.eventually("the beat to hang on the agent's lease again", func() bool {
		p, ok := w.pair(record.BeatKey(testSite, w.who))
		return ok && p.Lease != 0
	})
	w.delete(record.BeatKey(testSite, w.who))
	w.wantBeat("the beat again", func(b evidence.Beat) bool { return b.Session == a.session })
	if n := a.post.status().Repaired; n != 4 {
		t.Errorf("%d repairs are counted, want 4", n)
	}

	// A job that is over is another matter: somebody retired it.
	w.jm.SetState(deleted, job.Finished)
	w.wantState(deleted, job.Finished)
	w.delete(record.ReportKey(testSite, w.who, deleted))
	w.looks(15)
	if _, there := w.report(deleted); there {
		t.Error("a retired report came back")
	}
	// It returns with a new attempt only, and its numbers go on.
	w.jm.SetJob(flinktest.Job{ID: deleted, Name: "deleted", State: job.Running, Start: time.Now().Add(time.Minute)})
	r := w.wantState(deleted, job.Running)
	if n := r.Transitions[len(r.Transitions)-1].Number; n != 3 {
		t.Errorf("the new attempt's transition has number %d, want 3", n)
	}

	// Where everything is gone nobody has retired anything.
	w.jm.SetState(changed, job.Finished)
	w.wantState(changed, job.Finished)
	w.looks(10)
	if _, err := w.client.Delete(t.Context(), record.AgentPrefix(testSite, w.who), clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	w.wantState(changed, job.Finished)
	w.wantState(deleted, job.Running)
}

// A name is whatever its user made of it. It stays bounded, and steers nobody's terminal.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 0)
	names := []string{"a\x1b[2Jb\u202ec\n\x00", strings.Repeat("ü", 4000), `"},"v":2,"x":{"y":"`, "\xff\xfe", "../../../beat"}
	var ids []string
	for _, name := range names {
		ids = append(ids, w.addJob(name, job.Running))
	}
	w.run()
	for i, id := range ids {
		r := w.wantState(id, job.Running)
		if len(r.Name) > job.NameLimit || strings.ContainsAny(r.Name, "\x1b\x00\n\u202e") {
			t.Errorf("%q is reported as %q", names[i], r.Name)
		}
	}
	if got := len(w.events(1)); got < len(ids) {
		t.Errorf("%d writes for %d jobs", got, len(ids))
	}
}

// Ten thousand jobs are written once each, and then nothing is, as long as nothing changes.
func TestManyJobsWriteOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 0)
	const jobs = 10_000
	for i := range jobs {
		w.jm.SetJob(flinktest.Job{ID: fmt.Sprintf("%032x", i), Name: fmt.Sprintf("job %d", i), State: job.Running})
	}
	w.run()
	w.wantBeat("a beat", anyBeat)
	w.looks(3)
	reports := 0
	var last job.Reach
	for _, e := range w.events(1) {
		switch {
		case w.isBeat(e):
			// A machine that is busy may be too slow for so long a list. That is worth a beat, and nothing else is.
			beat, err := record.DecodeBeat(w.who, e.Value)
			if err != nil || beat.Reach == last {
				t.Errorf("a beat is written again with reach %s, %v", beat.Reach, err)
			}
			last = beat.Reach
		case e.Version != 1:
			t.Fatalf("%s is written for the %d. time", e.Key, e.Version)
		default:
			reports++
		}
	}
	if reports != jobs {
		t.Errorf("%d reports were written, want %d", reports, jobs)
	}
}
