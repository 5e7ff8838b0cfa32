// Package image writes container images as files that `ctr images import`, `docker load` and `crane push` take: layers that are plain
// tar files, the configuration, and the manifest of docker save. It has no engine and talks to no registry.
//
// A library would have to be told not to compress: layers of hundreds of megabytes are read once, on the machine that wrote them.
package image

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"slices"
	"time"
)

// Image is what a container of it runs, and as whom.
type Image struct {
	// Name is the full name with its tag, such as docker.io/local/pause:1.
	Name string
	// User is numeric, so that Kubernetes can see that it is not root.
	User       string
	WorkingDir string
	Entrypoint []string
	Cmd        []string
	Env        []string
	// Layers are the paths of tar files, the lowest first.
	Layers []string
}

// Write writes the image to a file.
func (i Image) Write(file string) error {
	if err := i.write(file); err != nil {
		return fmt.Errorf("write image %s: %w", i.Name, err)
	}
	return nil
}

func (i Image) write(file string) (err error) {
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	archive := tar.NewWriter(out)
	var digests, names []string
	for _, layer := range i.Layers {
		digest, size, err := digestOf(layer)
		if err != nil {
			return err
		}
		name := digest + ".tar"
		if !slices.Contains(names, name) {
			if err := addFile(archive, name, size, layer); err != nil {
				return err
			}
		}
		digests, names = append(digests, "sha256:"+digest), append(names, name)
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config": map[string]any{
			"User": i.User, "WorkingDir": i.WorkingDir, "Entrypoint": i.Entrypoint, "Cmd": i.Cmd, "Env": i.Env,
		},
		"rootfs": map[string]any{"type": "layers", "diff_ids": digests},
	})
	if err != nil {
		return err
	}
	sum := sha256.Sum256(config)
	configName := hex.EncodeToString(sum[:]) + ".json"
	manifest, err := json.Marshal([]map[string]any{{"Config": configName, "RepoTags": []string{i.Name}, "Layers": names}})
	if err != nil {
		return err
	}
	return errors.Join(addBytes(archive, configName, config), addBytes(archive, "manifest.json", manifest), archive.Close())
}

func digestOf(file string) (digest string, size int64, err error) {
	content, err := os.Open(file)
	if err != nil {
		return "", 0, err
	}
	defer content.Close()
	sum := sha256.New()
	size, err = io.Copy(sum, content)
	return hex.EncodeToString(sum.Sum(nil)), size, err
}

func addFile(archive *tar.Writer, name string, size int64, file string) error {
	content, err := os.Open(file)
	if err != nil {
		return err
	}
	defer content.Close()
	if err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size, ModTime: epoch}); err != nil {
		return err
	}
	_, err = io.Copy(archive, content)
	return err
}

func addBytes(archive *tar.Writer, name string, content []byte) error {
	if err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), ModTime: epoch}); err != nil {
		return err
	}
	_, err := archive.Write(content)
	return err
}

// epoch is the time of every file, so that the same content makes the same image.
var epoch = time.Unix(0, 0)

// File is one file or folder of a layer.
type File struct {
	// Path is where it is in the image.
	Path string
	// From is the file of this machine that it is copied from. Without it and without Content it is an empty folder.
	From    string
	Content []byte
	Mode    int64
	// Owner is user and group.
	Owner int
}

// WriteLayer writes a layer of these files. Folders on the way to them are made, and belong to root.
func WriteLayer(file string, files ...File) (err error) {
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	layer := tar.NewWriter(out)
	made := map[string]bool{".": true}
	for _, f := range files {
		if err := f.write(layer, made); err != nil {
			return fmt.Errorf("put %s into a layer: %w", f.Path, err)
		}
	}
	return layer.Close()
}

func (f File) write(layer *tar.Writer, made map[string]bool) error {
	name := path.Clean(f.Path)
	for name[0] == '/' {
		name = name[1:]
	}
	if err := makeFolders(layer, path.Dir(name), made); err != nil {
		return err
	}
	header := &tar.Header{Name: name, Mode: f.Mode, Uid: f.Owner, Gid: f.Owner, ModTime: epoch, Size: int64(len(f.Content))}
	switch {
	case f.From != "":
		info, err := os.Stat(f.From)
		if err != nil {
			return err
		}
		content, err := os.Open(f.From)
		if err != nil {
			return err
		}
		defer content.Close()
		header.Size = info.Size()
		if err := layer.WriteHeader(header); err != nil {
			return err
		}
		_, err = io.Copy(layer, content)
		return err
	case f.Content != nil:
		if err := layer.WriteHeader(header); err != nil {
			return err
		}
		_, err := layer.Write(f.Content)
		return err
	default:
		made[name] = true
		header.Typeflag, header.Name = tar.TypeDir, name+"/"
		return layer.WriteHeader(header)
	}
}

func makeFolders(layer *tar.Writer, name string, made map[string]bool) error {
	if made[name] {
		return nil
	}
	if err := makeFolders(layer, path.Dir(name), made); err != nil {
		return err
	}
	made[name] = true
	return layer.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, ModTime: epoch})
}
