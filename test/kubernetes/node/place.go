package node

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
)

// folders is where nodes keep their state, each in a folder named by its number.
const folders = "/var/lib/holdfast-nodes"

// place is all that tells one node of this machine from another: its names, its folder and its addresses. Each node has
// a network of its own, so ports are the same in all.
type place struct {
	number int
	// name is the name of the node, of its cgroup, and of its network interface on this machine.
	name string
	dir  string
	// network holds all the addresses below, for the one route that leads there.
	network netip.Prefix
	pods    netip.Prefix
	// services begins with the address of the API server as pods see it.
	services   netip.Prefix
	kubernetes netip.Addr
	// host and node are the two ends of the wire between this machine and the node.
	host netip.Addr
	node netip.Addr
}

const (
	apiServerPort = 6443
	kubeletPort   = 10250
	readyPort     = 8181 // of CoreDNS
)

// newPlace lays out the node of that number. A negative number stands for HOLDFAST_KUBERNETES_NODE, or 0.
func newPlace(number int) (*place, error) {
	if text := os.Getenv("HOLDFAST_KUBERNETES_NODE"); number < 0 && text != "" {
		parsed, err := strconv.Atoi(text)
		if err != nil {
			return nil, fmt.Errorf("HOLDFAST_KUBERNETES_NODE is %q, not a number", text)
		}
		number = parsed
	}
	number = max(0, number)
	if number > 9 {
		return nil, errors.New("the number of a node is 0 to 9")
	}
	addr := func(third, fourth byte) netip.Addr {
		return netip.AddrFrom4([4]byte{10, byte(213 + number), third, fourth})
	}
	return &place{
		number:     number,
		name:       fmt.Sprintf("holdfast%d", number),
		dir:        filepath.Join(folders, strconv.Itoa(number)),
		network:    netip.PrefixFrom(addr(0, 0), 16),
		pods:       netip.PrefixFrom(addr(0, 0), 18),
		services:   netip.PrefixFrom(addr(64, 0), 18),
		kubernetes: addr(64, 1),
		host:       addr(255, 1),
		node:       addr(255, 2),
	}, nil
}

func (p *place) path(name ...string) string {
	return filepath.Join(append([]string{p.dir}, name...)...)
}

func (p *place) kubeconfig() string { return p.path("kubeconfig") }

func (p *place) containerd() string { return p.path("containerd.sock") }

func (p *place) apiServer() string { return fmt.Sprintf("https://%s:%d", p.node, apiServerPort) }
