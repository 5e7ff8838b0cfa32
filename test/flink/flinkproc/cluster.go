// Package flinkproc gets real Flink and runs it as processes of this machine, for tests and for the demo: a session
// cluster or an application cluster, with or without high availability, whose JobManagers and TaskManagers can be
// paused, killed and started again, and a job that does what it is told.
//
// It answers questions about jobs by asking Flink, and is the truth that Holdfast's verdicts are compared with. So
// it shares no code with Holdfast's own way of asking.
//
// It is not for production, and there is no Kubernetes in it.
package flinkproc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/test/machine"
)

// Options say what a cluster is made of. Dist is needed, the rest has defaults.
type Options struct {
	Dist *Dist
	// Dir is where configuration, logs and data lie, and stay after Close. "" makes a temporary folder that Close removes.
	Dir string
	// HA starts a ZooKeeper and makes the JobManagers use it: they elect a leader, and one that is started again takes
	// over the jobs.
	HA bool
	// JobManagers is how many there are, 1 by default. The second and further ones are standbys and need HA.
	JobManagers int
	// TaskManagers is how many there are, 1 by default; a negative number means none.
	TaskManagers int
	// Slots is how many each TaskManager has, 4 by default. A job needs one.
	Slots int
	// Config is added to Flink's configuration and beats what flinkproc sets.
	Config map[string]string
	// Progress gets lines for people while the cluster starts. It may be nil.
	Progress io.Writer
}

// Application says what an application cluster runs.
type Application struct {
	// JobID fixes the job's id: 32 hexadecimal digits. "" lets Flink choose.
	JobID string
	Job   Job
	// Attached makes the program wait for its job by itself (execution.attached). Flink then shuts down within
	// 100 ms of the job's end, otherwise within 2 s.
	Attached bool
}

// Job is what one run of ControlledJob does.
type Job struct {
	// Name is the job's name, "controlled" by default.
	Name string
	// Sources are the addresses to read from, one Flink job for each: see Control.Addr. Unless Async, the second
	// job starts when the first has ended. Nobody listening there makes the job fail.
	Sources []string
	// Async submits without waiting for the end (executeAsync).
	Async bool
	// Restarts is how often the job may restart after a failure, and Delay the time before each, 100 ms by default.
	Restarts int
	Delay    time.Duration
	// Idle makes main() submit nothing, and not end; Throws makes it throw: Flink ends an application's JobManager then.
	Idle, Throws bool
}

// Args are the arguments of the program.
func (j Job) Args() []string {
	var args []string
	for _, source := range j.Sources {
		args = append(args, "source="+source)
	}
	if j.Name != "" {
		args = append(args, "name="+j.Name)
	}
	if j.Idle {
		args = append(args, "idle")
	}
	if j.Throws {
		args = append(args, "throw")
	}
	if j.Async {
		args = append(args, "async")
	}
	if j.Restarts > 0 {
		args = append(args, "restarts="+strconv.Itoa(j.Restarts))
	}
	if j.Delay > 0 {
		args = append(args, fmt.Sprintf("delay=%dms", j.Delay.Milliseconds()))
	}
	return args
}

// Cluster is one Flink cluster. Close ends it; if this process dies first, Linux ends it. Questions to Flink and all that
// a Process can do may come from any goroutine, but not beside StartTaskManager or Close.
type Cluster struct {
	dist         *Dist
	dir          string
	temporary    bool
	throws       bool     // its JobManager ends at once
	zookeeper    *Process // nil without high availability
	zookeeperAt  string
	jobManagers  []*JobManager
	taskManagers []*Process
}

// JobManager is the process of a JobManager, with its own REST address.
type JobManager struct {
	*Process
	rest *REST
}

// URL is the address of its REST server. It stays the same over its lives.
func (j *JobManager) URL() string { return j.rest.url }

// StartSession starts a session cluster. It returns when Flink answers and all TaskManagers are registered. The
// context bounds the start only.
func StartSession(ctx context.Context, options Options) (*Cluster, error) {
	return startCluster(ctx, options, nil)
}

// StartApplication starts an application cluster. It returns when Flink answers; the job may not be known to it yet,
// or, if it fails at once, the JobManager may be gone again already: its exit code is 163 then, or 0 after a job that
// finished or was canceled. The context bounds the start only.
func StartApplication(ctx context.Context, options Options, application Application) (*Cluster, error) {
	return startCluster(ctx, options, &application)
}

