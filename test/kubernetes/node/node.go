// Package node boots a real Kubernetes of one node on this machine, for tests: control plane, kubelet and kube-proxy compiled from
// Kubernetes' own module, containerd and runc from Debian's packages, CoreDNS, and etcd. Pods, services, cluster DNS, volumes,
// admission webhooks and native sidecars are real, and any part can be paused, killed and started again, and any pod cut off. No
// Docker is needed. It wants Linux, root, and Debian or its like.
//
// StartAPIServer is the small sibling, for tests that need a real API server and nothing to run pods: it wants neither root nor
// packages.
//
// A node has a network, mounts and cgroups of its own, and a folder: nothing else of the machine is touched, several can run side by
// side, and what is killed leaves nothing behind. It is not for production, and there is no Flink in it.
package node

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast-dev/holdfast/test/machine"
)

// Options say which node to start, and how.
type Options struct {
	// Number tells nodes of one machine apart, 1 to 9. 0 stands for HOLDFAST_KUBERNETES_NODE, which may be 0, too.
	Number int
	// Keep leaves the node running when this process ends without Stop. The next Start uses it as it is.
	Keep bool
	// Progress gets lines for people while the node starts. It may be nil.
	Progress io.Writer
}

// Node is a running node. Its methods may be called from any goroutine.
type Node struct {
	*place
	box       *box
	tell      machine.Teller
	built     *programs
	processes []*Process
	guardian  *Process // nil for a node that is kept
	unlock    func()

	saving sync.Mutex
	state  state

	mu   sync.Mutex
	cuts []*Cut
}

// stateFile is the file of a node's folder that says that there is a node.
const stateFile = "state.json"

// state is what another process must know to use the node, or to clean up after it. It lies in the node's folder.
type state struct {
	// Boot tells this life of the node from others.
	Boot string `json:"boot"`
	// Kept nodes are left alone when the process that started them is gone.
	Kept bool `json:"kept"`
	// Programs are those that it was booted from.
	Programs programs `json:"programs"`
	// Ready says that the boot came to its end.
	Ready     bool            `json:"ready"`
	Holder    life            `json:"holder"`
	Processes map[string]life `json:"processes"`
	// Images are the files that were imported, with what they were.
	Images map[string]string `json:"images"`
}

// Start boots a node, or takes over one that was kept. It returns when pods can be created. The first call on a machine
// installs Debian packages and compiles for about ten minutes; later ones take about ten seconds. The context bounds
// the start only.
//
// One process at a time uses a node: while another does, Start waits, and says so to Progress. If this process dies without Stop, the
// node is removed, unless it is to be kept.
func Start(ctx context.Context, options Options) (*Node, error) {
	if options.Number == 0 {
		options.Number = -1
	}
	p, err := newPlace(options.Number)
	if err != nil {
		return nil, err
	}
	n := &Node{place: p, tell: machine.NewTeller(options.Progress, p.name+": ")}
	n.box = p.newBox(n.save)
	if err := n.start(ctx, options.Keep); err != nil {
		return nil, fmt.Errorf("start Kubernetes node %s: %w", p.name, err)
	}
	return n, nil
}

func (n *Node) start(ctx context.Context, keep bool) (err error) {
	if err := mayRun(); err != nil {
		return err
	}
	begin := time.Now()
	if n.built, err = prepare(ctx, n.tell); err != nil {
		return err
	}
	if n.unlock, err = n.lock(ctx, n.tell); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			n.unlock()
		}
	}()
	kept, err := n.adopt()
	if err != nil {
		return err
	}
	if !kept {
		if err := n.boot(ctx, keep); err != nil {
			return errors.Join(err, n.remove(context.WithoutCancel(ctx)))
		}
	} else if err := n.heal(ctx); err != nil {
		return fmt.Errorf("mend the node that was kept running: %w", err)
	}
	if err := n.renewVolumes(ctx); err != nil {
		return errors.Join(err, n.stop(context.WithoutCancel(ctx)))
	}
	n.tell.Sayf("ready after %.1f s", time.Since(begin).Seconds())
	return nil
}

func mayRun() error {
	if runtime.GOOS != "linux" {
		return errors.New("it needs Linux")
	}
	if os.Geteuid() != 0 {
		return errors.New("it needs root (for namespaces, cgroups and containers); KUBECONFIG makes the tests use another cluster instead")
	}
	return nil
}

