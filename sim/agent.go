package sim

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-dev/holdfast/agent/view"
	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
)

// agent is the sidecar of a pod: the real view, and what package agent does around it, played. It asks Flink each poll, writes what is new,
// newest wins, and keeps its beat up while its reports lie in etcd.
type agent struct {
	w      *world
	chance chance
	pod    *pod
	skew   time.Duration
	client *client
	born   time.Duration
	one    *session
	hung   int  // SIGSTOP of the poll loop alone: keepalives go on
	absent int  // SIGSTOP of the process
	told   bool // SIGTERM has come
}

// session is one life of an agent's process.
type session struct {
	a       *agent
	name    string
	born    time.Duration
	view    *view.View
	dead    bool
	leaving bool

	letters map[string]*letter
	beat    *evidence.Beat
	hangs   *evidence.Beat // the beat that lies in etcd, nil if none
	lease   clientv3.LeaseID
	kept    time.Duration // until when the lease is surely ours

	adopted, open, writing bool
	doubts, step           int // of which doubt the reports are in step again; -1 never
	highest                int64
	setBack                bool
	life                   int64
	stood                  etcd.Position // when etcd answered the last keepalive
	readings               int
	overdue                time.Duration // since when something waits
	looked                 time.Duration
	retry                  time.Duration
	absorb                 []func()
}

type letter struct {
	report   *evidence.Report
	queued   bool
	revision int64
	last     bool
}

const (
	poll       = 2 * time.Second
	writeBound = 3 * time.Second
)

func newAgent(w *world, p *pod) *agent {
	a := &agent{w: w, pod: p, chance: w.chance("agent " + p.uid), skew: p.skew, born: w.now}
	a.client = &client{w: w, name: "agent " + p.uid}
	a.start()
	return a
}

// start begins a session.
func (a *agent) start() {
	name := a.pod.c.name("session-" + a.pod.uid + "-")
	s := &session{
		a: a, name: name, born: a.w.now, letters: map[string]*letter{}, step: -1, looked: a.w.now, retry: 250 * time.Millisecond,
		view: view.New(view.Options{
			Agent: a.pod.who(), Session: name, Pod: a.pod.name, Version: "sim", Poll: poll, Burst: poll / 4, Seed: a.chance.Uint64(),
		}),
	}
	a.one = s
	a.w.after(a.chance.between(0, time.Second), s.look)
	s.read()
	a.w.after(a.chance.between(0, time.Second), s.hold)
}

// kill ends the process at once.
func (a *agent) kill() {
	if a.one != nil {
		a.one.dead = true
		a.one = nil
	}
}

// leave is SIGTERM: a last look, what waits is written, and then goodbye.
func (a *agent) leave() {
	s := a.one
	a.told = true
	if s == nil || s.leaving || a.absent > 0 {
		return
	}
	s.leaving = true
	s.see()
	s.write()
	var end func()
	end = func() {
		if s.dead {
			return
		}
		if s.waiting() && a.w.now-s.looked < 5*time.Second {
			a.w.after(100*time.Millisecond, end)
			return
		}
		if !s.waiting() && s.lease != 0 && s.beat != nil {
			last := *s.beat
			last.Goodbye, last.At = true, a.w.stamp(a.skew)
			lease := s.lease
			op := etcd.Op{Key: record.BeatKey(site, a.pod.who()), Value: record.EncodeBeat(last), Lease: lease}
			a.client.call(2*time.Second, func() error {
				_, err := a.w.etcd.commit(nil, []etcd.Op{op})
				if err == nil {
					a.w.etcd.revoke(lease)
				}
				return err
			}, func(error) {})
		}
		s.dead = true
		a.one = nil
	}
	a.w.after(50*time.Millisecond, end)
}

// again does something as soon as the process may.
func (s *session) again(d time.Duration, do func()) {
	s.a.w.after(d, func() {
		switch {
		case s.dead:
		case s.a.absent > 0:
			s.again(500*time.Millisecond, do)
		default:
			do()
		}
	})
}