func startCluster(ctx context.Context, options Options, application *Application) (*Cluster, error) {
	if options.Dist == nil {
		return nil, errors.New("start Flink: no distribution given")
	}
	if options.JobManagers > 1 && !options.HA {
		return nil, errors.New("start Flink: more than one JobManager needs high availability")
	}
	c, err := newCluster(options, application)
	if err != nil {
		return nil, fmt.Errorf("prepare Flink: %w", err)
	}
	tell := machine.NewTeller(options.Progress, "Flink "+options.Dist.Version+": ")
	c.throws = application != nil && application.Job.Throws
	if err := c.start(ctx, tell, application != nil); err != nil {
		return nil, errors.Join(fmt.Errorf("start Flink: %w", err), c.Close())
	}
	return c, nil
}

// newCluster writes the cluster's folder and lays its processes out. It starts none.
func newCluster(options Options, application *Application) (c *Cluster, err error) {
	c = &Cluster{dist: options.Dist, dir: options.Dir}
	if c.dir == "" {
		if c.dir, err = os.MkdirTemp("", "holdfast-flink-"); err != nil {
			return nil, err
		}
		c.temporary = true
		defer func() {
			if err != nil {
				os.RemoveAll(c.dir)
			}
		}()
	} else if c.dir, err = filepath.Abs(c.dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(c.dir, "tmp"), 0o755); err != nil {
		return nil, err
	}

	var rpcPort, zookeeperPort int
	if err := machine.FreePorts(&rpcPort, &zookeeperPort); err != nil {
		return nil, err
	}
	slots := options.Slots
	if slots == 0 {
		slots = 4
	}
	config := []map[string]string{baseConfig(c.dir, slots)}
	if options.HA {
		if err := c.addZooKeeper(zookeeperPort); err != nil {
			return nil, err
		}
		config = append(config, haConfig(c.dir, zookeeperPort))
	} else {
		// Without high availability the TaskManagers must be told; with it they ask ZooKeeper, and each leader has its own.
		config = append(config, map[string]string{"jobmanager.rpc.port": strconv.Itoa(rpcPort)})
	}
	// The address itself is mandatory in both.
	config = append(config, map[string]string{"jobmanager.rpc.address": "127.0.0.1"}, options.Config)
	if err := writeConfig(c.configDir(), config...); err != nil {
		return nil, err
	}
	for range max(1, options.JobManagers) {
		if err := c.addJobManager(application); err != nil {
			return nil, err
		}
	}
	taskManagers := options.TaskManagers
	if taskManagers == 0 {
		taskManagers = 1
	}
	for range max(0, taskManagers) {
		c.addTaskManager()
	}
	return c, nil
}

func (c *Cluster) configDir() string { return filepath.Join(c.dir, "conf") }

