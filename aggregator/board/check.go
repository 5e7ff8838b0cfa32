package board

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/tidwall/btree"

	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/record"
)

// Difference is a record that the board has otherwise than it lies in etcd, though it was told everything.
type Difference struct {
	// Key is its key in etcd.
	Key string
	// Stored is what lies there, Shown what the board has, for people; "" where there is nothing.
	Stored, Shown string
}

// ErrIncomparable says that the board was told all of a feed anew, or cannot be told of it, while etcd was read: what was read says nothing
// of what the board has.
var ErrIncomparable = errors.New("the board does not follow etcd without a gap")

// TakesIn says whether s has taken in all that a page of etcd has, which was read between the moment of before and the time read: only then can
// the two be compared. The error is ErrIncomparable if it never will.
//
// A revision alone does not prove it: a store that was set back counts its revisions anew. What was heard of the feed after the page was read
// is of the store that gave the page.
func (s *Snapshot) TakesIn(f Feed, page etcd.Page, before *Snapshot, read time.Time) (bool, error) {
	was, is := before.feeds[f], s.feeds[f]
	switch {
	case !is.Alive || is.lists != was.lists:
		return false, fmt.Errorf("%w: %s", ErrIncomparable, f)
	case page.At.Before(was.at):
		return false, fmt.Errorf("%w: the store of %s was replaced", ErrIncomparable, f)
	}
	return is.at.Revision >= page.At.Revision && is.Proven.After(read), nil
}

// Compare gives what a snapshot, which takes the page in, has otherwise than the page. What changed since the snapshot before, which is
// older than the page, is left out: it may have been the change.
func (b *Board) Compare(f Feed, page etcd.Page, before, after *Snapshot) []Difference {
	var differences []Difference
	for _, d := range b.differ(f, page, before, after) {
		differences = append(differences, d.Difference)
	}
	return differences
}

// Mend is Compare with what the board has now, and takes etcd's word for what differs. The error is ErrIncomparable.
func (b *Board) Mend(f Feed, page etcd.Page, before *Snapshot, read time.Time) (differences []Difference, err error) {
	b.verdicts.Lock()
	defer b.verdicts.Unlock()
	b.publish(func(s *Snapshot) {
		now := *s
		var is bool
		if is, err = now.TakesIn(f, page, before, read); err == nil && !is {
			err = fmt.Errorf("%w: %s", ErrIncomparable, f)
		}
		if err != nil {
			return
		}
		var found []difference
		if found, err = b.unchanged(f, b.differ(f, page, before, &now), before, &now); err != nil {
			return
		}
		var items []item
		clusters := s.clusters.Copy()
		for _, d := range found {
			differences = append(differences, d.Difference)
			switch {
			case f == Verdicts:
				items = append(items, d.item)
			case f == Clusters:
				clusters.Delete(d.item.path)
				if !d.pair.Deleted {
					b.putCluster(clusters, new(btree.Map[string, *Cluster]), d.pair)
				}
				s.clusters, s.clustersChanged = clusters, s.feeds[f].at.Revision
			case d.pair.Deleted:
				b.erase(s, f, page.At.Revision)
			default:
				b.read(s, f, d.pair)
			}
		}
		if len(items) > 0 {
			var changes []Change
			s.jobs, changes = change(s.jobs, items)
			s.position = b.ring.add(changes)
			s.changed = s.version.Revision
		}
	})
	return differences, err
}

// difference is one with what mends it.
type difference struct {
	Difference
	pair etcd.Pair
	item item
}

// differ compares.
func (b *Board) differ(f Feed, page etcd.Page, before, after *Snapshot) []difference {
	switch f {
	case Verdicts:
		return b.differVerdicts(page, before, after)
	case Clusters:
		return b.differClusters(page, before, after)
	}
	if before.feeds[f].changes != after.feeds[f].changes {
		return nil
	}
	d := difference{Difference: Difference{Key: f.Prefix(b.o.Site)}, pair: etcd.Pair{Key: f.Prefix(b.o.Site), Deleted: true}}
	for _, pair := range page.Pairs {
		if pair.Key == d.Key {
			d.pair, d.Stored = pair, string(pair.Value)
		}
	}
	var same bool
	if d.Shown, same = after.shows(f, d.pair); same {
		return nil
	}
	return []difference{d}
}

// shows gives what a snapshot has of one of the site's own records, and whether the pair says the same. What cannot be read is what it
// was before, and an identity that is gone is, too.
func (s *Snapshot) shows(f Feed, pair etcd.Pair) (text string, same bool) {
	switch f {
	case Condition:
		c, err := record.DecodeCondition(pair.Value)
		text = fmt.Sprintf("%+v", s.condition)
		return text, pair.Deleted && s.condition == record.SiteCondition{} ||
			!pair.Deleted && (err != nil || s.condition == c && s.conditionRevision == pair.ModRevision)
	case Identity:
		i, err := record.DecodeIdentity(pair.Value)
		return fmt.Sprintf("%+v", s.identity), pair.Deleted || err != nil || s.identity == i
	case Leader:
		l, err := record.DecodeLeader(pair.Value)
		return fmt.Sprintf("%+v", s.leader), s.leads == !pair.Deleted && (err != nil || s.leader == l)
	}
	return "", true
}

