//go:build kubernetes

package node

import (
	"context"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

func TestAPIServerAlone(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute) // the first time compiles
	defer cancel()
	server, err := StartAPIServer(ctx, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(server.Kubeconfig()); !errors.Is(err, os.ErrNotExist) || server.Server().Running() || server.Etcd().Running() {
			t.Errorf("after Stop the folder is there (%v), or a process runs", err)
		}
	})
	config, err := clientTLS(server.dir+"/pki", "admin")
	if err != nil {
		t.Fatal(err)
	}
	api := newAPI(server.URL(), config)
	// Clients choose what they say by it, and the webhook asks it whether there are native sidecars.
	var version struct{ Major, Minor, GitVersion string }
	if err := api.do(ctx, http.MethodGet, "/version", nil, &version); err != nil {
		t.Fatal(err)
	}
	if version.Major != "1" || version.Minor != "34" || !strings.HasPrefix(version.GitVersion, "v1.34.") {
		t.Errorf("it calls itself %+v", version)
	}
	const pods = "/api/v1/namespaces/default/pods"
	pod := func(name string, privileged bool) object {
		return object{
			"apiVersion": "v1", "kind": "Pod", "metadata": object{"name": name},
			"spec": object{"containers": []object{{"name": "main", "image": "x", "securityContext": object{"privileged": privileged}}}},
		}
	}
	if err := api.do(ctx, http.MethodPost, pods, pod("pod", false), nil); err != nil {
		t.Fatal(err)
	}
	// It remembers over a restart of itself and of its etcd, and a second one beside it is another.
	for _, process := range []*Process{server.Server(), server.Etcd()} {
		if err := errors.Join(process.Restart(), server.AwaitReady(ctx), api.exists(pods+"/pod")(ctx)); err != nil {
			t.Fatal(err)
		}
	}
	other, err := StartAPIServer(ctx, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Stop()
	if config, err = clientTLS(other.dir+"/pki", "admin"); err != nil {
		t.Fatal(err)
	}
	if err := newAPI(other.URL(), config).exists(pods + "/pod")(ctx); !errors.Is(err, errNotThere) {
		t.Errorf("another API server says of the pod: %v, want %v", err, errNotThere)
	}
	// Admission is on.
	enforce := object{"metadata": object{"labels": object{"pod-security.kubernetes.io/enforce": "baseline"}}}
	if err := api.do(ctx, http.MethodPatch, "/api/v1/namespaces/default", enforce, nil); err != nil {
		t.Fatal(err)
	}
	err = await(ctx, server.processes, "a privileged pod is refused", func(ctx context.Context) error {
		err := api.do(ctx, http.MethodPost, pods+"?dryRun=All", pod("privileged", true), nil)
		if err == nil {
			return errors.New("it was not")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
