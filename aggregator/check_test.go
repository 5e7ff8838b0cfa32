package aggregator

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-dev/holdfast/aggregator/board"
	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/etcd/etcdlocal/etcdproc"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
	"github.com/holdfast-dev/holdfast/settle"
)

// eventually waits for something, and fails the test if it does not come.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// Writes under way, and events that were not delivered yet, are no differences, however many there are.
func TestNothingDiffersWhileEverythingChanges(t *testing.T) {
	t.Parallel()
	const agents, jobs = 20, 50 // a thousand jobs
	client := etcdproc.Start(t, 0).Client()
	patience := impatient()
	patience.Hold, patience.Silence = 3*time.Second, 900*time.Millisecond // a proof of life comes soon
	var replicas []*replica
	for _, name := range []string{"one", "two"} {
		replicas = append(replicas, startWith(t, Options{
			Site: site, UID: "uid-1", Name: name, Etcd: client, Settle: patience, CheckPeriod: 50 * time.Millisecond,
		}))
	}
	id := func(agent, i int) string { return fmt.Sprintf("%016x%016x", agent+1, i+1) }
	ctx, stop := context.WithCancel(t.Context())
	var changing sync.WaitGroup
	defer func() {
		stop()
		changing.Wait()
	}()
	for agent := range agents {
		w := newWitness(t, client, fmt.Sprintf("pod-%d", agent))
		w.beat()
		changing.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				for i := range jobs {
					w.report(id(agent, i), "T1", [...]job.State{job.Running, job.Restarting}[n%2])
				}
			}
		})
	}
	// A few change all the time, so that they do between any two steps of a check.
	for agent := range 4 {
		w := newWitness(t, client, fmt.Sprintf("hot-%d", agent))
		w.beat()
		hot := id(agents+agent, 0)
		changing.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				w.report(hot, "T1", [...]job.State{job.Running, job.Restarting}[n%2])
			}
		})
		if agent%2 == 0 {
			continue
		}
		// What lies there disappears, too, and the leader writes it again.
		changing.Go(func() {
			key := record.VerdictKey(site, job.Key{Namespace: "default", Cluster: "orders", ID: hot})
			for ctx.Err() == nil {
				if _, err := client.Delete(ctx, key); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			}
		})
	}
	begin, err := etcd.Where(ctx, client)
	if err != nil {
		t.Fatal(err)
	}
	leader := replicas[0]
	eventually(t, "somebody leads", func() bool {
		if replicas[1].settler.reigning.Load() {
			leader = replicas[1]
		}
		return leader.settler.reigning.Load() && leader.board.Snapshot().Len() > agents*jobs*9/10
	})
	var end etcd.Position
	eventually(t, "five checks of each memory, and 2000 changes", func() bool {
		if end, err = etcd.Where(ctx, client); err != nil {
			t.Fatal(err)
		}
		return leader.checks(settlerMemory) >= 5 && replicas[0].checks(boardMemory) >= 5 && replicas[1].checks(boardMemory) >= 5 &&
			end.Revision-begin.Revision >= 2000
	})
	stop()
	changing.Wait()
	t.Logf("%d changes of etcd, %d checks of the settler, %d and %d of the boards", end.Revision-begin.Revision,
		leader.checks(settlerMemory), replicas[0].checks(boardMemory), replicas[1].checks(boardMemory))
}

// forged is a verdict that nobody has settled.
func forged(key job.Key, state job.State, over job.Answer) job.Account {
	return job.Account{Key: key, Verdict: job.Verdict{
		Name: "orders", State: state, Over: over, Certainty: job.Witnessed, Reason: job.FlinkSaid, Since: "S1", LastSeen: "S1",
		Attempt: job.Attempt{Number: 1, StartTime: "T1"}, Via: job.ViaREST,
	}, Books: job.Books{Sequence: 1}}
}

// plant changes what a replica remembers, which no watch could tell. stored is the verdict on orders as it lies in etcd.
type plant func(t *testing.T, r *replica, stored etcd.Pair)

