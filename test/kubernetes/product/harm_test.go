//go:build kubernetes

package product

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfast-dev/holdfast/settle"
	"github.com/holdfast-dev/holdfast/test/flink/flinkproc"
	"github.com/holdfast-dev/holdfast/test/kubernetes/flinkpod"
	"github.com/holdfast-dev/holdfast/test/kubernetes/node"
	"github.com/holdfast-dev/holdfast/test/kubernetes/rig"
)

// noise is by how much Flink may be slower than the cluster beside it before that counts. Of two clusters that start side by side on two
// busy processors, one is slower by as much for no reason. Two delays are known and less: the kubelet starts a native sidecar, and the
// container after it, in two rounds, a second apart; and an agent that cannot reach etcd leaves a second later. What is slower by more must be
// so in each of three pairs: other work on the machine comes and goes, an agent that keeps its pod waiting does so each time. TestFigures has the
// medians of ten.
const (
	noise = 3 * time.Second
	pairs = 3
)

// Whatever is wrong with Holdfast, Flink is none the worse: it starts and ends as the cluster beside it, which has no agent, in the same
// time, and its pod is ready throughout.
func TestHarmless(t *testing.T) {
	for i, c := range []struct {
		name  string
		wrong func(t *testing.T)
		harm
	}{
		{"webhook down", without("deployment/holdfast-webhook"), harm{uninjected: true}},
		{"webhook does not answer", deaf("webhook", webhookPort), harm{uninjected: true}},
		{"etcd down", without("statefulset/holdfast-etcd"), harm{}},
		{"etcd does not answer", deaf("etcd", etcdPort), harm{}},
		{"aggregator absent", without("deployment/holdfast-aggregator"), harm{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.wrong(t)
			compare(t, cluster.Flinks[i%len(cluster.Flinks)], c.harm)
		})
	}
}

// A webhook that does not answer keeps a JobManager waiting for as long as the chart says, and then it is created without an agent. Nobody else
// waits. Heard again, it injects again.
func TestWebhookSilent(t *testing.T) {
	// The chart's timeoutSeconds, and what any creation may take on a busy machine: less than one wait for the webhook.
	const chart, otherwise = 5 * time.Second, 3 * time.Second
	create := creator(t, namespace(t, "silent", nil), isInjected)
	jobManager, taskManager := flinkMade(t), flinkMade(t)
	taskManager.Labels["component"] = "taskmanager"
	check(t, create(limit(t), jobManager, true)) // a connection that will be silent
	heal := deafen(t, "webhook", webhookPort)
	for range 3 {
		begin := time.Now()
		check(t, create(limit(t), jobManager, false))
		took := time.Since(begin)
		begin = time.Now()
		check(t, create(limit(t), taskManager, false))
		others := time.Since(begin)
		t.Logf("a JobManager waited %.2f s, and another pod %.2f s", took.Seconds(), others.Seconds())
		if took < chart || took > chart+otherwise || others > otherwise {
			t.Error("want a JobManager that waits for the chart's timeoutSeconds, and nobody else who waits")
		}
	}
	heal()
	begin := time.Now()
	eventually(t, recovery, "JobManagers get agents again", func(ctx context.Context) error { return create(ctx, jobManager, true) })
	t.Logf("injected again %.1f s after healing", time.Since(begin).Seconds())
}

// The same of the agent itself.
func TestHarmlessAgent(t *testing.T) {
	t.Parallel()
	for i, c := range []struct {
		name string
		harm
	}{
		{"nothing is wrong", harm{}},
		{"no network", harm{during: cutOffAgent}},
		{"no network since a moment ago", harm{during: cutOffAgentNow, stays: leaving}},
		{"killed repeatedly", harm{during: killAgent}},
		{"out of memory repeatedly", harm{during: chokeAgent}},
	} {
		t.Run(c.name, func(t *testing.T) { compare(t, cluster.Flinks[i%len(cluster.Flinks)], c.harm) })
	}
}

// harm is what is wrong with the agent, if anything.
type harm struct {
	uninjected bool
	// during breaks it once Flink runs.
	during func(t *testing.T, injected *running)
	// stays is how much longer than the noise the pod may stay at its end.
	stays time.Duration
}

