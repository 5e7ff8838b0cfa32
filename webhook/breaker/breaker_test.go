package breaker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// world is a Kubernetes, and the breakers of some replicas that watch it.
type world struct {
	t        *testing.T
	client   *fake.Clientset
	registry []*prometheus.Registry
	replicas []*Breaker
	log      output
}

// output is what is written while somebody reads it.
type output struct {
	mu   sync.Mutex
	text strings.Builder
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// inWorld plays within a bubble of time.
func inWorld(t *testing.T, replicas int, o Options, play func(*world), pods ...*corev1.Pod) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, client: fake.NewClientset()}
		for _, p := range pods {
			w.add(p)
		}
		ctx, stop := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for range replicas {
			o.Client, o.Selector, o.Agent, o.Log = w.client, "holdfast.dev/injected=true", identity, slog.New(slog.NewTextHandler(&w.log, nil))
			registry := prometheus.NewPedanticRegistry()
			o.Registry = registry
			b, err := New(o)
			if err != nil {
				t.Fatal(err)
			}
			w.replicas, w.registry = append(w.replicas, b), append(w.registry, registry)
			all.Go(func() { b.Run(ctx) })
		}
		synctest.Wait()
		play(w)
		stop()
		all.Wait()
	})
}

func (w *world) add(pod *corev1.Pod) {
	w.t.Helper()
	if _, err := w.client.CoreV1().Pods(pod.Namespace).Create(context.Background(), pod, metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
	w.settle()
}

func (w *world) change(pod *corev1.Pod) {
	w.t.Helper()
	if _, err := w.client.CoreV1().Pods(pod.Namespace).Update(context.Background(), pod, metav1.UpdateOptions{}); err != nil {
		w.t.Fatal(err)
	}
	w.settle()
}

func (w *world) remove(name string) {
	w.t.Helper()
	if err := w.client.CoreV1().Pods("team-a").Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
		w.t.Fatal(err)
	}
	w.settle()
}

// settle lets everybody hear of what happened.
func (w *world) settle() {
	if len(w.replicas) > 0 {
		synctest.Wait()
	}
}

func (w *world) injects(want bool, when string) {
	w.t.Helper()
	for i, b := range w.replicas {
		if got := b.Ask(false).Inject; got != want {
			w.t.Errorf("%s: replica %d injects %t, want %t", when, i, got, want)
		}
	}
}

var stuck, runs = says(waiting("ErrImagePull")), says(running(yes()))

func TestWatchesInjectedPods(t *testing.T) {
	inWorld(t, 2, Options{}, func(w *world) {
		w.injects(true, "at first")
		if got := w.replicas[0].Ask(true); !got.Known {
			t.Error("the watch cannot tell")
		}
		w.add(podOf("one", notYet))
		w.injects(true, "with a pod that is being made")
		w.change(podOf("one", notYet, stuck))
		w.injects(false, "with a pod that is stuck")

		status := w.replicas[0].Status()
		for _, want := range []string{"open since ", "no agents are injected; one is tried from ", "; stuck: team-a/one (ErrImagePull)"} {
			if !strings.Contains(status.String(), want) {
				t.Errorf("the status has no %q: %s", want, status)
			}
		}
		w.metrics("holdfast_webhook_stuck_pods 1", `holdfast_webhook_breaker_state{state="open"} 1`, `holdfast_webhook_breaker_state{state="closed"} 0`,
			"holdfast_webhook_injected_pods 1", "holdfast_webhook_breaker_watch_up 1", "holdfast_webhook_breaker_openings_total 1")

		w.change(podOf("one", notYet, says(waiting("ImagePullBackOff"))))
		w.change(podOf("one", goesOn, runs))
		w.injects(true, "when it started after all")
		w.remove("one")
		w.metrics("holdfast_webhook_stuck_pods 0", "holdfast_webhook_injected_pods 0", `holdfast_webhook_breaker_state{state="closed"} 1`)
	})
}

func (w *world) metrics(lines ...string) {
	w.t.Helper()
	for i, registry := range w.registry {
		var all strings.Builder
		families, err := registry.Gather()
		if err != nil {
			w.t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.Metric {
				all.WriteString(f.GetName())
				for _, l := range m.Label {
					fmt.Fprintf(&all, "{%s=%q}", l.GetName(), l.GetValue())
				}
				fmt.Fprintf(&all, " %v\n", m.GetGauge().GetValue()+m.GetCounter().GetValue())
			}
		}
		for _, line := range lines {
			if !strings.Contains(all.String(), line+"\n") {
				w.t.Errorf("replica %d: no %q in\n%s", i, line, all.String())
			}
		}
	}
}

// Without a leader: each replica lets one pod through at most, and none when another's was seen.
func TestReplicasTryOnePod(t *testing.T) {
	inWorld(t, 2, Options{}, func(w *world) {
		w.add(podOf("one", notYet, stuck))
		time.Sleep(2 * time.Minute)
		if !w.replicas[0].Ask(true).Inject {
			t.Fatal("there is no try")
		}
		if !w.replicas[1].Ask(true).Inject {
			t.Error("the bound is one pod a replica, while the first try is not seen")
		}
		for i, b := range w.replicas {
			if b.Ask(true).Inject {
				t.Errorf("replica %d makes a second try", i)
			}
		}
		w.add(podOf("try", notYet))
		time.Sleep(31 * time.Second)
		w.injects(false, "when a try is seen")
		w.change(podOf("try", notYet, stuck))
		time.Sleep(4*time.Minute - time.Second)
		w.injects(false, "when the try failed")
		time.Sleep(time.Second)
		if !w.replicas[1].Ask(true).Inject {
			t.Fatal("there is no second try")
		}
		w.add(podOf("another", notYet))
		w.injects(false, "when the other replica's try is seen")
		w.change(podOf("another", goesOn, runs))
		w.injects(true, "after it")
	})
}

