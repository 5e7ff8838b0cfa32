//go:build kubernetes

package realkubernetes

import (
	"bufio"
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfast-dev/holdfast/test/kubernetes/node"
	"github.com/holdfast-dev/holdfast/test/kubernetes/rig"
)

// The API server of a node can be silent, and be killed, while pods go on.
func TestAPIServerFaults(t *testing.T) {
	ctx, node := bounded(t), ownNode(t)
	namespace := newNamespace(ctx, t)
	createPod(ctx, t, namespace, "web", corev1.PodSpec{Containers: []corev1.Container{podtool("web", "serve", ":8080")}})
	web := awaitPod(ctx, t, namespace, "web", "ready", rig.Ready)
	ask := func() error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		_, err := cluster.Set.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
		return err
	}
	must(t, ask())

	for _, process := range []*struct {
		name          string
		pause, resume func() error
	}{
		{"the API server", node.APIServer().Pause, node.APIServer().Continue},
		{"its etcd", node.Etcd().Pause, node.Etcd().Continue},
	} {
		must(t, process.pause())
		t.Cleanup(func() { process.resume() }) // harmless if it has been done
		if err := ask(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("while %s is paused, a question to the API server has %v, want no answer", process.name, err)
		}
		// The machine's route to pods needs no API server.
		conn, err := net.DialTimeout("tcp4", net.JoinHostPort(web.Status.PodIP, "8080"), 5*time.Second)
		must(t, err, conn.Close(), process.resume())
		eventually(ctx, t, "an answer after the pause of "+process.name, func() bool { return ask() == nil })
	}

	before := node.APIServer().Pid()
	must(t, node.APIServer().Kill())
	if err := ask(); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a question to a killed API server has %v, want a refusal", err)
	}
	must(t, node.APIServer().Start(), node.AwaitAPIServer(ctx), ask())
	if now := node.APIServer().Pid(); now == before {
		t.Errorf("its process is still %d", now)
	}
	must(t, node.Etcd().Restart(), node.AwaitAPIServer(ctx), ask())
}

// What a paused kubelet does not do, it does when it goes on.
func TestKubeletPaused(t *testing.T) {
	ctx, own := bounded(t), ownNode(t)
	namespace := newNamespace(ctx, t)
	must(t, own.Kubelet().Pause())
	t.Cleanup(func() { must(t, own.Kubelet().Continue()) })
	createPod(ctx, t, namespace, "pod", corev1.PodSpec{Containers: []corev1.Container{podtool("main")}})
	awaitPod(ctx, t, namespace, "pod", "bound to the node", func(pod *corev1.Pod) bool { return pod.Spec.NodeName != "" })
	if _, err := own.Container(ctx, namespace, "pod", "main"); !errors.Is(err, node.ErrNoContainer) {
		t.Errorf("%v, want no container while the kubelet is paused", err)
	}
	must(t, own.Kubelet().Continue())
	awaitPod(ctx, t, namespace, "pod", "ready", rig.Ready)
}

// A container can be killed behind the kubelet's back, and the kernel tells its memory.
func TestContainer(t *testing.T) {
	ctx, node := bounded(t), ownNode(t)
	namespace := newNamespace(ctx, t)
	main := podtool("main")
	main.Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("32Mi")}
	begin := time.Now()
	createPod(ctx, t, namespace, "pod", corev1.PodSpec{Containers: []corev1.Container{main, podtool("other")}})
	awaitPod(ctx, t, namespace, "pod", "ready", rig.Ready)
	container, err := node.Container(ctx, namespace, "pod", "main")
	must(t, err)
	memory, err := container.Memory()
	must(t, err)
	if memory.Limit != 32<<20 || memory.Current == 0 || memory.Current > memory.Limit || memory.Peak < memory.Current ||
		memory.Anonymous == 0 || memory.Anonymous > memory.Current || memory.WorkingSet > memory.Current {
		t.Errorf("memory %+v, want all between 0 and the limit of 32 MiB", memory)
	}
	if cpu, err := container.CPU(); err != nil || cpu <= 0 || cpu > time.Since(begin) {
		t.Errorf("it has been running for %s, %v, and was started %s ago", cpu, err, time.Since(begin))
	}
	other, err := node.Container(ctx, namespace, "pod", "other")
	must(t, err, container.Kill(ctx, "SIGKILL"))
	pod := awaitPod(ctx, t, namespace, "pod", "restarted", func(pod *corev1.Pod) bool {
		return pod.Status.ContainerStatuses[0].RestartCount == 1 && rig.Ready(pod)
	})
	if last := pod.Status.ContainerStatuses[0].LastTerminationState.Terminated; last == nil || last.ExitCode != 137 {
		t.Errorf("the container ended with %+v, want exit code 137", last)
	}
	if container.Running() || !other.Running() {
		t.Errorf("running: the killed one %v, the other %v", container.Running(), other.Running())
	}
}

