package flinkproc

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestJobArgs(t *testing.T) {
	for _, test := range []struct {
		job  Job
		want []string
	}{
		{Job{Sources: []string{"a:1"}}, []string{"source=a:1"}},
		{
			Job{Name: "n", Sources: []string{"a:1", "b:2"}, Async: true, Restarts: 3, Delay: time.Second},
			[]string{"source=a:1", "source=b:2", "name=n", "async", "restarts=3", "delay=1000ms"},
		},
	} {
		if diff := cmp.Diff(test.want, test.job.Args()); diff != "" {
			t.Error(diff)
		}
	}
}

// How a cluster is laid out, without starting it.
func TestNewCluster(t *testing.T) {
	dist := &Dist{Version: Flink2, Java: "java", Lib: "/flink/lib", JobJar: "/flink/job.jar"}
	options := Options{
		Dist: dist, Dir: t.TempDir(), HA: true, JobManagers: 2, TaskManagers: -1,
		Config: map[string]string{"heartbeat.timeout": "5s", "heartbeat.interval": "2s"},
	}
	id := strings.Repeat("a", 32)
	c, err := newCluster(options, &Application{JobID: id, Job: Job{Sources: []string{"a:1"}}, Attached: true})
	check(t, err)

	var names []string
	for _, process := range c.Processes() {
		names = append(names, process.Name())
	}
	if diff := cmp.Diff([]string{"zookeeper", "jobmanager-0", "jobmanager-1"}, names); diff != "" {
		t.Error(diff)
	}
	first, second := c.JobManagers()[0], c.JobManagers()[1]
	if first.URL() == second.URL() {
		t.Errorf("two JobManagers have the same address %s", first.URL())
	}
	argv := first.argv[slices.Index(first.argv, "--configDir"):]
	port := first.URL()[strings.LastIndex(first.URL(), ":")+1:]
	want := []string{
		"--configDir", filepath.Join(c.Dir(), "conf"), "-D", "rest.port=" + port, "-D", "execution.attached=true",
		"--job-classname", "ControlledJob", "--job-id", id, "source=a:1",
	}
	if diff := cmp.Diff(want, argv); diff != "" {
		t.Error(diff)
	}
	config, err := os.ReadFile(filepath.Join(c.Dir(), "conf", "config.yaml"))
	check(t, err)
	for _, line := range []string{
		`heartbeat.timeout: "5s"`, `heartbeat.interval: "2s"`, `high-availability.type: "zookeeper"`,
		`high-availability.storageDir: "file://` + c.Dir() + `/ha"`,
	} {
		if !strings.Contains(string(config), line+"\n") {
			t.Errorf("config.yaml does not have %s:\n%s", line, config)
		}
	}
	check(t, c.Close())
	if _, err := os.Stat(c.Dir()); err != nil {
		t.Errorf("Close has taken a folder that is not its own: %v", err)
	}
}

func TestClusterOptions(t *testing.T) {
	if _, err := StartSession(t.Context(), Options{}); err == nil {
		t.Error("a cluster of no version starts")
	}
	if _, err := StartSession(t.Context(), Options{Dist: &Dist{}, JobManagers: 2}); err == nil {
		t.Error("two JobManagers start without high availability")
	}
}

// A start that fails says why, in Flink's own words, and leaves nothing behind.
func TestStartThatFails(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	java := filepath.Join(t.TempDir(), "java")
	check(t, os.WriteFile(java, []byte("#!/bin/sh\necho the memory is too small\nexit 1\n"), 0o755))
	_, err := StartSession(t.Context(), Options{Dist: &Dist{Version: Flink1, Java: java}})
	if err == nil || !strings.Contains(err.Error(), "jobmanager-0 ended with exit code 1") || !strings.Contains(err.Error(), "the memory is too small") {
		t.Errorf("StartSession: %v", err)
	}
	if left := fileNames(t, temp); len(left) != 0 {
		t.Errorf("it leaves %v", left)
	}
}
