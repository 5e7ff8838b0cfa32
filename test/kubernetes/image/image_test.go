package image

import (
	"archive/tar"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	source := filepath.Join(dir, "source")
	check(t, os.WriteFile(source, []byte("copied"), 0o600))
	layer := filepath.Join(dir, "layer.tar")
	check(t, WriteLayer(layer,
		File{Path: "/opt/it/run", From: source, Mode: 0o755, Owner: 9999},
		File{Path: "/opt/it/empty", Mode: 0o777, Owner: 9999},
		File{Path: "/opt/it/empty/text", Content: []byte("text"), Mode: 0o644},
	))
	type entry struct {
		Name    string
		Mode    int64
		Owner   int
		Content string
	}
	var got []entry
	walk(t, layer, func(h *tar.Header, content []byte) {
		got = append(got, entry{h.Name, h.Mode, h.Uid, string(content)})
	})
	want := []entry{
		{"opt/", 0o755, 0, ""}, {"opt/it/", 0o755, 0, ""}, {"opt/it/run", 0o755, 9999, "copied"}, {"opt/it/empty/", 0o777, 9999, ""},
		{"opt/it/empty/text", 0o644, 0, "text"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the layer (-want +got):\n%s", diff)
	}

	// The same layer twice is in the file once, and counts twice.
	file := filepath.Join(dir, "image.tar")
	check(t, Image{Name: "docker.io/local/it:1", User: "9999", Entrypoint: []string{"/run"}, Layers: []string{layer, layer}}.Write(file))
	content := map[string][]byte{}
	walk(t, file, func(h *tar.Header, text []byte) {
		if content[h.Name] != nil {
			t.Errorf("%s is there twice", h.Name)
		}
		content[h.Name] = text
	})
	var manifest []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	check(t, json.Unmarshal(content["manifest.json"], &manifest))
	if len(manifest) != 1 || len(manifest[0].Layers) != 2 || len(content) != 3 ||
		!cmp.Equal(manifest[0].RepoTags, []string{"docker.io/local/it:1"}) {
		t.Fatalf("%d files and the manifest %+v", len(content), manifest)
	}
	var config struct {
		Config struct {
			User       string
			Entrypoint []string
		}
		RootFS struct {
			IDs []string `json:"diff_ids"`
		}
	}
	check(t, json.Unmarshal(content[manifest[0].Config], &config))
	if config.Config.User != "9999" || !cmp.Equal(config.Config.Entrypoint, []string{"/run"}) {
		t.Errorf("the configuration says %+v", config.Config)
	}
	// containerd finds a layer by the digest of what it is, which is what the file is named by.
	for i, id := range config.RootFS.IDs {
		digest, _, err := digestOf(layer)
		check(t, err)
		if id != "sha256:"+digest || manifest[0].Layers[i] != digest+".tar" || content[manifest[0].Layers[i]] == nil {
			t.Errorf("layer %d is %s in %s, want %s", i, id, manifest[0].Layers[i], digest)
		}
	}
}

func TestWriteNamesWhatIsMissing(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x")
	if err := WriteLayer(file, File{Path: "/x", From: file + ".not"}); err == nil {
		t.Error("a layer of a file that is not there")
	}
	if err := (Image{Name: "x", Layers: []string{file + ".not"}}).Write(file); err == nil {
		t.Error("an image of a layer that is not there")
	}
}

func walk(t *testing.T, file string, visit func(*tar.Header, []byte)) {
	t.Helper()
	reader, err := os.Open(file)
	check(t, err)
	defer reader.Close()
	for entries := tar.NewReader(reader); ; {
		header, err := entries.Next()
		if err == io.EOF {
			return
		}
		check(t, err)
		content, err := io.ReadAll(entries)
		check(t, err)
		visit(header, content)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
