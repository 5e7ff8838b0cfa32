package flinkimage

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dev/holdfast/test/flink/flinkproc"
	"github.com/holdfast-dev/holdfast/test/kubernetes/image"
)

// fakeDist is a distribution that has the right files and nothing in them.
func fakeDist(t *testing.T) *flinkproc.Dist {
	t.Helper()
	dir := t.TempDir()
	dist := &flinkproc.Dist{Version: "1.20.1", Lib: dir, JobJar: filepath.Join(dir, "job-abc.notjar")}
	for _, file := range []string{filepath.Join(dir, "flink-dist-1.20.1.jar"), filepath.Join(dir, "log4j-core-2.jar"), dist.JobJar} {
		check(t, os.WriteFile(file, []byte("x"), 0o644))
	}
	return dist
}

// The image has what native Kubernetes and the documentation's manifests start, and Flink may write its configuration.
func TestFiles(t *testing.T) {
	all, err := files(fakeDist(t))
	check(t, err)
	at := map[string]image.File{}
	for _, file := range all {
		at[file.Path] = file
	}
	for _, program := range []string{
		"/docker-entrypoint.sh", "/opt/flink/bin/kubernetes-jobmanager.sh", "/opt/flink/bin/kubernetes-taskmanager.sh",
		"/opt/flink/bin/jobmanager.sh", "/opt/flink/bin/standalone-job.sh", "/opt/flink/bin/taskmanager.sh", "/opt/flink/bin/flink-console.sh",
	} {
		if at[program].Mode != 0o755 || at[program].Owner != 0 {
			t.Errorf("%s has mode %o and owner %d, want a program of root's", program, at[program].Mode, at[program].Owner)
		}
	}
	for _, file := range []string{"/opt/flink/conf", "/opt/flink/conf/config.yaml", "/opt/flink/conf/log4j-console.properties"} {
		if at[file].Owner != User {
			t.Errorf("%s belongs to %d, want %d", file, at[file].Owner, User)
		}
	}
	for _, file := range []string{"/opt/flink/usrlib/job.jar", "/opt/flink/lib/flink-dist-1.20.1.jar", "/opt/flink/lib/log4j-core-2.jar"} {
		if at[file].From == "" {
			t.Errorf("%s is not in the image", file)
		}
	}
	if !strings.HasSuffix(JobJar, "/opt/flink/usrlib/job.jar") {
		t.Errorf("the job is named %s", JobJar)
	}
}

func TestDigestSeesEveryChange(t *testing.T) {
	all, err := files(fakeDist(t))
	check(t, err)
	digest := func() string {
		t.Helper()
		digest, err := digestOf(all)
		check(t, err)
		return digest
	}
	first := digest()
	if first != digest() {
		t.Error("the same files have two digests")
	}
	for i := range all {
		before := all[i]
		all[i].Mode ^= 0o100
		if digest() == first {
			t.Errorf("another mode of %s goes unseen", before.Path)
		}
		all[i] = before
		if before.Content != nil {
			all[i].Content = append(slices.Clone(before.Content), ' ')
			if digest() == first {
				t.Errorf("another text of %s goes unseen", before.Path)
			}
			all[i] = before
		}
	}
}

