package api

import (
	"slices"
	"strconv"
	"strings"

	"github.com/valyala/fasthttp"

	"github.com/holdfast-dev/holdfast/job"
)

// parameter is one query parameter of a route.
type parameter struct {
	name, doc string
	form      form
	// words are the allowed values; none means any.
	words []string
	// least and most bound a number, and usual is its value if it is not given.
	least, most, usual int
}

// form is what the values of a parameter look like.
type form uint8

const (
	// manyWords: may be given several times, or with commas; any of them fits.
	manyWords form = iota
	aWord
	aNumber
	// aSwitch: "true" or nothing switches on, "false" off.
	aSwitch
)

var (
	filterParameters = []parameter{
		{name: "site", doc: "Jobs of these sites."},
		{name: "namespace", doc: "Jobs of these Kubernetes namespaces."},
		{name: "cluster", doc: "Jobs of these Flink clusters."},
		{name: "pipeline", doc: "Jobs that their owners call so."},
		{name: "state", doc: "Jobs in these states.", words: words[job.State]()},
		{name: "certainty", doc: "Jobs whose state is known in these ways.", words: words[job.Certainty]()},
		{name: "over", doc: "Jobs that are over, or not.", words: words[job.Answer]()},
		{name: "reason", doc: "Jobs whose verdict has these reasons.", words: words[job.Reason]()},
	}
	clusterParameters = []parameter{
		{name: "site", doc: "Clusters of these sites."},
		{name: "namespace", doc: "Clusters of these Kubernetes namespaces."},
		{name: "cluster", doc: "Flink clusters of these names."},
		{name: "condition", doc: "Clusters in these conditions.", words: words[job.Condition]()},
		{name: "certainty", doc: "Clusters whose condition is known in these ways.", words: words[job.Certainty]()},
		{name: "over", doc: "Clusters that are gone, or not.", words: words[job.Answer]()},
	}
	watchParameters = []parameter{
		{name: "watch", form: aSwitch, doc: "Send changes as they come, as JSON lines, or as server-sent events if Accept asks for them."},
		{name: "version", form: aWord, doc: "With watch: send what changed after this version, instead of everything first."},
	}
	pageParameters = []parameter{
		{name: "limit", form: aNumber, least: 1, most: 5000, usual: 500, doc: "How many items a page may have."},
		{name: "continue", form: aWord, doc: "Where the page begins: the value that the page before gave."},
	}
	historyParameters = []parameter{
		{name: "limit", form: aNumber, least: 1, most: job.HistoryLimit, usual: job.HistoryLimit, doc: "How many of the newest entries are wanted."},
	}
	readyParameters = []parameter{{name: "verbose", form: aSwitch, doc: "List every check."}}
)

// words lists the names of an enumeration of package job: its values count up from zero, and the first that has no name
// is written with a number in brackets.
func words[T interface {
	~uint8
	String() string
}]() (list []string) {
	for v := T(0); ; v++ {
		name := v.String()
		if strings.HasSuffix(name, "("+strconv.Itoa(int(v))+")") {
			return list
		}
		list = append(list, name)
	}
}

// query is what a request asks for, checked against its route's parameters.
type query struct {
	known  []parameter
	values map[string][]string
}

// parse reads the query. Nothing of it is silently ignored: a filter with a slip of the pen would show too much.
func (q *query) parse(args *fasthttp.Args, known []parameter) *Problem {
	q.known = known
	if args.Len() == 0 {
		return nil
	}
	q.values = make(map[string][]string, args.Len())
	for k, v := range args.All() {
		name := string(k)
		i := slices.IndexFunc(known, func(p parameter) bool { return p.name == name })
		if i < 0 {
			return unknownParameter(name, known)
		}
		if wrong := q.add(&known[i], string(v)); wrong != nil {
			return wrong
		}
	}
	return nil
}

func unknownParameter(name string, known []parameter) *Problem {
	if len(known) == 0 {
		return badParameter("there is no parameter %q: none is known here", shorten(name))
	}
	names := make([]string, len(known))
	for i, p := range known {
		names[i] = p.name
	}
	return badParameter("there is no parameter %q%s; known here are %s", shorten(name), suggest(name, names), strings.Join(names, ", "))
}

func (q *query) add(p *parameter, value string) *Problem {
	if p.form == manyWords {
		for word := range strings.SplitSeq(value, ",") {
			if word == "" {
				return badParameter("%s has an empty value: leave the parameter out to allow all", p.name)
			}
			if p.words != nil && !slices.Contains(p.words, word) {
				return badParameter("%s %q does not exist%s; there are %s", p.name, shorten(word), suggest(word, p.words), strings.Join(p.words, ", "))
			}
			q.values[p.name] = append(q.values[p.name], word)
		}
		return nil
	}
	if q.values[p.name] != nil {
		return badParameter("%s is given more than once", p.name)
	}
	switch p.form {
	case aNumber:
		if n, err := strconv.Atoi(value); err != nil || n < p.least || n > p.most {
			return badParameter("%s %q is not a number from %d to %d", p.name, shorten(value), p.least, p.most)
		}
	case aSwitch:
		if value != "" && value != "true" && value != "false" {
			return badParameter("%s %q is neither true nor false", p.name, shorten(value))
		}
	}
	q.values[p.name] = []string{value}
	return nil
}

func (q *query) all(name string) []string { return q.values[name] }

// has says whether a parameter was given, even without a value.
func (q *query) has(name string) bool { return q.values[name] != nil }

func (q *query) word(name string) string {
	if v := q.values[name]; v != nil {
		return v[0]
	}
	return ""
}

func (q *query) on(name string) bool { return q.has(name) && q.word(name) != "false" }

func (q *query) number(name string) int {
	if n, err := strconv.Atoi(q.word(name)); err == nil {
		return n
	}
	for _, p := range q.known {
		if p.name == name {
			return p.usual
		}
	}
	return 0
}

// suggest gives the word that was probably meant, in a form to go on a sentence with; "" if none is near.
func suggest(word string, words []string) string {
	best, least := "", 1+len(word)/2
	for _, w := range words {
		if d := distance(strings.ToLower(shorten(word)), strings.ToLower(w)); d < least {
			best, least = w, d
		}
	}
	if best == "" {
		return ""
	}
	return " (did you mean " + best + "?)"
}

// distance is the number of letters to insert, to remove or to change to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := corner
			if a[i] != b[j] {
				change++
			}
			corner = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// shorten bounds what a message quotes of a request.
func shorten(text string) string {
	if len(text) > 64 {
		return strings.ToValidUTF8(text[:64], "") + "…"
	}
	return text
}
