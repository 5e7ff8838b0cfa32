package sim

import (
	"errors"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-dev/holdfast/aggregator/intake"
	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
	"github.com/holdfast-dev/holdfast/settle"
)

// reign is one term as the leader, as far as the process knows.
type reign struct {
	a       *aggregator
	over    bool
	lease   clientv3.LeaseID
	created int64
	kept    time.Duration
	follows []*follower
	pods    *podFollower
	probes  map[evidence.Agent]*probe
	ticked  time.Duration
	heard   [len(stores)]time.Duration
	// told says of which stores the core was told all, and whole that it was of all when it last took a Tick.
	told    [len(stores)]bool
	whole   bool
	wholeAt time.Duration // when that was so first
	// leader is what the leader's key says, and shown when it last did so anew.
	leader  record.SiteLeader
	shown   time.Duration
	showing bool
	// condition is what is to be written, until it is.
	condition *settle.Condition
}

// lead settles for one reign.
func (a *aggregator) lead(g *reign) {
	w := a.r.w
	w.say("%s leads", a.r.name)
	w.met["reigns"]++
	w.watched.judges = 0
	a.reign = g
	a.noteEpoch(w.epochStored())
	lost := a.setBack || a.bereft || w.epochStored() < a.epoch || slices.ContainsFunc(a.last[:], func(last etcd.Update) bool {
		now := etcd.Position{ClusterID: w.etcd.id, Revision: g.created, Term: w.etcd.term}
		return now.Before(etcd.Position{ClusterID: last.ClusterID, Revision: last.Revision, Term: last.Term})
	})
	if a.setBack = false; lost {
		a.last = [len(stores)]etcd.Update{}
	}
	if a.core == nil || a.outdated || !lost {
		core, err := settle.New(w.cfg)
		if err != nil {
			panic(err)
		}
		a.core, a.outdated, a.writing = core, false, map[job.Key]write{}
		a.told = nil
	}
	if a.told != nil {
		g.tellCondition(*a.told)
	}
	g.probes = map[evidence.Agent]*probe{}
	g.ticked, g.heard = w.now, [len(stores)]time.Duration{w.now, w.now, w.now}
	for _, source := range stores {
		g.follow(source)
	}
	g.pods = a.r.followPods(func(inputs []settle.Input) {
		a.do(func() {
			for _, input := range inputs {
				g.step(input)
			}
		})
	})
	g.again(w.cfg.Tick, g.tick)
	g.again(2500*time.Millisecond, g.keep)
	g.again(time.Second, g.keepEpoch)
	g.again(time.Second, g.showLife)
}

func (g *reign) again(d time.Duration, do func()) {
	g.a.again(d, func() {
		if !g.over {
			do()
		}
	})
}

func (g *reign) tick() {
	g.step(settle.Tick{})
	g.ticked = g.a.r.w.now
	for _, key := range sortedKeys(g.a.owed) {
		if _, asked := g.a.writing[key]; !asked {
			delete(g.a.owed, key)
		}
	}
	g.whole = !slices.Contains(g.told[:], false)
	if g.whole && g.wholeAt == 0 {
		g.wholeAt = g.a.r.w.now
	}
	switch w := g.a.r.w; {
	case len(g.a.owed) > 0:
		w.watched.judges = 0 // who cannot write does not judge
	case g.whole && w.watched.judges == 0:
		w.watched.judges = w.now
	}
	if g.whole && len(g.a.owed)+len(g.a.writing) == 0 {
		g.a.bereft = false
	}
	g.a.r.w.served(g.a)
	g.again(g.a.r.w.cfg.Tick, g.tick)
}