// prepare installs and builds what a node is made of.
func prepare(ctx context.Context, tell machine.Teller) (built *programs, err error) {
	err = machine.Together(ctx,
		func(ctx context.Context) error { return install(ctx, tell) },
		func(ctx context.Context) error { built, err = buildAll(ctx, tell); return err },
	)
	return built, err
}

// The commands and files that are looked for, and the packages that have them.
var packages = map[string]string{
	"containerd": "containerd", "ctr": "containerd", "runc": "runc", "iptables": "iptables", "ip": "iproute2", "sysctl": "procps",
	"unshare": "util-linux", "nsenter": "util-linux", "/usr/lib/cni/ptp": "containernetworking-plugins",
}

func install(ctx context.Context, tell machine.Teller) error {
	lacking := map[string]bool{}
	for file, name := range packages {
		if _, err := exec.LookPath(file); err != nil {
			lacking[name] = true
		}
	}
	if len(lacking) == 0 {
		return nil
	}
	var names []string
	for name := range lacking {
		names = append(names, name)
	}
	err := machine.Install(ctx, tell, names...)
	if errors.Is(err, machine.ErrCannotInstall) {
		return fmt.Errorf("install these first: %s (%w)", strings.Join(names, " "), err)
	}
	return err
}

// lock takes the node for this process.
func (p *place) lock(ctx context.Context, tell machine.Teller) (unlock func(), err error) {
	if err := os.MkdirAll(p.dir, 0o755); err != nil {
		return nil, err
	}
	return machine.Lock(ctx, p.dir+".lock", "using this node (HOLDFAST_KUBERNETES_NODE=1 makes another)", tell)
}

// adopt takes over a node that runs and was meant to. Anything else is left to boot.
func (n *Node) adopt() (kept bool, err error) {
	state, err := n.readState()
	if err != nil || !state.Kept || !state.Ready || !state.Holder.alive() {
		return false, err
	}
	if state.Programs != *n.built {
		return false, errors.New("a node of other sources was left running: end it first (go run ./test/kubernetes/cmd down)")
	}
	n.state = *state
	n.box.holder.life = state.Holder
	n.processes = n.newProcesses(n.built)
	for _, process := range n.processes {
		process.life = state.Processes[process.name]
	}
	n.tell.Sayf("using the node that is running")
	return true, nil
}

