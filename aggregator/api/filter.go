package api

import (
	"slices"
	"strings"

	"github.com/valyala/fasthttp"

	"github.com/holdfast-dev/holdfast/aggregator/board"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
)

// filter says which jobs are wanted. The zero value wants all.
type filter struct {
	// path is set if exactly one job is wanted.
	path                            string
	namespaces, clusters, pipelines []string
	// prefixes are those of the paths of the wanted namespaces, sorted.
	prefixes []string
	// Sets of values as bits; 0 wants all.
	states, certainties, overs, reasons uint32
}

func newFilter(q *query, site string) (filter, *Problem) {
	if sites := q.all("site"); sites != nil && !slices.Contains(sites, site) {
		return filter{}, otherSite(sites[0], site)
	}
	for _, name := range [...]string{"namespace", "cluster"} {
		for _, value := range q.all(name) {
			if err := record.CheckSegment(name, shorten(value)); err != nil {
				return filter{}, badParameter("%v", err)
			}
		}
	}
	f := filter{
		namespaces: q.all("namespace"), clusters: q.all("cluster"), pipelines: q.all("pipeline"),
		states: bits[job.State](q, "state"), certainties: bits[job.Certainty](q, "certainty"),
		overs: bits[job.Answer](q, "over"), reasons: bits[job.Reason](q, "reason"),
	}
	for _, namespace := range f.namespaces {
		f.prefixes = append(f.prefixes, namespace+"/")
	}
	// Sorted with the slash, as paths are: "a-b/" comes before "a/".
	slices.Sort(f.prefixes)
	f.prefixes = slices.Compact(f.prefixes)
	return f, nil
}

func otherSite(asked, site string) *Problem {
	return problem(fasthttp.StatusNotFound, kindOtherSite, "Another site",
		"this server serves the site %q and knows nothing of the site %q: ask that site's server", site, shorten(asked))
}

// bits makes a set of the words of a parameter, which the query has already checked.
func bits[T interface {
	~uint8
	String() string
}](q *query, name string) (set uint32) {
	if !q.has(name) {
		return 0
	}
	for i, word := range words[T]() {
		if slices.Contains(q.all(name), word) {
			set |= 1 << i
		}
	}
	return set
}

// match says whether a job is wanted, as the view serves it.
func (f *filter) match(v *board.View, j *board.Job) bool {
	return f.matchShown(v, j) && f.matchKnown(j)
}

// matchShown says so of what rule S13 can change.
func (f *filter) matchShown(v *board.View, j *board.Job) bool {
	return in(f.certainties, uint8(v.Certainty(j))) && in(f.reasons, uint8(v.Reason(j)))
}

// matchKnown says so of all the rest.
func (f *filter) matchKnown(j *board.Job) bool {
	if f.path != "" {
		return j.Path() == f.path
	}
	if !in(f.states, uint8(j.State())) || !in(f.overs, uint8(j.Over())) {
		return false
	}
	if f.pipelines != nil && !slices.Contains(f.pipelines, j.Pipeline()) {
		return false
	}
	if f.namespaces == nil && f.clusters == nil {
		return true
	}
	key := j.Key()
	return (f.namespaces == nil || slices.Contains(f.namespaces, key.Namespace)) &&
		(f.clusters == nil || slices.Contains(f.clusters, key.Cluster))
}

func in(set uint32, bit uint8) bool { return set == 0 || set>>bit&1 == 1 }

// each calls visit for the wanted jobs whose path is greater than after, sorted by path, until it returns false.
func (f *filter) each(v *board.View, after string, visit func(*board.Job) bool) {
	f.eachKnown(v.Snapshot, after, func(j *board.Job) bool { return !f.matchShown(v, j) || visit(j) })
}

// eachKnown does so for the jobs that are wanted whatever rule S13 does. Only the wanted namespaces are looked through.
func (f *filter) eachKnown(s *board.Snapshot, after string, visit func(*board.Job) bool) {
	if f.path != "" {
		if j := s.Get(f.path); j != nil && f.path > after {
			visit(j)
		}
		return
	}
	prefixes := f.prefixes
	if prefixes == nil {
		prefixes = []string{""}
	}
	more := true
	for _, prefix := range prefixes {
		if !more {
			return
		}
		s.Ascend(max(prefix, after), func(j *board.Job) bool {
			if !strings.HasPrefix(j.Path(), prefix) {
				return false
			}
			if j.Path() > after && f.matchKnown(j) {
				more = visit(j)
			}
			return more
		})
	}
}