// leaving is how long an agent tries at its end to tell an etcd that answered a moment ago.
const leaving = 4 * time.Second

// compare starts, breaks and ends a Flink cluster beside one that has no agent, and again until in everything that is measured it was once
// not the slower one.
func compare(t *testing.T, dist *flinkproc.Dist, h harm) {
	t.Helper()
	slower := comparePair(t, dist, h)
	for pair := 2; pair <= pairs && len(slower) > 0 && !t.Failed(); pair++ {
		t.Logf("pair %d, since these were slower: %v", pair, slower)
		again := comparePair(t, dist, h)
		maps.DeleteFunc(slower, func(what, _ string) bool { return again[what] == "" })
	}
	for what, told := range slower {
		t.Errorf("%s later with an agent in every pair, in the first one %s", what, told)
	}
}

// comparePair says in what the cluster with an agent was slower by more than the noise. Anything else that is worse fails the test.
func comparePair(t *testing.T, dist *flinkproc.Dist, h harm) (slower map[string]string) {
	t.Helper()
	slower = map[string]string{}
	ns := namespace(t, "harmless", nil)
	lives := observe(t, ns)
	injected, plain := pair(t, dist, ns)
	if pod := injected.jobManager(t); isInjected(pod) == h.uninjected {
		t.Errorf("pod %s has an agent: %t", pod.Name, h.uninjected)
	}
	if pod := plain.jobManager(t); isInjected(pod) {
		t.Errorf("pod %s has an agent though it opted out", pod.Name)
	}
	if h.during != nil {
		h.during(t, injected)
	}
	begin := time.Now()
	for _, r := range []*running{injected, plain} {
		check(t, r.flink.Cancel(limit(t), r.job))
	}
	with, control := lives.await(t, injected), lives.await(t, plain)
	for _, compared := range []struct {
		what                 string
		with, control, later time.Duration
	}{
		{"ready", with.start(t), control.start(t), noise},
		{"job running", injected.at.Sub(with.created), plain.at.Sub(control.created), noise},
		{"gone after its job was canceled", with.gone.Sub(begin), control.gone.Sub(begin), noise + h.stays},
	} {
		told := fmt.Sprintf("after %.1f s, without an agent %.1f s", compared.with.Seconds(), compared.control.Seconds())
		t.Logf("%s: %s %s", dist.Version, compared.what, told)
		if compared.with > compared.control+compared.later {
			slower[compared.what] = told
		}
	}
	with.isLike(t, control)
	return slower
}

// life is what was seen of one JobManager's pod.
type life struct {
	created, ready, gone time.Time
	unready              int // how often it was ready no more, before it was to end
	last                 corev1.Pod
}

// isLike fails the test if Flink fared worse in one pod than in the other.
func (l life) isLike(t *testing.T, control life) {
	t.Helper()
	if l.unready > control.unready {
		t.Errorf("pod %s became unready %d times, and the one without an agent %d times", l.last.Name, l.unready, control.unready)
	}
	is, want := fateOf(l.last), fateOf(control.last)
	switch {
	case !is.ended || !want.ended:
		t.Errorf("nobody knows how Flink ended: with an agent %+v, without %+v", is, want)
	case is.restarts != want.restarts || !alike(is.code, want.code):
		t.Errorf("Flink was restarted %d times and ended with code %d; without an agent %d times, and code %d",
			is.restarts, is.code, want.restarts, want.code)
	}
	if is.agents != 0 {
		t.Errorf("the agent's container was restarted %d times", is.agents)
	}
}

// alike says whether two exit codes of Flink mean the same. One that has closed in order says 0, or 143 where the SIGTERM was faster that comes of
// its deleting its own Deployment meanwhile.
func alike(a, b int) bool { return a == b || a+b == 143 }

// start is from a pod's creation until it was ready.
func (l life) start(t *testing.T) time.Duration {
	t.Helper()
	if l.ready.IsZero() {
		t.Fatalf("nobody saw the pod become ready: %s", flinkpod.DescribePod(&l.last))
	}
	return l.ready.Sub(l.created)
}

// fate is how Flink's container, and the agent's, fared.
type fate struct {
	restarts int
	ended    bool
	code     int // only if it has ended
	agents   int // how often the agent's container was restarted
}

