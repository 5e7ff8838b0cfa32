package aggregator

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-dev/holdfast/aggregator/board"
	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/etcd/etcdlocal/etcdproc"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
	"github.com/holdfast-dev/holdfast/test/metric"
)

// variable holds the name, etcd's endpoint and the retention time for a process that is to be a replica.
const variable = "HOLDFAST_TEST_AGGREGATOR"

// replicaMain runs a replica, and does not return, in a process that a test started as one. It is impatient, as no flag could make it.
func replicaMain() {
	words := strings.Fields(os.Getenv(variable))
	if len(words) != 3 {
		return
	}
	name, endpoint := words[0], words[1]
	run := func() error {
		ctx, stop := context.WithCancel(context.Background())
		defer stop()
		client, err := etcd.Dial(ctx, etcd.Options{Endpoints: []string{endpoint}})
		if err != nil {
			return err
		}
		patience := impatient()
		if patience.Retain, err = time.ParseDuration(words[2]); err != nil {
			return err
		}
		a, err := New(Options{
			Site: site, UID: "uid-1", Name: name, Listen: "127.0.0.1:0", Etcd: client, Settle: patience, LeaderLease: leaderLease,
			CheckPeriod: 250 * time.Millisecond, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		})
		if err != nil {
			return err
		}
		fmt.Println(a.Address())
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin) // it ends with the test
			stop()
		}()
		return a.Run(ctx)
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

const leaderLease = 2 * time.Second

// bound is within what time every replica that can reach etcd tells the truth after a fault, or in spite of it: lease and hold time,
// and what a busy machine takes.
var bound = leaderLease + impatient().Hold + 4*time.Second

// process is a replica in a process of its own, which reaches etcd through a wire that the test can cut.
type process struct {
	t       *testing.T
	name    string
	wire    *wire
	address string
	cmd     *exec.Cmd
	log     *lines
	// silent says that the process cannot answer, since the test stopped it.
	silent atomic.Bool
}

func startProcess(t *testing.T, store *etcdproc.Process, name string, retain time.Duration) *process {
	t.Helper()
	p := &process{t: t, name: name, wire: newWire(t, strings.TrimPrefix(store.Endpoint(), "unix://")), log: &lines{}}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd = exec.Command(self)
	p.cmd.Env = append(os.Environ(), variable+"="+name+" http://"+p.wire.Addr().String()+" "+retain.String())
	p.cmd.Stderr = p.log
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.kill()
		stdin.Close()
		if t.Failed() {
			t.Logf("%s said\n%s", name, p.log)
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if p.address = strings.TrimSpace(line); err != nil {
		t.Fatalf("%s did not start: %v: %s", name, err, p.log)
	}
	return p
}

// signal sends the process a signal. SIGSTOP leaves its sockets open, and nobody answers.
func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if s == syscall.SIGSTOP {
		p.silent.Store(true)
	}
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
	if s == syscall.SIGCONT {
		p.silent.Store(false)
	}
}