func TestName(t *testing.T) {
	t.Setenv("HOLDFAST_FLINK_IMAGE", "")
	if got, want := Name("1.20.1"), "docker.io/local/flink:1.20.1"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	t.Setenv("HOLDFAST_FLINK_IMAGE", "registry.example/flink")
	if got, want := Name("1.20.1"), "registry.example/flink:1.20.1"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// The entry point makes of its variables what those of Flink's own images do.
func TestEntryPoint(t *testing.T) {
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip("there is no bash")
	}
	tests := []struct {
		name   string
		env    []string
		args   []string
		prints string   // what the program that it becomes prints
		has    []string // lines of the configuration
		hasNot []string
	}{
		{
			name: "JobManager", args: []string{"jobmanager", "10.0.0.1", "a b"},
			env: []string{"JOB_MANAGER_RPC_ADDRESS=flink-jobmanager"}, prints: "jobmanager.sh|start-foreground|10.0.0.1|a b|",
			has:    []string{"jobmanager.rpc.address: flink-jobmanager", "blob.server.port: 6124", "rest.bind-address: 0.0.0.0"},
			hasNot: []string{"jobmanager.rpc.address: localhost"},
		},
		{
			name: "properties", args: []string{"standalone-job", "-Drest.port=9"},
			env: []string{
				"FLINK_PROPERTIES=jobmanager.rpc.address: there\nblob.server.port: 1\n\nnonsense\nweb.url: http://x:1/$(touch oops)",
				"TASK_MANAGER_NUMBER_OF_TASK_SLOTS=3",
			},
			prints: "standalone-job.sh|start-foreground|-Drest.port=9|",
			has: []string{
				"jobmanager.rpc.address: there", "blob.server.port: 1", "taskmanager.numberOfTaskSlots: 3", "web.url: http://x:1/$(touch oops)",
			},
			hasNot: []string{"nonsense", "blob.server.port: 6124", "taskmanager.numberOfTaskSlots: 1"},
		},
		{
			name: "native", args: []string{"bash", "-c", "kubernetes-jobmanager.sh kubernetes-application $(printf '%s' -Da=b)"},
			env: []string{"FLINK_PROPERTIES=a: b"}, prints: "kubernetes-jobmanager.sh|kubernetes-application|-Da=b|",
			hasNot: []string{"a: b", "blob.server.port: 6124"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			home := t.TempDir()
			config := filepath.Join(home, "conf", "config.yaml")
			check(t, os.MkdirAll(filepath.Join(home, "conf"), 0o755))
			text, err := root.ReadFile("root/opt/flink/conf/config.yaml")
			check(t, err)
			check(t, os.WriteFile(config, text, 0o644))
			printed, err := enter(t, home, test.env, test.args...)
			check(t, err)
			if printed != test.prints {
				t.Errorf("it becomes %q, want %q", printed, test.prints)
			}
			text, err = os.ReadFile(config)
			check(t, err)
			lines := strings.Split(string(text), "\n")
			keys := map[string]bool{}
			for _, line := range lines {
				key, _, _ := strings.Cut(line, ":")
				if keys[key] && key != "" {
					t.Errorf("%s is there twice, which Flink 2 refuses", key)
				}
				keys[key] = true
			}
			for _, line := range test.has {
				if !slices.Contains(lines, line) {
					t.Errorf("the configuration lacks %q:\n%s", line, text)
				}
			}
			for _, line := range test.hasNot {
				if slices.Contains(lines, line) {
					t.Errorf("the configuration has %q:\n%s", line, text)
				}
			}
		})
	}
}

// A ConfigMap that is mounted where the configuration lies cannot be changed, and is no reason not to start.
func TestEntryPointWithMountedConfiguration(t *testing.T) {
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip("there is no bash")
	}
	printed, err := enter(t, t.TempDir(), []string{"FLINK_PROPERTIES=a: b"}, "taskmanager")
	check(t, err)
	if diff := cmp.Diff("taskmanager.sh|start-foreground|", printed); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// enter runs the entry point where the programs only print how they were called.
func enter(t *testing.T, home string, env []string, args ...string) (string, error) {
	t.Helper()
	bin := t.TempDir()
	script, err := root.ReadFile("root/docker-entrypoint.sh")
	check(t, err)
	entry := filepath.Join(bin, "docker-entrypoint.sh")
	check(t, os.WriteFile(entry, script, 0o755))
	for _, name := range []string{"jobmanager.sh", "standalone-job.sh", "taskmanager.sh", "kubernetes-jobmanager.sh"} {
		check(t, os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\nprintf '%s|' \"${0##*/}\" \"$@\"\n"), 0o755))
	}
	check(t, os.WriteFile(filepath.Join(bin, "envsubst"), []byte("#!/bin/sh\nexec cat\n"), 0o755))
	cmd := exec.Command("bash", append([]string{entry}, args...)...)
	cmd.Dir = home
	cmd.Env = append([]string{"PATH=" + bin + string(filepath.ListSeparator) + os.Getenv("PATH"), "FLINK_HOME=" + home}, env...)
	out, err := cmd.Output()
	return string(out), err
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
