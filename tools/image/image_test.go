package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// tree is a small module with two programs.
func tree(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	write(t, root, "go.mod", "module example.org/small\n\ngo 1.26\n")
	write(t, root, "cmd/holdfast/main.go", "package main\n\nvar version string\n\nfunc main() { println(\"one\", version) }\n")
	write(t, root, "cmd/holdfast-agent/main.go",
		"package main\n\nimport _ \"net\" // which C would link itself to\n\nfunc main() { println(\"two\") }\n")
	write(t, root, "cmd/other/main.go", "package main\n\nfunc main() {}\n")
	return root
}

func write(t *testing.T, root, file, text string) {
	t.Helper()
	path := filepath.Join(root, file)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// read makes the image of a tree for this machine and gives it with its layers' digests.
func read(t *testing.T, s *source) (v1.Image, map[string]v1.Hash) {
	t.Helper()
	i := images{source: s, made: map[platform]v1.Image{}, out: io.Discard}
	defer i.close()
	image, err := i.of(t.Context(), platform{"linux", runtime.GOARCH})
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	digests := map[string]v1.Hash{}
	for n, l := range layers {
		if digests[config.History[n].Comment], err = l.Digest(); err != nil {
			t.Fatal(err)
		}
	}
	return image, digests
}

func digest(t *testing.T, of interface{ Digest() (v1.Hash, error) }) v1.Hash {
	t.Helper()
	d, err := of.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Holdfast itself, built in two places, is the same to the last bit.
func TestSameSourceSameImage(t *testing.T) {
	if testing.Short() {
		t.Skip("builds all programs twice")
	}
	here, err := readSource(t.Context(), "../..", "v1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	files, err := exec.Command("git", "-C", here.root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		t.Skip("not in git: ", err)
	}
	there := *here
	there.root = filepath.Join(t.TempDir(), "another", "place")
	for file := range strings.SplitSeq(strings.TrimSuffix(string(files), "\x00"), "\x00") {
		data, err := os.ReadFile(filepath.Join(here.root, file))
		if errors.Is(err, os.ErrNotExist) {
			continue // removed, and not yet committed
		}
		if err != nil {
			t.Fatal(err)
		}
		write(t, there.root, file, string(data))
	}
	t.Setenv("GOFLAGS", "-buildvcs=true")
	one, _ := read(t, here)
	t.Setenv("GOFLAGS", "-gcflags=-N")
	t.Setenv("GOAMD64", "v3")
	two, _ := read(t, &there)
	if digest(t, one) != digest(t, two) {
		t.Errorf("%s here, %s in a copy", digest(t, one), digest(t, two))
	}
	if len(here.programs) < 3 {
		t.Errorf("programs %v", here.programs)
	}
}

// An upgrade moves only the programs that changed.
func TestWhatDidNotChangeIsNotMoved(t *testing.T) {
	root := tree(t)
	t.Setenv("SOURCE_DATE_EPOCH", "1000000000")
	s, err := readSource(t.Context(), root, "v1")
	if err != nil {
		t.Fatal(err)
	}
	image, before := read(t, s)
	write(t, root, "cmd/holdfast/main.go", "package main\n\nfunc main() { println(\"changed\") }\n")
	t.Setenv("SOURCE_DATE_EPOCH", "1100000000")
	if s, err = readSource(t.Context(), root, "v2"); err != nil {
		t.Fatal(err)
	}
	next, after := read(t, s)
	if digest(t, image) == digest(t, next) {
		t.Error("another version is the same image")
	}
	for what, moved := range map[string]bool{"certificates": false, "holdfast-agent": false, "holdfast": true} {
		if before[what] == (v1.Hash{}) || (before[what] != after[what]) != moved {
			t.Errorf("layer %s: %s before, %s after, want moved=%t", what, before[what], after[what], moved)
		}
	}
	if len(before) != 3 {
		t.Errorf("layers %v", before)
	}
}

func TestPushAndArchive(t *testing.T) {
	server := httptest.NewServer(registry.New())
	defer server.Close()
	root := tree(t)
	t.Setenv("SOURCE_DATE_EPOCH", "1000000000")
	ref := strings.TrimPrefix(server.URL, "http://") + "/team/holdfast:v1.2.3"
	file := filepath.Join(t.TempDir(), "new", "holdfast.tar")
	var said bytes.Buffer
	if err := run(t.Context(), []string{"--root", root, "--version", "v1.2.3", "--out", file, "--push", ref}, &said); err != nil {
		t.Fatal(err)
	}

	parsed, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	index, err := remote.Index(parsed)
	if err != nil {
		t.Fatal(err)
	}
	if want := "pushed " + ref + "@" + digest(t, index).String(); !strings.Contains(said.String(), want) {
		t.Errorf("no %q in\n%s", want, &said)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	version := manifest.Annotations["org.opencontainers.image.version"]
	if manifest.MediaType != types.OCIImageIndex || version != "v1.2.3" || len(manifest.Manifests) != 2 {
		t.Errorf("index %+v", manifest)
	}
	var mine v1.Hash
	for n, machine := range []elf.Machine{elf.EM_X86_64, elf.EM_AARCH64} {
		d := manifest.Manifests[n]
		image, err := index.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		checkImage(t, image, d.Platform, machine)
		if d.Platform.Architecture == runtime.GOARCH {
			mine = d.Digest
		}
	}
	checkArchive(t, file, mine)
}

func checkImage(t *testing.T, image v1.Image, p *v1.Platform, machine elf.Machine) {
	t.Helper()
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.OS != p.OS || config.Architecture != p.Architecture {
		t.Errorf("%s: the configuration is of %s/%s", p, config.OS, config.Architecture)
	}
	if config.Config.User != "65532:65532" || config.Config.Entrypoint != nil || config.Config.Cmd != nil {
		t.Errorf("%s: user %q, entry point %v, command %v", p, config.Config.User, config.Config.Entrypoint, config.Config.Cmd)
	}
	if got := strings.Join(config.Config.Env, " "); got != "PATH=/bin HOLDFAST_IMAGE_VERSION=v1.2.3" {
		t.Errorf("%s: environment %s", p, got)
	}
	manifest, err := image.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"org.opencontainers.image.created":  "2001-09-09T01:46:40Z",
		"org.opencontainers.image.licenses": "Apache-2.0",
		"org.opencontainers.image.version":  "v1.2.3",
		"org.opencontainers.image.title":    "holdfast",
		"org.opencontainers.image.source":   "https://github.com/holdfast-dev/holdfast",
	} {
		if label, annotation := config.Config.Labels[name], manifest.Annotations[name]; label != want || annotation != want {
			t.Errorf("%s: %s is %q as a label and %q as an annotation, want %q", p, name, label, annotation, want)
		}
	}
	files := map[string][]byte{}
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		r, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		for h, data := range entries(t, r) {
			if h.Uid != 0 || h.Gid != 0 || h.ModTime.Unix() != 0 || h.Mode&0o022 != 0 {
				t.Errorf("%s: %s is of %d:%d at %s with mode %o", p, h.Name, h.Uid, h.Gid, h.ModTime, h.Mode)
			}
			if h.Typeflag == tar.TypeReg {
				files[h.Name] = data
			}
		}
	}
	for _, program := range []string{"bin/holdfast", "bin/holdfast-agent"} {
		binary, err := elf.NewFile(bytes.NewReader(files[program]))
		if err != nil {
			t.Errorf("%s: %s: %v", p, program, err)
			continue
		}
		if binary.Machine != machine {
			t.Errorf("%s: %s is for %s", p, program, binary.Machine)
		}
		for _, segment := range binary.Progs {
			if segment.Type == elf.PT_INTERP {
				t.Errorf("%s: %s is not static", p, program)
			}
		}
	}
	if block, _ := pem.Decode(files["etc/ssl/certs/ca-certificates.crt"]); block == nil {
		t.Errorf("%s: no certificates", p)
	}
	if len(files) != 3 {
		t.Errorf("%s: %d files", p, len(files))
	}
}

func entries(t *testing.T, r io.Reader) map[*tar.Header][]byte {
	t.Helper()
	all := map[*tar.Header][]byte{}
	for archive := tar.NewReader(r); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if all[h], err = io.ReadAll(archive); err != nil {
			t.Fatal(err)
		}
	}
}