func (p *process) kill() {
	p.silent.Store(true)
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// replica lets a process be asked as one of the test's own replicas is.
func (p *process) get(path string) (int, []byte, error) {
	client := http.Client{Timeout: time.Second}
	response, err := client.Get("http://" + p.address + path)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, body, err
}

// metric is the sum of the series that begin with a prefix.
func (p *process) metric(prefix string) int {
	p.t.Helper()
	sum, err := metric.Sum(context.Background(), "http://"+p.address, prefix)
	if err != nil {
		p.t.Fatal(err)
	}
	return int(sum)
}

// pair is two replicas over one etcd, one agent, and an observer of it all.
type pair struct {
	t        *testing.T
	store    *etcdproc.Process
	client   *clientv3.Client
	replicas []*process
	witness  *witness
	stop     context.CancelFunc
	watching sync.WaitGroup

	mu     sync.Mutex
	stored map[int64]job.Account // by revision
	order  []job.Account
	served map[string]map[seen]time.Time // by replica
}

// seen is one answer.
type seen struct {
	revision               int64
	state, certainty, over string
	attempt                int
	reason, version        string
}

func newPair(t *testing.T) *pair { return newPairWith(t, 0, impatient().Retain) }

// newPairWith is newPair with a quota of etcd, and a time for which jobs that are over are kept.
func newPairWith(t *testing.T, quota int64, retain time.Duration) *pair {
	t.Helper()
	p := &pair{t: t, store: etcdproc.Start(t, quota), stored: map[int64]job.Account{}, served: map[string]map[seen]time.Time{}}
	p.client = p.store.Client()
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	p.watching.Go(func() {
		_ = etcd.Follow(ctx, p.client, etcd.FollowOptions{Prefix: board.Verdicts.Prefix(site)}, p.note)
	})
	for _, name := range []string{"one", "two"} {
		p.replicas = append(p.replicas, startProcess(t, p.store, name, retain))
	}
	t.Cleanup(p.end)
	p.witness = newWitness(t, p.client, "pod-1")
	p.witness.beat()
	p.witness.report(orders, "T1", job.Running)
	p.within(bound, "RUNNING Witnessed over=no #1", p.replicas...)
	for _, r := range p.replicas {
		p.watching.Go(func() { p.observe(ctx, r) })
	}
	return p
}

// note takes down what lies in etcd.
func (p *pair) note(u etcd.Update) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, pair := range u.Pairs {
		if place, err := record.ParseKey(site, pair.Key); err == nil && !pair.Deleted {
			account, err := record.DecodeAccount(place.Job, pair.Value)
			if err != nil {
				p.t.Error(err)
			}
			p.stored[pair.ModRevision] = account
			p.order = append(p.order, account)
		}
	}
}

func (r *process) ask() (a answer, code int, err error) {
	code, body, err := r.get("/api/v1/jobs/" + site + "/default/orders/" + orders)
	if err == nil && code == http.StatusOK {
		err = json.Unmarshal(body, &a)
	}
	return a, code, err
}

// observe asks a replica again and again: it must answer within a second, whatever happens, and never go back.
func (p *pair) observe(ctx context.Context, r *process) {
	last := int64(0)
	for ; ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		a, code, err := r.ask()
		switch {
		case r.silent.Load() || ctx.Err() != nil:
			time.Sleep(100 * time.Millisecond)
			continue
		case err != nil || code != http.StatusOK:
			p.t.Errorf("%s answers with HTTP %d, %v", r.name, code, err)
			continue
		}
		_, text, _ := strings.Cut(strings.TrimSuffix(a.Version, ".held"), ".")
		revision, err := strconv.ParseInt(text, 10, 64)
		if err != nil || revision < last {
			p.t.Errorf("%s goes from revision %d to %s: %s", r.name, last, a.Version, a)
		}
		last = revision
		p.mu.Lock()
		if p.served[r.name] == nil {
			p.served[r.name] = map[seen]time.Time{}
		}
		s := seen{revision: revision, state: a.State, certainty: a.Certainty, over: a.Over, attempt: a.Attempt.Number, version: a.Version, reason: a.Reason}
		if _, known := p.served[r.name][s]; !known {
			p.served[r.name][s] = time.Now()
		}
		p.mu.Unlock()
	}
}

// within waits until replicas say something of the job, and fails if that takes longer.
func (p *pair) within(d time.Duration, want string, replicas ...*process) {
	p.t.Helper()
	begin := time.Now()
	for _, r := range replicas {
		var last string
		for ; ; time.Sleep(10 * time.Millisecond) {
			a, code, err := r.ask()
			last = fmt.Sprintf("%s, HTTP %d, %v", a, code, err)
			if err == nil && code == http.StatusOK && strings.HasPrefix(a.String(), want) {
				break
			}
			if time.Since(begin) > d {
				p.t.Fatalf("after %s %s says %s, want %s", d, r.name, last, want)
			}
		}
	}
	p.t.Logf("%s after %s", want, time.Since(begin).Round(10*time.Millisecond))
}

