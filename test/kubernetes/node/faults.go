package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-dev/holdfast/test/machine"
)

// Network is the network of one pod.
type Network struct {
	node    *Node
	sandbox *Container
}

// Network gives a pod's own network. The error is ErrNoContainer if the pod does not run; a pod of the host's network has none of its
// own, and the error says so.
func (n *Node) Network(ctx context.Context, namespace, pod string) (*Network, error) {
	sandbox, err := n.sandbox(ctx, namespace, pod)
	if err != nil {
		return nil, err
	}
	theirs, err := networkOf(sandbox.Pid)
	if err != nil {
		return nil, err
	}
	nodes, err := networkOf(n.box.holder.Pid())
	if err != nil {
		return nil, err
	}
	if theirs == nodes {
		return nil, fmt.Errorf("pod %s/%s has the node's network and none of its own", namespace, pod)
	}
	return &Network{n, sandbox}, nil
}

// Run runs a command of this machine in the pod's network.
func (w *Network) Run(ctx context.Context, name string, args ...string) (string, error) {
	return machine.Run(ctx, nil, "nsenter", append([]string{fmt.Sprintf("--net=/proc/%d/ns/net", w.sandbox.Pid), "--", name}, args...)...)
}

// What Reach finds where no connection comes about.
var (
	ErrNoAnswer = errors.New("no answer")
	ErrRefused  = errors.New("connection refused")
)

// answerTimeout is how long Reach waits. On one machine an answer takes less than a millisecond, and a packet that is lost is sent again
// after a second.
const answerTimeout = 2500 * time.Millisecond

// Reach tries to connect from the pod's network to a server, address:port. The error is ErrNoAnswer or ErrRefused if that is how it
// ended, and any other if it could not be tried.
func (w *Network) Reach(ctx context.Context, server string) error {
	to, err := netip.ParseAddrPort(server)
	if err != nil {
		return err
	}
	try, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	_, err = w.Run(try, "env", "LC_ALL=C", "bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/%s/%d", to.Addr(), to.Port()))
	switch {
	case err != nil && try.Err() != nil && ctx.Err() == nil:
		return fmt.Errorf("connect to %s: %w within %s", server, ErrNoAnswer, answerTimeout)
	case err != nil && strings.Contains(err.Error(), "Connection refused"):
		return fmt.Errorf("connect to %s: %w", server, ErrRefused)
	}
	return err
}

// Lost is how many packets all that is cut of the pod has taken so far. What was healed is not counted any more.
func (w *Network) Lost(ctx context.Context) (packets int, err error) {
	printed, err := w.Run(ctx, "iptables-save", "-c", "-t", "filter")
	if err != nil {
		return 0, err
	}
	return lost(printed)
}

// lost adds up what iptables-save counts: "[PACKETS:BYTES] -A CHAIN ... -j VERDICT".
func lost(saved string) (packets int, err error) {
	for line := range strings.Lines(saved) {
		if !strings.HasPrefix(line, "[") || !strings.Contains(line, " -A ") {
			continue
		}
		count, _, _ := strings.Cut(line[1:], ":")
		n, err := strconv.Atoi(count)
		if err != nil {
			return 0, fmt.Errorf("a rule of iptables-save has no count: %q", line)
		}
		packets += n
	}
	return packets, nil
}

// networkOf identifies the network namespace of a process.
func networkOf(pid int) (string, error) { return os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid)) }

// How packets come to grief.
type How string

const (
	// Drop loses them without a word: connections hang until somebody gives up.
	Drop How = "DROP"
	// Reset answers for the peer: TCP connections are reset at the next packet, new ones are refused, all else is unreachable.
	Reset How = "REJECT"
)

// Cut is a fault in a pod's network, until it is healed.
type Cut struct {
	network *Network
	rules   [][]string // without the command, -I or -D

	mu     sync.Mutex
	healed bool
}

