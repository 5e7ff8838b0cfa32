package machine

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
)

// Ports are taken from below the range that systems give to outgoing connections (from 32768 on Linux), because what
// was killed must find its own port free again when it starts, while everything around it connects somewhere.
const (
	lowestPort  = 20000
	highestPort = 32000
)

// givenPorts are those that this process has handed out, so that two that start at once get different ones.
var givenPorts = struct {
	sync.Mutex
	ports map[int]bool
}{ports: map[int]bool{}}

// FreePort gives a TCP port of 127.0.0.1 that is free now, and that nobody else in this process will get. Other
// processes draw their own at random.
func FreePort() (int, error) {
	givenPorts.Lock()
	defer givenPorts.Unlock()
	for range 1000 {
		port := lowestPort + rand.IntN(highestPort-lowestPort)
		if givenPorts.ports[port] {
			continue
		}
		listener, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		givenPorts.ports[port] = true
		return port, listener.Close()
	}
	return 0, errors.New("there is no free port")
}

// FreePorts fills each of the given variables.
func FreePorts(ports ...*int) (err error) {
	for _, port := range ports {
		if *port, err = FreePort(); err != nil {
			return err
		}
	}
	return nil
}
