//go:build kubernetes

package product

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfast-dev/holdfast/settle"
	"github.com/holdfast-dev/holdfast/test/flink/flinkproc"
	"github.com/holdfast-dev/holdfast/test/kubernetes/flinkpod"
	"github.com/holdfast-dev/holdfast/test/kubernetes/node"
	"github.com/holdfast-dev/holdfast/test/kubernetes/rig"
	"github.com/holdfast-dev/holdfast/test/machine"
)

// Real faults, one after another in random order, while real jobs run that never end by themselves: whatever is shown of them meanwhile must be
// so, and afterwards it must be the truth again, soon. Each fault is met once, or, with HOLDFAST_TEST_SOAK=1h (`make soak T=1h`), as many
// of them as often as there is time for. The log ends with a table.
func TestFaults(t *testing.T) {
	f := newField(t)
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	long := soak(t)
	begin, table := time.Now(), toll{}
	t.Cleanup(func() { t.Logf("after %s:\n%s", time.Since(begin).Round(time.Second), table) })
	for round := 1; round == 1 || long > 0; round++ {
		random.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
		for _, x := range faults {
			if long > 0 && time.Since(begin) > long {
				return
			}
			if !t.Run(fmt.Sprintf("%s %d", x.name, round), func(t *testing.T) { table.add(x.name, f.meet(t, x)) }) && long == 0 {
				return // what follows would be judged by a broken world
			}
		}
	}
}

func soak(t *testing.T) time.Duration {
	d, err := time.ParseDuration(cmp.Or(os.Getenv("HOLDFAST_TEST_SOAK"), "0s"))
	check(t, err)
	return d
}

// fault is something that breaks.
type fault struct {
	name string
	// hits is the only Flink cluster that notices; "" is for a fault in Holdfast, or around it.
	hits string
	// strike breaks it and mends it. The subject is the one that is hit.
	strike func(t *testing.T, f *field, hit *subject)
}

var faults = []fault{
	{"JobManager's container killed, high availability", "ha", killFlink},
	{"JobManager's container killed", "plain", killFlink},
	{"JobManager's pod deleted, high availability", "ha", deleteJobManager},
	{"JobManager's pod deleted", "plain", deleteJobManager},
	{"one of three JobManagers killed", "three", killFlink},
	{"Deployment deleted", "plain", deleteDeployment},
	{"Deployment scaled to 0", "ha", scaleToNothing},
	{"agent killed", "", func(t *testing.T, f *field, _ *subject) {
		for _, s := range f.all {
			if _, agent := agentOf(t, s.running); agent != 0 {
				check(t, syscall.Kill(agent, syscall.SIGKILL))
			}
		}
	}},
	{"etcd paused for 25 s", "", func(t *testing.T, f *field, _ *subject) { f.pause(t, "holdfast-etcd-0", "etcd", 25*time.Second) }},
	{"etcd killed", "", func(t *testing.T, f *field, _ *subject) { f.kill(t, "holdfast-etcd-0", "etcd") }},
	{"etcd restored from a copy", "", restoreEtcd},
	{"leader of the aggregators killed", "", func(t *testing.T, f *field, _ *subject) { f.kill(t, leaderPod(t), "aggregator") }},
	{"leader of the aggregators paused for 40 s", "", func(t *testing.T, f *field, _ *subject) { f.pause(t, leaderPod(t), "aggregator", 40*time.Second) }},
	{"API server down", "", func(t *testing.T, f *field, _ *subject) {
		server := f.node.APIServer()
		check(t, server.Pause())
		t.Cleanup(func() { server.Continue() })
		time.Sleep(outage(t))
		check(t, errors.Join(server.Continue(), f.node.AwaitAPIServer(limit(t))))
	}},
	{"both networks cut, twice", "", func(t *testing.T, f *field, _ *subject) {
		for range 2 {
			aggregators := cutAggregators(t, f.node, node.Drop, f.clusters()...)
			var agents []*roads
			for _, s := range f.all {
				agents = append(agents, cutAgent(t, f.node, node.Drop, s.running))
			}
			time.Sleep(outage(t))
			aggregators.heal()
			for _, agent := range agents {
				agent.heal()
			}
		}
	}},
}

