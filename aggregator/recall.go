package aggregator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"time"

	"github.com/holdfast-dev/holdfast/aggregator/board"
	"github.com/holdfast-dev/holdfast/aggregator/intake"
	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
	"github.com/holdfast-dev/holdfast/settle"
)

// checkedSources are those of the settler's memory that are held against etcd: what it wrote itself, or another before it.
var checkedSources = []settle.Source{settle.Verdicts, settle.Clusters}

// checked is what the settler's loop notes of what the core was told, for the check.
type checked struct {
	sources [numSources]struct {
		// rounds counts how often the source began, or ended, to tell; synced says whether it tells now, and known up to which revision it has.
		rounds int
		synced bool
		known  int64
		// changed are the keys of what the core was told of since the mark; nil while nobody looks.
		changed map[job.Key]struct{}
	}
}

// numSources is how many sources the core may be told of.
const numSources = int(settle.Probes) + 1

// note takes an event that the core is told.
func (c *checked) note(input settle.Input) {
	switch in := input.(type) {
	case settle.Listing:
		c.sources[in.Source].rounds++
		c.sources[in.Source].synced = false
	case settle.Lost:
		c.sources[in.Source].rounds++
		c.sources[in.Source].synced = false
	case settle.Synced:
		c.sources[in.Source].synced, c.sources[in.Source].known = true, in.Revision
	case settle.Progress:
		c.sources[in.Source].known = in.Revision
	}
	if key, _, is := recordOf(input); is {
		for i := range c.sources {
			if c.sources[i].changed != nil {
				c.sources[i].changed[key] = struct{}{}
			}
		}
	}
}

// recordOf is the key of the record that an event tells of, and the record's revision, 0 where none is known.
func recordOf(input settle.Input) (key job.Key, revision int64, is bool) {
	switch in := input.(type) {
	case settle.Stored:
		return in.Account.Key, in.Revision, true
	case settle.StoredCluster:
		return wholeCluster(in.Cluster.Key), in.Revision, true
	case settle.UnreadableVerdict:
		return in.Key, 0, true
	case settle.Erased:
		return in.Key, 0, true
	}
	return job.Key{}, 0, false
}

// question is something to do in the settler's loop as soon as it can be done.
type question struct {
	ctx context.Context
	// answer says whether it was done. It is asked after every event.
	answer func() bool
	done   chan struct{}
}

// settled says whether nobody waits any more.
func (q question) settled() bool {
	if q.ctx.Err() != nil {
		return true
	}
	if !q.answer() {
		return false
	}
	close(q.done)
	return true
}