// tell plants in the settler what it was never told.
func tell(inputs ...settle.Input) plant {
	return func(t *testing.T, r *replica, _ etcd.Pair) {
		err := r.settler.ask(t.Context(), func() bool {
			for _, input := range inputs {
				r.settler.step(input, nil)
			}
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// show plants records on the board, one after another. A nil value takes the record away.
func show(f board.Feed, key job.Key, revision int64, values ...[]byte) plant {
	return func(_ *testing.T, r *replica, stored etcd.Pair) {
		place := placeOf(f, r.o.Site, key)
		for _, value := range values {
			pair := etcd.Pair{Key: place, Value: value, ModRevision: revision, Deleted: value == nil}
			if revision == 0 {
				pair.ModRevision = stored.ModRevision
			}
			r.board.Apply(f, etcd.Update{Kind: etcd.Changed, Epoch: 1, Revision: r.board.Snapshot().Version().Revision, Pairs: []etcd.Pair{pair}})
		}
	}
}

// placeOf is the key in etcd of what a feed has of a job.
func placeOf(f board.Feed, site string, key job.Key) string {
	switch f {
	case board.Verdicts:
		return record.VerdictKey(site, key)
	case board.Clusters:
		return record.ClusterKey(site, key.ClusterKey())
	}
	return f.Prefix(site)
}

// Whatever a memory holds otherwise than etcd, though no watch could tell, is found, mended, counted, and logged with both values; and what is
// served, or stored, gets no worse on the way.
func TestWhatDiffersIsMended(t *testing.T) {
	t.Parallel()
	client := etcdproc.Start(t, 0).Client()
	key := job.Key{Namespace: "default", Cluster: "orders", ID: orders}
	other := job.Key{Namespace: "default", Cluster: "orders", ID: "b1b2c3d4a1b2c3d4a1b2c3d4a1b2c3d4"}
	failed := forged(key, job.Failed, job.Yes)
	crashes := job.Cluster{Key: key.ClusterKey(), Condition: job.ClusterCrashLoop, Certainty: job.Inferred, Sequence: 1}
	const ready = `\"condition\":\"Ready\"`
	const running = `\"state\":\"RUNNING\"`
	for i, c := range []struct {
		name, memory string
		plant        plant
		feed         board.Feed
		key          job.Key
		// stored and remembered are parts of what is logged.
		stored, remembered string
	}{
		{name: "the settler remembers another state", memory: settlerMemory, key: key, stored: running, remembered: `\"state\":\"FAILED\"`,
			plant: func(t *testing.T, r *replica, stored etcd.Pair) {
				tell(settle.Found{Is: settle.Stored{Account: failed, Revision: stored.ModRevision}})(t, r, stored)
			}},
		{name: "the settler remembers other books", memory: settlerMemory, key: key, stored: running, remembered: `\"weighed\":777`,
			plant: func(t *testing.T, r *replica, stored etcd.Pair) {
				account, err := record.DecodeAccount(key, stored.Value)
				if err != nil {
					t.Fatal(err)
				}
				account.Books.Weighed = 777
				tell(settle.Found{Is: settle.Stored{Account: account, Revision: stored.ModRevision}})(t, r, stored)
			}},
		{name: "the settler missed a change", memory: settlerMemory, key: key, stored: running, remembered: "revision 1: ",
			plant: tell(settle.Stored{Account: forged(key, job.Created, job.No), Revision: 1})},
		{name: "the settler missed a verdict", memory: settlerMemory, key: key, stored: running, remembered: `""`,
			plant: tell(settle.Erased{Key: key})},
		{name: "the settler takes what can be read for unreadable", memory: settlerMemory, key: key, stored: running, remembered: "cannot be read",
			plant: tell(settle.UnreadableVerdict{Key: key})},
		{name: "the settler remembers what is not there", memory: settlerMemory, key: other, stored: `""`, remembered: "revision 2: ",
			plant: tell(settle.Stored{Account: forged(other, job.Finished, job.Yes), Revision: 2})},
		{name: "the settler remembers another condition", memory: settlerMemory, feed: board.Clusters, key: key, stored: ready, remembered: `\"CrashLoop\"`,
			plant: func(t *testing.T, r *replica, stored etcd.Pair) {
				is := read(t, r.o.Etcd, placeOf(board.Clusters, r.o.Site, key))
				tell(settle.Found{Is: settle.StoredCluster{Cluster: crashes, Revision: is.ModRevision}})(t, r, stored)
			}},
		{name: "the settler missed a cluster", memory: settlerMemory, feed: board.Clusters, key: key, stored: ready, remembered: `""`,
			plant: tell(settle.Erased{Key: wholeCluster(key.ClusterKey())})},
		{name: "the board shows another condition", memory: boardMemory, feed: board.Clusters, key: key, stored: ready, remembered: `\"CrashLoop\"`,
			plant: func(t *testing.T, r *replica, stored etcd.Pair) {
				is := read(t, r.o.Etcd, placeOf(board.Clusters, r.o.Site, key))
				show(board.Clusters, key, is.ModRevision, nil, record.EncodeCluster(crashes))(t, r, stored)
			}},
		{name: "the board missed a cluster", memory: boardMemory, feed: board.Clusters, key: key, stored: ready, remembered: `""`,
			plant: show(board.Clusters, key, 1, nil)},
		{name: "the board shows a cluster that is not there", memory: boardMemory, feed: board.Clusters, key: job.Key{Namespace: "default", Cluster: "billing"},
			stored: `""`, remembered: `\"CrashLoop\"`,
			plant: show(board.Clusters, job.Key{Namespace: "default", Cluster: "billing"}, 1, record.EncodeCluster(crashes))},
		{name: "the board shows another state", memory: boardMemory, key: key, stored: running, remembered: `\"state\":\"FAILED\"`,
			plant: show(board.Verdicts, key, 0, nil, record.EncodeAccount(failed))},
		{name: "the board missed a change", memory: boardMemory, key: key, stored: running, remembered: `1.1\"`,
			plant: show(board.Verdicts, key, 1, record.EncodeAccount(forged(key, job.Running, job.No)))},
		{name: "the board missed a verdict", memory: boardMemory, key: key, stored: running, remembered: `""`,
			plant: show(board.Verdicts, key, 0, nil)},
		{name: "the board shows what is not there", memory: boardMemory, key: other, stored: `""`, remembered: `\"state\":\"FAILED\"`,
			plant: show(board.Verdicts, other, 0, record.EncodeAccount(failed))},
		{name: "the board takes what can be read for unreadable", memory: boardMemory, key: key, stored: running, remembered: "damaged",
			plant: show(board.Verdicts, key, 0, nil, []byte("?"))},
		{name: "the board is frozen without a cause", memory: boardMemory, feed: board.Condition, stored: `\"frozen\":false`, remembered: "Frozen:true",
			plant: show(board.Condition, key, 1, record.EncodeCondition(record.SiteCondition{Frozen: true}))},
		{name: "the board is of another epoch", memory: boardMemory, feed: board.Identity, stored: `\"epoch\":1`, remembered: "Epoch:7",
			plant: show(board.Identity, key, 1, record.EncodeIdentity(record.SiteIdentity{UID: "uid-1", Epoch: 7}))},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var log lines
			patience := impatient()
			patience.Hold, patience.Silence = 3*time.Second, 900*time.Millisecond // a proof of life comes soon
			r := startWith(t, Options{
				Site: fmt.Sprintf("site-%d", i), UID: "uid-1", Name: "one", Etcd: client, Settle: patience, CheckPeriod: 100 * time.Millisecond,
				Log: slog.New(slog.NewTextHandler(&log, nil)),
			})
			w := newWitness(t, client, "pod-1")
			w.site = r.o.Site
			w.beat()
			w.report(orders, "T1", job.Running)
			r.until(orders, "RUNNING Witnessed")
			eventually(t, "a check of each memory", func() bool { return r.checks(settlerMemory) > 0 && r.checks(boardMemory) > 0 })
			place := record.VerdictKey(r.o.Site, key)
			eventually(t, "the cluster is judged", func() bool { return r.board.Snapshot().Cluster("default/orders") != nil })
			stored := read(t, client, place)

			r.planted = 1
			c.plant(t, r, stored)
			eventually(t, "the difference is found", func() bool { return r.differences(c.memory) == 1 })
			checks := [2]int{r.checks(settlerMemory), r.checks(boardMemory)}
			eventually(t, "two more checks", func() bool { return r.checks(settlerMemory) >= checks[0]+2 && r.checks(boardMemory) >= checks[1]+2 })
			at := placeOf(c.feed, r.o.Site, c.key)
			says(t, log.String(), fmt.Sprintf("memory=%s kind=%s key=%s ", c.memory, c.feed, at), c.stored, c.remembered)

			r.until(orders, "RUNNING Witnessed over=no #1", "FAILED", "HTTP", "CREATED")
			// What only the settler remembers is what it says again when a store loses it. What only a board shows is nobody's word.
			_, found, err := etcd.Read(t.Context(), client, record.VerdictKey(r.o.Site, other))
			if want := c.memory == settlerMemory && c.key == other; err != nil || found != want {
				t.Errorf("in etcd there is what nobody settled: %v, %v; want %v", found, err, want)
			}
			if now := read(t, client, place); now.ModRevision != stored.ModRevision {
				t.Errorf("the verdict was written again, at %d after %d: %s", now.ModRevision, stored.ModRevision, now.Value)
			}
			// All goes on: what was mended counts.
			w.report(orders, "T1", job.Finished)
			r.until(orders, "FINISHED Witnessed over=yes #1", "FAILED", "HTTP", "CREATED")
			if got := strings.Join(r.history(orders), ", "); got != "RUNNING Witnessed, FINISHED Witnessed" {
				t.Errorf("history: %s", got)
			}
		})
	}
}

// says makes sure that one difference was logged, with both values.
func says(t *testing.T, log, begin, stored, remembered string) {
	t.Helper()
	var found []string
	for line := range strings.Lines(log) {
		if strings.Contains(line, "what was remembered differed from etcd, and was mended") {
			found = append(found, line)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d differences logged, want 1: %s", len(found), found)
	}
	_, after, _ := strings.Cut(found[0], " stored=")
	was, is, _ := strings.Cut(after, " remembered=")
	if !strings.Contains(found[0], begin) || !strings.Contains(was, stored) || !strings.Contains(is, remembered) {
		t.Errorf("%s stored %s, remembered %s was to be logged, not\n%s", begin, stored, remembered, found[0])
	}
}

func read(t *testing.T, client *clientv3.Client, key string) etcd.Pair {
	t.Helper()
	pair, found, err := etcd.Read(t.Context(), client, key)
	if err != nil || !found {
		t.Fatalf("%s: found %v, %v", key, found, err)
	}
	return pair
}

// lines is a log that is read while it is written.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