// field is where it happens.
type field struct {
	t         *testing.T // the test as a whole, at the end of which the Flink clusters go
	node      *node.Node
	namespace string
	all       []*subject
}

// subject is a Flink cluster with one job, which runs, or starts again, for ever.
type subject struct {
	options flinkpod.Options
	*running
	start int64 // of the attempt that runs, as Flink says
}

func newField(t *testing.T) *field {
	t.Helper()
	f := &field{t: t, node: ownNode(t), namespace: namespace(t, "faults", nil)}
	oldest, newest := cluster.Flinks[0], cluster.Flinks[len(cluster.Flinks)-1]
	for _, o := range []flinkpod.Options{
		{ID: "plain", Dist: newest}, {ID: "ha", Dist: oldest, HA: true}, {ID: "three", Dist: newest, HA: true, JobManagers: 3}, {ID: "calm", Dist: oldest},
	} {
		o.Namespace = f.namespace
		s := &subject{options: o}
		f.all = append(f.all, s)
		f.start(s)
		s.runs(t)
		s.shown(t)
	}
	return f
}

// start starts a subject's Flink cluster.
func (f *field) start(s *subject) {
	s.running = application(f.t, s.options, flinkproc.Job{Restarts: 1 << 30, Delay: time.Second})
}

func (f *field) clusters() (all []*running) {
	for _, s := range f.all {
		all = append(all, s.running)
	}
	return all
}

// subject is the one of that name, nil if there is none.
func (f *field) subject(name string) *subject {
	for _, s := range f.all {
		if s.options.ID == name {
			return s
		}
	}
	return nil
}

// runs waits until Flink says that the subject's job runs, and learns which attempt of which job that is.
func (s *subject) runs(t *testing.T) {
	t.Helper()
	eventually(t, 4*time.Minute, s.ID()+" runs, says Flink", func(ctx context.Context) error {
		jobs, err := s.flink.Jobs(ctx)
		if err != nil {
			return err
		}
		if len(jobs) != 1 || jobs[0].State.String() != "RUNNING" || jobs[0].Tasks.Running != jobs[0].Tasks.Total {
			return fmt.Errorf("its jobs are %+v", jobs)
		}
		s.job, s.start = jobs[0].ID, jobs[0].StartTime
		return nil
	})
}

func (s *subject) stamp() string {
	return time.UnixMilli(s.start).UTC().Format("2006-01-02T15:04:05.000Z")
}

// longest is in which time after all faults what is shown must be the truth again (invariant 13): lease, hold and grace time and the
// longest pause of an agent that found nobody, with what the machine needs beside it.
func longest() time.Duration {
	c := settle.DefaultConfig()
	return c.Lease + c.Hold + c.Grace + recovery
}

// shown waits until every replica shows the attempt that runs, and every other job of the cluster as over.
func (s *subject) shown(t *testing.T) {
	t.Helper()
	s.everywhere(t, func(v verdict) bool { return v.Attempt.StartTime == s.stamp() && isAs(v, "RUNNING Witnessed over=no") },
		"as RUNNING Witnessed since "+s.stamp())
}

// everywhere waits until every replica shows the subject's job as wanted, and every other job of the cluster as over.
func (s *subject) everywhere(t *testing.T, wanted func(verdict) bool, words string) {
	t.Helper()
	eventually(t, longest(), fmt.Sprintf("every replica shows job %s of %s %s", s.job, s.ID(), words), func(ctx context.Context) error {
		replicas := holdfast.replicas(ctx)
		if len(replicas) < 2 {
			return fmt.Errorf("%d replicas can be asked", len(replicas))
		}
		for _, r := range replicas {
			all, err := r.jobs(ctx, s.Namespace(), s.ID())
			if err != nil {
				return err
			}
			found := false
			for _, v := range all {
				is := v.Over == "yes"
				if v.JobID == s.job {
					found, is = true, wanted(v)
				}
				if !is {
					return fmt.Errorf("%s shows job %s of %s as %s", r.pod, v.JobID, v.Attempt.StartTime, v)
				}
			}
			if !found {
				return fmt.Errorf("%s does not show the job", r.pod)
			}
		}
		return nil
	})
}

func isAs(v verdict, beginning string) bool { return strings.HasPrefix(v.String(), beginning) }