func fateOf(pod corev1.Pod) (f fate) {
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		switch s.Name {
		case flinkpod.MainContainer:
			if f.restarts = int(s.RestartCount); s.State.Terminated != nil {
				f.ended, f.code = true, int(s.State.Terminated.ExitCode)
			}
		case "holdfast-agent":
			f.agents = int(s.RestartCount)
		}
	}
	return f
}

// lives are those of a namespace's JobManager pods, by the name of the pod.
type lives struct {
	mu  sync.Mutex
	all map[string]*life
}

// observe watches the JobManager pods of a namespace until the test ends.
func observe(t *testing.T, namespace string) *lives {
	t.Helper()
	l := &lives{all: map[string]*life{}}
	w, err := cluster.Set.CoreV1().Pods(namespace).Watch(t.Context(), metav1.ListOptions{LabelSelector: "component=jobmanager"})
	check(t, err)
	var done sync.WaitGroup
	done.Go(func() {
		for event := range w.ResultChan() {
			if pod, ok := event.Object.(*corev1.Pod); ok {
				l.note(pod, event.Type == "DELETED")
			}
		}
	})
	t.Cleanup(func() { w.Stop(); done.Wait() })
	return l
}

func (l *lives) note(pod *corev1.Pod, deleted bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.all[pod.Name]
	if one == nil {
		one = &life{created: time.Now()}
		l.all[pod.Name] = one
	}
	switch is, was := rig.Ready(pod), rig.Ready(&one.last); {
	case is && one.ready.IsZero():
		one.ready = time.Now()
	case was && !is && pod.DeletionTimestamp == nil && !fateOf(*pod).ended:
		one.unready++
	}
	if one.last = *pod; deleted {
		one.gone = time.Now()
	}
}

// await waits until all pods of a Flink cluster's JobManager are gone, and gives the only one's life.
func (l *lives) await(t *testing.T, r *running) (found life) {
	t.Helper()
	eventually(t, 2*time.Minute, r.ID()+" is gone", func(context.Context) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		var of []life
		for name, one := range l.all {
			if strings.HasPrefix(name, r.ID()+"-") {
				of = append(of, *one)
			}
		}
		switch {
		case len(of) != 1:
			t.Fatalf("%s had %d JobManager pods, want one", r.ID(), len(of))
		case of[0].gone.IsZero():
			return errors.New("its pod is still there")
		}
		found = of[0]
		return nil
	})
	return found
}

// pair starts two native application clusters side by side, the second of which opts out, and waits until the jobs of both run.
func pair(t *testing.T, dist *flinkproc.Dist, ns string) (injected, plain *running) {
	t.Helper()
	injected, plain = &running{control: control(t)}, &running{control: control(t)}
	optOut := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"holdfast.dev/inject": "false"}}}
	var both errgroup.Group
	for r, options := range map[*running]flinkpod.Options{
		injected: {Dist: dist, Namespace: ns, ID: "injected"},
		plain:    {Dist: dist, Namespace: ns, ID: "plain", Pod: optOut},
	} {
		ctx := limit(t)
		both.Go(func() (err error) {
			job := flinkproc.Job{Name: options.ID, Sources: []string{r.control.Addr()}}
			if r.Cluster, err = cluster.StartApplication(ctx, options, flinkpod.Application{Job: job}); err != nil {
				return err
			}
			if r.flink, err = r.AwaitREST(ctx); err != nil {
				return err
			}
			r.job, err = r.AwaitJob(ctx, r.flink)
			r.at = time.Now()
			return err
		})
	}
	check(t, both.Wait())
	return injected, plain
}