func (s *session) look() {
	switch {
	case s.dead || s.leaving:
		return
	case s.a.hung > 0:
		s.again(time.Second, s.look)
		return
	}
	took := 5 * time.Millisecond
	if _, reach := s.a.pod.process.rest(); reach == job.TimedOut {
		took = 3 * time.Second
	}
	s.again(took, func() {
		if s.leaving || s.a.hung > 0 {
			s.look()
			return
		}
		s.see()
		s.again(s.view.Next(), s.look)
	})
}

// see takes one round of answers in.
func (s *session) see() {
	w := s.a.w
	s.looked = w.now
	changes := s.view.See(w.answer(s.view, s.a.pod.process, true, w.stamp(s.a.skew), w.now-s.born, s.a.chance))
	slices.SortFunc(changes.Reports, func(a, b *evidence.Report) int { return bytes.Compare([]byte(a.JobID), []byte(b.JobID)) })
	for _, r := range changes.Reports {
		l := s.letters[r.JobID]
		if l == nil {
			l = &letter{}
			s.letters[r.JobID] = l
		}
		l.report, l.queued, l.last = r, true, false
	}
	for _, id := range changes.Forgotten {
		if l := s.letters[id]; l != nil {
			l.last = true
			s.bury(id, l)
		}
	}
	if changes.Beat != nil {
		s.beat = changes.Beat
	}
	absorbs := s.absorb
	s.absorb = nil
	for _, absorb := range absorbs {
		absorb()
	}
	s.write()
}

func (s *session) bury(id string, l *letter) {
	if l.last && !l.queued {
		delete(s.letters, id)
	}
}

// waiting says whether some report has not arrived.
func (s *session) waiting() bool {
	for _, l := range s.letters {
		if l.queued {
			return true
		}
	}
	return false
}

// write writes what waits: reports first, then the beat where it is another.
func (s *session) write() {
	if s.dead || s.writing || !s.open {
		return
	}
	type content struct {
		l      *letter
		report *evidence.Report
		id     string
	}
	var batch []content
	var ops []etcd.Op
	for _, id := range slices.Sorted(maps.Keys(s.letters)) {
		if l := s.letters[id]; l.queued {
			batch = append(batch, content{l, l.report, id})
			ops = append(ops, etcd.Op{Key: record.ReportKey(site, s.a.pod.who(), id), Value: record.EncodeReport(*l.report)})
		}
	}
	beat := s.beat
	if len(ops) == 0 && s.lease != 0 && s.hangs != nil && s.hangs != beat {
		ops = append(ops, s.beatOp(s.lease))
	} else {
		beat = nil
	}
	if len(ops) == 0 {
		s.overdue = 0
		return
	}
	if s.overdue == 0 {
		s.overdue = s.a.w.now
	}
	s.writing = true
	revision, floor := int64(0), s.highest
	s.call(writeBound, func() (err error) { revision, err = s.a.w.etcd.commit(nil, ops); return err }, func(err error) {
		s.writing = false
		if err != nil {
			if errors.Is(err, errNoLease) {
				s.unhang()
			}
			s.retry = min(2*s.retry, 5*time.Second)
			s.again(s.a.chance.between(s.retry/2, s.retry), s.write)
			return
		}
		s.retry, s.overdue = 250*time.Millisecond, 0
		s.reached(revision, floor)
		for _, c := range batch {
			c.l.revision = revision
			if c.l.report == c.report {
				c.l.queued = false
				s.bury(c.id, c.l)
			}
		}
		if beat != nil {
			s.hangs = beat
		}
		s.inStep(s.doubts)
		s.write()
	})
}

func (s *session) beatOp(lease clientv3.LeaseID) etcd.Op {
	return etcd.Op{Key: record.BeatKey(site, s.a.pod.who()), Value: record.EncodeBeat(*s.beat), Lease: lease}
}