func (b *Board) differVerdicts(page etcd.Page, before, after *Snapshot) []difference {
	var found []difference
	prefix := Verdicts.Prefix(b.o.Site)
	stored := make(map[string]struct{}, len(page.Pairs))
	for _, pair := range page.Pairs {
		key, err := b.verdictKey(pair.Key)
		if err != nil {
			continue // it is none of ours, and was counted as such
		}
		path := key.String()
		stored[path] = struct{}{}
		has := after.Get(path)
		if has != before.Get(path) {
			continue
		}
		is := item{path: path, job: unknown(key, pair.ModRevision, Corrupt), revision: pair.ModRevision}
		switch account, err := record.DecodeAccount(key, pair.Value); {
		case err == nil:
			is.job = pack(key, account.Verdict, pair.ModRevision, Readable)
			if has != nil && *has == *is.job {
				continue
			}
		default:
			is.bad = classify(err)
			if has != nil && has.revision == pair.ModRevision && has.unreadable == is.bad {
				continue
			}
			if is.job = unknown(key, pair.ModRevision, is.bad); has != nil {
				is.job = has.weakened(pair.ModRevision, is.bad)
			}
		}
		is.revision = after.version.Revision
		found = append(found, difference{Difference: Difference{Key: pair.Key, Stored: string(pair.Value), Shown: after.text(has)}, item: is})
	}
	after.Ascend(strings.TrimPrefix(page.From, prefix), func(has *Job) bool {
		path := has.Path()
		if page.To != "" && prefix+path >= page.To {
			return false
		}
		if _, is := stored[path]; !is && before.Get(path) == has {
			found = append(found, difference{
				Difference: Difference{Key: prefix + path, Shown: after.text(has)}, item: item{path: path, revision: after.version.Revision},
			})
		}
		return true
	})
	return found
}

func (b *Board) differClusters(page etcd.Page, before, after *Snapshot) []difference {
	var found []difference
	prefix := Clusters.Prefix(b.o.Site)
	told := before.feeds[Clusters].changes != after.feeds[Clusters].changes
	stored := make(map[string]struct{}, len(page.Pairs))
	for _, pair := range page.Pairs {
		place, err := record.ParseKey(b.o.Site, pair.Key)
		if err != nil || place.Kind != record.Cluster {
			continue
		}
		path := place.Job.ClusterKey().String()
		stored[path] = struct{}{}
		has := after.Cluster(path)
		if has != before.Cluster(path) || has == nil && told {
			continue // in the second case it may have come and gone
		}
		said, err := record.DecodeCluster(place.Job.ClusterKey(), pair.Value)
		bad := Readable
		if err != nil {
			bad = classify(err)
		}
		if has != nil && has.revision == pair.ModRevision && has.unreadable == bad && (err != nil || reflect.DeepEqual(has.Cluster, said)) {
			continue
		}
		found = append(found, difference{
			Difference: Difference{Key: pair.Key, Stored: string(pair.Value), Shown: has.text()}, pair: pair, item: item{path: path},
		})
	}
	after.clusters.Ascend(strings.TrimPrefix(page.From, prefix), func(path string, has *Cluster) bool {
		if page.To != "" && prefix+path >= page.To {
			return false
		}
		if _, is := stored[path]; !is && before.Cluster(path) == has {
			key := prefix + path
			found = append(found, difference{
				Difference: Difference{Key: key, Shown: has.text()}, pair: etcd.Pair{Key: key, Deleted: true}, item: item{path: path},
			})
		}
		return true
	})
	return found
}

// text is what the board has of a cluster.
func (c *Cluster) text() string {
	if c == nil {
		return ""
	}
	return fmt.Sprintf("revision %d, %s: %s", c.revision, c.unreadable, record.EncodeCluster(c.Cluster))
}

// text is what a snapshot has of a job, as the API would show it.
func (s *Snapshot) text(j *Job) string {
	if j == nil {
		return ""
	}
	view := s.At(s.start).Under(Weakness{})
	return string(view.AppendJob(nil, j, false))
}

// unchanged leaves out the jobs that came, changed or went between two snapshots: one that came and went is not to be seen in either.
func (b *Board) unchanged(f Feed, found []difference, before, after *Snapshot) ([]difference, error) {
	if f != Verdicts || len(found) == 0 {
		return found, nil
	}
	changed := map[string]bool{}
	var some [256]Change
	for at := before.position; at < after.position; {
		n, err := b.ring.read(at, after.position, some[:])
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrIncomparable, err)
		}
		for _, c := range some[:n] {
			if c.New != nil {
				changed[c.New.Path()] = true
			} else {
				changed[c.Old.Path()] = true
			}
		}
		at += uint64(n)
	}
	return slices.DeleteFunc(found, func(d difference) bool { return changed[d.item.path] }), nil
}
