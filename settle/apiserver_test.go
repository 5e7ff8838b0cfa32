package settle

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/job"
)

// apiServer is what Kubernetes knows of the world, and its answers. Who cannot reach it gets none.
type apiServer struct {
	pods      map[string]evidence.Pod
	workloads map[job.Workload]evidence.Workload
	// named are the jobs that high-availability records name; forbidden says that nobody may read them, and forbiddenKind that nobody
	// may ask for workloads.
	named         map[job.ClusterKey][]string
	forbidden     bool
	forbiddenKind bool
	cut           bool
}

func newAPIServer() apiServer {
	return apiServer{
		pods: map[string]evidence.Pod{}, workloads: map[job.Workload]evidence.Workload{}, named: map[job.ClusterKey][]string{},
	}
}

// answers are those to a Check, in the order in which the driver asks.
func (s *apiServer) answers(check Check) (all []Input) {
	if s.cut {
		return nil
	}
	if check.Workload != (job.Workload{}) {
		answer := evidence.Workload{Cluster: check.Cluster, Workload: check.Workload, There: job.No}
		if w, there := s.workloads[check.Workload]; there {
			answer.There, answer.Ended = job.Yes, w.Ended
		}
		if s.forbiddenKind {
			answer.There, answer.Ended, answer.Forbidden = job.Unanswered, false, true
		}
		all = append(all, Workload{answer})
	}
	record := evidence.HARecord{Cluster: check.Cluster, There: job.No, Jobs: s.named[check.Cluster]}
	switch {
	case s.forbidden:
		record.There, record.Forbidden = job.Unanswered, true
	case len(record.Jobs) > 0:
		record.There = job.Yes
	}
	return append(all, HARecord{record})
}

// toLeader brings what is told to the settler alone, and lies nowhere.
func (w *world) toLeader(input Input) {
	if r := w.leader(); r != nil {
		r.step(input)
	}
}

// podChanged brings a pod as it is now, or its end, to whoever follows the pods.
func (w *world) podChanged(name string) {
	p, there := w.kubernetes.pods[name]
	for _, r := range slices.Clone(w.replicas) {
		switch {
		case !r.follows[Pods]:
		case there:
			r.step(Pod{p})
		default:
			r.step(PodGone{Agent: w.agent(name).Agent})
		}
	}
}

func askLine(e Ask) string {
	if e.Stop {
		return "ask " + e.Pod + " no more"
	}
	return fmt.Sprintf("ask %s at %s:%d", e.Pod, e.Address, e.Port)
}

func workloadName(w job.Workload) string {
	if w == (job.Workload{}) {
		return "and no workload is known"
	}
	return w.Kind + "/" + w.Name
}

func workloadOf(word string) job.Workload {
	kind, name, _ := strings.Cut(word, "/")
	return job.Workload{Kind: kind, Name: name, UID: "uid-" + name}
}

// podCommand tells of the pod around an agent, or of one without: they have one name.
func (s *script) podCommand(w *words) error {
	name := w.next()
	a := s.world.agent(name)
	if cluster := w.option("cluster", ""); cluster != "" {
		a.in(cluster)
	}
	k := &s.kubernetes
	p, there := k.pods[name]
	if !there {
		p = evidence.Pod{Agent: a.Agent, Name: "pod-" + name, Port: 8081, Injected: true, Application: job.Yes}
	}
	if workload := w.option("workload", ""); workload != "" {
		p.Workload = workloadOf(workload)
		k.workloads[p.Workload] = evidence.Workload{}
	}
	if w.has("session") {
		p.Application = job.No
	}
	if w.has("uninjected") {
		p.Injected = false
	}
	switch verb := w.next(); verb {
	case "runs":
		if p.Exited {
			p.Restarts++
		}
		p.Running, p.Exited, p.Trouble, p.Waiting, p.Address = true, false, job.NoTrouble, "", w.option("at", "10.0.0.1")
	case "exits":
		code, err := strconv.Atoi(w.next())
		if err != nil {
			return err
		}
		p.Running, p.Exited, p.ExitCode, p.Trouble, p.Waiting = false, true, code, job.NoTrouble, ""
	case "waits":
		p.Waiting, p.Running, p.Trouble = w.next(), false, job.NoTrouble
		switch p.Waiting {
		case "CrashLoopBackOff":
			p.Trouble = job.CrashLoop
		case "ErrImagePull", "ImagePullBackOff":
			p.Trouble = job.ImagePull
		case "ContainerCreating", "CreateContainerConfigError":
		default:
			return fmt.Errorf("the kubelet has no such word: %s", p.Waiting)
		}
	case "leaves":
		p.Leaving = true
	case "gone":
		delete(k.pods, name)
		s.podChanged(name)
		return nil
	default:
		return fmt.Errorf("pods do not %q", verb)
	}
	k.pods[name] = p
	s.podChanged(name)
	return nil
}

// kubernetesCommand tells of the API server.
func (s *script) kubernetesCommand(w *words) error {
	k := &s.kubernetes
	switch verb := w.next(); verb {
	case "listed":
		r, err := s.replica(w)
		if err != nil {
			return err
		}
		r.list(Pods)
	case "lost":
		r, err := s.replica(w)
		if err != nil {
			return err
		}
		r.lose(Pods, "connection lost")
	case "silent", "answers":
		k.cut = verb == "silent"
	case "forbids-configmaps":
		k.forbidden = true
	case "forbids-workloads":
		k.forbiddenKind = true
	case "deletes":
		delete(k.workloads, workloadOf(w.next()))
	case "ends":
		k.workloads[workloadOf(w.next())] = evidence.Workload{Ended: true}
	case "remembers":
		key := s.key(w)
		k.named[key.ClusterKey()] = append(k.named[key.ClusterKey()], key.ID)
	case "calls", "calls-no-more":
		is := evidence.SessionJob{Key: s.key(w), Name: w.next(), Gone: verb == "calls-no-more"}
		for _, r := range slices.Clone(s.replicas) {
			r.step(SessionJob{is})
		}
	case "forgets":
		delete(k.named, s.key(w).ClusterKey())
	default:
		return errors.New("the API server does nothing of that kind")
	}
	return nil
}

// probeCommand tells of looks at a pod's JobManager from outside: as of an agent, in the words of one.
func (s *script) probeCommand(w *words) error {
	name := w.next()
	inside := s.world.agent(name)
	probe := s.world.agent(name + " from outside")
	if !probe.Probe {
		probe.Agent = inside.Agent
		probe.Probe = true
		probe.beat = inside.beat
		probe.beat.Agent, probe.beat.Session = probe.Agent, "probe-"+name
	}
	w.list = append([]string{name + " from outside"}, w.list...)
	return s.agentCommand(w)
}
