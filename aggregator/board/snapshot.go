package board

import (
	"time"

	"github.com/tidwall/btree"

	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
)

// Snapshot is what the board showed at one moment. It never changes, and any number of goroutines may read it.
type Snapshot struct {
	site string
	hold time.Duration
	// start is when the board was made: nothing was proven before.
	start time.Time

	jobs *btree.Map[string, *Job]
	// changed is the revision at which the jobs last changed.
	changed  int64
	clusters *btree.Map[string, *Cluster]
	// clustersChanged is the same for those.
	clustersChanged int64

	version  Version
	position uint64
	feeds    [numFeeds]FeedHealth
	// lifeEpoch is the identity's epoch when the present life of the store was first listed. unnamed says that the life
	// before it had the same epoch, so that their versions look alike.
	lifeEpoch int64
	unnamed   bool

	identity          record.SiteIdentity
	condition         record.SiteCondition
	conditionRevision int64
	leader            record.SiteLeader
	leads             bool
	// heard is the leader's record that counted last as a sign of its life, and led when that came.
	heard record.SiteLeader
	led   time.Time
	// judged is when one last came of a leader that had watched for long enough.
	judged time.Time

	// prefix is the JSON of every job up to its namespace, and lastSeen the proof of life of the verdicts' feed.
	prefix, lastSeen string
	complete         bool
	next             chan struct{}
}

// FeedHealth says how well one of the followed prefixes is known.
type FeedHealth struct {
	// Listed says whether a complete list of it was ever seen.
	Listed bool
	// Alive says whether it is being watched now.
	Alive bool
	// Proven is when etcd last proved that what is known is all there is; zero if it never did.
	Proven time.Time
	// Err says why the feed is not alive.
	Err error

	// at is up to where it is known; lists counts its lists, and changes what came with anything in it, lists among it.
	at             etcd.Position
	lists, changes uint64
}

// Changed is closed as soon as the board has a newer snapshot.
func (s *Snapshot) Changed() <-chan struct{} { return s.next }

// Site is the site that the board shows.
func (s *Snapshot) Site() string { return s.site }

// Version is the place in the verdicts' history that the snapshot shows.
func (s *Snapshot) Version() Version { return s.version }

// LastChange is the revision at which the set of jobs last changed; it is at most the version's.
func (s *Snapshot) LastChange() int64 { return s.changed }

// Position is the position of the first change that the snapshot does not show; see Board.Changes.
func (s *Snapshot) Position() uint64 { return s.position }

// Len is the number of jobs.
func (s *Snapshot) Len() int { return s.jobs.Len() }

// Get finds a job by its path, namespace/cluster/jobID; nil if the site has no such job.
func (s *Snapshot) Get(path string) *Job {
	j, _ := s.jobs.Get(path)
	return j
}

// Ascend calls visit for the jobs from a path on, sorted by path, until it returns false.
func (s *Snapshot) Ascend(from string, visit func(*Job) bool) {
	s.jobs.Ascend(from, func(_ string, j *Job) bool { return visit(j) })
}

// Complete says whether every feed was listed once, and the epoch is known. A board that is not complete must not be
// asked about jobs: it would say of those that it has not read yet that they do not exist. Once complete it stays so.
func (s *Snapshot) Complete() bool { return s.complete }

// Feed says how well a prefix is known.
func (s *Snapshot) Feed(f Feed) FeedHealth { return s.feeds[f] }

// Leader is the aggregator that leads. ok is false while none is known to.
func (s *Snapshot) Leader() (leader record.SiteLeader, ok bool) { return s.leader, s.leads }

// LeaderProven is when a leader's sign of life last came; zero if none ever did.
func (s *Snapshot) LeaderProven() time.Time { return s.led }

// Condition is the site's condition, and the revision at which it changed.
func (s *Snapshot) Condition() (record.SiteCondition, int64) { return s.condition, s.conditionRevision }

// Identity says whose site it is; the zero value as long as that is not known.
func (s *Snapshot) Identity() record.SiteIdentity { return s.identity }

// Weakness says that rule S13 holds: nothing that is served is more than Held. The zero value says that it does not.
type Weakness struct {
	// Reason is StoreUnreachable or NoSettler.
	Reason job.Reason
	// Since is when the missing proof was last there, by this server's clock.
	Since time.Time
}