// outcome is what came of one fault.
type outcome struct {
	truth time.Duration // from when all is mended until every replica shows what is so
	wrong []string      // what was shown and never may be
}

// meet lets a fault strike, and judges all that is shown until it is the truth again.
func (f *field) meet(t *testing.T, x fault) (o outcome) {
	records := map[*subject]*recorder{}
	for _, s := range f.all {
		records[s] = holdfast.record(t, s.jobs())
	}
	time.Sleep(time.Second) // each recorder has seen what was before
	x.strike(t, f, f.subject(x.hits))
	for _, s := range f.all {
		s.runs(t)
	}
	mended := time.Now()
	for _, s := range f.all {
		s.shown(t)
		took := time.Since(mended)
		o.truth = max(o.truth, took)
		t.Logf("%s is shown as it is %.1f s after all was mended", s.ID(), took.Seconds())
	}
	time.Sleep(sometime) // what comes late is recorded, too
	for _, s := range f.all {
		for _, v := range records[s].seen(t) {
			if why := s.wrongly(v, x.hits != "" && x.hits != s.options.ID); why != "" {
				o.wrong = append(o.wrong, fmt.Sprintf("%s after %s: %s shows job %s as %s: %s", s.ID(), v.at.Round(100*time.Millisecond), v.replica, v.job, v.is, why))
			}
		}
	}
	for _, wrong := range o.wrong {
		t.Error(wrong)
	}
	return o
}

// wrongly says why a sight could not be so, whatever was broken: no job here ends, and one that runs is not over. Of a cluster that no fault came
// near nothing else is shown than that it runs, as somebody has just said.
func (s *subject) wrongly(v sight, untouched bool) string {
	state := strings.Fields(v.is)[0]
	switch {
	case state == "NOTHING":
		return "it was known before"
	case state == "FAILED" || state == "CANCELED" || state == "FINISHED" || state == "FAILING" || state == "CANCELLING":
		return "it never was that"
	case v.job == s.job && strings.Contains(v.is, "over=yes"):
		return "it runs"
	case v.job == s.job && untouched && !strings.HasPrefix(v.is, "RUNNING Witnessed"):
		return "nothing happened to it"
	}
	return ""
}

// killFlink kills the process of a JobManager, which of several chance decides.
func killFlink(t *testing.T, f *field, s *subject) {
	pods, err := s.JobManagers(limit(t))
	check(t, err)
	c, err := f.node.Container(limit(t), f.namespace, pods[rand.IntN(len(pods))].Name, flinkpod.MainContainer)
	check(t, err)
	check(t, c.Kill(limit(t), "SIGKILL"))
	gone(t, c)
}

func gone(t *testing.T, c *node.Container) {
	t.Helper()
	eventually(t, time.Minute, "the container has ended", func(context.Context) error {
		if c.Running() {
			return errors.New("it runs")
		}
		return nil
	})
}

func deleteJobManager(t *testing.T, f *field, s *subject) {
	pod := s.jobManager(t)
	deletePod(t, f.namespace, pod.Name)
	eventually(t, 2*time.Minute, "the pod is gone", func(ctx context.Context) error {
		pods, err := s.JobManagers(ctx)
		if err == nil && slices.ContainsFunc(pods, func(p corev1.Pod) bool { return p.UID == pod.UID }) {
			err = errors.New("it is there")
		}
		return err
	})
}

// deleteDeployment deletes a Flink cluster as its users do, and starts another of the same name when it is said that nobody saw its job end.
func deleteDeployment(t *testing.T, f *field, s *subject) {
	_, err := cluster.Run(limit(t), "kubectl", "-n", f.namespace, "delete", "deployment", s.ID())
	check(t, err)
	s.everywhere(t, func(v verdict) bool { return isAs(v, "UNKNOWN Inferred over=yes") && v.Reason == "Vanished" }, "as Vanished")
	f.start(s)
}

// scaleToNothing takes the JobManager away for as long as it takes to be noticed: its job is not over.
func scaleToNothing(t *testing.T, f *field, s *subject) {
	scale := func(replicas int) {
		_, err := cluster.Run(limit(t), "kubectl", "-n", f.namespace, "scale", "deployment", s.ID(), fmt.Sprintf("--replicas=%d", replicas))
		check(t, err)
	}
	scale(0)
	s.everywhere(t, func(v verdict) bool { return isAs(v, "SUSPENDED Inferred over=no") }, "as SUSPENDED")
	scale(1)
}

