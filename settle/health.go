package settle

import (
	"time"

	"github.com/holdfast-dev/holdfast/job"
)

// health judges the observer before the observer judges anybody: whether negative conclusions may be drawn at all.
//
// Graces are not measured on the clock that passes but on the watched one, which stands still while the observer is late (S10), has
// not synced (S11), hears nothing from a source (S10), or conclusions are frozen (S9). So a grace that has passed was a grace of healthy watching.
type health struct {
	sources [numSources]sourceHealth

	watched time.Duration
	ticked  time.Duration
	ticking bool
	late    bool // the last tick was
	// graceFrom is where every grace clock starts anew, on the watched clock.
	graceFrom time.Duration
	// podsWatched and podsGraceFrom are the same for what the API server tells: that clock stands still while the other does, too.
	podsWatched, podsGraceFrom time.Duration

	// shaken is when a gap or a change of leader in etcd was last seen, and by what; leases may have been lost by it.
	shaken     time.Duration
	shakenBy   string
	everShaken bool
	beating    int
	lost       map[*witness]struct{}
	// young are the pods whose agents may still come.
	young       map[*pod]struct{}
	shakenLost  int // of lost
	frozen      bool
	frozenAt    time.Duration
	frozenSince job.Stamp
	sick, why   string

	told    Condition
	everSet bool
}

type sourceHealth struct {
	synced bool
	// rounds counts the listings. What carries an older number has not been told again.
	rounds   uint32
	progress time.Duration
	term     uint64
	epoch    int64
	why      string
}

func (h *health) begin() {
	h.lost, h.young = map[*witness]struct{}{}, map[*pod]struct{}{}
	for i := range h.sources {
		h.sources[i].why = "not listed yet"
	}
}

func (h *health) list(s Source, epoch int64) {
	src := &h.sources[s]
	src.synced, src.why = false, "being listed"
	src.rounds++
	if src.epoch != epoch {
		src.epoch = epoch
		h.beginGraces() // S11: what is known now is another store's
	}
}

func (h *health) sync(s Source, now time.Duration) {
	src := &h.sources[s]
	src.synced, src.why, src.progress = true, "", now
}

// beginGraces starts every grace clock anew.
func (h *health) beginGraces() { h.graceFrom, h.podsGraceFrom = h.watched, h.podsWatched }

// synced says whether all that lies in etcd has been told.
func (h *health) synced() bool {
	for i := range numStores {
		if !h.sources[i].synced {
			return false
		}
	}
	return true
}

func (h *health) lose(s Source, why string, now time.Duration) {
	src := &h.sources[s]
	if src.synced {
		src.progress = now
	}
	src.synced, src.why = false, why
}

// progress notes a proof of life, and says whether etcd's leader is another than before.
func (h *health) progress(s Source, term uint64, now time.Duration) (changed bool) {
	src := &h.sources[s]
	src.progress = now
	changed = src.term != 0 && term != 0 && src.term != term
	if term != 0 {
		src.term = term
	}
	return changed
}

// tick lets the watched clock pass, unless this round was no healthy one.
func (h *health) tick(now time.Duration, cfg Config) {
	passed := now - h.ticked
	h.late = h.ticking && passed > cfg.Tick+cfg.Late
	first := !h.ticking
	h.ticked, h.ticking = now, true
	if first || h.late || h.frozen || !h.fresh(now, cfg) {
		return
	}
	h.watched += passed
	if h.podsFresh(now, cfg) {
		h.podsWatched += passed
	}
}

// podsFresh says whether the API server has told of all pods, and has shown a sign of life lately.
func (h *health) podsFresh(now time.Duration, cfg Config) bool {
	src := &h.sources[Pods]
	return src.synced && now-src.progress <= cfg.PodSilence
}

// judgesPods says whether something negative may be concluded now from what the API server tells.
func (h *health) judgesPods(now time.Duration, cfg Config) bool {
	return h.judges(now, cfg) && h.podsFresh(now, cfg)
}

// podsGrace is grace on the clock of the pods.
func (h *health) podsGrace(since time.Duration) time.Duration {
	return h.podsWatched - max(since, h.podsGraceFrom)
}