func (p *place) readState() (*state, error) {
	text, err := os.ReadFile(p.path(stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return &state{}, nil
	}
	if err != nil {
		return nil, err
	}
	var read state
	if err := json.Unmarshal(text, &read); err != nil {
		return nil, fmt.Errorf("read %s: %w", p.path(stateFile), err)
	}
	return &read, nil
}

// save writes the state down. It is called after each start of a process.
func (n *Node) save() error { return n.change(func(*state) {}) }

// change changes the state and writes it down.
func (n *Node) change(change func(*state)) error {
	n.saving.Lock()
	defer n.saving.Unlock()
	change(&n.state)
	n.state.Holder = n.box.holder.newest()
	n.state.Processes = map[string]life{}
	for _, process := range n.processes {
		n.state.Processes[process.name] = process.newest()
	}
	text, err := json.MarshalIndent(n.state, "", "  ")
	if err != nil {
		return err
	}
	partial := n.path(stateFile + ".partial")
	if err := os.WriteFile(partial, text, 0o644); err != nil {
		return err
	}
	return os.Rename(partial, n.path(stateFile))
}

// boot starts a node from nothing.
func (n *Node) boot(ctx context.Context, keep bool) error {
	left, err := n.readState()
	if err != nil {
		return err
	}
	if left.Boot != "" {
		n.tell.Sayf("removing what an earlier run left")
	}
	if err := errors.Join(n.demolish(ctx), os.RemoveAll(n.path("logs"))); err != nil {
		return err
	}
	if err := n.writeFiles(); err != nil {
		return err
	}
	if err := kubeletSettings.keep(); err != nil {
		return err
	}
	err = n.change(func(s *state) {
		*s = state{Boot: rand.Text(), Kept: keep, Programs: *n.built, Images: map[string]string{}}
	})
	if err != nil {
		return err
	}
	if !keep {
		if err := n.guard(ctx); err != nil {
			return err
		}
	}
	if err := n.box.open(ctx); err != nil {
		return err
	}
	n.processes = n.newProcesses(n.built)
	if err := n.bootControlPlane(ctx); err != nil {
		return err
	}
	if err := n.bootNode(ctx); err != nil {
		return err
	}
	return n.change(func(s *state) { s.Ready = true })
}

// bootControlPlane starts what answers questions, and beside it containerd, which gets the one image that every pod needs.
func (n *Node) bootControlPlane(ctx context.Context) error {
	n.tell.Sayf("starting the control plane")
	for _, name := range []string{"containerd", "etcd", "kube-apiserver"} {
		if err := n.process(name).Start(); err != nil {
			return err
		}
	}
	return machine.Together(ctx,
		func(ctx context.Context) error {
			if err := n.awaitContainerd(ctx); err != nil {
				return err
			}
			return n.importPodtool(ctx)
		},
		n.AwaitAPIServer,
	)
}

// bootNode starts what runs pods, and waits until it does.
func (n *Node) bootNode(ctx context.Context) error {
	n.tell.Sayf("starting the node")
	for _, name := range []string{"kube-controller-manager", "kubelet", "kube-proxy", "coredns", "kube-scheduler"} {
		if err := n.process(name).Start(); err != nil {
			return err
		}
	}
	api, err := n.api()
	if err != nil {
		return err
	}
	if err := n.makeStorageClass(ctx, api); err != nil {
		return err
	}
	return machine.Together(ctx,
		func(ctx context.Context) error { return n.await(ctx, "the node is Ready", api.nodeReady(n.name)) },
		func(ctx context.Context) error {
			return n.await(ctx, "there is a default service account", api.exists("/api/v1/namespaces/default/serviceaccounts/default"))
		},
		func(ctx context.Context) error {
			return n.await(ctx, "CoreDNS is ready", answers(fmt.Sprintf("http://%s:%d/ready", n.node, readyPort)))
		},
	)
}

// AwaitAPIServer waits until the API server is ready, after a Restart for example.
func (n *Node) AwaitAPIServer(ctx context.Context) error {
	api, err := n.api()
	if err != nil {
		return err
	}
	return n.await(ctx, "the API server is ready", api.ready)
}

func (n *Node) awaitContainerd(ctx context.Context) error {
	return n.await(ctx, "containerd answers", func(ctx context.Context) error {
		_, err := n.ctr(ctx, "version")
		return err
	})
}

func (n *Node) await(ctx context.Context, what string, ask func(context.Context) error) error {
	return await(ctx, n.processes, what, ask)
}

// await waits until a question is answered without an error. It fails at once when a process has ended: nobody starts it again.
func await(ctx context.Context, processes []*Process, what string, ask func(context.Context) error) error {
	var last error
	err := machine.Poll(ctx, func() (bool, error) {
		for _, process := range processes {
			if process.Pid() > 0 && !process.Running() {
				return false, process.ended()
			}
		}
		ctx, cancel := context.WithTimeout(ctx, questionTimeout)
		defer cancel()
		last = ask(ctx)
		return last == nil, nil
	})
	if err != nil {
		return errors.Join(fmt.Errorf("wait until %s: %w", what, err), last)
	}
	return nil
}

// guard starts a process that removes the node when this process is dead and has not done so itself: at a timeout of go test, for
// example.
func (n *Node) guard(ctx context.Context) error {
	program := n.path("guard")
	root, err := moduleRoot(ctx)
	if err != nil {
		return err
	}
	if err := goBuild(ctx, root, "-s -w", "-o", program, "./test/kubernetes/node/guard"); err != nil {
		return err
	}
	n.guardian = &Process{
		name: "guard", log: n.path("logs", "guard.log"), argv: []string{program, strconv.Itoa(n.number), n.state.Boot},
		launch: func(cmd *exec.Cmd) error {
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // what happens at our terminal is nothing to it
			return cmd.Start()
		},
		save: n.save,
	}
	return n.guardian.Start()
}

// Guard is what the guard's process does: it waits until nobody uses the node, and removes it if it is still the one of
// that boot.
func Guard(ctx context.Context, number int, boot string) error {
	p, err := newPlace(number)
	if err != nil {
		return err
	}
	unlock, err := p.lock(ctx, machine.Teller{})
	if err != nil {
		return err
	}
	defer unlock()
	state, err := p.readState()
	if err != nil || state.Boot != boot {
		return err
	}
	return p.demolish(ctx)
}

// Stop heals all faults and removes the node, unless it is to be kept. Its logs stay until the next start.
func (n *Node) Stop(ctx context.Context) error {
	if err := n.stop(ctx); err != nil {
		return fmt.Errorf("stop Kubernetes node %s: %w", n.name, err)
	}
	return nil
}

func (n *Node) stop(ctx context.Context) error {
	defer n.unlock()
	if n.state.Kept {
		return n.heal(ctx)
	}
	return n.remove(ctx)
}

func (n *Node) remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := n.demolish(ctx); err != nil || n.guardian == nil {
		return err
	}
	return n.guardian.Kill()
}

