//go:build kubernetes

// Package product tries all of Holdfast on a real Kubernetes with real Flink: installed by helm, injected by label, and broken on
// purpose. It boots a node of its own, or uses the cluster that KUBECONFIG names.
package product

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/test/kubernetes/node"
	"github.com/holdfast-dev/holdfast/test/kubernetes/rig"
	"github.com/holdfast-dev/holdfast/test/machine"
	"github.com/holdfast-dev/holdfast/test/metric"
)

// cluster is what all tests run on, and holdfast what is installed there.
var (
	cluster  *rig.Rig
	holdfast *site
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (code int) {
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Minute)
	defer cancel()
	end, err := begin(ctx)
	defer func() {
		if err := end(); err != nil {
			fmt.Fprintln(os.Stderr, "end:", err)
			code = 1
		}
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "begin:", err)
		return 1
	}
	code = m.Run()
	for _, r := range holdfast.replicas(ctx) {
		if err := metric.Unmended(ctx, r.url); err != nil {
			fmt.Fprintln(os.Stderr, "end:", err)
			code = 1
		}
	}
	return code
}

// begin gets a cluster, loads the image and installs Holdfast. end undoes it, and must be called after an error, too.
func begin(ctx context.Context) (end func() error, err error) {
	var undo []func() error
	end = func() error {
		var errs []error
		for i := len(undo) - 1; i >= 0; i-- {
			errs = append(errs, undo[i]())
		}
		return errors.Join(errs...)
	}
	tell := machine.NewTeller(os.Stderr, "suite: ")
	if cluster, err = rig.Open(ctx, os.Stderr); err != nil {
		return end, err
	}
	undo = append(undo, cluster.Close)
	if cluster.Node != nil {
		if err := load(ctx, tell, cluster.Node); err != nil {
			return end, err
		}
	}
	holdfast = newSite(home, "holdfast")
	undo = append(undo, func() error { holdfast.close(); return nil })
	if cluster.Node == nil {
		// All of it is removed at the end: nobody's own installation may be there.
		if out, err := cluster.Run(ctx, "kubectl", "get", "namespace", home, "--ignore-not-found", "-o", "name"); err != nil || strings.TrimSpace(out) != "" {
			return end, errors.Join(err, fmt.Errorf("the cluster of KUBECONFIG has a namespace %s already: try another cluster, or remove it", home))
		}
	}
	if cluster.Node == nil || cluster.Node.Kept() {
		undo = append(undo, func() error { return holdfast.uninstall(context.Background()) })
	}
	begin := time.Now()
	if err := holdfast.install(ctx); err != nil {
		return end, errors.Join(err, errors.New(holdfast.describe()))
	}
	tell.Sayf("from helm install to ready: %.1f s", time.Since(begin).Seconds())
	return end, nil
}

// load builds Holdfast's image and loads it into the node.
func load(ctx context.Context, tell machine.Teller, n *node.Node) error {
	root, err := repository()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "holdfast-image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	begin, file := time.Now(), filepath.Join(dir, "image.tar")
	if _, err := machine.RunIn(ctx, root, nil, "make", "image", "OUT="+file); err != nil {
		return err
	}
	if err := n.ImportImage(ctx, file); err != nil {
		return err
	}
	tell.Sayf("image built and loaded in %.1f s", time.Since(begin).Seconds())
	return nil
}

func repository() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	return filepath.Dir(strings.TrimSpace(string(out))), err
}

// values are what the chart is installed with: the image that was loaded, and little else, since it must work with its defaults.
func (s *site) values() []string {
	image := cmp.Or(os.Getenv("HOLDFAST_TEST_IMAGE"), "docker.io/library/holdfast:dev")
	at := strings.LastIndexByte(image, ':') // a registry may have a port, too
	args := []string{"--set", "image.repository=" + image[:at], "--set", "image.tag=" + image[at+1:],
		// The suite ends with a look at what the checks have found.
		"--set", "aggregator.extraEnv[0].name=HOLDFAST_CHECK_PERIOD,aggregator.extraEnv[0].value=10s"}
	if file := os.Getenv("HOLDFAST_TEST_VALUES"); file != "" {
		args = append(args, "--values", file)
	}
	return args
}

func (s *site) install(ctx context.Context, more ...string) error {
	root, err := repository()
	if err != nil {
		return err
	}
	args := []string{"upgrade", "--install", s.release, filepath.Join(root, "charts/holdfast"), "--namespace", s.namespace,
		"--create-namespace", "--wait", "--timeout", "5m"}
	args = append(append(args, s.values()...), more...)
	_, err = s.Run(ctx, "helm", args...)
	return err
}

// uninstall takes the data along, too, which helm leaves.
func (s *site) uninstall(ctx context.Context) error {
	_, err := s.Run(ctx, "helm", "uninstall", s.release, "--namespace", s.namespace, "--wait")
	return errors.Join(err, s.RemoveNamespace(ctx, s.namespace))
}

// describe says how the installation is, for people who look at a failure.
func (s *site) describe() string {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var text strings.Builder
	for _, args := range [][]string{
		{"get", "pods,events", "-o", "wide", "-n", s.namespace},
		{"logs", "-n", s.namespace, "-l", "app.kubernetes.io/part-of=holdfast", "--all-containers", "--prefix", "--tail=30"},
	} {
		out, err := s.Run(ctx, "kubectl", args...)
		fmt.Fprintf(&text, "\n$ kubectl %s\n%s", strings.Join(args, " "), out)
		if err != nil {
			fmt.Fprintln(&text, err)
		}
	}
	return text.String()
}