// keep keeps the leader's lease, and gives up a reign that cannot be relied on.
func (g *reign) keep() {
	a, w := g.a, g.a.r.w
	asked := w.now
	switch {
	case w.now > g.kept, g.deaf():
		g.abdicate()
		return
	}
	a.call(2*time.Second, func() error { return w.etcd.keepAlive(g.lease) }, func(err error) {
		switch {
		case g.over:
		case err == nil:
			g.kept = asked + leaderLease
			g.again(2500*time.Millisecond, g.keep)
		case errors.Is(err, errNoLease):
			g.abdicate()
		default:
			g.again(500*time.Millisecond, g.keep)
		}
	})
}

// deaf says that the settler does not tick, or hears nothing of etcd (settler.alive).
func (g *reign) deaf() bool {
	w := g.a.r.w
	if w.now-g.ticked > w.cfg.Lease {
		return true
	}
	return slices.ContainsFunc(g.heard[:], func(at time.Duration) bool { return w.now-at > w.cfg.Hold+w.cfg.Silence })
}

// abdicate ends the reign, as far as the process knows it.
func (g *reign) abdicate() {
	a, w := g.a, g.a.r.w
	w.say("%s leads no more", a.r.name)
	lease := g.lease
	a.r.client.call(2*time.Second, func() error { w.etcd.revoke(lease); return nil }, func(error) {})
	for _, key := range sortedKeys(a.writing) {
		a.step(settle.NotWritten{Key: key, Lost: a.writing[key].is}, nil)
	}
	g.stop()
	for _, source := range append(stores[:], settle.Pods, settle.Probes) {
		a.step(settle.Lost{Source: source, Why: "the reign ended"}, nil)
	}
	a.reign = nil
	a.again(a.r.chance.between(500*time.Millisecond, 3*time.Second), a.campaign)
}

func (g *reign) stop() {
	g.over = true
	for _, f := range g.follows {
		f.stop()
	}
	if g.pods != nil {
		g.pods.stop()
	}
	for _, p := range g.probes {
		p.stopped = true
	}
}

// follow brings one source in (settler.follow).
func (g *reign) follow(source settle.Source) {
	a, w := g.a, g.a.r.w
	in := &intake.Intake{Site: site, Source: source, Unreadable: func(string) { w.met["unreadable record"]++ }, Log: discard}
	base := int64(0)
	g.follows = append(g.follows, a.r.client.follow(in.Prefix(), w.cfg.Silence/3, w.cfg.Silence, func(u etcd.Update) {
		a.do(func() {
			if g.over {
				return
			}
			if u.Kind != etcd.Lost {
				g.heard[source] = w.now
				last := &a.last[source]
				if base == 0 {
					if u.ClusterID != last.ClusterID || u.Revision < last.Revision || u.Term < last.Term {
						a.epochs[source]++
					}
					base = a.epochs[source]
				}
				*last = etcd.Update{ClusterID: u.ClusterID, Revision: u.Revision, Term: u.Term}
				u.Epoch += base - 1
				a.epochs[source] = u.Epoch
			}
			for _, input := range in.Events(u) {
				g.step(input)
			}
		})
	}))
}

func (g *reign) step(input settle.Input) {
	switch in := input.(type) {
	case settle.Listing:
		if a := g.a; int(in.Source) < len(a.stores) {
			a.bereft = a.bereft || a.stores[in.Source] > 0 && in.Epoch > a.stores[in.Source]
			a.stores[in.Source] = in.Epoch
		}
	case settle.Synced:
		g.tell(in.Source, true)
	case settle.Lost:
		g.tell(in.Source, false)
	}
	if !g.over {
		g.a.step(input, g)
	}
}

func (g *reign) tell(source settle.Source, all bool) {
	if int(source) < len(g.told) {
		g.told[source] = all
	}
	if !all {
		g.whole = false
	}
}

