//go:build kubernetes

package product

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

// A pod's creation waits for the webhook for less than anybody notices: 99 of 100 for a tenth of a second at most, as the API server
// itself counts. Where many are created at once all programs of this node want the same processors, so the bound is wider then; the log
// has the figure.
func TestAdmissionLatency(t *testing.T) {
	ns := namespace(t, "admission", nil)
	create := creator(t, ns, isInjected)
	for range 10 {
		check(t, create(limit(t), flinkMade(t), true)) // connections
	}
	optedOut := flinkMade(t)
	optedOut.Labels["holdfast.dev/inject"] = "false"
	for _, load := range []struct {
		atOnce int
		budget float64 // seconds; the bound of a bucket, so that nothing is interpolated
	}{{1, .1}, {8, .5}, {32, .5}} {
		atOnce, budget := load.atOnce, load.budget
		// Whatever else the machine does makes it slower, never faster. What was over the budget is told, too.
		const creations, tries = 200, 5
		var over []string
		for len(over) < tries {
			pod, before := flinkMade(t), waits(t)
			took, failed := burst(t, creations, atOnce, func() error { return create(limit(t), pod, true) })
			waited := waits(t).since(before)
			without, failedWithout := burst(t, creations, atOnce, func() error { return create(limit(t), optedOut, false) })
			t.Logf("try %d, %d creations, %d at a time: the webhook takes p50 %.1f ms, p99 %.1f ms; the creation p50 %s, p99 %s, %d failed; "+
				"and without an agent p50 %s, p99 %s, %d failed", len(over)+1, creations, atOnce, 1000*waited.quantile(.5), 1000*waited.quantile(.99),
				quantile(took, .5), quantile(took, .99), failed, quantile(without, .5), quantile(without, .99), failedWithout)
			if waited.count() != creations {
				t.Errorf("the API server asked %v times, want %d", waited.count(), creations)
			}
			if waited.quantile(.99) <= budget {
				break
			}
			over = append(over, fmt.Sprintf("%.0f ms", 1000*waited.quantile(.99)))
		}
		t.Logf("%d at a time: %d tries of at most %d were over the budget of %.0f ms: %v", atOnce, len(over), tries, 1000*budget, over)
		if len(over) == tries {
			t.Errorf("%d at a time: no try kept the budget", atOnce)
		}
	}
}

// flinkMade is a JobManager's pod as the API server had it from Flink's native mode, all fields of it.
func flinkMade(t *testing.T) *corev1.Pod {
	t.Helper()
	root, err := repository()
	check(t, err)
	text, err := os.ReadFile(filepath.Join(root, "webhook/testdata/pods/native-application-2.3.yaml"))
	check(t, err)
	pod := &corev1.Pod{}
	check(t, yaml.UnmarshalStrict(text, pod))
	pod.Namespace = ""
	return pod
}

// creator gives what creates pods, of which nothing stays, and fails unless they have an agent, or none, as wanted. It never waits for itself.
func creator(t *testing.T, namespace string, has func(corev1.Pod) bool) func(ctx context.Context, pod *corev1.Pod, injected bool) error {
	t.Helper()
	config := rest.CopyConfig(cluster.Config)
	config.QPS, config.WarningHandler = -1, rest.NoWarnings{}
	set, err := kubernetes.NewForConfig(config)
	check(t, err)
	return func(ctx context.Context, pod *corev1.Pod, injected bool) error {
		got, err := set.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err == nil && has(*got) != injected {
			err = fmt.Errorf("the pod has an agent: %t", !injected)
		}
		return err
	}
}

// burst does something many times, so many at once, and gives how long each took that went well, the shortest first. That any other failed
// fails the test.
func burst(t *testing.T, times, atOnce int, do func() error) (took []time.Duration, failed int) {
	t.Helper()
	var mu sync.Mutex
	var all sync.WaitGroup
	work := make(chan struct{})
	for range atOnce {
		all.Go(func() {
			for range work {
				begin := time.Now()
				err := do()
				lasted := time.Since(begin)
				mu.Lock()
				if err == nil {
					took = append(took, lasted)
				} else if failed++; failed <= 5 {
					t.Error(err)
				}
				mu.Unlock()
			}
		})
	}
	for range times {
		work <- struct{}{}
	}
	close(work)
	all.Wait()
	if len(took) == 0 {
		t.Fatalf("all of %d failed", failed)
	}
	slices.Sort(took)
	return took, failed
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))].Round(100 * time.Microsecond)
}

// histogram is how long the API server waited for the webhook: how often, up to each bound in seconds.
type histogram map[float64]float64

// waits reads the API server's own count of admissions by Holdfast.
func waits(t *testing.T) histogram {
	t.Helper()
	text, err := cluster.Set.RESTClient().Get().AbsPath("/metrics").DoRaw(limit(t))
	check(t, err)
	h := histogram{}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		labels, value, _ := strings.Cut(strings.TrimPrefix(lines.Text(), "apiserver_admission_webhook_admission_duration_seconds_bucket{"), "} ")
		_, bound, is := strings.Cut(labels, `le="`)
		if !is || !strings.Contains(labels, `name="jobmanager-component.holdfast.dev"`) {
			continue
		}
		bound, _, _ = strings.Cut(bound, `"`)
		le, err := strconv.ParseFloat(bound, 64)
		check(t, err)
		n, err := strconv.ParseFloat(value, 64)
		check(t, err)
		h[le] += n
	}
	return h
}

func (h histogram) since(before histogram) histogram {
	d := histogram{}
	for le, n := range h {
		d[le] = n - before[le]
	}
	return d
}

func (h histogram) count() float64 { return h[math.Inf(1)] }

// quantile is read between two bounds as Prometheus does.
func (h histogram) quantile(q float64) float64 {
	bounds := make([]float64, 0, len(h))
	for le := range h {
		bounds = append(bounds, le)
	}
	slices.Sort(bounds)
	rank, below, from := q*h.count(), 0.0, 0.0
	for _, le := range bounds {
		if h[le] >= rank && h[le] > below {
			if math.IsInf(le, 1) {
				return from
			}
			return from + (le-from)*(rank-below)/(h[le]-below)
		}
		below, from = h[le], le
	}
	return math.NaN()
}
