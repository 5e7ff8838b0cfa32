package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-dev/holdfast/test/machine"
)

const errNoDevice = syscall.ENODEV

// A box keeps a node apart from the rest of the machine: a network namespace with one wire to the outside, a mount namespace with
// folders of its own where programs insist on a path, and cgroups that tell which processes belong to it. When the last process
// of the box is killed, the kernel takes the namespaces away, and with them every mount, interface and packet filter of the
// node.
type box struct {
	*place
	holder *Process
}

// holderScript makes the private folders and then does nothing: it keeps the namespaces while no other process is in them.
// containerd, runc, CNI and the kubelet have paths below these folders that no option changes.
const holderScript = `set -e
mount --make-rshared /
for dir in /run /var/log /var/lib/cni; do
  mkdir -p $dir
  mount -t tmpfs -o mode=755 tmpfs $dir
done
mkdir /run/lock
exec sleep infinity`

func (p *place) newBox(save func() error) *box {
	b := &box{place: p}
	b.holder = &Process{
		name: "holder",
		log:  p.path("logs", "holder.log"),
		argv: []string{"unshare", "--net", "--mount", "--propagation", "private", "--", "sh", "-c", holderScript},
		save: save,
		launch: func(cmd *exec.Cmd) error {
			return b.launch(cmd)
		},
	}
	return b
}

// open makes the box. Nothing of an earlier one may be left.
func (b *box) open(ctx context.Context) error {
	if err := makeCgroups(b.name); err != nil {
		return err
	}
	if err := b.holder.Start(); err != nil {
		return err
	}
	// The script's exec is the sign that all is mounted.
	err := machine.Poll(ctx, func() (bool, error) {
		if !b.holder.Running() {
			return false, b.holder.ended()
		}
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", b.holder.Pid()))
		return strings.TrimSpace(string(name)) == "sleep", err
	})
	if err != nil {
		return err
	}
	return b.wire(ctx)
}

// wire connects the box with the machine. There is no way further: a pod that asks for an address in the world is told at
// once that there is no route.
func (b *box) wire(ctx context.Context) error {
	const inside = "wire"
	for _, line := range []string{
		fmt.Sprintf("ip link add %s type veth peer name %s netns %d", b.name, inside, b.holder.Pid()),
		fmt.Sprintf("ip address add %s/30 dev %s", b.host, b.name),
		fmt.Sprintf("ip link set %s up", b.name),
	} {
		if err := run(ctx, line); err != nil {
			return err
		}
	}
	for _, line := range []string{
		"ip link set lo up",
		fmt.Sprintf("ip address add %s/30 dev %s", b.node, inside),
		fmt.Sprintf("ip link set %s up", inside),
		// So that the API server reaches services, webhooks for one: kube-proxy sends such packets to a pod only after a way for them
		// was found.
		fmt.Sprintf("ip route add %s dev %s", b.services, inside),
		"sysctl -q -w net.ipv4.ip_forward=1",
	} {
		if err := b.run(ctx, line); err != nil {
			return err
		}
	}
	return run(ctx, fmt.Sprintf("ip route add %s via %s dev %s", b.network, b.node, b.name))
}

func run(ctx context.Context, line string) error {
	words := strings.Fields(line)
	_, err := machine.Run(ctx, nil, words[0], words[1:]...)
	return err
}

// run runs a command inside of the box.
func (b *box) run(ctx context.Context, line string) error {
	words := b.inside(strings.Fields(line)...)
	_, err := machine.Run(ctx, nil, words[0], words[1:]...)
	return err
}

// inside gives the words of a command that runs in the box. nsenter becomes the command, so its pid is the command's.
func (b *box) inside(argv ...string) []string {
	namespaces := fmt.Sprintf("/proc/%d/ns/", b.holder.Pid())
	return append([]string{"nsenter", "--net=" + namespaces + "net", "--mount=" + namespaces + "mnt", "--"}, argv...)
}

// launch starts a command that outlives this process, among the node's processes.
func (b *box) launch(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := joinCgroup(b.name, cmd.Process.Pid); err != nil && !errors.Is(err, syscall.ESRCH) {
		return errors.Join(err, cmd.Process.Kill())
	}
	return nil
}

// demolish kills everything in the box and removes what the kernel does not: cgroups, the folder but for its logs, and kernel
// settings. It needs nothing but the place, so it repairs what a run left that crashed anywhere.
func (p *place) demolish(ctx context.Context) error {
	err := machine.Poll(ctx, func() (bool, error) {
		pids, err := cgroupPids(p.name)
		for _, pid := range pids {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		return len(pids) == 0, err
	})
	if err != nil {
		return fmt.Errorf("kill the processes of %s: %w", p.name, err)
	}
	// A cgroup is busy for a moment after its last process.
	var busy error
	err = machine.Poll(ctx, func() (bool, error) {
		busy = removeCgroups(p.name)
		return busy == nil, nil
	})
	if err != nil {
		return errors.Join(err, busy)
	}
	if err := p.unwire(ctx); err != nil {
		return err
	}
	if err := p.clear(); err != nil {
		return err
	}
	return kubeletSettings.restore()
}

// unwire waits until our end of the wire is gone. The kernel removes it with the network at the other end, which it does
// in its own time.
func (p *place) unwire(ctx context.Context) error {
	patience, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	gone := func() (bool, error) {
		_, err := os.Stat(filepath.Join("/sys/class/net", p.name))
		return errors.Is(err, fs.ErrNotExist), nil
	}
	if machine.Poll(patience, gone) == nil {
		return nil
	}
	if err := run(ctx, "ip link delete "+p.name); err != nil {
		if done, _ := gone(); !done {
			return err
		}
	}
	return nil
}

// clear removes the node's folder but for its logs.
func (p *place) clear() error {
	entries, err := os.ReadDir(p.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, entry := range entries {
		if entry.Name() == "logs" {
			continue
		}
		if err := os.RemoveAll(p.path(entry.Name())); err != nil {
			return err
		}
	}
	return nil
}