// step lets the core take an event, and carries out its effects (settler.step).
func (a *aggregator) step(input settle.Input, g *reign) {
	w := a.r.w
	switch in := input.(type) {
	case settle.Stored:
		a.endWrite(in.Account.Key, in.Revision, g)
	case settle.StoredCluster:
		a.endWrite(wholeCluster(in.Cluster.Key), in.Revision, g)
	case settle.Erased:
		a.endWrite(in.Key, 0, g)
	case settle.UnreadableVerdict:
		a.endWrite(in.Key, 0, g)
	case settle.Synced:
		for _, key := range sortedKeys(a.writing) {
			if a.writing[key].is != nil && (in.Source == settle.Verdicts && key.ID != "" || in.Source == settle.Clusters && key.ID == "") {
				a.endWrite(key, 0, g)
			}
		}
	case settle.NotWritten:
		delete(a.writing, in.Key)
		a.owed[in.Key] = true
	}
	event := settle.Event{At: w.now - a.born, Wall: w.wall(a.r.skew), Input: input}
	effects := slices.Clone(a.core.Step(event))
	w.stepped(a, input)
	w.confined(input, effects)
	for _, effect := range effects {
		switch e := effect.(type) {
		case settle.Write:
			w.proposed(e)
			a.writing[e.Account.Key] = write{revision: e.IfRevision}
			g.write(e.Account.Key, e)
		case settle.Forget:
			a.writing[e.Key] = write{revision: e.IfRevision}
			g.forget(e)
		case settle.Sweep:
			g.sweep(e)
		case settle.WriteCluster:
			a.writing[wholeCluster(e.Cluster.Key)] = write{revision: e.IfRevision}
			g.ifUnchanged(e.Cluster.Key, e.IfRevision, etcd.Op{Value: record.EncodeCluster(e.Cluster)}, func(revision int64) settle.Input {
				return settle.StoredCluster{Cluster: e.Cluster, Revision: revision}
			})
		case settle.ForgetCluster:
			w.forgetsCluster(a.r, e.Key)
			a.writing[wholeCluster(e.Key)] = write{revision: e.IfRevision}
			g.ifUnchanged(e.Key, e.IfRevision, etcd.Op{Delete: true}, func(int64) settle.Input {
				return settle.Erased{Key: wholeCluster(e.Key)}
			})
		case settle.Condition:
			a.told = &e
			w.conditionTold(a, e)
			g.tellCondition(e)
		case settle.Ask:
			g.ask(e)
		case settle.Check:
			g.check(e)
		}
	}
}

// write is one under way (the settler's).
type write struct {
	revision int64
	is       settle.Input
}

// endWrite ends the write of a record that is told of at a revision (settler.endWrite).
func (a *aggregator) endWrite(key job.Key, revision int64, g *reign) {
	if write, under := a.writing[key]; under && write.is == nil && write.revision == revision {
		return
	}
	lost := false
	switch is := a.writing[key].is.(type) {
	case settle.Stored:
		lost = is.Revision != revision
	case settle.StoredCluster:
		lost = is.Revision != revision
	case settle.Erased:
		lost = revision != 0
	}
	if lost {
		a.step(settle.NotWritten{Key: key, Lost: a.writing[key].is}, g)
	}
	delete(a.writing, key)
	delete(a.owed, key)
}

// guard is what every write of the reign compares: the leader's key is still its own.
func (g *reign) guard() etcd.Guard {
	return etcd.Guard{Key: record.LeaderKey(site), CreateRevision: g.created, Lease: g.lease}
}

// write carries a Write out (writer.write).
func (g *reign) write(key job.Key, e settle.Write) {
	if g == nil {
		return
	}
	w := g.a.r.w
	verdict := record.VerdictKey(site, key)
	guards := []etcd.Guard{g.guard(), {Key: verdict, ModRevision: e.IfRevision}}
	ops := []etcd.Op{{Key: verdict, Value: record.EncodeAccount(e.Account)}}
	for _, entry := range e.Entries {
		ops = append(ops, etcd.Op{Key: record.HistoryKey(site, key, entry.Sequence), Value: record.EncodeTransition(entry)})
		if old := entry.Sequence - job.HistoryLimit; old > 0 {
			ops = append(ops, etcd.Op{Key: record.HistoryKey(site, key, old), Delete: true})
		}
	}
	g.transact(key, e.IfRevision, func() (settle.Input, error) {
		revision, err := w.etcd.commit(guards, ops)
		return settle.Stored{Account: e.Account, Revision: revision}, err
	})
}