// leader is the replica that leads, and the other one.
func (p *pair) leader() (leader, other *process) {
	p.t.Helper()
	l, err := record.DecodeLeader(read(p.t, p.client, record.LeaderKey(site)).Value)
	if err != nil {
		p.t.Fatal(err)
	}
	if p.replicas[0].name == l.Name {
		return p.replicas[0], p.replicas[1]
	}
	return p.replicas[1], p.replicas[0]
}

// reigns waits until a replica leads.
func (p *pair) reigns(r *process) {
	p.t.Helper()
	eventually(p.t, r.name+" leads", func() bool {
		pair, found, err := etcd.Read(p.t.Context(), p.client, record.LeaderKey(site))
		if err != nil || !found {
			return false
		}
		l, err := record.DecodeLeader(pair.Value)
		return err == nil && l.Name == r.name
	})
}

// end holds everything that was served against everything that was stored.
func (p *pair) end() {
	for _, r := range p.replicas {
		if !r.silent.Load() && !p.t.Failed() {
			const checks = `holdfast_checks_total{memory="board",outcome="done"`
			before := r.metric(checks)
			eventually(p.t, "a check after all that", func() bool { return r.metric(checks) > before })
			if n := r.metric("holdfast_check_differences_total"); n != 0 {
				p.t.Errorf("%s: %d records were remembered otherwise than they lay in etcd", r.name, n)
			}
		}
	}
	p.stop()
	p.watching.Wait()
	last := map[job.Key]job.Account{}
	for _, is := range p.order {
		before := last[is.Key]
		last[is.Key] = is
		if is.Verdict.Attempt.Number < before.Verdict.Attempt.Number || is.Books.Sequence < before.Books.Sequence ||
			is.Verdict.Attempt == before.Verdict.Attempt && before.Verdict.State.Terminal() && !is.Verdict.State.Terminal() {
			p.t.Errorf("in etcd %+v came after %+v", is.Verdict, before.Verdict)
		}
	}
	served := 0
	for name, all := range p.served {
		for s := range all {
			served++
			is, stored := p.stored[s.revision]
			v := is.Verdict
			if !stored || v.State.String() != s.state || v.Attempt.Number != s.attempt || !strings.EqualFold(v.Over.String(), s.over) ||
				v.Certainty.String() != s.certainty && s.certainty != job.Held.String() {
				p.t.Errorf("%s served %+v, stored was %+v (%v)", name, s, v, stored)
			}
		}
	}
	if served < len(p.replicas) {
		p.t.Errorf("only %d answers were seen", served)
	}
}

// history makes sure of what a replica says that the job went through, without a hole.
func (p *pair) history(r *process, want ...string) {
	p.t.Helper()
	var list struct {
		Items []struct {
			Sequence         int64
			State, Certainty string
		}
	}
	code, body, err := r.get("/api/v1/jobs/" + site + "/default/orders/" + orders + "/history")
	if err != nil || code != http.StatusOK || json.Unmarshal(body, &list) != nil {
		p.t.Fatalf("history: HTTP %d, %v: %s", code, err, body)
	}
	var got []string
	for i, item := range list.Items {
		if i > 0 && item.Sequence != list.Items[i-1].Sequence+1 {
			p.t.Errorf("%d comes after %d", item.Sequence, list.Items[i-1].Sequence)
		}
		if n := len(got); n == 0 || got[n-1] != item.State {
			got = append(got, item.State) // a silence makes Held of it, and Witnessed again
		}
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		p.t.Errorf("history %v, want %v", got, want)
	}
}