// without takes all pods of a part of Holdfast away until the test ends.
func without(workload string) func(t *testing.T) {
	return func(t *testing.T) {
		t.Helper()
		run := func(ctx context.Context, args ...string) (string, error) {
			return cluster.Run(ctx, "kubectl", append([]string{"-n", home}, args...)...)
		}
		replicas, err := run(limit(t), "get", workload, "-o", "jsonpath={.spec.replicas}")
		check(t, err)
		selector := "app.kubernetes.io/component=" + workload[strings.LastIndex(workload, "-")+1:]
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute) // longer than kubectl waits in all
			defer cancel()
			_, err := run(ctx, "scale", workload, "--replicas="+replicas)
			for _, whole := range []string{workload, "deployment/holdfast-aggregator"} { // which is not ready without etcd
				_, waited := run(ctx, "rollout", "status", whole, "--timeout=2m")
				err = errors.Join(err, waited)
			}
			if err != nil {
				t.Error(err)
			}
		})
		_, err = run(limit(t), "scale", workload, "--replicas=0")
		check(t, err)
		_, err = run(limit(t), "wait", "pod", "-l", selector, "--for=delete", "--timeout=2m")
		check(t, err)
	}
}

// webhookPort is where the chart's webhook listens for the API server.
const webhookPort = 10250

// deaf makes a part of Holdfast one that does not answer, until the test ends, and waits then until Holdfast is whole.
func deaf(part string, port int) func(t *testing.T) {
	return func(t *testing.T) {
		t.Helper()
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
			defer cancel()
			if _, err := cluster.Run(ctx, "kubectl", "-n", home, "rollout", "status", "deployment/holdfast-aggregator", "--timeout=2m"); err != nil {
				t.Error(err) // which is not ready without etcd
			}
		})
		deafen(t, part, port)
	}
}

// deafen cuts all pods of a part off from who calls them at a port, until heal is called or the test ends. The kubelet asks at another one, so
// that they are ready throughout, and called.
func deafen(t *testing.T, part string, port int) (heal func()) {
	t.Helper()
	n := ownNode(t)
	pods, err := cluster.Set.CoreV1().Pods(home).List(limit(t), metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=" + part})
	check(t, err)
	all := &roads{node: n, how: node.Drop, peers: []string{fmt.Sprintf(":%d", port)}}
	for _, pod := range pods.Items {
		all.sever(t, home, pod.Name)
	}
	if len(all.cut) == 0 {
		t.Fatalf("Holdfast has no %s", part)
	}
	return func() {
		all.proveAnyMissed(t)
		all.heal()
	}
}

// cutOffAgentNow takes the ways to etcd away from an agent that has just reached it.
func cutOffAgentNow(t *testing.T, injected *running) {
	n := ownNode(t)
	holdfast.until(t, injected.jobs(), 30*time.Second, "RUNNING Witnessed", "FAILED")
	cutAgent(t, n, node.Drop, injected)
}

// cutOffAgent takes all ways out of the pod to etcd away, for so long that its agent's silence would make the job Held, if nobody else looked: but the
// aggregator does, from outside.
func cutOffAgent(t *testing.T, injected *running) {
	n := ownNode(t)
	holdfast.until(t, injected.jobs(), 30*time.Second, "RUNNING Witnessed", "FAILED")
	shown := holdfast.record(t, injected.jobs())
	cutAgent(t, n, node.Drop, injected)
	eventually(t, time.Minute, "the agent's beat is lost", func(context.Context) error {
		for key := range stored(t, "agents/"+injected.Namespace()+"/"+injected.ID()+"/") {
			if strings.HasSuffix(key, "/beat") {
				return errors.New(key)
			}
		}
		return nil
	})
	time.Sleep(settle.DefaultConfig().Hold + sometime) // were another's word not enough, it would be Held by then
	shown.only(t, "RUNNING Witnessed")
}

// killAgent kills the agent's program, as fast as it is started anew, for a quarter of a minute. Later it is witnessed again.
func killAgent(t *testing.T, injected *running) {
	killed := map[int]bool{} // by process: a dead one may be seen twice
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		_, agent := agentOf(t, injected)
		if agent != 0 && syscall.Kill(agent, syscall.SIGKILL) == nil {
			killed[agent] = true
		}
	}
	t.Logf("killed %d times", len(killed))
	if len(killed) < 3 {
		t.Errorf("the agent was killed %d times, want at least 3", len(killed))
	}
	heard(t, injected, len(killed), 16*time.Second+prompt) // after a quarter of a minute its supervisor pauses for 8 to 16 s
}

