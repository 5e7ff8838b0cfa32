package server

import (
	"container/list"
	"crypto/tls"
	"net"
	"sync"

	"github.com/valyala/fasthttp"
)

// doorman lets in so many connections at a time. When there is no room, the connection that has been idle for the longest is closed; when
// none is idle, the next one waits until one ends. Without that, whoever can reach the port could keep everybody else out with idle
// connections.
type doorman struct {
	room chan struct{}

	mu    sync.Mutex
	idle  *list.List // of *guest, the one that has been idle for the longest first
	where map[*guest]*list.Element
	// waiting says that a connection waits for room, and the next one to be idle goes.
	waiting bool
}

func newDoorman(limit int) *doorman {
	return &doorman{room: make(chan struct{}, limit), idle: list.New(), where: map[*guest]*list.Element{}}
}

// at makes a listener that the doorman stands at.
func (d *doorman) at(ln net.Listener) net.Listener {
	return &door{Listener: ln, doorman: d, closed: make(chan struct{})}
}

// door is a listener.
type door struct {
	net.Listener
	doorman *doorman
	once    sync.Once
	closed  chan struct{}
}

func (d *door) Accept() (net.Conn, error) {
	conn, err := d.Listener.Accept()
	if err != nil {
		return nil, err
	}
	select {
	case d.doorman.room <- struct{}{}:
	default:
		d.doorman.evict()
		select {
		case d.doorman.room <- struct{}{}:
			d.doorman.waits(false)
		case <-d.closed:
			conn.Close()
			return nil, net.ErrClosed
		}
	}
	return &guest{Conn: conn, doorman: d.doorman}, nil
}

func (d *door) Close() error {
	d.once.Do(func() { close(d.closed) })
	return d.Listener.Close()
}

// guest is a connection.
type guest struct {
	net.Conn
	doorman *doorman
	once    sync.Once
}

// Close gives the room back.
func (g *guest) Close() error {
	err := g.Conn.Close()
	g.once.Do(func() {
		g.doorman.forget(g)
		<-g.doorman.room
	})
	return err
}

// heard takes fasthttp's word for what a connection does.
func (d *doorman) heard(conn net.Conn, state fasthttp.ConnState) {
	over, is := conn.(*tls.Conn)
	if !is {
		return
	}
	g, is := over.NetConn().(*guest)
	if !is {
		return
	}
	if state != fasthttp.StateIdle {
		d.forget(g)
		return
	}
	d.mu.Lock()
	goes := d.waiting
	if !goes {
		d.where[g] = d.idle.PushBack(g)
	}
	d.waiting = false
	d.mu.Unlock()
	if goes {
		_ = g.Close()
	}
}

// forget takes a connection that is not idle, or closed, off the list.
func (d *doorman) forget(g *guest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.where[g]; e != nil {
		d.idle.Remove(e)
		delete(d.where, g)
	}
}

// evict closes the connection that has been idle for the longest, or the next one that will be idle. The goroutine that waits for the
// connection's next request sees its end.
func (d *doorman) evict() {
	d.mu.Lock()
	first := d.idle.Front()
	d.waiting = first == nil
	d.mu.Unlock()
	if first != nil {
		_ = first.Value.(*guest).Close()
	}
}

func (d *doorman) waits(yes bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waiting = yes
}