func TestTheLeaderIsKilled(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	leader, other := p.leader()
	leader.kill()
	p.witness.report(orders, "T1", job.Restarting, job.Running, job.Finished)
	p.within(bound, "FINISHED Witnessed over=yes #1", other)
	p.history(other, "RUNNING", "RESTARTING", "RUNNING", "FINISHED")
}

// The leader stands still for three lease times, and goes on.
func TestTheLeaderIsPaused(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	leader, other := p.leader()
	leader.signal(syscall.SIGSTOP)
	paused := time.Now()
	p.witness.report(orders, "T1", job.Restarting)
	p.within(bound, "RESTARTING Witnessed over=no #1", other)
	p.witness.report(orders, "T1", job.Finished)
	p.within(bound, "FINISHED Witnessed over=yes #1", other)
	time.Sleep(3*leaderLease - time.Since(paused))
	leader.signal(syscall.SIGCONT)
	p.within(bound, "FINISHED Witnessed over=yes #1", leader, other)
	p.witness.report(orders, "T2", job.Running)
	p.within(bound, "RUNNING Witnessed over=no #2", leader, other)
	p.history(leader, "RUNNING", "RESTARTING", "FINISHED", "RUNNING")
}

// Every packet between the leader and etcd is dropped, or every connection reset.
func TestTheLeaderIsCutFromEtcd(t *testing.T) {
	t.Parallel()
	for name, cut := range map[string]mode{"dropped": drops, "reset": resets} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			leader, other := p.leader()
			leader.wire.set(cut)
			p.witness.report(orders, "T1", job.Restarting)
			p.within(bound, "RESTARTING Witnessed over=no #1", other)
			p.within(bound, "RUNNING Held over=no #1 StoreUnreachable", leader)
			p.witness.report(orders, "T1", job.Finished)
			p.within(bound, "FINISHED Witnessed over=yes #1", other)
			leader.wire.set(passes)
			p.within(bound+impatient().Hold, "FINISHED Witnessed over=yes #1", leader)
			p.history(leader, "RUNNING", "RESTARTING", "FINISHED")
		})
	}
}

// The leader's write is committed, its answer is lost, and another leads before it knows.
func TestTheLeaderIsDeposedBetweenWriteAndAnswer(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	leader, other := p.leader()
	committed := leader.wire.turnAt(`"state":"FINISHED"`, deaf)
	p.witness.report(orders, "T1", job.Finished)
	select {
	case <-committed:
	case <-time.After(bound):
		t.Fatal("the leader did not write")
	}
	eventually(t, "the write is committed", func() bool {
		account, err := record.DecodeAccount(job.Key{Namespace: "default", Cluster: "orders", ID: orders},
			read(t, p.client, record.VerdictKey(site, job.Key{Namespace: "default", Cluster: "orders", ID: orders})).Value)
		return err == nil && account.Verdict.State == job.Finished
	})
	reign := read(t, p.client, record.LeaderKey(site))
	if _, err := p.client.Revoke(t.Context(), clientv3.LeaseID(reign.Lease)); err != nil {
		t.Fatal(err)
	}
	p.within(bound, "FINISHED Witnessed over=yes #1", other)
	p.reigns(other)
	p.witness.report(orders, "T2", job.Running)
	p.within(bound, "RUNNING Witnessed over=no #2", other)
	leader.wire.set(resets) // what was swallowed never comes
	leader.wire.set(passes)
	p.within(bound+impatient().Hold, "RUNNING Witnessed over=no #2", leader)
	p.history(leader, "RUNNING", "FINISHED", "RUNNING")
	p.history(other, "RUNNING", "FINISHED", "RUNNING")
}

