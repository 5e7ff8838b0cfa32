package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/holdfast-dev/holdfast/test/machine"
)

// programs are the folders where the built programs lie. Their names tell one state of the sources from another.
type programs struct {
	Kube    string `json:"kube"`  // all of Kubernetes, and etcd: one file with many names
	Tools   string `json:"tools"` // coredns and helm
	Podtool string `json:"podtool"`
}

// kubeNames are the names that build/kube is called by.
var kubeNames = []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"}

// recipe says how the programs of one folder are built.
type recipe struct {
	name   string
	source string // below the folder of this package
	// build writes the programs into a folder.
	build func(ctx context.Context, source, into string) error
}

var (
	kubeRecipe    = recipe{"kube", "build/kube", buildKube}
	toolsRecipe   = recipe{"tools", "build/tools", buildTools}
	podtoolRecipe = recipe{"podtool", "podtool", func(ctx context.Context, source, into string) error {
		return goBuild(ctx, source, "-s -w", "-o", filepath.Join(into, "podtool"), ".")
	}}
)

// CacheDir is where what was built is kept: HOLDFAST_KUBERNETES_CACHE if it is set, else holdfast/kubernetes in the user's
// cache folder.
func CacheDir() (string, error) {
	if dir := os.Getenv("HOLDFAST_KUBERNETES_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a folder to keep Kubernetes in (HOLDFAST_KUBERNETES_CACHE names one): %w", err)
	}
	return filepath.Join(dir, "holdfast", "kubernetes"), nil
}

// Build builds what a node is made of, if nobody has: some ten minutes of two processors.
func Build(ctx context.Context, tell machine.Teller) error {
	_, err := buildAll(ctx, tell)
	return err
}

// buildAll builds what has not been built yet from these sources.
func buildAll(ctx context.Context, tell machine.Teller) (*programs, error) {
	var built programs
	err := machine.Together(ctx,
		func(ctx context.Context) (err error) { built.Kube, err = kubeRecipe.make(ctx, tell); return err },
		func(ctx context.Context) (err error) { built.Tools, err = toolsRecipe.make(ctx, tell); return err },
		func(ctx context.Context) (err error) { built.Podtool, err = podtoolRecipe.make(ctx, tell); return err },
	)
	return &built, err
}

// make gives the folder with the recipe's programs, and builds them if nobody has. Any number of processes may call it at
// once; one works and the others wait.
func (r recipe) make(ctx context.Context, tell machine.Teller) (string, error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return "", err
	}
	here := filepath.Join(root, "test", "kubernetes", "node")
	source := filepath.Join(here, filepath.FromSlash(r.source))
	digest, err := digestOf(source, filepath.Join(here, "build.go")) // which has the flags
	if err != nil {
		return "", err
	}
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	home := filepath.Join(cache, r.name+"-"+digest)
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	unlock, err := machine.Lock(ctx, filepath.Join(cache, r.name+".lock"), "building "+r.name, tell)
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(home); err == nil {
		now := time.Now()
		return home, os.Chtimes(home, now, now) // for forget
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	begin := time.Now()
	tell.Sayf("building %s, which may take minutes", r.name)
	partial := home + ".partial"
	if err := errors.Join(os.RemoveAll(partial), os.MkdirAll(partial, 0o755)); err != nil {
		return "", err
	}
	defer os.RemoveAll(partial)
	if err := r.build(ctx, source, partial); err != nil {
		return "", fmt.Errorf("build %s: %w", r.name, err)
	}
	tell.Sayf("built %s in %.0f s", r.name, time.Since(begin).Seconds())
	if err := r.forget(cache); err != nil {
		return "", err
	}
	return home, os.Rename(partial, home)
}

// forget removes what was built from other sources and has not been used for a week.
func (r recipe) forget(cache string) error {
	folders, err := filepath.Glob(filepath.Join(cache, r.name+"-*"))
	if err != nil {
		return err
	}
	for _, folder := range folders {
		info, err := os.Stat(folder)
		if err == nil && time.Since(info.ModTime()) > 7*24*time.Hour {
			err = os.RemoveAll(folder)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// moduleRoot is the folder of the source tree that we were started in. The sources are modules of their own, which cannot be
// embedded.
func moduleRoot(ctx context.Context) (string, error) {
	printed, err := machine.Run(ctx, nil, "go", "env", "GOMOD")
	if err != nil {
		return "", err
	}
	file := strings.TrimSpace(printed)
	text, err := os.ReadFile(file)
	if err != nil || !strings.HasPrefix(string(text), "module github.com/holdfast-dev/holdfast\n") {
		return "", fmt.Errorf("the working folder is not in Holdfast's source tree: go env GOMOD says %q", file)
	}
	return filepath.Dir(file), nil
}

// digestOf is a digest of all that programs are made of: files, and folders with all that is in them.
func digestOf(sources ...string) (string, error) {
	sum := sha256.New()
	fmt.Fprintln(sum, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	for _, source := range sources {
		err := filepath.WalkDir(source, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			name, err := filepath.Rel(source, path)
			fmt.Fprintln(sum, name, len(text))
			sum.Write(text)
			return err
		})
		if err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(sum.Sum(nil)[:6]), nil
}

func buildKube(ctx context.Context, source, into string) error {
	printed, err := machine.RunIn(ctx, source, goEnv, "go", "list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes")
	if err != nil {
		return err
	}
	version := strings.TrimSpace(printed)
	numbers := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	if len(numbers) != 3 {
		return fmt.Errorf("%q is not a version of Kubernetes", version)
	}
	// Without these it would call itself v0.0.0-master, and clients would take it for an ancient one.
	const base = "k8s.io/component-base/version"
	flags := "-s -w"
	for _, variable := range []string{
		base + ".gitVersion=" + version, base + ".gitMajor=" + numbers[0], base + ".gitMinor=" + numbers[1],
		"k8s.io/client-go/pkg/version.gitVersion=" + version,
	} {
		flags += " -X " + variable
	}
	if err := goBuild(ctx, source, flags, "-o", filepath.Join(into, "kube"), "."); err != nil {
		return err
	}
	for _, name := range kubeNames {
		if err := os.Symlink("kube", filepath.Join(into, name)); err != nil {
			return err
		}
	}
	return nil
}

func buildTools(ctx context.Context, source, into string) error {
	return goBuild(ctx, source, "-s -w", "-o", into+string(filepath.Separator), "./coredns", "helm.sh/helm/v4/cmd/helm")
}

// What the caller has set for other builds must not change these.
var goEnv = []string{"CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off"}

func goBuild(ctx context.Context, dir, linkerFlags string, args ...string) error {
	args = append([]string{"build", "-trimpath", "-buildvcs=false", "-ldflags", linkerFlags}, args...)
	_, err := machine.RunIn(ctx, dir, goEnv, "go", args...)
	return err
}