// call asks etcd, for a session that lives.
func (s *session) call(bound time.Duration, serve func() error, done func(error)) {
	s.a.client.call(bound, serve, func(err error) { s.again(0, func() { done(err) }) })
}

// read reads what lies below the agent's prefix: at first to adopt it, and then each minute, and when in doubt, to repair it.
func (s *session) read() {
	if s.dead || s.leaving {
		return
	}
	var pairs []etcd.Pair
	s.readings++
	reading := s.readings
	var revision, life int64
	floor, doubts := s.highest, s.doubts
	s.call(15*time.Second, func() error {
		pairs, revision = s.a.w.etcd.list(record.AgentPrefix(site, s.a.pod.who())), s.a.w.etcd.revision
		life = s.a.w.etcd.pairs[record.IdentityKey(site)].ModRevision
		return nil
	}, func(err error) {
		if err != nil {
			s.again(s.a.chance.between(time.Second, 5*time.Second), s.read)
			return
		}
		s.compare(pairs, revision, life, floor, doubts)
		s.absorb = append(s.absorb, func() {
			s.open = true
			s.inStep(doubts)
		})
		s.again(s.a.chance.between(57*time.Second, 63*time.Second), func() {
			if s.readings == reading {
				s.read()
			}
		})
	})
}

// inStep notes that the reports lie in etcd as they should, if nothing is waiting and nothing was doubted since.
func (s *session) inStep(doubts int) {
	if s.open && s.adopted && doubts == s.doubts && len(s.absorb) == 0 && !s.waiting() {
		s.step = s.doubts
	}
}

// reached notes at which revision something arrived (package agent's post).
func (s *session) reached(revision, floor int64) {
	if revision >= floor {
		s.highest = max(s.highest, revision)
		return
	}
	s.highest, s.setBack = revision, true
	s.doubt()
}

func (s *session) doubt() {
	s.doubts++
	s.read()
}

// compare puts right what differs from the memory (package agent's repair).
func (s *session) compare(pairs []etcd.Pair, revision, life, floor int64, doubts int) {
	stored := map[string]etcd.Pair{}
	hangs, beatSame := false, false
	for _, pair := range pairs {
		place, err := record.ParseKey(site, pair.Key)
		switch {
		case err != nil:
		case place.Kind == record.Report:
			stored[place.Job.ID] = pair
		case place.Kind == record.Beat:
			hangs = s.lease != 0 && pair.Lease == int64(s.lease)
			beatSame = hangs && s.hangs != nil && bytes.Equal(pair.Value, record.EncodeBeat(*s.hangs))
		}
	}
	anew := revision < floor || s.setBack && doubts == s.doubts
	if anew {
		s.highest, s.setBack = revision, false
	}
	s.highest = max(s.highest, revision)
	same := hangs || life != 0 && life == s.life
	s.life = life
	for id, pair := range stored {
		l := s.letters[id]
		same = same || l != nil && l.revision > 0 && l.revision == pair.ModRevision
	}
	for _, id := range slices.Sorted(maps.Keys(s.letters)) {
		l := s.letters[id]
		pair, there := stored[id]
		switch {
		case anew:
			l.revision, l.queued = 0, true
		case l.queued, l.revision > revision, there && pair.ModRevision == l.revision:
		case there && bytes.Equal(pair.Value, record.EncodeReport(*l.report)):
			l.revision = pair.ModRevision
		case !there && same && !anew && view.Retirable(l.report):
			if s.view.Retire(id) {
				l.last = true
				s.bury(id, l)
			}
		default:
			l.queued = true
		}
	}
	for _, id := range slices.Sorted(maps.Keys(stored)) {
		// At first all is adopted, be it of a job that was seen before etcd could be read; later what only etcd knows.
		if s.adopted && (s.letters[id] != nil || revision < s.highest) {
			continue
		}
		if report, err := record.DecodeReport(s.a.pod.who(), id, stored[id].Value); err == nil {
			s.view.Adopt(report)
		}
	}
	s.adopted = true
	if s.lease != 0 && !beatSame {
		s.hangs = &evidence.Beat{} // it is written anew
	}
	s.write()
}