// The leader's write is under way while another comes to lead and settles the job otherwise: however late it comes, it is refused.
func TestTheWriteOfADeposedLeaderComesLate(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	leader, other := p.leader()
	sent := leader.wire.turnAt(`"state":"RESTARTING"`, drops)
	p.witness.report(orders, "T1", job.Restarting)
	select {
	case <-sent:
	case <-time.After(bound):
		t.Fatal("the leader did not write")
	}
	reign := read(t, p.client, record.LeaderKey(site))
	if _, err := p.client.Revoke(t.Context(), clientv3.LeaseID(reign.Lease)); err != nil {
		t.Fatal(err)
	}
	p.within(bound, "RESTARTING Witnessed over=no #1", other)
	p.witness.report(orders, "T1", job.Finished)
	p.within(bound, "FINISHED Witnessed over=yes #1", other)

	key := record.VerdictKey(site, job.Key{Namespace: "default", Cluster: "orders", ID: orders})
	watched, stop := context.WithTimeout(t.Context(), 2*time.Second)
	defer stop()
	changes := p.client.Watch(watched, key, clientv3.WithRev(read(t, p.client, key).ModRevision+1), clientv3.WithCreatedNotify())
	<-changes // it is there
	leader.wire.deliver()
	for change := range changes {
		for _, event := range change.Events {
			t.Errorf("what was settled is written over with %s", event.Kv.Value)
		}
	}
	leader.wire.set(passes)
	p.within(bound+impatient().Hold, "FINISHED Witnessed over=yes #1", leader)
	p.history(leader, "RUNNING", "RESTARTING", "FINISHED")
}

// One leads, then the other, then the first again, which remembers less than the store has, and what the store has forgotten: nothing of its
// memory returns.
func TestAnOldMemoryDoesNotReturn(t *testing.T) {
	t.Parallel()
	p := newPairWith(t, 0, 2*time.Second)
	first, second := p.leader()
	short := job.Key{Namespace: "default", Cluster: "orders", ID: "b1b2c3d4a1b2c3d4a1b2c3d4a1b2c3d4"}
	stored := func(prefix string) int {
		pairs, _, err := etcd.ReadAll(t.Context(), p.client, prefix, 0)
		if err != nil {
			t.Fatal(err)
		}
		return len(pairs)
	}
	w := newWitness(t, p.client, "pod-2")
	w.beat()
	w.report(short.ID, "T1", job.Running)
	eventually(t, "another job is settled", func() bool { return stored(record.VerdictKey(site, short)) == 1 })
	for _, r := range p.replicas {
		eventually(t, r.name+" knows it", func() bool {
			code, _, err := r.get("/api/v1/jobs/" + site + "/" + short.String())
			return err == nil && code == http.StatusOK
		})
	}

	first.wire.set(drops)
	p.reigns(second)
	p.witness.report(orders, "T1", job.Finished)
	p.witness.report(orders, "T2", job.Running)
	p.within(bound, "RUNNING Witnessed over=no #2", second)
	w.report(short.ID, "T1", job.Finished)
	w.leave()
	w.die()
	eventually(t, "the other job is forgotten", func() bool {
		return stored(record.VerdictKey(site, short))+stored(record.HistoryPrefix(site, short))+stored(record.ReportKey(site, w.agent, short.ID)) == 0
	})
	p.witness.report(orders, "T2", job.Restarting)
	p.within(bound, "RESTARTING Witnessed over=no #2", second)

	second.kill()
	first.wire.set(passes)
	p.reigns(first)
	p.within(bound+impatient().Hold, "RESTARTING Witnessed over=no #2", first)
	p.history(first, "RUNNING", "FINISHED", "RUNNING", "RESTARTING")
	p.witness.report(orders, "T2", job.Running)
	p.within(bound, "RUNNING Witnessed over=no #2", first) // so it has judged
	time.Sleep(3 * impatient().Tick)                       // time to do the wrong thing
	if n := stored(record.VerdictKey(site, short)); n != 0 {
		t.Error("a job that was forgotten is back")
	}
}

