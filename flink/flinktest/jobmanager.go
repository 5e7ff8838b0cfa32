// Package flinktest is a JobManager to test against: it speaks Flink's REST API over a real port, says what the test tells
// it to, and can misbehave in every way that a JobManager, or whatever else listens on its port, is known to.
//
// Paths, fields and error bodies are those of Flink 1.20 and 2.3. It runs no jobs and has no caches: Flink's answer to
// /jobs/ID may be 3 s old, this one's never is.
package flinktest

import (
	"crypto/rand"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-dev/holdfast/job"
)

// TB is the part of testing.TB that New needs.
type TB interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
}

// Job is one job of a JobManager.
type Job struct {
	// ID is 32 hexadecimal digits; NewID makes one.
	ID    string
	Name  string
	State job.State
	// Start is when the JobMaster began with the job, End when the job became terminal. SetJob fills zero values in.
	Start, End, Modified time.Time
	// Tasks of zero are one task that goes with State.
	Tasks job.Tasks
	// Stack is the stack trace of the job's failure, as Java prints it; "" for none.
	Stack string
}

// Change is one change of a job's state.
type Change struct {
	ID    string
	State job.State // Unknown if the job was removed
	At    time.Time
}

const maxChanges = 1 << 16

// JobManager is the server. Its methods are safe for concurrent use.
type JobManager struct {
	address string
	closed  chan struct{} // ends what hangs

	connections atomic.Int64

	mu          sync.Mutex
	server      *http.Server // nil while nothing listens
	listening   *sniffer
	served      sync.WaitGroup
	secure      *identity // nil without TLS
	version     version
	incarnation string
	settings    map[string]string
	standby     bool
	leader      *JobManager
	jobs        map[string]*entry
	order       []string // ids as they came
	overview    []byte   // rendered; nil if it must be again
	rules       []rule
	requests    map[string]int
	changes     []Change
}

type entry struct {
	Job
	hidden bool
}

// New starts a JobManager of Flink 1.20.1 without jobs on a free port of 127.0.0.1, and closes it when the test ends.
func New(tb TB) *JobManager {
	tb.Helper()
	jm, err := Start("127.0.0.1:0")
	if err != nil {
		tb.Fatalf("start a scripted JobManager: %v", err)
		return nil
	}
	tb.Cleanup(jm.Close)
	return jm
}

// Start starts a JobManager outside of a test, on "host:port"; port 0 takes a free one. Close ends it.
func Start(address string) (*JobManager, error) {
	jm := &JobManager{
		address:     address,
		closed:      make(chan struct{}),
		version:     version{1, 20, "1.20.1"},
		incarnation: newUUID(),
		settings:    map[string]string{},
		jobs:        map[string]*entry{},
		requests:    map[string]int{},
	}
	jm.mu.Lock()
	defer jm.mu.Unlock()
	if err := jm.open(); err != nil {
		return nil, err
	}
	return jm, nil
}

// Close ends the server, its connections and all that hangs. It may be called twice.
func (jm *JobManager) Close() {
	jm.mu.Lock()
	select {
	case <-jm.closed:
	default:
		close(jm.closed)
	}
	jm.shut()
	jm.mu.Unlock()
	jm.served.Wait()
}

// open listens, on the port of the first time if there was one. If somebody else has taken that port for more than
// 200 ms, it stays closed. The caller holds mu.
func (jm *JobManager) open() error {
	if jm.server != nil {
		return nil
	}
	listener, err := net.Listen("tcp", jm.address)
	for try := 0; err != nil && try < 20; try++ {
		// Somebody's outgoing connection may have the port for a moment.
		time.Sleep(10 * time.Millisecond)
		listener, err = net.Listen("tcp", jm.address)
	}
	if err != nil {
		return fmt.Errorf("listen again: %w", err)
	}
	jm.address = listener.Addr().String()
	port := &sniffer{Listener: listener, identity: jm.secure, accepted: &jm.connections, open: map[*sniffed]struct{}{}}
	server := &http.Server{Handler: http.HandlerFunc(jm.serve), ConnContext: withConn, ErrorLog: silence()}
	jm.server, jm.listening = server, port
	jm.served.Go(func() { _ = server.Serve(port) })
	return nil
}

// shut stops listening and breaks all connections. The caller holds mu.
func (jm *JobManager) shut() {
	if jm.server != nil {
		jm.listening.breakAll() // first: a server that has not begun to serve would leave the port open
		_ = jm.server.Close()
		jm.server, jm.listening = nil, nil
	}
}

// URL is the address of the API: "http://127.0.0.1:8081", with https after EnableTLS.
func (jm *JobManager) URL() string {
	jm.mu.Lock()
	defer jm.mu.Unlock()
	if jm.secure != nil {
		return "https://" + jm.address
	}
	return "http://" + jm.address
}

// HostPort is where the server listens.
func (jm *JobManager) HostPort() (host string, port int) {
	jm.mu.Lock()
	defer jm.mu.Unlock()
	address, err := net.ResolveTCPAddr("tcp", jm.address)
	if err != nil {
		return "", 0
	}
	return address.IP.String(), address.Port
}

// SetJob adds a job or replaces it.
func (jm *JobManager) SetJob(j Job) {
	now := time.Now()
	if j.Start.IsZero() {
		j.Start = now
	}
	if j.Modified.IsZero() {
		j.Modified = now
	}
	if j.End.IsZero() && j.State.Terminal() {
		j.End = now
	}
	jm.mu.Lock()
	defer jm.mu.Unlock()
	if old, ok := jm.jobs[j.ID]; ok {
		old.Job = j
	} else {
		jm.jobs[j.ID] = &entry{Job: j}
		jm.order = append(jm.order, j.ID)
	}
	jm.changed(j.ID, j.State, now)
}