// alive says whether the agent may call itself so.
func (s *session) alive() bool {
	w := s.a.w
	lookLate := w.now - s.looked - 3*time.Second - 5*time.Second
	return lookLate <= leaseTime && (s.overdue == 0 || w.now-s.overdue <= leaseTime) && s.step == s.doubts && s.beat != nil
}

// hold keeps a lease, and under it the beat.
func (s *session) hold() {
	if s.dead || s.leaving {
		return
	}
	if !s.alive() {
		s.again(time.Second, s.hold)
		return
	}
	w := s.a.w
	asked := w.now
	var id clientv3.LeaseID
	s.call(leaseTime/2, func() (err error) { id, err = w.etcd.grant(leaseTime); return err }, func(err error) {
		if err != nil {
			s.backOff()
			return
		}
		beat, revision, floor := s.beat, int64(0), s.highest
		proofs := s.proofs()
		s.call(writeBound, func() (err error) { revision, err = w.etcd.commit(proofs, []etcd.Op{s.beatOp(id)}); return err }, func(err error) {
			if errors.Is(err, etcd.ErrRefused) {
				s.doubt()
			}
			if err != nil {
				s.letGo(id)
				s.backOff()
				return
			}
			if s.reached(revision, floor); s.setBack {
				s.letGo(id)
				s.backOff()
				return
			}
			s.lease, s.hangs, s.kept = id, beat, asked+leaseTime
			s.again(5*time.Second, func() { s.keep(id) })
		})
	})
}

// proofs hold only in an etcd in which the reports lie where they were written (package agent's post).
func (s *session) proofs() (all []etcd.Guard) {
	for id, l := range s.letters {
		if !l.queued && l.revision > 0 {
			all = append(all, etcd.Guard{Key: record.ReportKey(site, s.a.pod.who(), id), ModRevision: l.revision})
		}
	}
	return all
}

func (s *session) backOff() {
	s.again(s.a.chance.between(250*time.Millisecond, 10*time.Second), s.hold)
}

func (s *session) letGo(id clientv3.LeaseID) {
	w := s.a.w
	s.a.client.call(2*time.Second, func() error { w.etcd.revoke(id); return nil }, func(error) {})
}

// keep sends a keepalive.
func (s *session) keep(id clientv3.LeaseID) {
	if s.dead || s.leaving {
		return
	}
	asked, w := s.a.w.now, s.a.w
	switch {
	case !s.alive():
		s.unhang()
		s.letGo(id)
		s.again(time.Second, s.hold)
		return
	case w.now > s.kept:
		s.unhang()
		s.doubt()
		s.backOff()
		return
	}
	var at etcd.Position
	s.call(2*time.Second, func() error { at = w.etcd.position(); return w.etcd.keepAlive(id) }, func(err error) {
		switch {
		case err == nil:
			s.heard(at)
			s.kept = asked + leaseTime
			s.again(5*time.Second-(w.now-asked), func() { s.keep(id) })
		case errors.Is(err, errNoLease):
			s.unhang()
			s.doubt()
			s.backOff()
		default:
			s.again(time.Second, func() { s.keep(id) })
		}
	})
}

// heard notes where etcd stood when it answered a keepalive (package agent's post).
func (s *session) heard(at etcd.Position) {
	if s.stood.ClusterID != 0 && at.Before(s.stood) {
		s.read()
	}
	s.stood = etcd.Position{ClusterID: at.ClusterID, Revision: max(at.Revision, s.highest), Term: at.Term}
}

func (s *session) unhang() { s.lease, s.hangs = 0, nil }