// A replica that starts finds what others know.
func TestStartsOpenWithStuckPods(t *testing.T) {
	inWorld(t, 1, Options{}, func(w *world) {
		w.injects(false, "with a stuck pod")
		if got := w.replicas[0].Status().Stuck; len(got) != 1 || got[0].Name != "one" {
			t.Errorf("stuck: %+v", got)
		}
	}, podOf("one", notYet, stuck), podOf("well", goesOn, runs))
}

func TestEarlierImagesSayNothing(t *testing.T) {
	inWorld(t, 1, Options{}, func(w *world) {
		w.injects(true, "with a stuck pod of an earlier image")
		w.add(podOf("two", stuck, func(p *corev1.Pod) { p.Spec.InitContainers[0].Image = "holdfast:0" }))
		w.injects(true, "with another one")
		w.add(podOf("three", stuck))
		w.injects(false, "with one of the image that is injected")
		w.metrics("holdfast_webhook_stuck_pods 1")
	}, podOf("one", stuck, func(p *corev1.Pod) { p.Spec.InitContainers[0].Image = "holdfast:0" }))
}

// A pod without the label is not ours, whatever it contains.
func TestOnlyInjectedPodsAreWatched(t *testing.T) {
	unlabelled := func(p *corev1.Pod) { p.Labels = nil }
	inWorld(t, 1, Options{}, func(w *world) {
		w.injects(true, "with a pod that is not ours")
	}, podOf("one", stuck, unlabelled))
}

func TestBrokenWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset(podOf("one", notYet, stuck))
		var broken atomic.Bool
		broken.Store(true)
		client.PrependReactor("list", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
			return broken.Load(), nil, errors.New("no answer")
		})
		var log output
		b, err := New(Options{Client: client, Selector: "holdfast.dev/injected=true", Agent: identity, Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() { b.Run(ctx) })
		time.Sleep(3 * time.Minute)
		if got := b.Ask(true); !got.Inject || got.Known {
			t.Errorf("with a watch that never began: %+v", got)
		}
		if text := b.Status().String(); text != "closed; the watch cannot tell: no answer" {
			t.Errorf("the status is %q", text)
		}
		if n := strings.Count(log.String(), "cannot be watched"); n != 1 {
			t.Errorf("logged %d times:\n%s", n, log.String())
		}
		broken.Store(false)
		time.Sleep(10 * time.Second)
		if got := b.Ask(true); got.Inject || !got.Known {
			t.Errorf("when the watch began: %+v", got)
		}
		if !strings.Contains(log.String(), "watched again") {
			t.Errorf("not logged:\n%s", log.String())
		}
		stop()
		all.Wait()
	})
}

// Namespaces are watched one by one, and judged when all are known.
func TestNamespaces(t *testing.T) {
	elsewhere := func(p *corev1.Pod) { p.Namespace = "team-c" }
	b := func(p *corev1.Pod) { p.Namespace = "team-b" }
	inWorld(t, 1, Options{Namespaces: []string{"team-a", "team-b"}}, func(w *world) {
		w.injects(true, "with a stuck pod elsewhere")
		w.metrics("holdfast_webhook_injected_pods 1")
		w.add(podOf("three", stuck, b))
		w.injects(false, "with a stuck pod in one of them")
		w.metrics("holdfast_webhook_injected_pods 2")
	}, podOf("one", stuck, elsewhere), podOf("two", runs, b))
}

// What was missed while the watch was broken is found when it is listed again.
func TestListsAgain(t *testing.T) {
	inWorld(t, 1, Options{}, func(w *world) {
		b := w.replicas[0]
		f := b.feeds[0]
		w.add(podOf("gone", notYet))
		w.add(podOf("well", goesOn, runs))
		if err := f.Replace([]any{podOf("well", goesOn, runs), podOf("new", notYet, stuck)}, "7"); err != nil {
			t.Fatal(err)
		}
		w.injects(false, "with a stuck pod in the new list")
		w.metrics("holdfast_webhook_injected_pods 2", "holdfast_webhook_stuck_pods 1")
		if err := f.Replace(nil, "8"); err != nil {
			t.Fatal(err)
		}
		w.metrics("holdfast_webhook_injected_pods 0", "holdfast_webhook_stuck_pods 0")
		w.injects(false, "though the stuck one is gone")
	})
}

func TestManyStuckPodsAreNotAllNamed(t *testing.T) {
	var s Status
	for i := range 12 {
		s.Stuck = append(s.Stuck, agent(fmt.Sprint("p", i), Stuck))
	}
	want := "closed; stuck: " + strings.Join(func() (all []string) {
		for i := range 10 {
			all = append(all, fmt.Sprintf("team-a/p%d (ErrImagePull)", i))
		}
		return all
	}(), ", ") + ", and 2 more"
	if diff := cmp.Diff(want, s.String()); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestOptionsAreComplete(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("a breaker of nothing was made")
	}
	registry := prometheus.NewRegistry()
	o := Options{Client: fake.NewClientset(), Selector: "x=y", Agent: identity, Registry: registry}
	if _, err := New(o); err != nil {
		t.Fatal(err)
	}
	if _, err := New(o); err == nil {
		t.Error("the metrics were registered twice")
	}
}
