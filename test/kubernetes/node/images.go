package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-dev/holdfast/test/kubernetes/image"
	"github.com/holdfast-dev/holdfast/test/machine"
)

// PodtoolImage has one small program that waits, serves or asks: see podtool. Every pod's own container is of it, too.
const PodtoolImage = "docker.io/local/podtool:1"

// containerdNamespace is where containerd has what belongs to Kubernetes.
const containerdNamespace = "k8s.io"

// ImportImage loads an image into the node from a file that `docker save` or package image has written. Pods that name it need the
// imagePullPolicy Never or IfNotPresent: there is no registry.
func (n *Node) ImportImage(ctx context.Context, tar string) error {
	path, err := filepath.Abs(tar)
	if err != nil {
		return err
	}
	if _, err := n.ctr(ctx, "images", "import", path); err != nil {
		return fmt.Errorf("import %s: %w", tar, err)
	}
	return nil
}

// EnsureImage is ImportImage for a file that may have been imported already, as it is on a node that is kept.
func (n *Node) EnsureImage(ctx context.Context, tar string) error {
	path, err := filepath.Abs(tar)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	is := fmt.Sprintf("%d bytes of %s", info.Size(), info.ModTime().UTC().Format(time.RFC3339Nano))
	n.saving.Lock()
	had := n.state.Images[path]
	n.saving.Unlock()
	if had == is {
		return nil
	}
	if err := n.ImportImage(ctx, path); err != nil {
		return err
	}
	return n.change(func(s *state) { s.Images[path] = is })
}

// ctr runs containerd's own command.
func (n *Node) ctr(ctx context.Context, args ...string) (string, error) {
	return machine.Run(ctx, []string{"CONTAINERD_ADDRESS=" + n.containerd(), "CONTAINERD_NAMESPACE=" + containerdNamespace}, "ctr", args...)
}

func (n *Node) importPodtool(ctx context.Context) error {
	layer, tar := n.path("podtool.layer"), n.path("podtool.tar")
	defer os.Remove(layer)
	defer os.Remove(tar)
	err := image.WriteLayer(layer, image.File{Path: "/podtool", From: filepath.Join(n.built.Podtool, "podtool"), Mode: 0o755})
	if err != nil {
		return err
	}
	err = image.Image{
		Name: PodtoolImage, User: "65532", WorkingDir: "/", Entrypoint: []string{"/podtool"}, Layers: []string{layer},
	}.Write(tar)
	if err != nil {
		return err
	}
	return n.ImportImage(ctx, tar)
}