// checkArchive reads the archive as containerd does, and as older Docker engines do.
func checkArchive(t *testing.T, file string, want v1.Hash) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	files := map[string][]byte{}
	for h, data := range entries(t, f) {
		files[h.Name] = data
	}
	for path, data := range files {
		if hex, ok := strings.CutPrefix(path, "blobs/sha256/"); ok && hex != "" {
			if got, _, err := v1.SHA256(bytes.NewReader(data)); err != nil || got.Hex != hex {
				t.Errorf("%s has the sum %s", path, got)
			}
		}
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(files["index.json"], &index); err != nil {
		t.Fatal(err)
	}
	if d := index.Manifests[0]; d.Digest != want || d.Annotations["io.containerd.image.name"] != "docker.io/library/holdfast:dev" {
		t.Errorf("the archive has %+v, and %s was pushed", d, want)
	}
	var manifest v1.Manifest
	if err := json.Unmarshal(files[blob(want)], &manifest); err != nil {
		t.Fatal(err)
	}
	var old []struct {
		Config           string
		RepoTags, Layers []string
	}
	if err := json.Unmarshal(files["manifest.json"], &old); err != nil {
		t.Fatal(err)
	}
	if len(old) != 1 || old[0].Config != blob(manifest.Config.Digest) || fmt.Sprint(old[0].RepoTags) != "[docker.io/library/holdfast:dev]" ||
		len(old[0].Layers) != len(manifest.Layers) {
		t.Errorf("manifest.json is %+v", old)
	}
	for n, l := range manifest.Layers {
		if old[0].Layers[n] != blob(l.Digest) || files[blob(l.Digest)] == nil {
			t.Errorf("layer %d: %s in manifest.json, %s in the manifest", n, old[0].Layers[n], l.Digest)
		}
	}
	if string(files["oci-layout"]) != `{"imageLayoutVersion":"1.0.0"}` {
		t.Errorf("oci-layout is %s", files["oci-layout"])
	}
}