// SetState changes a job's state and gives the moment of the change: from then on every answer has it. It is zero, and
// nothing is changed, for a job that is not there.
func (jm *JobManager) SetState(id string, state job.State) time.Time {
	jm.mu.Lock()
	defer jm.mu.Unlock()
	e, ok := jm.jobs[id]
	if !ok {
		return time.Time{}
	}
	now := time.Now()
	e.State, e.Modified, e.End = state, now, time.Time{}
	if state.Terminal() {
		e.End = now
	}
	jm.changed(id, state, now)
	return now
}

// Remove makes the JobManager forget a job, as it forgets ended ones after jobstore.expiration-time.
func (jm *JobManager) Remove(id string) {
	jm.mu.Lock()
	defer jm.mu.Unlock()
	if _, ok := jm.jobs[id]; !ok {
		return
	}
	delete(jm.jobs, id)
	jm.order = slices.DeleteFunc(jm.order, func(other string) bool { return other == id })
	jm.changed(id, job.Unknown, time.Now())
}

// Hide leaves a job out of /jobs/overview, as Flink does while the job's JobMaster is slow (FLINK-40602); its status is
// still answered. Show ends it.
func (jm *JobManager) Hide(id string) { jm.hide(id, true) }

// Show lists a hidden job again.
func (jm *JobManager) Show(id string) { jm.hide(id, false) }

func (jm *JobManager) hide(id string, hidden bool) {
	jm.mu.Lock()
	defer jm.mu.Unlock()
	if e, ok := jm.jobs[id]; ok {
		e.hidden = hidden
		jm.overview = nil
	}
}

// Restart is a new life of the process: another incarnation, no connections, and no jobs but those to keep, as high
// availability keeps them: a kept job that is not terminal begins anew, INITIALIZING, with a new start-time.
func (jm *JobManager) Restart(keep ...string) {
	jm.mu.Lock()
	defer jm.mu.Unlock()
	jm.incarnation = newUUID()
	now := time.Now()
	for _, id := range slices.Clone(jm.order) {
		e := jm.jobs[id]
		switch {
		case !slices.Contains(keep, id):
			delete(jm.jobs, id)
			jm.changed(id, job.Unknown, now)
		case !e.State.Terminal():
			// A start-time in the same millisecond would not be a new one.
			e.Start = latest(now, e.Start.Add(time.Millisecond))
			e.State, e.Modified, e.hidden = job.Initializing, now, false
			jm.changed(id, e.State, now)
		}
	}
	jm.order = slices.DeleteFunc(jm.order, func(id string) bool { return jm.jobs[id] == nil })
	if jm.server != nil {
		jm.shut()
		_ = jm.open()
	}
}

// changed notes a change and drops the rendered overview. The caller holds mu.
func (jm *JobManager) changed(id string, state job.State, at time.Time) {
	jm.overview = nil
	if len(jm.changes) == maxChanges {
		jm.changes = slices.Delete(jm.changes, 0, maxChanges/2)
	}
	jm.changes = append(jm.changes, Change{ID: id, State: state, At: at})
}

// Changes are the changes of state so far, the oldest first; beyond 65536 the older half is dropped.
func (jm *JobManager) Changes() []Change {
	jm.mu.Lock()
	defer jm.mu.Unlock()
	return slices.Clone(jm.changes)
}

// SetHA configures high availability, or none, as Flink 1.17 and later spell it.
func (jm *JobManager) SetHA(on bool) {
	if on {
		jm.SetConfig("high-availability.type", "kubernetes")
	} else {
		jm.SetConfig("high-availability.type", "")
	}
}

// SetConfig sets a key of /jobmanager/config; "" removes it.
func (jm *JobManager) SetConfig(key, value string) {
	jm.mu.Lock()
	defer jm.mu.Unlock()
	if value == "" {
		delete(jm.settings, key)
	} else {
		jm.settings[key] = value
	}
}

// SetVersion changes the release that the answers are shaped like: "1.20.1", "2.3.0".
func (jm *JobManager) SetVersion(text string) {
	jm.mu.Lock()
	defer jm.mu.Unlock()
	jm.version = parseVersion(text)
	jm.overview = nil
}

// SetStandby makes this a standby, which answers about itself and proxies the leader's jobs; with a nil leader it knows
// none and answers 503, to everything, as Flink does.
func (jm *JobManager) SetStandby(leader *JobManager) {
	jm.mu.Lock()
	defer jm.mu.Unlock()
	if leader == jm {
		leader = nil
	}
	jm.standby, jm.leader = true, leader
}

// Incarnation is the UUID of this life of the process.
func (jm *JobManager) Incarnation() string {
	jm.mu.Lock()
	defer jm.mu.Unlock()
	return jm.incarnation
}

// Requests counts the requests per path so far, those that were badly answered too.
func (jm *JobManager) Requests() map[string]int {
	jm.mu.Lock()
	defer jm.mu.Unlock()
	return maps.Clone(jm.requests)
}

// Connections counts the connections that were accepted so far.
func (jm *JobManager) Connections() int { return int(jm.connections.Load()) }

// NewID makes a job id that nobody has.
func NewID() string { return strings.ReplaceAll(newUUID(), "-", "") }

func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