// heard waits until the agent beats after so many ends of its program, and its job is witnessed. (That it is witnessed alone says little:
// a verdict stays so for lease and hold time.)
func heard(t *testing.T, r *running, ends int, within time.Duration) {
	t.Helper()
	eventually(t, within, fmt.Sprintf("the agent beats after %d ends of its program", ends), func(ctx context.Context) error {
		log, err := cluster.Set.CoreV1().Pods(r.Namespace()).GetLogs(r.jobManager(t).Name, &corev1.PodLogOptions{Container: "holdfast-agent"}).DoRaw(ctx)
		if err != nil {
			return err
		}
		lives := strings.Split(string(log), "signal: killed")
		if len(lives) != ends+1 || !strings.Contains(lives[ends], "beat is up") {
			return fmt.Errorf("its log tells of %d ends, and after the last one: %s", len(lives)-1, lives[len(lives)-1])
		}
		return nil
	})
	holdfast.until(t, r.jobs(), prompt, "RUNNING Witnessed", "FAILED")
}

// chokeAgent lets the kernel kill the agent for want of memory, three times.
func chokeAgent(t *testing.T, injected *running) {
	for kills := range 3 {
		var container *node.Container
		var agent int
		eventually(t, time.Minute, "an agent runs", func(context.Context) error {
			if container, agent = agentOf(t, injected); agent == 0 {
				return errors.New("there is none")
			}
			return nil
		})
		heard(t, injected, kills, prompt) // so its memory is in use
		unchoke, err := container.Choke()
		if errors.Is(err, node.ErrKillsAll) {
			t.Skip(err)
		}
		check(t, err)
		eventually(t, time.Minute, "the kernel kills the agent", func(context.Context) error {
			if _, now := agentOf(t, injected); now == agent {
				return fmt.Errorf("process %d still runs", agent)
			}
			return nil
		})
		check(t, unchoke())
	}
	heard(t, injected, 3, 8*time.Second+prompt) // its supervisor's fourth pause is 4 to 8 s
}

// Whoever kills the first process of the agent's container ends the container, as the kernel does with cgroups of version 2 where memory is
// short. The kubelet starts it again; Flink does not notice, nor does who asks for the job, and the pod is not ready for so long.
func TestAgentContainerKilled(t *testing.T) {
	t.Parallel()
	n := ownNode(t)
	r := application(t, flinkpod.Options{Dist: cluster.Flinks[len(cluster.Flinks)-1], Namespace: namespace(t, "killed", nil), ID: "orders"}, flinkproc.Job{})
	holdfast.until(t, r.jobs(), prompt, "RUNNING Witnessed over=no attempt=1", "FAILED", "UNKNOWN")
	record, name := holdfast.record(t, r.jobs()), r.jobManager(t).Name
	for kills := 1; kills <= 2; kills++ {
		c, err := n.Container(limit(t), r.Namespace(), name, "holdfast-agent")
		check(t, err)
		begin := time.Now()
		check(t, c.Kill(limit(t), "SIGKILL"))
		pod, err := cluster.AwaitPod(limit(t), r.Namespace(), name, "ready again", func(pod *corev1.Pod) bool {
			return fateOf(*pod).agents == kills && rig.Ready(pod)
		})
		check(t, err)
		t.Logf("killed %d times, and ready again %.1f s later", kills, time.Since(begin).Seconds())
		if took := time.Since(begin); took > 30*time.Second {
			t.Errorf("the pod was not ready for %s", took)
		}
		if f := fateOf(*pod); f.restarts != 0 || f.ended {
			t.Errorf("Flink's container was restarted %d times", f.restarts)
		}
	}
	time.Sleep(concluded()) // had the agent not come back, its silence would show
	record.only(t, "RUNNING Witnessed over=no attempt=1")
	if state, err := r.flink.State(limit(t), r.job); err != nil || state.String() != "RUNNING" {
		t.Errorf("Flink itself says %s, %v", state, err)
	}
}

// agentOf gives the container of a cluster's agent, and the agent's process, 0 while there is none.
func agentOf(t *testing.T, r *running) (*node.Container, int) {
	t.Helper()
	c, err := ownNode(t).Container(limit(t), r.Namespace(), r.jobManager(t).Name, "holdfast-agent")
	check(t, err)
	pids, err := c.Processes()
	check(t, err)
	if len(pids) < 2 {
		return c, 0
	}
	return c, pids[1]
}