// The same where etcd was emptied while one of them was cut off: the other one wrote again what it remembered, and has forgotten a job since.
// When the first is back, nothing tells that the other has led but the site's epoch.
func TestAnOldMemoryDoesNotReturnToAnEmptiedStore(t *testing.T) {
	t.Parallel()
	const retain = 4 * time.Second
	store := etcdproc.Start(t, 0)
	p := &pair{t: t, store: store, client: store.Client(), replicas: []*process{startProcess(t, store, "one", retain), startProcess(t, store, "two", retain)}}
	w := newWitness(t, p.client, "pod-1")
	w.beat()
	w.report(orders, "T1", job.Running)
	p.within(bound, "RUNNING Witnessed over=no #1", p.replicas...)
	for range 200 { // revisions that the emptied store does not reach
		w.report(orders, "T1", job.Restarting, job.Running)
	}
	p.within(bound, "RUNNING Witnessed over=no #1", p.replicas...)
	first, second := p.leader()
	first.wire.set(drops)
	p.reigns(second)
	w.report(orders, "T1", job.Finished)
	p.within(bound, "FINISHED Witnessed over=yes #1", second)

	store.Empty()
	store.Restart()
	verdict := record.VerdictKey(site, job.Key{Namespace: "default", Cluster: "orders", ID: orders})
	there := func() bool {
		_, found, err := etcd.Read(t.Context(), p.client, verdict)
		if err != nil {
			t.Log(err)
		}
		return found || err != nil
	}
	eventually(t, "the verdict is in the store again", there)
	w.beat()
	w.leave()
	eventually(t, "the job is forgotten", func() bool { return !there() })
	eventually(t, "a new epoch begins", func() bool {
		id, err := record.DecodeIdentity(read(t, p.client, record.IdentityKey(site)).Value)
		return err == nil && id.Epoch == 2
	})
	second.kill()
	eventually(t, "nobody leads", func() bool {
		_, found, err := etcd.Read(t.Context(), p.client, record.LeaderKey(site))
		return err == nil && !found
	})

	first.wire.set(passes)
	p.reigns(first)
	other := newWitness(t, p.client, "pod-2")
	other.beat()
	other.report("b1b2c3d4a1b2c3d4a1b2c3d4a1b2c3d4", "T1", job.Running)
	eventually(t, "it judges", func() bool {
		_, found, err := etcd.Read(t.Context(), p.client, strings.Replace(verdict, orders, "b1b2c3d4a1b2c3d4a1b2c3d4a1b2c3d4", 1))
		return err == nil && found
	})
	time.Sleep(3 * impatient().Tick) // time to do the wrong thing
	if there() {
		t.Error("a job that was forgotten is back")
	}
}

// etcd takes no writes while a verdict must be written: what is served stays what is stored, the status says why, and it goes on by itself.
func TestEtcdIsOutOfSpace(t *testing.T) {
	t.Parallel()
	p := newPairWith(t, 16<<20, impatient().Retain)
	leader, other := p.leader()
	block, blocks := strings.Repeat("x", 1<<20), 0
	for ; ; blocks++ {
		if _, err := p.client.Put(t.Context(), fmt.Sprintf("block/%d", blocks), block); errors.Is(err, rpctypes.ErrNoSpace) {
			break
		} else if err != nil || blocks > 64 {
			t.Fatalf("block %d: %v", blocks, err)
		}
	}
	before := read(t, p.client, record.VerdictKey(site, job.Key{Namespace: "default", Cluster: "orders", ID: orders}))
	p.witness.die() // which no write can tell
	p.within(bound, "RUNNING Held over=no #1 NoSettler", leader, other)
	eventually(t, "the leader tries to write", func() bool { return strings.Contains(leader.log.String(), "a verdict could not be written") })
	eventually(t, "the leader's status says why", func() bool {
		code, body, err := leader.get("/api/v1/status")
		return err == nil && code == http.StatusOK && bytes.Contains(body, []byte("etcd is out of space"))
	})
	key := record.VerdictKey(site, job.Key{Namespace: "default", Cluster: "orders", ID: orders})
	if now := read(t, p.client, key); now.ModRevision != before.ModRevision {
		t.Errorf("the verdict was written at %d, though there is no space", now.ModRevision)
	}

	deleted, err := p.client.Delete(t.Context(), "block/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.client.Compact(t.Context(), deleted.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	if _, err := p.client.Defragment(t.Context(), p.store.Endpoint()); err != nil {
		t.Fatal(err)
	}
	if _, err := p.client.AlarmDisarm(t.Context(), &clientv3.AlarmMember{}); err != nil {
		t.Fatal(err)
	}
	p.within(bound, "RUNNING Held over=no #1 AgentSilent", leader, other)
	p.witness.beat()
	p.within(bound, "RUNNING Witnessed over=no #1", leader, other)
	eventually(t, "the leader's status is well", func() bool {
		code, body, err := leader.get("/api/v1/status")
		return err == nil && code == http.StatusOK && !bytes.Contains(body, []byte("out of space"))
	})
}

