package flinkproc

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestVersions(t *testing.T) {
	t.Setenv("HOLDFAST_FLINK_VERSIONS", "")
	if diff := cmp.Diff([]string{Flink1, Flink2}, Versions()); diff != "" {
		t.Error(diff)
	}
	t.Setenv("HOLDFAST_FLINK_VERSIONS", "1.19.3, 2.2.0,")
	if diff := cmp.Diff([]string{"1.19.3", "2.2.0"}, Versions()); diff != "" {
		t.Error(diff)
	}
}

// Versions become part of paths and of what pip is told, and older ones would fail later and darker.
func TestCheckVersion(t *testing.T) {
	for version, good := range map[string]bool{
		Flink1: true, Flink2: true, "1.19.0": true, "10.0.0": true,
		"1.18.1": false, "0.10.0": false, "1.20": false, "": false, "../1.20.1": false, "1.20.1 --index-url x": false,
	} {
		if err := checkVersion(version); (err == nil) != good {
			t.Errorf("checkVersion(%q) = %v", version, err)
		}
	}
}

func TestExtract(t *testing.T) {
	source := filepath.Join(t.TempDir(), "source.tar.gz")
	writeArchive(t, source, map[string]string{
		"p-1/deps/lib/flink-dist-1.20.1.jar":      "dist",
		"p-1/deps/lib/log4j-core-2.17.1.jar":      "log4j",
		"p-1/deps/lib/flink-table-runtime.jar":    "not needed",
		"p-1/deps/opt/flink-dist-of-another.jar":  "not in lib",
		"p-1/deps/lib/log4j.properties":           "not a jar",
		"p-1/deps/lib/../../../lib/flink-dist.sh": "not a jar either",
	})
	lib := t.TempDir()
	if err := extract(t.Context(), source, lib); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"flink-dist-1.20.1.jar", "log4j-core-2.17.1.jar"}, fileNames(t, lib)); diff != "" {
		t.Error(diff)
	}

	whole, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(source, whole[:len(whole)-20], 0o644); err != nil {
		t.Fatal(err)
	}
	if err := extract(t.Context(), source, lib); err == nil {
		t.Error("an archive that was cut off is taken for whole")
	}
	writeArchive(t, source, map[string]string{"p-1/deps/lib/log4j.jar": "log4j"})
	if err := extract(t.Context(), source, lib); err == nil {
		t.Error("an archive without flink-dist is taken")
	}
}

func TestJavaVersion(t *testing.T) {
	for printed, want := range map[string]int{
		"    java.specification.version = 17\n":  17,
		"    java.specification.version = 1.8\n": 8,
		"nonsense":                               0,
	} {
		got, err := javaVersion(printed)
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("javaVersion(%q) = %d, %v, want %d", printed, got, err, want)
		}
	}
}

func TestDistributionIsKept(t *testing.T) {
	tools := fakeTools(t)
	var progress strings.Builder
	dist, err := Distribution(t.Context(), Flink1, &progress)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{dist.Java, filepath.Join(dist.Lib, "flink-dist-1.jar"), dist.JobJar} {
		if _, err := os.Stat(file); err != nil {
			t.Error(err)
		}
	}
	if !strings.Contains(progress.String(), "Flink "+Flink1+": downloading 231 MB\n") {
		t.Errorf("nobody is told of the download: %q", progress.String())
	}

	again, err := Distribution(t.Context(), Flink1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(dist, again); diff != "" {
		t.Error(diff)
	}
	if n := tools.downloads(t); n != 1 {
		t.Errorf("%d downloads, want 1", n)
	}
	if diff := cmp.Diff([]string{Flink1, Flink1 + ".lock"}, fileNames(t, tools.cache)); diff != "" {
		t.Errorf("what is left in the cache: %s", diff)
	}
}

func TestDistributionIsPinned(t *testing.T) {
	tools := fakeTools(t)
	if _, err := Distribution(t.Context(), Flink2, nil); err != nil {
		t.Fatal(err)
	}
	asked, err := os.ReadFile(filepath.Join(tools.dir, "requirements"))
	if err != nil {
		t.Fatal(err)
	}
	if want := "apache-flink-libraries==2.3.0 --hash=sha256:570bf8831d3c1336311e924e97119e52d8842e5485a4a7709ff9a92db709b006\n"; string(asked) != want {
		t.Errorf("pip is asked for %q, want %q", asked, want)
	}
}

// Whoever comes second waits, and finds what the first one got.
func TestDistributionAtOnce(t *testing.T) {
	tools := fakeTools(t)
	errs := make([]error, 4)
	var callers sync.WaitGroup
	for i := range errs {
		callers.Go(func() { _, errs[i] = Distribution(t.Context(), Flink1, nil) })
	}
	callers.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if n := tools.downloads(t); n != 1 {
		t.Errorf("%d downloads, want 1", n)
	}
}

func TestDistributionAfterInterruption(t *testing.T) {
	tools := fakeTools(t)
	// What a process that was killed leaves: half an archive, half a lib folder, and a lock file that nobody holds.
	half := filepath.Join(tools.cache, Flink1+".partial", "home", "lib")
	if err := os.MkdirAll(half, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{filepath.Join(half, "flink-dist-half.jar"), filepath.Join(tools.cache, Flink1+".lock")} {
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}

	tools.write(t, "hang", "")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if _, err := Distribution(ctx, Flink1, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("an interrupted download ends with %v", err)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("an interrupted download ends after %s", took)
	}

	os.Remove(filepath.Join(tools.dir, "hang"))
	dist, err := Distribution(t.Context(), Flink1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"flink-dist-1.jar", "log4j-core.jar"}, fileNames(t, dist.Lib)); diff != "" {
		t.Error(diff)
	}
}

func TestDistributionWhenPipFails(t *testing.T) {
	tools := fakeTools(t)
	tools.write(t, "fail", "")
	_, err := Distribution(t.Context(), Flink1, nil)
	if err == nil || !strings.Contains(err.Error(), "no such release") {
		t.Errorf("the error does not have pip's own words: %v", err)
	}
	if names := fileNames(t, tools.cache); slices.Contains(names, Flink1) {
		t.Errorf("a failed download leaves %v", names)
	}
}

// What is missing is named, with the package that has it. (No apt-get on the PATH: what may be installed is.)
func TestDistributionNamesWhatIsMissing(t *testing.T) {
	for tool, want := range map[string]string{
		"java":    "openjdk-17-jdk-headless",
		"javac":   "openjdk-17-jdk-headless",
		"python3": "python3-pip",
	} {
		t.Run(tool, func(t *testing.T) {
			tools := fakeTools(t)
			if err := os.Remove(filepath.Join(tools.dir, tool)); err != nil {
				t.Fatal(err)
			}
			_, err := Distribution(t.Context(), Flink1, nil)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("the error does not name %s: %v", want, err)
			}
		})
	}
}

