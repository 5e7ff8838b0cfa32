package main

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// writeArchive writes an image to a file, which is whole or not there.
func writeArchive(file string, tag name.Tag, image v1.Image) (err error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".image-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if err := archive(f, tag, image); err != nil {
		f.Close()
		return err
	}
	if err := errors.Join(f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}

// archive writes an image in two forms at once, over the same blobs: OCI's layout, of which containerd and podman take the very
// manifest that a push would give, and the manifest.json that older Docker engines look for.
func archive(out io.Writer, tag name.Tag, image v1.Image) error {
	manifest, err := image.RawManifest()
	if err != nil {
		return err
	}
	digest, err := image.Digest()
	if err != nil {
		return err
	}
	// The registry of docker.io answers at index.docker.io, and that is what this library calls it; nobody else does.
	full := strings.Replace(tag.Name(), name.DefaultRegistry+"/", "docker.io/", 1)
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{{
		MediaType: types.OCIManifestSchema1, Size: int64(len(manifest)), Digest: digest,
		Annotations: map[string]string{
			"io.containerd.image.name":          full, // what containerd and docker read
			"org.opencontainers.image.ref.name": tag.Identifier(),
		},
	}}}
	config, err := image.RawConfigFile()
	if err != nil {
		return err
	}
	configDigest, err := image.ConfigName()
	if err != nil {
		return err
	}
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	old := struct {
		Config   string
		RepoTags []string
		Layers   []string
	}{blob(configDigest), []string{full}, nil}

	w := &archiveWriter{tar: tar.NewWriter(out)}
	w.folder("blobs/")
	w.folder("blobs/sha256/")
	w.file(blob(digest), manifest)
	w.file(blob(configDigest), config)
	for _, layer := range layers {
		digest, err := layer.Digest()
		if err != nil {
			return err
		}
		r, err := layer.Compressed()
		if err != nil {
			return err
		}
		data, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil {
			return err
		}
		w.file(blob(digest), data)
		old.Layers = append(old.Layers, blob(digest))
	}
	w.json("index.json", index)
	w.json("manifest.json", []any{old})
	w.json("oci-layout", map[string]string{"imageLayoutVersion": "1.0.0"})
	return w.close()
}

func blob(digest v1.Hash) string { return "blobs/" + digest.Algorithm + "/" + digest.Hex }

// archiveWriter writes a tar and keeps the first error.
type archiveWriter struct {
	tar *tar.Writer
	err error
}

func (w *archiveWriter) folder(name string) {
	w.header(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755})
}

func (w *archiveWriter) file(name string, data []byte) {
	w.header(&tar.Header{Name: name, Size: int64(len(data)), Mode: 0o644})
	if w.err == nil {
		_, w.err = w.tar.Write(data)
	}
}

func (w *archiveWriter) json(name string, content any) {
	data, err := json.Marshal(content)
	if w.err == nil {
		w.err = err
	}
	w.file(name, data)
}

func (w *archiveWriter) header(h *tar.Header) {
	if w.err == nil {
		w.err = w.tar.WriteHeader(h)
	}
}

func (w *archiveWriter) close() error {
	if w.err != nil {
		return w.err
	}
	return w.tar.Close()
}
