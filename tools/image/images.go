package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// user is nobody on the node. The number is what Kubernetes checks for runAsNonRoot; the name needs no entry in a passwd file.
const user = "65532:65532"

// images makes each platform's image once.
type images struct {
	source *source
	made   map[platform]v1.Image
	out    io.Writer
	folder string
}

// of gives the image for a platform, and prints what is in it when it is made.
func (i *images) of(ctx context.Context, p platform) (v1.Image, error) {
	if image, ok := i.made[p]; ok {
		return image, nil
	}
	if i.folder == "" {
		folder, err := os.MkdirTemp("", "holdfast-image-")
		if err != nil {
			return nil, err
		}
		i.folder = folder
	}
	bin := filepath.Join(i.folder, p.os+"-"+p.arch)
	if err := os.Mkdir(bin, 0o755); err != nil {
		return nil, err
	}
	if err := i.source.build(ctx, p, bin); err != nil {
		return nil, err
	}
	layers, err := i.source.layers(bin)
	if err != nil {
		return nil, err
	}
	image, err := i.source.assemble(p, layers)
	if err != nil {
		return nil, err
	}
	i.made[p] = image
	return image, report(i.out, p, i.source, layers, image)
}

// close removes what was built. An image that was made cannot lose its layers by that: they are in memory.
func (i *images) close() {
	if i.folder != "" {
		os.RemoveAll(i.folder)
	}
}

// index gives an index with the images of the platforms.
func (i *images) index(ctx context.Context, platforms []platform) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, p := range platforms {
		image, err := i.of(ctx, p)
		if err != nil {
			return nil, err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: p.os, Architecture: p.arch}},
		})
	}
	return mutate.Annotations(index, i.source.labels()).(v1.ImageIndex), nil
}

// layer is a layer with what people want to know of it.
type layer struct {
	v1.Layer
	what     string
	unpacked int64
}

// layers gives a layer for the certificates and one for each program. What did not change since the last release has the
// digest that nodes know already.
func (s *source) layers(bin string) ([]layer, error) {
	roots, err := pack("certificates", "etc/ssl/certs/ca-certificates.crt", authorities(), 0o644)
	if err != nil {
		return nil, err
	}
	all := []layer{roots}
	for _, program := range s.programs {
		data, err := os.ReadFile(filepath.Join(bin, program))
		if err != nil {
			return nil, err
		}
		l, err := pack(program, "bin/"+program, data, 0o755)
		if err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	return all, nil
}

// authorities are the public certificate authorities that Mozilla trusts without conditions, in PEM: for an etcd elsewhere whose
// certificate one of them signed. They come from a module, not from this machine, so go.sum says which they are.
func authorities() []byte {
	var text bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint == nil { // a PEM file cannot say conditions
			pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate})
		}
	}
	return text.Bytes()
}

// pack makes a layer of one file and the folders above it. Its times are 1970, so that the layer depends on nothing else than the
// file.
func pack(what, file string, data []byte, mode int64) (layer, error) {
	var packed bytes.Buffer
	zip, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return layer{}, err
	}
	w := tar.NewWriter(zip)
	var folders []string
	for folder := path.Dir(file); folder != "."; folder = path.Dir(folder) {
		folders = append([]string{folder}, folders...)
	}
	epoch := time.Unix(0, 0)
	for _, folder := range folders {
		h := &tar.Header{Typeflag: tar.TypeDir, Name: folder + "/", Mode: 0o755, ModTime: epoch, Format: tar.FormatUSTAR}
		if err := w.WriteHeader(h); err != nil {
			return layer{}, err
		}
	}
	if err := w.WriteHeader(&tar.Header{Name: file, Size: int64(len(data)), Mode: mode, ModTime: epoch, Format: tar.FormatUSTAR}); err != nil {
		return layer{}, err
	}
	if _, err := w.Write(data); err != nil {
		return layer{}, err
	}
	if err := w.Close(); err != nil {
		return layer{}, err
	}
	if err := zip.Close(); err != nil {
		return layer{}, err
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(packed.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return layer{}, fmt.Errorf("layer of %s: %w", file, err)
	}
	return layer{Layer: l, what: what, unpacked: int64(len(data))}, nil
}

// assemble puts layers together.
func (s *source) assemble(p platform, layers []layer) (v1.Image, error) {
	created := v1.Time{Time: s.created}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err := mutate.ConfigFile(image, &v1.ConfigFile{
		OS: p.os, Architecture: p.arch, Created: created, Author: "Holdfast",
		Config: v1.Config{
			User:       user,
			WorkingDir: "/",
			Env:        []string{"PATH=/bin", "HOLDFAST_IMAGE_VERSION=" + s.version},
			Labels:     s.labels(),
		},
		RootFS: v1.RootFS{Type: "layers"},
	})
	if err != nil {
		return nil, err
	}
	for _, l := range layers {
		image, err = mutate.Append(image, mutate.Addendum{
			Layer: l.Layer, MediaType: types.OCILayer, History: v1.History{Created: created, CreatedBy: "tools/image", Comment: l.what},
		})
		if err != nil {
			return nil, err
		}
	}
	return mutate.Annotations(image, s.labels()).(v1.Image), nil
}

// report prints what each layer weighs.
func report(out io.Writer, p platform, s *source, layers []layer, image v1.Image) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(out, "%s, version %s\n", p, s.version)
	fmt.Fprintf(t, "layer\tunpacked\tpacked\t\n")
	var unpacked, packed int64
	for _, l := range layers {
		size, err := l.Size()
		if err != nil {
			return err
		}
		unpacked, packed = unpacked+l.unpacked, packed+size
		fmt.Fprintf(t, "%s\t%s\t%s\t\n", l.what, megabytes(l.unpacked), megabytes(size))
	}
	fmt.Fprintf(t, "all\t%s\t%s\t\n", megabytes(unpacked), megabytes(packed))
	if err := t.Flush(); err != nil {
		return err
	}
	digest, err := image.Digest()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, strings.Repeat(" ", 2)+digest.String())
	return err
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