// ifUnchanged does one operation on a cluster's record (writer.ifUnchanged).
func (g *reign) ifUnchanged(cluster job.ClusterKey, revision int64, op etcd.Op, is func(revision int64) settle.Input) {
	if g == nil {
		return
	}
	op.Key = record.ClusterKey(site, cluster)
	g.transact(wholeCluster(cluster), revision, func() (settle.Input, error) {
		at, err := g.a.r.w.etcd.commit([]etcd.Guard{g.guard(), {Key: op.Key, ModRevision: revision}}, []etcd.Op{op})
		return is(at), err
	})
}

// wholeCluster is the key of a cluster as a whole among those of jobs.
func wholeCluster(key job.ClusterKey) job.Key {
	return job.Key{Namespace: key.Namespace, Cluster: key.Cluster}
}

// transact does one transaction of the writer, and tells how it ended (settler.ended).
func (g *reign) transact(key job.Key, revision int64, serve func() (settle.Input, error)) {
	a, w := g.a, g.a.r.w
	asked := w.now
	var is settle.Input
	a.call(5*time.Second, func() (err error) {
		w.etcd.late = w.now - asked
		is, err = serve()
		w.etcd.late = 0
		return err
	}, func(err error) {
		tell := func() {
			if g.over {
				return
			}
			if err != nil {
				a.r.w.met["write "+err.Error()]++
			}
			switch under, writing := a.writing[key]; {
			case !writing || under.revision != revision:
			case err != nil:
				g.step(settle.NotWritten{Key: key})
			default:
				a.writing[key] = write{revision, is}
			}
		}
		if err != nil && !errors.Is(err, errRefused) {
			a.again(time.Second, tell)
			return
		}
		tell()
	})
}

// forget removes the reports first, then the verdict with its history (writer.forget).
func (g *reign) forget(e settle.Forget) {
	if g == nil {
		return
	}
	w := g.a.r.w
	w.forgets(e.Key)
	g.transact(e.Key, e.IfRevision, func() (settle.Input, error) {
		for _, agent := range e.Reports {
			w.retires(agent, e.Key)
			if _, err := w.etcd.commit([]etcd.Guard{g.guard()}, []etcd.Op{{Key: record.ReportKey(site, agent, e.Key.ID), Delete: true}}); err != nil {
				return nil, err
			}
		}
		verdict := record.VerdictKey(site, e.Key)
		_, err := w.etcd.commit([]etcd.Guard{g.guard(), {Key: verdict, ModRevision: e.IfRevision}},
			[]etcd.Op{{Key: verdict, Delete: true}, {Key: record.HistoryPrefix(site, e.Key), Delete: true, Prefix: true}})
		return settle.Erased{Key: e.Key}, err
	})
}

// sweep removes reports of an agent that is gone (writer.sweep).
func (g *reign) sweep(e settle.Sweep) {
	if g == nil {
		return
	}
	w := g.a.r.w
	guards := []etcd.Guard{g.guard(), {Key: record.BeatKey(site, e.Agent)}}
	var ops []etcd.Op
	for _, report := range e.Reports {
		key := record.ReportKey(site, e.Agent, report.JobID)
		guards = append(guards, etcd.Guard{Key: key, ModRevision: report.IfRevision})
		ops = append(ops, etcd.Op{Key: key, Delete: true})
	}
	g.a.call(5*time.Second, func() error {
		_, err := w.etcd.commit(guards, ops)
		if err == nil {
			w.met["sweep"]++
			for _, report := range e.Reports {
				w.retires(e.Agent, job.Key{Namespace: e.Agent.Namespace, Cluster: e.Agent.Cluster, ID: report.JobID})
			}
		}
		return err
	}, func(error) {})
}