func TestWrongFlags(t *testing.T) {
	root := tree(t)
	full := filepath.Join(t.TempDir(), "file")
	write(t, filepath.Dir(full), "file", "")
	server := httptest.NewServer(registry.New())
	server.Close()
	gone := strings.TrimPrefix(server.URL, "http://") + "/holdfast"
	for _, c := range []struct{ args, want string }{
		{"", "nothing to do: give --out or --push"},
		{"--out x y", `"y" is not a flag`},
		{"--out x --name UPPER", "--name: "},
		{"--out x --platforms windows/amd64", `platform "windows/amd64" is not of the form linux/ARCHITECTURE`},
		{"--out x --root " + filepath.Dir(full), "no programs in "},
		{"--out " + full + "/x --root " + root, "--out: "},
		{"--push !! --root " + root, "--push: "},
		{"--push " + gone + " --platforms linux/vax --root " + root, "go build for linux/vax: "},
		{"--push " + gone + " --platforms linux/" + runtime.GOARCH + " --root " + root,
			"with the credentials that docker login or podman login left: "},
	} {
		err := run(t.Context(), strings.Fields(c.args), io.Discard)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.args, err, c.want)
		}
	}
	t.Setenv("SOURCE_DATE_EPOCH", "today")
	err := run(t.Context(), []string{"--out", full, "--root", root}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), `SOURCE_DATE_EPOCH is "today"`) {
		t.Errorf("SOURCE_DATE_EPOCH: %v", err)
	}
}