// Holds says whether there is a weakness.
func (w Weakness) Holds() bool { return !w.Since.IsZero() }

// credit is for how many hold times leaders may follow one another of which none watches for long enough to know who is silent. A change of leader
// takes less: the lease of the one before, a list, and a hold time.
const credit = 4

// proof is a proof of life, and for how long it is good.
type proof struct {
	reason job.Reason
	at     time.Time
	good   time.Duration
}

// proofs are the proofs of life that S13 wants of what a feed brings, in the order in which their lack is reported: who is cut off from etcd
// cannot say that nobody leads.
func (s *Snapshot) proofs(feed Feed) [3]proof {
	settler, judged := proof{job.NoSettler, s.led, s.hold}, proof{job.NoSettler, s.judged, credit * s.hold}
	if judged.at.Add(judged.good).Before(settler.at.Add(settler.good)) {
		settler = judged
	}
	return [3]proof{{job.StoreUnreachable, s.feeds[feed].Proven, s.hold}, {job.StoreUnreachable, s.feeds[Leader].Proven, s.hold}, settler}
}

// Weaken gives the weakness that the passing of time has brought until now.
func (s *Snapshot) Weaken(now time.Time) Weakness { return s.weaken(now, Verdicts) }

// weaken is Weaken for what a feed brings.
func (s *Snapshot) weaken(now time.Time, feed Feed) Weakness {
	for _, p := range s.proofs(feed) {
		if now.Sub(p.at) <= p.good {
			continue
		}
		if p.at.IsZero() {
			p.at = s.start
		}
		return Weakness{Reason: p.reason, Since: p.at}
	}
	return Weakness{}
}

// WeakensAt is the next moment after now at which Weaken gives something else, if the board hears nothing more; zero
// if there is none.
func (s *Snapshot) WeakensAt(now time.Time) (next time.Time) {
	for _, p := range s.proofs(Verdicts) {
		// A proof is good for its time, the last instant included.
		end := p.at.Add(p.good + 1)
		if !p.at.IsZero() && end.After(now) && (next.IsZero() || end.Before(next)) {
			next = end
		}
	}
	return next
}

// View is a snapshot as it is served at one moment.
type View struct {
	*Snapshot
	weakness Weakness
	now      time.Time
	millis   int64
}

// At gives the snapshot as it is to be served at a moment: weakened, if the proofs of life are too old.
func (s *Snapshot) At(now time.Time) View {
	return View{Snapshot: s, weakness: s.Weaken(now), now: now, millis: now.UnixMilli()}
}

// Under gives the snapshot as it would be served under another weakness.
func (v View) Under(w Weakness) View {
	v.weakness = w
	return v
}

// Weakness is the one under which the view is served.
func (v *View) Weakness() Weakness { return v.weakness }

// Now is the moment of the view.
func (v *View) Now() time.Time { return v.now }

// Version is the snapshot's, marked if the view is weakened.
func (v *View) Version() Version {
	version := v.version
	version.Lowered = v.weakness.Holds()
	return version
}

// JobVersion is the version of one job: the revision of its verdict, marked if the view shows less than the verdict
// says.
func (v *View) JobVersion(j *Job) Version {
	return Version{Epoch: v.version.Epoch, Revision: j.revision, Lowered: v.lowers(j)}
}

func (v *View) lowers(j *Job) bool { return v.weakness.Holds() && j.Lowerable() }

// Certainty is what the view says of how a job is known.
func (v *View) Certainty(j *Job) job.Certainty {
	if v.weakness.Holds() {
		return job.Held
	}
	return j.certainty
}

// Reason is why the view says so.
func (v *View) Reason(j *Job) job.Reason {
	if v.lowers(j) {
		return v.weakness.Reason
	}
	return j.reason
}

// vouched says whether the board's own proof of life is the moment at which the job was last seen: a witnessed verdict
// that is not over is vouched for until the feed says otherwise.
func (v *View) vouched(j *Job) bool {
	return j.certainty == job.Witnessed && j.over != job.Yes && v.lastSeen != ""
}
