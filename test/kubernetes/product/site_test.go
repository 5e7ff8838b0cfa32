//go:build kubernetes

package product

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfast-dev/holdfast/test/kubernetes/rig"
	"github.com/holdfast-dev/holdfast/test/machine"
)

// home is the namespace that the Holdfast of all tests is installed in.
const home = "holdfast"

// site is a cluster with a Holdfast installed.
type site struct {
	*rig.Rig
	namespace, release string

	mu       sync.Mutex
	forwards map[string]*forward // by pod
	last     []corev1.Pod        // of the aggregator, as the API server last told

	// whole is held for reading by tests that wait for what a whole Holdfast says within seconds, and for writing by one that takes all
	// replicas away: until the dead leader's lease has run out, nobody settles anything.
	whole sync.RWMutex
}

func newSite(namespace, release string) *site {
	return &site{Rig: cluster, namespace: namespace, release: release, forwards: map[string]*forward{}}
}

// replica is one pod of the aggregator, reached at its own address where this machine has a way there, and else through the kubelet: whatever a test
// cuts of the pod's network, this stays.
type replica struct{ pod, url string }

// apiPort is where the chart's aggregator listens.
const apiPort = 7070

// replicas gives all pods of the aggregator that run. Those that cannot be reached are left out. While the API server is silent they are those
// of before.
func (s *site) replicas(ctx context.Context) []replica {
	pods, err := s.aggregators(ctx)
	s.mu.Lock()
	if err == nil {
		s.last = pods
	}
	pods = s.last
	s.mu.Unlock()
	var all []replica
	for _, pod := range pods {
		if s.Direct {
			all = append(all, replica{pod.Name, fmt.Sprintf("http://%s:%d", pod.Status.PodIP, apiPort)})
		} else if f, err := s.forward(ctx, pod.Name); err == nil {
			all = append(all, replica{pod.Name, "http://127.0.0.1:" + f.port})
		}
	}
	return all
}

// aggregators are the aggregator's pods that run.
func (s *site) aggregators(ctx context.Context) ([]corev1.Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	list, err := s.Set.CoreV1().Pods(s.namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=aggregator"})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list.Items, func(pod corev1.Pod) bool {
		return pod.DeletionTimestamp != nil || pod.Status.Phase != corev1.PodRunning
	}), nil
}

// leader waits until a replica says that somebody leads who is not the given one, and gives who it is and since when.
func (s *site) leader(t *testing.T, not string) (is string) {
	t.Helper()
	eventually(t, 30*time.Second, "somebody leads", func(ctx context.Context) error {
		err := errors.New("there is no replica of the aggregator")
		for _, r := range s.replicas(ctx) {
			var status struct {
				Leader struct {
					Leads       bool
					Name, Since string
				}
			}
			if err = r.ask(ctx, "/api/v1/status", &status); err != nil {
				continue
			}
			is = status.Leader.Name + " since " + status.Leader.Since
			if status.Leader.Leads && is != not {
				return nil
			}
			err = fmt.Errorf("%s says that %s leads: %t", r.pod, is, status.Leader.Leads)
		}
		return err
	})
	return is
}

// forward is a port of a pod on this machine.
type forward struct {
	cmd *exec.Cmd

	ready chan struct{} // closed when port is known or the forward has ended
	ended chan struct{}
	port  string
}

var forwarding = regexp.MustCompile(`Forwarding from 127\.0\.0\.1:(\d+)`)

func (s *site) forward(ctx context.Context, pod string) (*forward, error) {
	s.mu.Lock()
	r := s.forwards[pod]
	if r != nil {
		select {
		case <-r.ended:
			r = nil
		default:
		}
	}
	if r == nil {
		var err error
		if r, err = s.startForward(pod, strconv.Itoa(apiPort)); err != nil {
			s.mu.Unlock()
			return nil, err
		}
		s.forwards[pod] = r
	}
	s.mu.Unlock()
	select {
	case <-r.ready:
	case <-time.After(5 * time.Second):
		return nil, fmt.Errorf("forward a port to pod %s: it does not begin", pod)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if r.port == "" {
		return nil, fmt.Errorf("forward a port to pod %s: it ended", pod)
	}
	return r, nil
}

func (s *site) startForward(pod, port string) (*forward, error) {
	cmd := exec.Command(s.Program("kubectl"), "-n", s.namespace, "port-forward", "pod/"+pod, ":"+port)
	cmd.Env = append(os.Environ(), s.Env()...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := machine.Start(cmd); err != nil {
		return nil, err
	}
	r := &forward{cmd: cmd, ready: make(chan struct{}), ended: make(chan struct{})}
	go func() {
		told := false
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if m := forwarding.FindStringSubmatch(lines.Text()); m != nil && !told {
				r.port, told = m[1], true
				close(r.ready)
			}
		}
		cmd.Wait()
		if !told {
			close(r.ready)
		}
		close(r.ended)
	}()
	return r, nil
}

// end ends the forward.
func (r *forward) end() {
	select {
	case <-r.ended:
	default:
		r.cmd.Process.Signal(syscall.SIGTERM)
		<-r.ended
	}
}

// close ends the forwards.
func (s *site) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.forwards {
		r.end()
	}
}

// eventually asks twice a second until there is no error.
func eventually(t *testing.T, limit time.Duration, what string, ask func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	var last error
	for {
		err := ask(ctx)
		if err == nil {
			return
		}
		if !errors.Is(err, context.DeadlineExceeded) || last == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within %s: %v", what, limit, last)
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