// pause stops the first process of one of Holdfast's containers for a while.
func (f *field) pause(t *testing.T, pod, container string, d time.Duration) {
	t.Helper()
	c, err := f.node.Container(limit(t), home, pod, container)
	check(t, err)
	check(t, c.Kill(limit(t), "SIGSTOP"))
	t.Cleanup(func() {
		if c.Running() {
			syscall.Kill(c.Pid, syscall.SIGCONT)
		}
	})
	time.Sleep(d)
	check(t, c.Kill(limit(t), "SIGCONT"))
}

// kill kills the first process of one of Holdfast's containers, and waits until its pod is ready again.
func (f *field) kill(t *testing.T, pod, container string) {
	t.Helper()
	c, err := f.node.Container(limit(t), home, pod, container)
	check(t, err)
	check(t, c.Kill(limit(t), "SIGKILL"))
	gone(t, c)
	whole(t)
}

// whole waits until all of Holdfast is ready.
func whole(t *testing.T) {
	t.Helper()
	parts(t)
}

// leaderPod is the pod of the aggregator that leads.
func leaderPod(t *testing.T) string {
	t.Helper()
	name, _, _ := strings.Cut(holdfast.leader(t, ""), " ")
	return name
}

// restoreEtcd sets etcd back to what it held before a JobManager was replaced: what it knows then is a job that is no more, of a pod that is gone.
func restoreEtcd(t *testing.T, f *field, _ *subject) {
	claim, err := cluster.Set.CoreV1().PersistentVolumeClaims(home).Get(limit(t), "data-holdfast-etcd-0", metav1.GetOptions{})
	check(t, err)
	volume, err := cluster.Set.CoreV1().PersistentVolumes().Get(limit(t), claim.Spec.VolumeName, metav1.GetOptions{})
	check(t, err)
	data, copied := volume.Spec.Local.Path+"/data", t.TempDir()+"/data" // as the chart has --data
	scale := func(replicas int) {
		_, err := cluster.Run(limit(t), "kubectl", "-n", home, "scale", "statefulset/holdfast-etcd", fmt.Sprintf("--replicas=%d", replicas))
		check(t, err)
		if replicas == 0 {
			_, err = cluster.Run(limit(t), "kubectl", "-n", home, "wait", "pod", "-l", "app.kubernetes.io/component=etcd", "--for=delete", "--timeout=2m")
			check(t, err)
			return
		}
		_, err = cluster.AwaitPod(limit(t), home, "holdfast-etcd-0", "ready", rig.Ready)
		check(t, err)
		whole(t)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := cluster.Run(ctx, "kubectl", "-n", home, "scale", "statefulset/holdfast-etcd", "--replicas=1"); err != nil {
			t.Error(err)
		}
	})
	replace := func(from, to string) {
		check(t, os.RemoveAll(to))
		_, err := machine.Run(limit(t), nil, "cp", "-a", from, to)
		check(t, err)
	}
	scale(0)
	replace(data, copied)
	scale(1)
	plain := f.subject("plain")
	pod := plain.jobManager(t)
	deletePod(t, f.namespace, pod.Name)
	for was := plain.job; plain.job == was; {
		plain.runs(t)
	}
	plain.shown(t)
	scale(0)
	replace(copied, data)
	scale(1)
}

// toll is what each fault has cost.
type toll map[string][]outcome

func (all toll) add(name string, o outcome) { all[name] = append(all[name], o) }

func (all toll) String() string {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "fault\ttimes\ttime to truth, p50\tmax\twrong verdicts")
	for _, x := range faults {
		of := all[x.name]
		if len(of) == 0 {
			continue
		}
		slices.SortFunc(of, func(a, b outcome) int { return cmp.Compare(a.truth, b.truth) })
		wrong := 0
		for _, o := range of {
			wrong += len(o.wrong)
		}
		fmt.Fprintf(w, "%s\t%d\t%.1f s\t%.1f s\t%d\n", x.name, len(of), of[len(of)/2].truth.Seconds(), of[len(of)-1].truth.Seconds(), wrong)
	}
	w.Flush()
	return text.String()
}
