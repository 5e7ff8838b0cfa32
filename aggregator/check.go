package aggregator

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-dev/holdfast/aggregator/board"
	"github.com/holdfast-dev/holdfast/etcd"
)

const (
	// DefaultCheckPeriod is how often what is remembered is held against what lies in etcd, where nobody says otherwise.
	DefaultCheckPeriod = 5 * time.Minute
	// MinCheckPeriod is the shortest that makes sense outside of tests: each check reads everything.
	MinCheckPeriod = time.Second
)

// The memories, and how their checks end, as metrics and logs name them.
const (
	boardMemory   = "board"
	settlerMemory = "settler"

	checkDone    = "done"
	checkGivenUp = "given up"
)

const (
	// checkPage bounds the records that a check holds at a time, besides those that it doubts.
	checkPage = 500
	// checkDoubts bounds the records of one kind that a check looks at again; the next check sees to the rest.
	checkDoubts = 1000
	// checkLogged bounds the differences of one kind that a check logs with both values; all are counted.
	checkLogged = 100
	// checkPatience bounds one answer of etcd, and how long a memory may take to take it in.
	checkPatience = 20 * time.Second
)

// checker reads what lies in etcd again, linearizably, and holds it against a memory of it. What comes by watches is complete and in order,
// so there is nothing to be found; the checker is for the bug that nobody thought of.
//
// A record is compared only if the memory did not change it from before the read until it had taken in everything up to the read: then both
// are of one moment. What differs is read and compared once more before it counts, so that a write under way, or an event that was not
// delivered yet, is never a difference.
type checker struct {
	client  *clientv3.Client
	period  time.Duration
	name    string
	kinds   []kind
	metrics *metrics
	log     *slog.Logger
}

// kind is the records below one prefix, and the memory of them.
type kind struct {
	name, prefix string
	memory       memory
}

// memory is what somebody remembers of one kind.
type memory interface {
	// mark begins a look: what the memory changes from now on is not compared.
	mark(ctx context.Context) error
	// unmark ends the look.
	unmark(ctx context.Context)
	// compare waits until the memory has taken in everything up to the page, and has heard of the store after read, when its first page had come. It gives what the
	// memory has otherwise, and with mend puts that right. The error says why the two cannot be compared.
	compare(ctx context.Context, page etcd.Page, read time.Time, mend bool) ([]board.Difference, error)
}

// run checks each period until ctx ends. Replicas that were started together do not check together.
func (c *checker) run(ctx context.Context) {
	if c.period == 0 {
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(c.period - c.period/10 + rand.N(c.period/5+1)):
		}
		var all sync.WaitGroup
		var givenUp atomic.Bool
		for _, k := range c.kinds {
			all.Go(func() { // most of its time it waits for a proof of life
				if err := c.check(ctx, k); err != nil && ctx.Err() == nil {
					givenUp.Store(true)
					c.log.Info("a check was given up", "memory", c.name, "kind", k.name, "error", err)
				}
			})
		}
		all.Wait()
		outcome := checkDone
		switch {
		case ctx.Err() != nil:
			return
		case givenUp.Load():
			outcome = checkGivenUp
		}
		c.metrics.checks.WithLabelValues(c.name, outcome).Inc()
	}
}

// check holds one kind against etcd.
func (c *checker) check(ctx context.Context, k kind) error {
	if err := k.memory.mark(ctx); err != nil {
		return err
	}
	defer k.memory.unmark(ctx)
	var doubts []string
	var read time.Time // of the first page: the others are of its revision, and one proof of life is waited for, not one a page
	err := etcd.ReadPages(ctx, c.client, k.prefix, checkPage, checkPatience, func(page etcd.Page) error {
		if read.IsZero() {
			read = time.Now()
		}
		found, err := c.compare(ctx, k, page, read, false)
		for _, d := range found[:min(len(found), checkDoubts-len(doubts))] {
			doubts = append(doubts, d.Key)
		}
		return err
	})
	if err != nil || len(doubts) == 0 {
		return err
	}
	if err := k.memory.mark(ctx); err != nil {
		return err
	}
	pages := make([]etcd.Page, len(doubts))
	for i, key := range doubts {
		page := &pages[i]
		page.From, page.To = key, key+"\x00"
		bounded, cancel := context.WithTimeout(ctx, checkPatience)
		pair, found, at, err := etcd.ReadAt(bounded, c.client, key)
		cancel()
		if err != nil {
			return err
		}
		if page.At = at; found {
			page.Pairs = []etcd.Pair{pair}
		}
	}
	read = time.Now()
	logged := 0
	for _, page := range pages {
		mended, err := c.compare(ctx, k, page, read, true)
		if err != nil {
			return err
		}
		for _, d := range mended {
			c.metrics.differences.WithLabelValues(c.name).Inc()
			if logged++; logged <= checkLogged {
				c.log.Error("what was remembered differed from etcd, and was mended: this is a bug of Holdfast, please report it",
					"memory", c.name, "kind", k.name, "key", d.Key, "stored", d.Stored, "remembered", d.Shown, "revision", page.At.Revision)
			}
		}
	}
	if logged > checkLogged {
		c.log.Error("further records were remembered otherwise, and were mended", "memory", c.name, "kind", k.name, "records", logged-checkLogged)
	}
	return nil
}

func (c *checker) compare(ctx context.Context, k kind, page etcd.Page, read time.Time, mend bool) ([]board.Difference, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, checkPatience, errors.New("the memory did not take in what etcd has"))
	defer cancel()
	return k.memory.compare(ctx, page, read, mend)
}

// boardCheck is one feed of the board as a memory.
type boardCheck struct {
	board  *board.Board
	feed   board.Feed
	before *board.Snapshot
}

func (b *boardCheck) mark(context.Context) error {
	b.before = b.board.Snapshot()
	return nil
}

func (b *boardCheck) unmark(context.Context) { b.before = nil }

func (b *boardCheck) compare(ctx context.Context, page etcd.Page, read time.Time, mend bool) ([]board.Difference, error) {
	for {
		after := b.board.Snapshot()
		switch is, err := after.TakesIn(b.feed, page, b.before, read); {
		case err != nil:
			return nil, err
		case is && mend:
			return b.board.Mend(b.feed, page, b.before, read)
		case is:
			return b.board.Compare(b.feed, page, b.before, after), nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-after.Changed():
		}
	}
}