// fresh says whether everything in etcd is followed and has shown progress lately.
func (h *health) fresh(now time.Duration, cfg Config) bool {
	for _, src := range h.sources[:numStores] {
		if !src.synced || now-src.progress > cfg.Silence {
			return false
		}
	}
	return true
}

// judges says whether something negative may be concluded now.
func (h *health) judges(now time.Duration, cfg Config) bool {
	return !h.frozen && !h.late && h.fresh(now, cfg) && now-h.ticked <= cfg.Tick+cfg.Late
}

// grace is for how long the observer has watched healthily since a moment of the watched clock, and since graces last began anew.
func (h *health) grace(since time.Duration) time.Duration {
	return h.watched - max(since, h.graceFrom)
}

func (h *health) shakenWithin(d, now time.Duration) bool {
	return h.everShaken && now-h.shaken <= d
}

const gap = "a gap in the watch of the agents' records"

// shake takes a sign that etcd may have dropped leases of healthy agents: who was lost lately, or will be soon, is suspect of nothing (S9).
func (c *Core) shake(by string) {
	h := &c.health
	h.shaken, h.shakenBy, h.everShaken = c.now, by, true
	for w := range h.lost {
		if !w.shaken && c.now-w.lostAt <= c.cfg.Lease {
			w.shaken = true
			h.shakenLost++
		}
	}
	c.judgeSilence()
	c.tellCondition()
}

// hear and miss keep the numbers of agents.
func (c *Core) hear(w *witness) {
	if w.agent.Probe {
		return
	}
	c.health.beating++
	c.excuse(w)
}

func (c *Core) miss(w *witness, lost bool) {
	h := &c.health
	if w.agent.Probe {
		return
	}
	h.beating--
	if !lost || c.stopped(w.agent) {
		return
	}
	w.lost, w.lostAt, w.shaken = true, c.now, h.shakenWithin(c.cfg.Lease, c.now)
	h.lost[w] = struct{}{}
	if w.shaken {
		h.shakenLost++
	}
}

// excuse takes a witness from the lost.
func (c *Core) excuse(w *witness) {
	h := &c.health
	if !w.lost {
		return
	}
	delete(h.lost, w)
	if w.shaken {
		h.shakenLost--
	}
	w.lost, w.shaken = false, false
}

// excuseOld excuses who has been silent for so long that it is a fact of its own, and everybody when a freeze has lasted
// for as long as it may.
func (c *Core) excuseOld() {
	h := &c.health
	expired := h.frozen && c.now-h.frozenAt >= c.cfg.FreezeLimit
	for w := range h.lost {
		if expired || c.now-w.lostAt >= c.cfg.FreezeLimit {
			c.excuse(w)
			c.release(w)
		}
	}
}

// judgeSilence freezes conclusions when silence accuses the messenger (S9), and thaws them when its cause is over.
func (c *Core) judgeSilence() {
	h := &c.health
	lost, expected := len(h.lost), len(h.lost)+h.beating
	switch suspect := lost*5 > expected || h.shakenLost > 0; {
	case suspect && !h.frozen:
		h.frozen, h.frozenAt, h.frozenSince, h.sick = true, c.now, job.StampOf(c.wall), "etcd"
		if h.shakenLost > 0 {
			h.why = h.shakenBy + ", and agents fell silent with it"
		} else {
			h.why = "more than a fifth of the agents fell silent"
		}
	case !suspect && h.frozen:
		h.frozen, h.sick, h.why, h.frozenSince = false, "", "", ""
		h.beginGraces()
	}
}

// tellCondition tells the condition if it is another than the one told last.
func (c *Core) tellCondition() {
	h := &c.health
	if !h.sources[Agents].synced && !h.everSet {
		return // nobody has been counted yet
	}
	now := Condition{
		Frozen: h.frozen, Source: h.sick, Why: h.why, Since: h.frozenSince,
		Expected: h.beating + len(h.lost), Beating: h.beating,
	}
	if h.everSet && now == h.told {
		return
	}
	h.told, h.everSet = now, true
	c.effects = append(c.effects, now)
}