// mode is what a wire does with what comes.
type mode int32

const (
	passes mode = iota
	// drops swallows everything, both ways; connections stay open, and new ones are taken.
	drops
	// resets ends every connection, and each new one.
	resets
	// deaf brings what goes to etcd there, and swallows its answers.
	deaf
)

// wire is a TCP proxy before etcd.
type wire struct {
	net.Listener
	t    *testing.T
	to   string
	mode atomic.Int32

	mu    sync.Mutex
	conns map[*net.TCPConn]net.Conn
	// at is the text that turns the wire into then, before it is brought to etcd; heard is closed then, and late is what has the text.
	at    string
	then  mode
	heard chan struct{}
	late  func()
}

func newWire(t *testing.T, to string) *wire {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{Listener: listener, t: t, to: to, conns: map[*net.TCPConn]net.Conn{}}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			all.Go(func() { w.serve(from.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		w.set(resets)
		all.Wait()
	})
	return w
}

// set changes what becomes of everything from now on. What was swallowed on a connection breaks its streams for good: it is reset when
// the wire passes again.
func (w *wire) set(m mode) {
	was := mode(w.mode.Swap(int32(m)))
	if m != resets && (m != passes || was == passes || was == resets) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for from, to := range w.conns {
		_ = from.SetLinger(0) // which makes it a reset
		from.Close()
		to.Close()
	}
}

// turnAt changes what becomes of everything as soon as a text is to be brought to etcd, from that text on.
func (w *wire) turnAt(text string, then mode) (heard <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at, w.then, w.heard = text, then, make(chan struct{})
	return w.heard
}

// deliver brings to etcd, late, what had the text at which the wire turned, and nothing else.
func (w *wire) deliver() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.late()
}

func (w *wire) serve(from *net.TCPConn) {
	defer from.Close()
	if mode(w.mode.Load()) == resets {
		_ = from.SetLinger(0)
		return
	}
	to, err := net.Dial("unix", w.to)
	if err != nil {
		return
	}
	defer to.Close()
	w.mu.Lock()
	w.conns[from] = to
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.conns, from)
	}()
	var both sync.WaitGroup
	both.Go(func() { w.copy(to, from, true) })
	both.Go(func() { w.copy(from, to, false) })
	both.Wait()
}

func (w *wire) copy(to, from net.Conn, forth bool) {
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		if forth {
			w.listen(to, buffer[:n])
		}
		switch mode(w.mode.Load()) {
		case drops:
			continue
		case deaf:
			if !forth {
				continue
			}
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// listen waits for the text of turnAt.
func (w *wire) listen(to net.Conn, data []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.at != "" && bytes.Contains(data, []byte(w.at)) {
		w.at = ""
		w.mode.Store(int32(w.then))
		data = bytes.Clone(data)
		w.late = func() {
			if _, err := to.Write(data); err != nil {
				w.t.Errorf("what comes late does not come at all: %v", err)
			}
		}
		close(w.heard)
	}
}