// tools is a folder with stand-ins for java, javac and pip, the only folder on the PATH.
type tools struct{ dir, cache string }

func fakeTools(t *testing.T) tools {
	t.Helper()
	fake := tools{t.TempDir(), t.TempDir()}
	writeArchive(t, filepath.Join(fake.dir, "archive.tar.gz"), map[string]string{
		"p-1/deps/lib/flink-dist-1.jar": "dist",
		"p-1/deps/lib/log4j-core.jar":   "log4j",
	})
	fake.write(t, "java", "#!/bin/sh\necho '    java.specification.version = 17'\n")
	fake.write(t, "javac", `#!/bin/sh
while [ $# -gt 1 ]; do
	if [ "$1" = -d ]; then /bin/mkdir "$2"; echo class >"$2/ControlledJob.class"; fi
	shift
done
`)
	fake.write(t, "python3", `#!/bin/sh
here=`+fake.dir+`
case "$*" in *--version) exit 0 ;; esac
while [ $# -gt 0 ]; do
	case "$1" in
	--dest) dest=$2 ;;
	--requirement) /bin/cp "$2" $here/requirements ;;
	esac
	shift
done
echo download >>$here/downloads
if [ -e $here/hang ]; then echo half >$TMPDIR/half.tar.gz; /bin/sleep 60; fi
if [ -e $here/fail ]; then echo no such release; exit 1; fi
/bin/cp $here/archive.tar.gz $dest/archive.tar.gz
`)
	t.Setenv("PATH", fake.dir)
	t.Setenv("JAVA_HOME", "")
	t.Setenv("HOLDFAST_FLINK_CACHE", fake.cache)
	return fake
}

func (f tools) write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, name), []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
}

// downloads counts how often pip was asked to download.
func (f tools) downloads(t *testing.T) int {
	t.Helper()
	lines, err := os.ReadFile(filepath.Join(f.dir, "downloads"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(lines), "\n")
}

func writeArchive(t *testing.T, path string, files map[string]string) {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	zipped := gzip.NewWriter(file)
	archive := tar.NewWriter(zipped)
	for name, content := range files {
		header := tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}
		if err := archive.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(archive.Close(), zipped.Close(), file.Close()); err != nil {
		t.Fatal(err)
	}
}

func fileNames(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// As root on Debian what is missing is installed: here by a stand-in for apt-get, whose first choice is not to be had.
func TestDistributionInstalls(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may install")
	}
	tools := fakeTools(t)
	if err := os.Rename(filepath.Join(tools.dir, "javac"), filepath.Join(tools.dir, "javac.later")); err != nil {
		t.Fatal(err)
	}
	tools.write(t, "apt-get", `#!/bin/sh
cd `+tools.dir+`
echo "$*" >>asked
case "$*" in
*openjdk-17*) exit 100 ;;
*install*default-jdk-headless) /bin/mv javac.later javac ;;
esac
`)
	if _, err := Distribution(t.Context(), Flink1, nil); err != nil {
		t.Fatal(err)
	}
	asked, err := os.ReadFile(filepath.Join(tools.dir, "asked"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(asked), "-o DPkg::Lock::Timeout=120 update\n") {
		t.Errorf("apt-get is asked %q: an update must come first", asked)
	}
}
