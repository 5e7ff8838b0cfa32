package flinkproc

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-dev/holdfast/test/machine"
)

// Flink's jars are taken from the source archive of PyPI's apache-flink-libraries: the one package of any registry
// that has flink-dist, with all entry points in it, for every version. (Maven has neither flink-dist nor the standalone
// application entry point of 1.20.)
const pypiPackage = "apache-flink-libraries"

// archive is what is known of a version's source archive.
type archive struct {
	sha256 string
	bytes  int64
}

// Pinned, so that a changed archive is noticed. Of other versions pip compares the hash that its index names.
var archives = map[string]archive{
	Flink1: {"be28293619b1d7b04c970b947133ae8d0ca86681f23694be063b3659ea69bb79", 231_087_513},
	Flink2: {"570bf8831d3c1336311e924e97119e52d8842e5485a4a7709ff9a92db709b006", 329_008_299},
}

// download puts Flink's jars into home/lib, which appears whole or not at all. The caller holds the version's lock.
func download(ctx context.Context, version, home string, tell machine.Teller) error {
	partial := home + ".partial"
	// What an interrupted call left is of no use: pip cannot continue it.
	if err := os.RemoveAll(partial); err != nil {
		return err
	}
	defer os.RemoveAll(partial)
	lib := filepath.Join(partial, "home", "lib")
	if err := os.MkdirAll(lib, 0o755); err != nil {
		return err
	}
	source, err := pipDownload(ctx, version, partial, tell)
	if err != nil {
		return err
	}
	tell.Sayf("taking the jars out of the archive")
	if err := extract(ctx, source, lib); err != nil {
		return fmt.Errorf("take the jars out of %s: %w", filepath.Base(source), err)
	}
	if err := os.RemoveAll(home); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(partial, "home"), home); err != nil {
		return err
	}
	tell.Sayf("kept in %s", home)
	return nil
}

// pipDownload downloads the version's source archive into a folder below dir and gives its path.
func pipDownload(ctx context.Context, version, dir string, tell machine.Teller) (string, error) {
	pip, err := findPip(ctx, tell)
	if err != nil {
		return "", err
	}
	into, scratch := filepath.Join(dir, "archive"), filepath.Join(dir, "scratch")
	for _, folder := range []string{into, scratch} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return "", err
		}
	}
	known := archives[version]
	requirement := pypiPackage + "==" + version
	if known.sha256 != "" {
		requirement += " --hash=sha256:" + known.sha256
	}
	requirements := filepath.Join(dir, "requirements.txt")
	if err := os.WriteFile(requirements, []byte(requirement+"\n"), 0o644); err != nil {
		return "", err
	}

	stop := make(chan struct{})
	var growth sync.WaitGroup
	growth.Go(func() { tellGrowth(scratch, known.bytes, stop, tell) })
	args := append(pip[1:], "download", "--no-deps", "--no-binary", pypiPackage, "--no-cache-dir",
		"--progress-bar", "off", "--disable-pip-version-check", "--dest", into, "--requirement", requirements)
	// pip downloads into a temporary folder first. It gets ours: its growth can be shown, and nothing is left behind.
	printed, err := machine.Run(ctx, []string{"TMPDIR=" + scratch}, pip[0], args...)
	close(stop)
	growth.Wait() // the writer behind tell is ours only until we return
	if err != nil {
		return "", err
	}
	found, err := filepath.Glob(filepath.Join(into, "*.tar.gz"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("pip download left %d archives, not 1:\n%s", len(found), machine.LastLines(printed, 20))
	}
	return found[0], nil
}

// findPip gives the words that call pip.
func findPip(ctx context.Context, tell machine.Teller) ([]string, error) {
	if pip := lookForPip(ctx); pip != nil {
		return pip, nil
	}
	err := machine.Install(ctx, tell, "python3-pip")
	if errors.Is(err, machine.ErrCannotInstall) {
		return nil, errors.New("pip is needed to download Flink: install Python 3 with pip (python3-pip on Debian and Ubuntu)")
	}
	if err != nil {
		return nil, err
	}
	if pip := lookForPip(ctx); pip != nil {
		return pip, nil
	}
	return nil, errors.New("python3-pip is installed, but python3 -m pip does not work")
}

func lookForPip(ctx context.Context) []string {
	for _, pip := range [][]string{{"python3", "-m", "pip"}, {"pip3"}, {"pip"}} {
		if _, err := machine.Run(ctx, nil, pip[0], append(pip[1:], "--version")...); err == nil {
			return pip
		}
	}
	return nil
}

// tellGrowth tells every few seconds how much of the archive has come.
func tellGrowth(dir string, total int64, stop <-chan struct{}, tell machine.Teller) {
	const megabyte = 1_000_000
	of := ""
	if total > 0 {
		of = fmt.Sprintf(" of %d", total/megabyte)
		tell.Sayf("downloading %d MB", total/megabyte)
	} else {
		tell.Sayf("downloading")
	}
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	var last int64
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		come := archiveSize(dir)
		switch {
		case come > last:
			tell.Sayf("%d%s MB have come", come/megabyte, of)
		case come > 0 && come == total:
			tell.Sayf("all has come, pip is looking at it")
			return
		}
		last = come
	}
}

// archiveSize is the size of the largest archive below dir, 0 if there is none yet.
func archiveSize(dir string) (size int64) {
	filepath.WalkDir(dir, func(file string, entry fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(file, ".tar.gz") {
			if info, err := entry.Info(); err == nil {
				size = max(size, info.Size())
			}
		}
		return nil // pip makes and removes files as we look
	})
	return size
}

// extract writes the jars that a cluster needs into lib: flink-dist and log4j.
func extract(ctx context.Context, source, lib string) error {
	file, err := os.Open(source)
	if err != nil {
		return err
	}
	defer file.Close()
	unzipped, err := gzip.NewReader(file)
	if err != nil {
		return err
	}
	entries := tar.NewReader(unzipped)
	dist := false
	for ctx.Err() == nil {
		entry, err := entries.Next()
		if err == io.EOF && !dist {
			return errors.New("there is no flink-dist in it")
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		name := path.Base(entry.Name)
		isDist := strings.HasPrefix(name, "flink-dist")
		if path.Base(path.Dir(entry.Name)) != "lib" || path.Ext(name) != ".jar" || !isDist && !strings.HasPrefix(name, "log4j") {
			continue
		}
		if err := machine.WriteSynced(filepath.Join(lib, name), entries); err != nil {
			return err
		}
		dist = dist || isDist
	}
	return ctx.Err()
}