// A pod that is cut off loses packets, or is told that nobody is there, and only in what was cut. Healed, connections go on.
func TestCut(t *testing.T) {
	ctx := bounded(t)
	ownNode(t)
	namespace := newNamespace(ctx, t)
	createPod(ctx, t, namespace, "pod", corev1.PodSpec{Containers: []corev1.Container{podtool("main")}})
	awaitPod(ctx, t, namespace, "pod", "ready", rig.Ready)
	network, err := cluster.Node.Network(ctx, namespace, "pod")
	must(t, err)

	first, second := hold(ctx, t, network), hold(ctx, t, network)
	first.mustHear(t)
	cut, err := network.Cut(ctx, node.Drop, first.address)
	must(t, err)
	first.mustBeSilent(t)
	second.mustHear(t)
	must(t, cut.Heal(ctx), cut.Heal(ctx))
	first.mustHear(t) // the same connection, by TCP's own retransmission

	// Without peers it is everything; and a heal takes no other cut away.
	all, err := network.Cut(ctx, node.Drop)
	must(t, err)
	cut, err = network.Cut(ctx, node.Drop, first.address)
	must(t, err, all.Heal(ctx))
	first.mustBeSilent(t)
	second.mustHear(t)
	must(t, cut.Heal(ctx))
	first.mustHear(t)

	cut, err = network.Cut(ctx, node.Reset, first.address)
	must(t, err)
	if err := first.end(); !says(err, "connection reset by peer") && !says(err, "broken pipe") {
		t.Errorf("the first connection ended with %v, want a reset", err)
	}
	second.mustHear(t)
	if _, err := network.Run(ctx, podtoolPath(), "hold", first.address); !says(err, "connection refused") {
		t.Errorf("a new connection has %v, want a refusal", err)
	}
	must(t, cut.Heal(ctx))
	hold(ctx, t, network).mustHear(t)

	// An address resets everything that it has, and answers other protocols as unreachable.
	cut, err = network.Cut(ctx, node.Reset, cluster.Node.HostAddress())
	must(t, err)
	if err := second.end(); err == nil {
		t.Error("the second connection lives on though its address is cut off")
	}
	must(t, cut.Heal(ctx))
	hold(ctx, t, network).mustHear(t)
	rules, err := network.Run(ctx, "iptables", "-S")
	must(t, err)
	if strings.Contains(rules, "-A") {
		t.Errorf("healed, and these rules are left:\n%s", rules)
	}
}

func says(err error, words string) bool { return err != nil && strings.Contains(err.Error(), words) }

func podtoolPath() string { return cluster.Node.Program("podtool") }

// held is a connection from a pod's network to this process, over which a byte comes each 50 ms.
type held struct {
	address string
	conn    net.Conn
	bytes   *bufio.Reader
	ended   chan error // how it ended at the pod's end
}

func hold(ctx context.Context, t *testing.T, network *node.Network) *held {
	t.Helper()
	listener, err := net.Listen("tcp4", net.JoinHostPort(cluster.Node.HostAddress(), "0"))
	must(t, err)
	t.Cleanup(func() { listener.Close() })
	h := &held{address: listener.Addr().String(), ended: make(chan error, 1)}
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		_, err := network.Run(ctx, podtoolPath(), "hold", h.address)
		h.ended <- err
	}()
	if h.conn, err = listener.Accept(); err != nil {
		t.Fatal(err)
	}
	h.bytes = bufio.NewReader(h.conn)
	t.Cleanup(func() {
		h.conn.Close()
		cancel()
	})
	return h
}

// mustHear reads all that has come and then one byte more.
func (h *held) mustHear(t *testing.T) {
	t.Helper()
	h.discard(t)
	// TCP's retransmission after a short silence comes within seconds.
	must(t, h.conn.SetReadDeadline(time.Now().Add(20*time.Second)))
	if _, err := h.bytes.ReadByte(); err != nil {
		t.Fatalf("nothing comes from the pod: %v", err)
	}
}

// mustBeSilent wants to hear nothing for ten times as long as it takes to hear something.
func (h *held) mustBeSilent(t *testing.T) {
	t.Helper()
	h.discard(t)
	must(t, h.conn.SetReadDeadline(time.Now().Add(500*time.Millisecond)))
	if _, err := h.bytes.ReadByte(); err == nil {
		t.Fatal("something comes from a pod that is cut off")
	}
}

func (h *held) discard(t *testing.T) {
	t.Helper()
	must(t, h.conn.SetReadDeadline(time.Now().Add(time.Millisecond)))
	for {
		if _, err := h.bytes.ReadByte(); err != nil {
			return
		}
	}
}

// end waits until the connection has ended at the pod's end, and says how.
func (h *held) end() error {
	select {
	case err := <-h.ended:
		return err
	case <-time.After(20 * time.Second):
		return nil
	}
}
