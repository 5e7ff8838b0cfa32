package board

import (
	"runtime"
	"slices"
	"sync"

	"github.com/tidwall/btree"

	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
)

// applyVerdicts takes one update of the verdicts' feed.
func (b *Board) applyVerdicts(u etcd.Update) {
	b.verdicts.Lock()
	defer b.verdicts.Unlock()
	replaced, first := u.Kind == etcd.Listed && u.Epoch != b.lives, b.lives == 0
	if u.Kind == etcd.Listed {
		b.lives = u.Epoch
	}
	known := b.Snapshot().jobs
	if replaced {
		// Revisions of another life of the store do not compare: nothing of it is taken for read.
		known = new(btree.Map[string, *Job])
	}
	items := b.decode(known, u.Pairs)
	stand(known, items)

	b.publish(func(s *Snapshot) {
		s.prove(Verdicts, u, b.o.Now())
		if u.Kind == etcd.Lost {
			return
		}
		s.version.Revision = u.Revision
		var changes []Change
		switch u.Kind {
		case etcd.Listed:
			s.jobs, changes = relist(s.jobs, items, u.Revision)
		case etcd.Changed:
			s.jobs, changes = change(s.jobs, items)
		}
		if replaced {
			s.begin(first)
			s.position = b.ring.reset(u.Revision)
			s.changed = u.Revision
		} else if len(changes) > 0 {
			s.position = b.ring.add(changes)
			s.changed = changes[len(changes)-1].Revision
		}
	})
}

// item is one pair of an update, read.
type item struct {
	path string
	// job is nil if the pair takes the job away.
	job      *Job
	revision int64
	// bad says why the record could not be read. The job is then only a stand-in.
	bad Unreadable
}

// stand gives every unreadable record what was known of its job before, be it from the board or from earlier in the same
// update.
func stand(known *btree.Map[string, *Job], items []item) {
	if !slices.ContainsFunc(items, func(it item) bool { return it.bad != Readable }) {
		return
	}
	newest := make(map[string]*Job, len(items))
	for i := range items {
		it := &items[i]
		if it.bad != Readable {
			before, seen := newest[it.path]
			if !seen {
				before, _ = known.Get(it.path)
			}
			if before != nil {
				it.job = before.weakened(it.revision, it.bad)
				it.path = it.job.Path()
			}
		}
		newest[it.path] = it.job
	}
}

// relist makes the board of a complete list. A job that the list does not have is gone.
func relist(old *btree.Map[string, *Job], items []item, revision int64) (*btree.Map[string, *Job], []Change) {
	jobs := new(btree.Map[string, *Job])
	for _, it := range items {
		jobs.Load(it.path, it.job)
	}
	var changes []Change
	jobs.Scan(func(path string, j *Job) bool {
		if before, _ := old.Get(path); before != j {
			changes = append(changes, Change{Revision: revision, Old: before, New: j})
		}
		return true
	})
	old.Scan(func(path string, j *Job) bool {
		if _, still := jobs.Get(path); !still {
			changes = append(changes, Change{Revision: revision, Old: j})
		}
		return true
	})
	if len(changes) > 0 {
		changes[len(changes)-1].Last = true
	}
	return jobs, changes
}

// change makes the board out of the one before, which stays as it is.
func change(old *btree.Map[string, *Job], items []item) (*btree.Map[string, *Job], []Change) {
	jobs := old.Copy()
	changes := make([]Change, 0, len(items))
	for _, it := range items {
		c := Change{Revision: it.revision, New: it.job, Last: true}
		if it.job != nil {
			c.Old, _ = jobs.Set(it.path, it.job)
		} else if c.Old, _ = jobs.Delete(it.path); c.Old == nil {
			continue
		}
		if n := len(changes); n > 0 && changes[n-1].Revision == it.revision {
			changes[n-1].Last = false
		}
		changes = append(changes, c)
	}
	return jobs, changes
}

// decodeChunk is how many pairs are worth a goroutine.
const decodeChunk = 512

// decode reads pairs, in parallel if there are many. Pairs that are no verdicts are counted and left out.
func (b *Board) decode(known *btree.Map[string, *Job], pairs []etcd.Pair) []item {
	items := make([]item, len(pairs))
	var chunks sync.WaitGroup
	limit := make(chan struct{}, runtime.GOMAXPROCS(0))
	for start := 0; start < len(pairs); start += decodeChunk {
		end := min(start+decodeChunk, len(pairs))
		if len(pairs) <= decodeChunk {
			b.decodeInto(items, known, pairs)
			break
		}
		limit <- struct{}{}
		chunks.Go(func() {
			b.decodeInto(items[start:end], known, pairs[start:end])
			<-limit
		})
	}
	chunks.Wait()

	kept := items[:0]
	for _, it := range items {
		if it.path != "" {
			kept = append(kept, it)
		}
	}
	return kept
}

func (b *Board) decodeInto(items []item, known *btree.Map[string, *Job], pairs []etcd.Pair) {
	for i, pair := range pairs {
		key, err := b.verdictKey(pair.Key)
		if err != nil {
			b.bad.report(pair.Key, Foreign, err)
			continue
		}
		items[i] = b.decodePair(known, key, pair)
	}
}

// verdictKey reads the key of a verdict. Only names that are safe in a key are safe in JSON and URLs without escapes.
func (b *Board) verdictKey(key string) (job.Key, error) {
	place, err := record.ParseKey(b.o.Site, key)
	if err == nil && place.Kind != record.Verdict {
		err = record.ErrForeign
	}
	for _, name := range [...]string{place.Job.Namespace, place.Job.Cluster, place.Job.ID} {
		if err == nil {
			err = record.CheckSegment("a name in the key of a verdict", name)
		}
	}
	return place.Job, err
}

func (b *Board) decodePair(known *btree.Map[string, *Job], key job.Key, pair etcd.Pair) item {
	path := pair.Key[len(pair.Key)-len(key.Namespace)-len(key.Cluster)-len(key.ID)-2:]
	before, _ := known.Get(path)
	switch {
	case pair.Deleted:
		b.bad.forget(pair.Key)
		return item{path: path, revision: pair.ModRevision}
	case before != nil && before.revision == pair.ModRevision:
		return item{path: before.Path(), job: before, revision: pair.ModRevision}
	}
	account, err := record.DecodeAccount(key, pair.Value)
	if err != nil {
		bad := classify(err)
		b.bad.report(pair.Key, bad, err)
		j := unknown(key, pair.ModRevision, bad)
		return item{path: j.Path(), job: j, revision: pair.ModRevision, bad: bad}
	}
	b.bad.forget(pair.Key)
	// The path is the job's own, so that the tree does not keep the pair alive.
	j := pack(key, account.Verdict, pair.ModRevision, Readable)
	return item{path: j.Path(), job: j, revision: pair.ModRevision}
}