func (c *Cluster) addZooKeeper(port int) error {
	data, file := filepath.Join(c.dir, "zookeeper"), filepath.Join(c.dir, "zoo.cfg")
	if err := os.MkdirAll(data, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(file, []byte(zookeeperConfig(data, port)), 0o644); err != nil {
		return err
	}
	c.zookeeperAt = fmt.Sprintf("127.0.0.1:%d", port)
	const peer = "1"
	c.zookeeper = c.java("zookeeper", "64m", "org.apache.flink.runtime.zookeeper.FlinkZooKeeperQuorumPeer",
		"--zkConfigFile", file, "--peerId", peer)
	return nil
}

func (c *Cluster) addJobManager(application *Application) error {
	port, err := machine.FreePort()
	if err != nil {
		return err
	}
	class := "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
	args := []string{"--configDir", c.configDir(), "-D", "rest.port=" + strconv.Itoa(port)}
	if application != nil {
		class = "org.apache.flink.container.entrypoint.StandaloneApplicationClusterEntryPoint"
		args = append(args, "-D", "execution.attached="+strconv.FormatBool(application.Attached), "--job-classname", JobClass)
		if application.JobID != "" {
			args = append(args, "--job-id", application.JobID)
		}
		args = append(args, application.Job.Args()...)
	}
	name := fmt.Sprintf("jobmanager-%d", len(c.jobManagers))
	c.jobManagers = append(c.jobManagers, &JobManager{
		Process: c.java(name, "256m", class, args...),
		rest:    NewREST(fmt.Sprintf("http://127.0.0.1:%d", port), nil),
	})
	return nil
}

func (c *Cluster) addTaskManager() *Process {
	name := fmt.Sprintf("taskmanager-%d", len(c.taskManagers))
	taskManager := c.java(name, "160m", "org.apache.flink.runtime.taskexecutor.TaskManagerRunner", "--configDir", c.configDir())
	c.taskManagers = append(c.taskManagers, taskManager)
	return taskManager
}

// java lays out a process that runs a class of Flink.
func (c *Cluster) java(name, heap, class string, args ...string) *Process {
	argv := []string{c.dist.Java, "-Xmx" + heap}
	argv = append(argv, JVMOptions()...)
	argv = append(argv,
		"-Dlog4j.configurationFile=file:"+filepath.Join(c.configDir(), "log4j.properties"),
		// The job belongs to the class path in application mode; elsewhere it comes in its own jar.
		"-cp", filepath.Join(c.dist.Lib, "*")+string(filepath.ListSeparator)+c.dist.JobJar,
		class)
	return newProcess(name, c.dir, filepath.Join(c.dir, name+".log"), append(argv, args...)...)
}

// start starts all processes. The first JobManager answers before a standby begins, so that it leads at first.
func (c *Cluster) start(ctx context.Context, tell machine.Teller, application bool) error {
	begin := time.Now()
	if c.zookeeper != nil {
		tell.Sayf("starting ZooKeeper")
		if err := c.startZooKeeper(ctx); err != nil {
			return err
		}
	}
	tell.Sayf("starting %d JobManagers and %d TaskManagers", len(c.jobManagers), len(c.taskManagers))
	for i, jobManager := range c.jobManagers {
		if err := jobManager.Start(); err != nil {
			return err
		}
		if i == 0 {
			// Beside the JobManager, not after it: half of a start is loading classes.
			for _, taskManager := range c.taskManagers {
				if err := taskManager.Start(); err != nil {
					return err
				}
			}
		}
		if err := c.awaitJobManager(ctx, jobManager, application); err != nil {
			return err
		}
	}
	if !application {
		if err := c.AwaitTaskManagers(ctx, len(c.taskManagers)); err != nil {
			return err
		}
	}
	tell.Sayf("up at %s after %.1f s", c.URL(), time.Since(begin).Seconds())
	return nil
}

func (c *Cluster) startZooKeeper(ctx context.Context) error {
	if err := c.zookeeper.Start(); err != nil {
		return err
	}
	return machine.Poll(ctx, func() (bool, error) {
		if !c.zookeeper.Running() {
			return false, endedError(c.zookeeper)
		}
		conn, err := net.Dial("tcp4", c.zookeeperAt)
		if err != nil {
			return false, nil
		}
		return true, conn.Close()
	})
}

// awaitJobManager waits until a JobManager answers. Of an application that is over already, that its process has ended
// is enough.
func (c *Cluster) awaitJobManager(ctx context.Context, jobManager *JobManager, application bool) error {
	return machine.Poll(ctx, func() (bool, error) {
		code, ended := jobManager.ExitCode()
		if ended && application && (code == exitSuccess || code == exitFailed || c.throws) {
			return true, nil
		}
		if ended {
			return false, endedError(jobManager.Process)
		}
		return jobManager.rest.ask(ctx, http.MethodGet, "/jobs/overview", nil, nil) == nil, nil
	})
}

// Exit codes of an application's JobManager (ApplicationStatus.java): after a job that finished or was canceled, and
// after one that failed (1443 modulo 256).
const (
	exitSuccess = 0
	exitFailed  = 163
)

func endedError(process *Process) error {
	code, _ := process.ExitCode()
	return fmt.Errorf("%s ended with exit code %d; its log ends so:\n%s", process.name, code, process.lastLog(20))
}

// AwaitJobManager waits until the JobManager of that number answers, after a Restart for example.
func (c *Cluster) AwaitJobManager(ctx context.Context, number int) error {
	return c.awaitJobManager(ctx, c.jobManagers[number], false)
}

// AwaitTaskManagers waits until so many TaskManagers, no more and no fewer, are registered.
func (c *Cluster) AwaitTaskManagers(ctx context.Context, count int) error {
	return machine.Poll(ctx, func() (bool, error) {
		for _, taskManager := range c.taskManagers {
			if !taskManager.Running() && count == len(c.taskManagers) {
				return false, endedError(taskManager)
			}
		}
		var overview struct {
			TaskManagers int `json:"taskmanagers"`
		}
		err := c.ask(ctx, http.MethodGet, "/overview", nil, &overview)
		return err == nil && overview.TaskManagers == count, nil
	})
}

// WaitState waits until Flink says that a job is in the given state. It fails at once when the job has ended in another
// one, and when no JobManager runs.
func (c *Cluster) WaitState(ctx context.Context, id string, want job.State) error {
	err := waitState(ctx, c, id, want)
	if errors.Is(err, ErrNotRunning) {
		return endedError(c.jobManagers[0].Process)
	}
	return err
}

// WaitRunning waits until a job is RUNNING and all of its tasks run: Flink says RUNNING before there is any slot.
func (c *Cluster) WaitRunning(ctx context.Context, id string) error {
	err := waitRunning(ctx, c, id)
	if errors.Is(err, ErrNotRunning) {
		return endedError(c.jobManagers[0].Process)
	}
	return err
}

func waitState(ctx context.Context, flink asker, id string, want job.State) error {
	var last string
	err := machine.Poll(ctx, func() (bool, error) {
		state, err := state(ctx, flink, id)
		if errors.Is(err, ErrNotRunning) {
			return false, err
		}
		if err != nil {
			last = err.Error()
			return false, nil
		}
		last = state.String()
		if state.Terminal() && state != want {
			return false, errors.New("the job has ended")
		}
		return state == want, nil
	})
	if err != nil {
		return fmt.Errorf("wait until job %s is %s (last: %s): %w", id, want, last, err)
	}
	return nil
}

func waitRunning(ctx context.Context, flink asker, id string) error {
	if err := waitState(ctx, flink, id, job.Running); err != nil {
		return err
	}
	var last JobInfo
	err := machine.Poll(ctx, func() (bool, error) {
		info, err := jobByID(ctx, flink, id)
		if err == nil {
			last = info
		}
		if last.State.Terminal() {
			return false, errors.New("the job has ended")
		}
		return err == nil && info.State == job.Running && info.Tasks.Running == info.Tasks.Total, nil
	})
	if err != nil {
		return fmt.Errorf("wait until all tasks of job %s run (last: %s, %d of %d): %w", id, last.State, last.Tasks.Running, last.Tasks.Total, err)
	}
	return nil
}

// Version is the version of Flink.
func (c *Cluster) Version() string { return c.dist.Version }

// Dir is the cluster's folder: its configuration, its logs and its data.
func (c *Cluster) Dir() string { return c.dir }

// URL is the REST address of the first JobManager. Standbys have their own.
func (c *Cluster) URL() string { return c.jobManagers[0].URL() }

// JobManager gives the first JobManager, the only one of a cluster without standbys.
func (c *Cluster) JobManager() *JobManager { return c.jobManagers[0] }

// Leader waits until a running JobManager has been granted leadership, and gives it. Flink tells that in its log alone: over
// REST a standby answers as the leader would. The first one to start leads at first, but on a busy machine it may lose
// ZooKeeper, and with it the leadership, without any fault of the test's.
func (c *Cluster) Leader(ctx context.Context) (leader *JobManager, err error) {
	err = machine.Poll(ctx, func() (bool, error) {
		for _, jobManager := range c.jobManagers {
			if !jobManager.Running() {
				continue
			}
			log, err := jobManager.lifeLog()
			if err != nil {
				return false, err
			}
			// The words of WebMonitorEndpoint.java, in 1.20 and 2.3.
			granted := bytes.LastIndex(log, []byte("was granted leadership with leaderSessionID"))
			if granted >= 0 && !bytes.Contains(log[granted:], []byte("lost leadership")) {
				leader = jobManager
				return true, nil
			}
		}
		return false, nil
	})
	if err != nil {
		return nil, fmt.Errorf("wait for a leading JobManager: %w", err)
	}
	return leader, nil
}

// JobManagers gives all JobManagers, standbys too.
func (c *Cluster) JobManagers() []*JobManager { return c.jobManagers }

// TaskManager gives the TaskManager of that number, from 0.
func (c *Cluster) TaskManager(number int) *Process { return c.taskManagers[number] }

// StartTaskManager adds a TaskManager. AwaitTaskManagers tells when Flink knows it.
func (c *Cluster) StartTaskManager() (*Process, error) {
	taskManager := c.addTaskManager()
	return taskManager, taskManager.Start()
}

// Processes gives all processes of the cluster.
func (c *Cluster) Processes() []*Process {
	var all []*Process
	if c.zookeeper != nil {
		all = append(all, c.zookeeper)
	}
	for _, jobManager := range c.jobManagers {
		all = append(all, jobManager.Process)
	}
	return append(all, c.taskManagers...)
}

// Close kills all processes, and removes the cluster's folder if it was temporary. It may be called again.
func (c *Cluster) Close() error {
	var errs []error
	for _, process := range c.Processes() {
		errs = append(errs, process.Kill())
	}
	if c.temporary {
		errs = append(errs, os.RemoveAll(c.dir))
	}
	return errors.Join(errs...)
}
