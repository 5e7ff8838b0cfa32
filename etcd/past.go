package etcd

// Position is where a store stands. A store that was replaced, or set back, has another cluster id, or a lower revision or raft term than before.
type Position struct {
	ClusterID uint64
	Revision  int64
	Term      uint64
}

// Before says whether p is of a store that was replaced, or set back, since it stood at earlier.
func (p Position) Before(earlier Position) bool {
	return p.ClusterID != earlier.ClusterID || p.Revision < earlier.Revision || p.Term < earlier.Term
}

// Past is how far a prefix was seen: up to Revision, at the highest Term.
type Past struct {
	Position
	// Newest is the last event, or the pair that changed last in a list; zero where there was neither.
	Newest Pair
}

// List takes over a list, and says whether it can have followed what was seen. A linearizable answer cannot be older than anything that was seen
// before, neither in revision nor in raft term, unless etcd's data was replaced. The term tells of a restored snapshot even when so much
// was written after it that its revision is the higher one: a restored cluster counts its terms from 1. Where both have come
// further, because an etcd that began anew was set back to a copy from before that, only the pairs tell.
func (p *Past) List(at Position, pairs []Pair) (follows bool) {
	follows = !at.Before(p.Position) && p.leadsTo(pairs)
	p.Position, p.Newest = at, Pair{}
	for _, pair := range pairs {
		if pair.ModRevision > p.Newest.ModRevision {
			p.Newest = pair
		}
	}
	return follows
}

// leadsTo says whether pairs can have come to be: the newest pair lies there as it was, or was changed or taken away after the revision up
// to which the prefix is known, and no other pair is of a revision between the two.
func (p *Past) leadsTo(pairs []Pair) bool {
	for _, pair := range pairs {
		known := pair.ModRevision <= p.Revision
		if known && pair.ModRevision > p.Newest.ModRevision {
			return false
		}
		if known && pair.Key == p.Newest.Key && !pair.equal(p.Newest) {
			return false
		}
	}
	return true
}
