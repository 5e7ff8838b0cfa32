package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-dev/holdfast/test/machine"
)

// APIServer is a real API server with its etcd, and nothing else: no controller makes, deletes or finishes anything, and no pod ever runs.
// A deleted namespace stays Terminating, and pods need no service account.
type APIServer struct {
	dir       string
	address   string
	processes []*Process
	kube      string
}

// StartAPIServer starts an API server on a free port of 127.0.0.1. It returns when that is ready, after a few seconds, and after minutes
// if Kubernetes has not been compiled yet. If this process dies, the server does. Neither root nor packages are needed.
// The context bounds the start only. Progress may be nil.
func StartAPIServer(ctx context.Context, progress io.Writer) (*APIServer, error) {
	s, err := startAPIServer(ctx, machine.NewTeller(progress, "API server: "))
	if err != nil {
		return nil, fmt.Errorf("start an API server: %w", err)
	}
	return s, nil
}

func startAPIServer(ctx context.Context, tell machine.Teller) (s *APIServer, err error) {
	kube, err := kubeRecipe.make(ctx, tell)
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	dir, err := os.MkdirTemp("", "holdfast-apiserver-")
	if err != nil {
		return nil, err
	}
	s = &APIServer{dir: dir, kube: kube}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Stop())
		}
	}()
	if err := s.lay(); err != nil {
		return nil, err
	}
	for _, process := range s.processes {
		if err := process.Start(); err != nil {
			return nil, err
		}
	}
	if err := s.AwaitReady(ctx); err != nil {
		return nil, err
	}
	tell.Sayf("ready at %s after %.1f s", s.address, time.Since(begin).Seconds())
	return s, nil
}

// lay writes the server's folder and lays its processes out.
func (s *APIServer) lay() error {
	localhost, services := netip.MustParseAddr("127.0.0.1"), netip.MustParsePrefix("10.0.0.0/24")
	var secure, client, peer int
	if err := machine.FreePorts(&secure, &client, &peer); err != nil {
		return err
	}
	ca, err := newAuthority(filepath.Join(s.dir, "pki"))
	if err != nil {
		return err
	}
	s.address = fmt.Sprintf("https://%s:%d", localhost, secure)
	err = errors.Join(
		ca.issue("apiserver", "kube-apiserver", nil, apiServerNames(services.Addr().Next())...),
		ca.issue("service-accounts", "service-accounts", nil),
		ca.issueAdmin(),
	)
	if err != nil {
		return err
	}
	if err := ca.kubeconfig(s.Kubeconfig(), s.address, "admin"); err != nil {
		return err
	}
	etcd := fmt.Sprintf("http://%s:%d", localhost, client)
	server := apiServer{
		pki: filepath.Join(s.dir, "pki"), etcd: etcd, address: localhost, port: secure, services: services,
		more: []string{
			"--disable-admission-plugins=ServiceAccount", // nobody makes the accounts
			"--endpoint-reconciler-type=none",            // of an address that no pod could use
		},
	}
	for _, argv := range [][]string{
		etcdArgv(filepath.Join(s.kube, "etcd"), filepath.Join(s.dir, "etcd"), etcd, fmt.Sprintf("http://%s:%d", localhost, peer)),
		server.argv(filepath.Join(s.kube, "kube-apiserver")),
	} {
		name := filepath.Base(argv[0])
		s.processes = append(s.processes, &Process{
			name: name, log: filepath.Join(s.dir, name+".log"), argv: argv, launch: machine.Start,
			save: func() error { return nil },
		})
	}
	return nil
}

// AwaitReady waits until the API server is ready, after a Restart for example.
func (s *APIServer) AwaitReady(ctx context.Context) error {
	config, err := clientTLS(filepath.Join(s.dir, "pki"), "admin")
	if err != nil {
		return err
	}
	api := newAPI(s.address, config)
	return await(ctx, s.processes, "the API server is ready", api.ready)
}

// Kubeconfig is the path of the administrator's kubeconfig.
func (s *APIServer) Kubeconfig() string { return filepath.Join(s.dir, "kubeconfig") }

// URL is where the server listens.
func (s *APIServer) URL() string { return s.address }

// Program is the path of kubectl and of the other programs of Kubernetes.
func (s *APIServer) Program(name string) string { return filepath.Join(s.kube, name) }

// Etcd and Server are its processes.
func (s *APIServer) Etcd() *Process   { return s.processes[0] }
func (s *APIServer) Server() *Process { return s.processes[1] }

// Stop kills both processes and removes their folder.
func (s *APIServer) Stop() error {
	var errs []error
	for _, process := range s.processes {
		errs = append(errs, process.Kill())
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}
