// Package flinkimage makes container images of real Flink without any engine or registry: Debian and Java by mmdebstrap, Flink's jars
// as flinkproc gets them, the job of flinkproc, and scripts that take the same commands and variables as those of Flink's own images,
// so that a pod of them looks as pods of Flink do everywhere.
package flinkimage

import (
	"cmp"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/holdfast-dev/holdfast/test/flink/flinkproc"
	"github.com/holdfast-dev/holdfast/test/kubernetes/image"
	"github.com/holdfast-dev/holdfast/test/kubernetes/node"
	"github.com/holdfast-dev/holdfast/test/machine"
)

// JobJar is where the job is in the image, as Flink's command line names it.
const JobJar = "local:///opt/flink/usrlib/job.jar"

// User is the user and the group that Flink runs as, in Flink's own images too.
const User = 9999

// Name is the image of a version of Flink, docker.io/local/flink:VERSION. HOLDFAST_FLINK_IMAGE names another repository than
// docker.io/local/flink, for a cluster that pulls the images from somewhere.
func Name(version string) string {
	return cmp.Or(os.Getenv("HOLDFAST_FLINK_IMAGE"), "docker.io/local/flink") + ":" + version
}

//go:embed root
var root embed.FS

// Build makes the image of a version of Flink and gives the path of its file. The first call makes the Debian below, in a minute; what
// is made is kept in node.CacheDir, and made anew when something that it is made of changes. Any number of processes may
// call it at once; one works and the others wait.
//
// It needs root, and mmdebstrap, which it installs on Debian and its like. Progress, which may be nil, gets lines for people.
func Build(ctx context.Context, dist *flinkproc.Dist, progress io.Writer) (file string, err error) {
	file, err = build(ctx, dist, machine.NewTeller(progress, "Flink "+dist.Version+" image: "))
	if err != nil {
		return "", fmt.Errorf("make the image of Flink %s: %w", dist.Version, err)
	}
	return file, nil
}

func build(ctx context.Context, dist *flinkproc.Dist, tell machine.Teller) (string, error) {
	files, err := files(dist)
	if err != nil {
		return "", err
	}
	cache, err := node.CacheDir()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	unlock, err := machine.Lock(ctx, filepath.Join(cache, "flink.lock"), "making images of Flink", tell)
	if err != nil {
		return "", err
	}
	defer unlock()
	digest, err := digestOf(files)
	if err != nil {
		return "", err
	}
	file := filepath.Join(cache, "flink-"+dist.Version+"-"+digest+".tar")
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		return file, err
	}
	begin := time.Now()
	base, err := makeBase(ctx, cache, tell)
	if err != nil {
		return "", err
	}
	if err := forget(cache); err != nil {
		return "", err
	}
	layer, partial := file+".layer", file+".partial"
	defer os.Remove(layer)
	defer os.Remove(partial)
	if err := image.WriteLayer(layer, files...); err != nil {
		return "", err
	}
	err = image.Image{
		Name:       Name(dist.Version),
		User:       fmt.Sprint(User),
		WorkingDir: home,
		Entrypoint: []string{"/docker-entrypoint.sh"},
		Cmd:        []string{"help"},
		Env: []string{
			"FLINK_HOME=" + home,
			"PATH=" + home + "/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		},
		Layers: []string{base, layer},
	}.Write(partial)
	if err != nil {
		return "", err
	}
	if err := os.Rename(partial, file); err != nil {
		return "", err
	}
	tell.Sayf("made in %.0f s", time.Since(begin).Seconds())
	return file, nil
}

// home is Flink's folder in the image.
const home = "/opt/flink"

// files are what is put upon the base, always in the same order.
func files(dist *flinkproc.Dist) ([]image.File, error) {
	all := []image.File{
		{Path: home, Mode: 0o755, Owner: User},
		{Path: home + "/conf", Mode: 0o755, Owner: User},
		{Path: home + "/log", Mode: 0o755, Owner: User},
		{Path: home + "/conf/log4j-console.properties", Content: []byte(flinkproc.Logging), Mode: 0o644, Owner: User},
		{Path: home + "/bin/jvm.options", Content: []byte(strings.Join(flinkproc.JVMOptions(), "\n") + "\n"), Mode: 0o644},
		{Path: home + "/usrlib/job.jar", From: dist.JobJar, Mode: 0o644},
	}
	err := fs.WalkDir(root, "root", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := root.ReadFile(name)
		file := image.File{Path: strings.TrimPrefix(name, "root"), Content: content, Mode: 0o755}
		if path.Ext(name) == ".yaml" {
			file.Mode, file.Owner = 0o644, User // the entry point writes it
		}
		all = append(all, file)
		return err
	})
	if err != nil {
		return nil, err
	}
	jars, err := filepath.Glob(filepath.Join(dist.Lib, "*.jar"))
	if err != nil {
		return nil, err
	}
	for _, jar := range jars {
		all = append(all, image.File{Path: path.Join(home, "lib", filepath.Base(jar)), From: jar, Mode: 0o644})
	}
	return all, nil
}

// digestOf is a digest of all that an image is made of. What lies in flinkproc's cache has its version or digest in its name.
func digestOf(files []image.File) (string, error) {
	sum := sha256.New()
	fmt.Fprintln(sum, baseDigest(), runtime.GOARCH)
	for _, file := range files {
		size := int64(len(file.Content))
		if file.From != "" {
			info, err := os.Stat(file.From)
			if err != nil {
				return "", err
			}
			size = info.Size()
		}
		fmt.Fprintln(sum, file.Path, filepath.Base(file.From), file.Mode, file.Owner, size)
		sum.Write(file.Content)
	}
	return hex.EncodeToString(sum.Sum(nil)[:6]), nil
}

// forget removes images that are older than a week: what is made of other sources comes and goes.
func forget(cache string) error {
	old, err := filepath.Glob(filepath.Join(cache, "flink-*.tar"))
	if err != nil {
		return err
	}
	for _, file := range old {
		info, err := os.Stat(file)
		if err == nil && time.Since(info.ModTime()) > 7*24*time.Hour {
			err = os.Remove(file)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
