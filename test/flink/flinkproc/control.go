package flinkproc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
)

// Control is the other end of a ControlledJob's socket. One Control steers one job at a time, over all its restarts:
// a job that restarts connects anew.
type Control struct {
	listener net.Listener

	mu      sync.Mutex
	live    map[net.Conn]struct{}
	ever    int
	changed chan struct{} // closed and replaced when live changes
}

// NewControl listens on a free port of 127.0.0.1.
func NewControl() (*Control, error) { return NewControlOn("127.0.0.1") }

// NewControlOn listens on a free port of another address of this machine, for a job that runs elsewhere.
func NewControlOn(address string) (*Control, error) {
	listener, err := net.Listen("tcp4", net.JoinHostPort(address, "0"))
	if err != nil {
		return nil, fmt.Errorf("listen for a job: %w", err)
	}
	c := &Control{listener: listener, live: map[net.Conn]struct{}{}, changed: make(chan struct{})}
	go c.accept()
	return c, nil
}

// Addr is the host:port that the job reads from: an entry of Job.Sources.
func (c *Control) Addr() string { return c.listener.Addr().String() }

// Connections says how many tasks are connected now, and how many have ever been: one more with each restart.
func (c *Control) Connections() (live, ever int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.live), c.ever
}

// WaitConnected waits until a task is connected.
func (c *Control) WaitConnected(ctx context.Context) error {
	for {
		c.mu.Lock()
		live, changed := len(c.live), c.changed
		c.mu.Unlock()
		if live > 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for a job to connect: %w", ctx.Err())
		}
	}
}

// Boom makes the job's task fail. The job restarts if its strategy lets it, or is FAILED.
func (c *Control) Boom() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.live) == 0 {
		return errNotConnected
	}
	var errs []error
	for conn := range c.live {
		_, err := conn.Write([]byte("boom\n"))
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Finish closes the socket: the job comes to its end, FINISHED.
func (c *Control) Finish() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.live) == 0 {
		return errNotConnected
	}
	c.drop()
	return nil
}

// Close ends the listening, and the job if there is one.
func (c *Control) Close() error {
	err := c.listener.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop()
	return err
}

var errNotConnected = errors.New("no job is connected")

// drop closes all connections. The caller holds mu.
func (c *Control) drop() {
	for conn := range c.live {
		conn.Close()
	}
	clear(c.live)
	c.tell()
}

func (c *Control) accept() {
	for {
		conn, err := c.listener.Accept()
		if err != nil {
			return // closed
		}
		c.mu.Lock()
		c.live[conn] = struct{}{}
		c.ever++
		c.tell()
		c.mu.Unlock()
		go c.watch(conn)
	}
}

// watch notices when the task goes away. It never sends, so a read ends only with the connection.
func (c *Control) watch(conn net.Conn) {
	conn.Read(make([]byte, 1))
	conn.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.live, conn)
	c.tell()
}

// tell wakes those who wait. The caller holds mu.
func (c *Control) tell() {
	close(c.changed)
	c.changed = make(chan struct{})
}