// Cut cuts the pod off from peers, both ways: addresses, or address:port of servers that the pod is a client of, or networks in CIDR
// notation; or :port for all clients of a server in the pod, whose other ports go on. Without peers it is cut off from everything but itself. A service is a peer of its own beside its pods. Stop heals
// what is still cut.
func (w *Network) Cut(ctx context.Context, how How, peers ...string) (*Cut, error) {
	rules, err := cutRules(how, peers)
	if err != nil {
		return nil, err
	}
	cut := &Cut{network: w, rules: rules}
	for i, rule := range rules {
		if _, err := w.Run(ctx, "iptables", slices.Concat([]string{"-w", "-I"}, rule)...); err != nil {
			cut.rules = rules[:i]
			return nil, errors.Join(err, cut.Heal(context.WithoutCancel(ctx)))
		}
	}
	w.node.mu.Lock()
	defer w.node.mu.Unlock()
	w.node.cuts = append(w.node.cuts, cut)
	return cut, nil
}

// cutRules gives what follows iptables -I to cut peers off, and iptables -D to heal.
func cutRules(how How, peers []string) (rules [][]string, err error) {
	matches := []match{{}} // everything
	if len(peers) > 0 {
		matches = nil
	}
	for _, peer := range peers {
		m, err := matchPeer(peer)
		if err != nil {
			return nil, err
		}
		matches = append(matches, m)
	}
	for _, m := range matches {
		for _, verdict := range how.verdicts(m.tcp) {
			// What the kernel answers in a peer's name comes to the pod by its own loopback, and must be let in.
			rules = append(rules,
				slices.Concat([]string{"OUTPUT", "!", "-o", "lo"}, m.out, verdict),
				slices.Concat([]string{"INPUT", "!", "-i", "lo"}, m.in, verdict))
		}
	}
	return rules, nil
}

// match says which packets are meant: those that go out and those that come in.
type match struct {
	out, in []string
	tcp     bool // only TCP
}

func matchPeer(peer string) (match, error) {
	if at, err := netip.ParseAddrPort(peer); err == nil && at.Addr().Is4() {
		addr, port := at.Addr().String(), strconv.Itoa(int(at.Port()))
		return match{[]string{"-d", addr, "-p", "tcp", "--dport", port}, []string{"-s", addr, "-p", "tcp", "--sport", port}, true}, nil
	}
	if port, is := strings.CutPrefix(peer, ":"); is {
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return match{}, fmt.Errorf("%q is no port: %w", peer, err)
		}
		return match{[]string{"-p", "tcp", "--sport", port}, []string{"-p", "tcp", "--dport", port}, true}, nil
	}
	addr, err := netip.ParseAddr(peer)
	if err != nil {
		network, err := netip.ParsePrefix(peer)
		if err != nil {
			return match{}, fmt.Errorf("%q is no address, address:port, :port or network", peer)
		}
		addr = network.Addr()
	}
	if !addr.Is4() {
		return match{}, fmt.Errorf("%q is not of IPv4, and the node has nothing else", peer)
	}
	return match{out: []string{"-d", peer}, in: []string{"-s", peer}}, nil
}

// verdicts are what happens to a packet. A rule that is inserted stands before those that were: the special one is last.
func (how How) verdicts(tcp bool) [][]string {
	reset := []string{"-j", "REJECT", "--reject-with", "tcp-reset"}
	switch {
	case how == Drop:
		return [][]string{{"-j", "DROP"}}
	case tcp:
		return [][]string{reset}
	default:
		return [][]string{{"-j", "REJECT"}, append([]string{"-p", "tcp"}, reset...)}
	}
}

// Heal undoes the cut. That it is healed already, or that the pod is gone, is no error.
func (c *Cut) Heal(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.healed {
		return nil
	}
	var errs []error
	for _, rule := range slices.Backward(c.rules) {
		if _, err := c.network.Run(ctx, "iptables", slices.Concat([]string{"-w", "-D"}, rule)...); err != nil && c.network.sandbox.Running() {
			errs = append(errs, err)
		}
	}
	c.healed = len(errs) == 0
	return errors.Join(errs...)
}

func (n *Node) healCuts(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var errs []error
	for _, cut := range n.cuts {
		errs = append(errs, cut.Heal(ctx))
	}
	n.cuts = nil
	return errors.Join(errs...)
}