// Remove removes the node of that number, kept or left by a run that crashed; a negative number stands for
// HOLDFAST_KUBERNETES_NODE, or 0. It waits while a process uses the node. That there is none is no error.
func Remove(ctx context.Context, number int, progress io.Writer) error {
	p, err := newPlace(number)
	if err != nil {
		return err
	}
	if err := mayRun(); err != nil {
		return err
	}
	unlock, err := p.lock(ctx, machine.NewTeller(progress, p.name+": "))
	if err != nil {
		return err
	}
	defer unlock()
	return p.demolish(ctx)
}

// Release leaves the node running for the next to use, as it is. It is for a node that is kept, instead of Stop.
func (n *Node) Release() { n.unlock() }

// Kept says whether the node will be left running by Stop.
func (n *Node) Kept() bool { return n.state.Kept }

// Name is the name of the node in the cluster, and of what it has on this machine: its network interface and its cgroup.
func (n *Node) Name() string { return n.name }

// Dir is the node's folder; its programs' logs are in logs.
func (n *Node) Dir() string { return n.dir }

// Kubeconfig is the path of the administrator's kubeconfig.
func (n *Node) Kubeconfig() string { return n.kubeconfig() }

// KubeconfigPath is the path that the kubeconfig of the node of that number has when it runs; a negative number stands for
// HOLDFAST_KUBERNETES_NODE, or 0.
func KubeconfigPath(number int) (string, error) {
	p, err := newPlace(number)
	if err != nil {
		return "", err
	}
	return p.kubeconfig(), nil
}

// HostAddress is the address at which pods reach this machine.
func (n *Node) HostAddress() string { return n.host.String() }

// APIServerAddresses are those at which pods reach the API server, with their ports: as a service, and as it is. The cluster's DNS has
// another port of the second address.
func (n *Node) APIServerAddresses() []string {
	return []string{n.kubernetes.String() + ":443", fmt.Sprintf("%s:%d", n.node, apiServerPort)}
}

// Program is the path of one of the programs that the node is made of: kubectl, helm, podtool, etcd, ...
func (n *Node) Program(name string) string {
	switch name {
	case "helm", "coredns":
		return filepath.Join(n.built.Tools, name)
	case "podtool":
		return filepath.Join(n.built.Podtool, name)
	default:
		return filepath.Join(n.built.Kube, name)
	}
}

// Env is what kubectl, helm and ctr need to work with this node: KUBECONFIG, PATH, and where containerd is.
func (n *Node) Env() []string { return n.env(n.built) }

func (p *place) env(built *programs) []string {
	return []string{
		"KUBECONFIG=" + p.kubeconfig(),
		"PATH=" + strings.Join([]string{built.Kube, built.Tools, os.Getenv("PATH")}, string(filepath.ListSeparator)),
		"CONTAINERD_ADDRESS=" + p.containerd(),
		"CONTAINERD_NAMESPACE=" + containerdNamespace,
	}
}

// Env is Node.Env of a node that runs, whoever uses it. The number is that of Remove.
func Env(number int) ([]string, error) {
	p, err := newPlace(number)
	if err != nil {
		return nil, err
	}
	state, err := p.readState()
	if err != nil {
		return nil, err
	}
	if !state.Ready || !state.Holder.alive() {
		return nil, fmt.Errorf("no Kubernetes node %s runs: boot it (go run ./test/kubernetes/cmd up)", p.name)
	}
	return p.env(&state.Programs), nil
}

// APIServer, Etcd and Kubelet are those programs of the node that tests stop and start. Etcd is Kubernetes' own, and no pod sees it.
func (n *Node) APIServer() *Process { return n.process("kube-apiserver") }
func (n *Node) Etcd() *Process      { return n.process("etcd") }
func (n *Node) Kubelet() *Process   { return n.process("kubelet") }

func (n *Node) newProcess(name string, argv []string) *Process {
	return &Process{name: name, log: n.path("logs", name+".log"), argv: argv, launch: n.box.launch, save: n.save}
}

// heal undoes every fault: cuts are healed, what is paused goes on, what was killed is started.
func (n *Node) heal(ctx context.Context) error {
	errs := []error{n.healCuts(ctx)}
	for _, process := range n.processes {
		if process.Running() {
			errs = append(errs, process.Continue())
		} else {
			errs = append(errs, process.Start())
		}
	}
	return errors.Join(append(errs, n.AwaitAPIServer(ctx))...)
}