// ask does something in the settler's loop. After an error it must not be known what became of it.
func (s *settler) ask(ctx context.Context, answer func() bool) error {
	q := question{ctx: ctx, answer: answer, done: make(chan struct{})}
	select {
	case s.questions <- q:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-q.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// checker holds the core's memory against etcd during a reign.
func (s *settler) checker(w *writer) *checker {
	c := &checker{client: s.client, period: s.checkPeriod, name: settlerMemory, metrics: s.metrics, log: s.log}
	for _, source := range checkedSources {
		prefix := (&intake.Intake{Site: s.site, Source: source}).Prefix()
		c.kinds = append(c.kinds, kind{source.String(), prefix, &coreCheck{s: s, w: w, source: source, prefix: prefix}})
	}
	return c
}

// coreCheck is one source of the core as a memory.
type coreCheck struct {
	s      *settler
	w      *writer
	source settle.Source
	prefix string
	// round and place are those of the source at the mark.
	round int
	place place
}

var errIncomparable = errors.New("the settler does not follow etcd without a gap")

func (m *coreCheck) mark(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, checkPatience, fmt.Errorf("%w: %s", errIncomparable, m.source))
	defer cancel()
	return m.s.ask(ctx, func() bool {
		of, at := &m.s.checked.sources[m.source], m.s.sources[m.source].place.Load()
		if !of.synced || at == nil {
			return false
		}
		m.round, m.place, of.changed = of.rounds, *at, map[job.Key]struct{}{}
		m.s.core.BeginRecall(m.source)
		return true
	})
}

func (m *coreCheck) unmark(ctx context.Context) {
	_ = m.s.ask(ctx, func() bool {
		m.s.checked.sources[m.source].changed = nil
		return true
	})
}

func (m *coreCheck) compare(ctx context.Context, page etcd.Page, read time.Time, mend bool) ([]board.Difference, error) {
	in := &intake.Intake{Site: m.s.site, Source: m.source, Unreadable: func(string) {}, Log: slog.New(slog.DiscardHandler)}
	found := in.Events(etcd.Update{Kind: etcd.Changed, Pairs: page.Pairs})
	values := make(map[string]string, len(page.Pairs))
	for _, pair := range page.Pairs {
		values[pair.Key] = string(pair.Value)
	}
	var differences []board.Difference
	var wrong error
	look := func(is settle.Input) {
		key, revision, record := recordOf(is)
		if !record {
			return
		}
		was, own := m.s.core.Recall(key)
		if _, changed := m.s.checked.sources[m.source].changed[key]; changed || alike(was, is, own) {
			return
		}
		path := m.prefix + strings.TrimSuffix(key.String(), "/")
		differences = append(differences, board.Difference{Key: path, Stored: values[path], Shown: text(was)})
		if !mend {
			return
		}
		if _, before, _ := recordOf(was); before != revision {
			// The core was not told of a change, be it its own or one that makes etcd refuse its own.
			delete(m.s.writing, key)
			delete(m.s.owed, key)
		}
		m.s.step(settle.Found{Is: is}, m.w)
	}
	err := m.s.ask(ctx, func() bool {
		switch ready, err := m.takesIn(page, read); {
		case err != nil:
			wrong = err
			return true
		case !ready:
			return false
		}
		for _, is := range found {
			look(is)
		}
		switch {
		case mend && len(page.Pairs) == 0:
			if place, err := record.ParseKey(m.s.site, page.From); err == nil {
				look(settle.Erased{Key: place.Job})
			}
		case !mend && page.To == "":
			for key := range m.s.core.Unrecalled(m.source) {
				look(settle.Erased{Key: key})
			}
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	return differences, wrong
}

// takesIn says whether the core has been told all that the page has. The error says that it never will: it is told anew, or of another store. That
// nobody hears of at once; so the source must have been heard after the page was read.
func (m *coreCheck) takesIn(page etcd.Page, read time.Time) (bool, error) {
	of, at := &m.s.checked.sources[m.source], m.s.sources[m.source].place.Load()
	if of.rounds != m.round || at.lists != m.place.lists || page.At.Before(m.place.Position) {
		return false, fmt.Errorf("%w: %s", errIncomparable, m.source)
	}
	return of.known >= page.At.Revision && at.heard.After(read), nil
}

// alike says whether what the core remembers is what was found. own says that the core remembers more than the store has, and says it again.
func alike(was, found settle.Input, own bool) bool {
	if stored, is := found.(settle.Stored); is {
		stored.Account.Verdict.Evidence = nil // which the core does not remember
		found = stored
	}
	if own {
		_, before, _ := recordOf(was)
		_, now, _ := recordOf(found)
		return before == now
	}
	return reflect.DeepEqual(was, found)
}

// text is what the core remembers, for people.
func text(was settle.Input) string {
	switch was := was.(type) {
	case settle.Stored:
		return fmt.Sprintf("revision %d: %s", was.Revision, record.EncodeAccount(was.Account))
	case settle.StoredCluster:
		return fmt.Sprintf("revision %d: %s", was.Revision, record.EncodeCluster(was.Cluster))
	case settle.UnreadableVerdict:
		return "a record that cannot be read"
	}
	return ""
}
