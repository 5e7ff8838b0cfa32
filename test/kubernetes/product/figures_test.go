//go:build kubernetes

package product

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfast-dev/holdfast/test/flink/flinkproc"
	"github.com/holdfast-dev/holdfast/test/kubernetes/flinkpod"
)

// What docs/benchmarks.md says of pods. It takes five minutes, and proves nothing on a machine that does anything else.
func TestFigures(t *testing.T) {
	if os.Getenv("HOLDFAST_TEST_FIGURES") == "" {
		t.Skip("this measures: set HOLDFAST_TEST_FIGURES=1 on a quiet machine")
	}
	t.Run("start", figureStart)
	t.Run("agent", figureAgent)
}

// figureStart starts the session cluster of Flink's documentation ten times with an agent and ten times without, in turn.
func figureStart(t *testing.T) {
	took := map[bool][]time.Duration{}
	for n := range 20 {
		injected := n%2 == 0
		ns := namespace(t, "start", nil)
		lives := observe(t, ns)
		flink, err := cluster.StartDocumentedSession(limit(t), flinkpod.Documented{
			Dist: cluster.Flinks[0], Namespace: ns, Pod: func(pod *corev1.PodTemplateSpec) {
				if !injected {
					metav1.SetMetaDataLabel(&pod.ObjectMeta, "holdfast.dev/inject", "false")
				}
			},
		})
		check(t, err)
		r := &running{Cluster: flink}
		pod := ready(t, r)
		if isInjected(pod) != injected {
			t.Fatalf("pod %s has an agent: %t", pod.Name, !injected)
		}
		eventually(t, 10*time.Second, "the watch has seen it, too", func(context.Context) error {
			lives.mu.Lock()
			defer lives.mu.Unlock()
			one := lives.all[pod.Name]
			if one == nil || one.ready.IsZero() {
				return fmt.Errorf("pod %s: %+v", pod.Name, one)
			}
			took[injected] = append(took[injected], one.start(t))
			return nil
		})
		check(t, r.Remove(limit(t)))
	}
	for _, injected := range []bool{true, false} {
		all := took[injected]
		slices.Sort(all)
		t.Logf("from creation to ready, with an agent %t: median %s, %s to %s", injected, quantile(all, .5), all[0].Round(time.Millisecond),
			all[len(all)-1].Round(time.Millisecond))
	}
}

// figureAgent asks the kernel about the agent's container after five minutes with one job.
func figureAgent(t *testing.T) {
	n := ownNode(t)
	r := application(t, flinkpod.Options{Dist: cluster.Flinks[0], Namespace: namespace(t, "figures", nil), ID: "orders"}, flinkproc.Job{})
	holdfast.until(t, r.jobs(), 10*time.Second, "RUNNING Witnessed")
	container, err := n.Container(limit(t), r.Namespace(), r.jobManager(t).Name, "holdfast-agent")
	check(t, err)
	begin, err := container.CPU()
	check(t, err)
	const span = 5 * time.Minute
	time.Sleep(span)
	end, err := container.CPU()
	check(t, err)
	memory, err := container.Memory()
	check(t, err)
	mib := func(bytes uint64) float64 { return float64(bytes) / (1 << 20) }
	t.Logf("agent and its supervisor: anonymous %.1f MiB, working set %.1f MiB, all that is counted %.1f MiB (of it files %.1f), peak %.1f MiB, cpu %.1f millicores",
		mib(memory.Anonymous), mib(memory.WorkingSet), mib(memory.Current), mib(memory.File), mib(memory.Peak),
		1000*(end-begin).Seconds()/span.Seconds())
}