func (g *reign) tellCondition(e settle.Condition) {
	if g == nil {
		return
	}
	first := g.condition == nil
	g.condition = &e
	if first {
		g.writeCondition()
	}
}

func (g *reign) writeCondition() {
	c := g.condition
	if c == nil {
		return
	}
	w := g.a.r.w
	value := record.EncodeCondition(record.SiteCondition{
		Frozen: c.Frozen, Source: c.Source, Why: c.Why, Since: c.Since, Expected: c.Expected, Beating: c.Beating,
	})
	g.a.call(5*time.Second, func() error {
		_, err := w.etcd.commit([]etcd.Guard{g.guard()}, []etcd.Op{{Key: record.ConditionKey(site), Value: value}})
		return err
	}, func(err error) {
		switch {
		case g.over:
		case err != nil:
			g.again(time.Second, g.writeCondition)
		case g.condition == c:
			g.condition = nil
		default:
			g.writeCondition()
		}
	})
}

// showLife writes down that the settler hears everything and judges by it (aggregator.showLife).
func (g *reign) showLife() {
	a, w := g.a, g.a.r.w
	g.again(w.cfg.Tick, g.showLife)
	fresh := g.wholeAt == 0 || w.now-g.wholeAt < w.cfg.Hold
	if !g.judges() || w.now-g.shown < w.cfg.Hold/3 && (fresh || !g.leader.Fresh) || g.showing {
		return
	}
	at := w.now
	g.showing = true
	g.leader.Ticked, g.leader.Fresh = w.stamp(a.r.skew), fresh
	leader := g.leader
	a.call(5*time.Second, func() error {
		_, err := w.etcd.commit([]etcd.Guard{g.guard()}, []etcd.Op{{Key: record.LeaderKey(site), Value: record.EncodeLeader(leader), Lease: g.lease}})
		return err
	}, func(err error) {
		if g.showing = false; err == nil {
			g.shown = at
		}
	})
}

// judges says whether the core hears all that lies in etcd, and judges by it (settler.judges).
func (g *reign) judges() bool {
	w := g.a.r.w
	if !g.whole || len(g.a.owed) > 0 || w.now-g.ticked > w.cfg.Tick+w.cfg.Late {
		return false
	}
	return !slices.ContainsFunc(g.heard[:], func(at time.Duration) bool { return w.now-at > w.cfg.Silence })
}

// keepEpoch gives the site a new epoch when its store lost its past (aggregator.keepEpoch).
func (g *reign) keepEpoch() {
	a, w := g.a, g.a.r.w
	defer g.again(time.Second, g.keepEpoch)
	if !a.replaced {
		return
	}
	atLeast := a.epoch
	a.call(5*time.Second, func() error {
		key := record.IdentityKey(site)
		epoch, guard := atLeast, etcd.Guard{Key: key}
		if pair, there := w.etcd.pairs[key]; there {
			id, err := record.DecodeIdentity(pair.Value)
			if err != nil {
				return err
			}
			epoch, guard.ModRevision = max(epoch, id.Epoch), pair.ModRevision
		}
		a.begun = epoch + 1
		_, err := w.etcd.commit([]etcd.Guard{g.guard(), guard},
			[]etcd.Op{{Key: key, Value: record.EncodeIdentity(record.SiteIdentity{UID: uid, Epoch: epoch + 1})}})
		return err
	}, func(err error) {
		if err == nil {
			a.replaced = false
		}
	})
}

// epochStored is the site's epoch as it lies in etcd.
func (w *world) epochStored() int64 {
	id, _ := record.DecodeIdentity(w.etcd.pairs[record.IdentityKey(site)].Value)
	return id.Epoch
}
