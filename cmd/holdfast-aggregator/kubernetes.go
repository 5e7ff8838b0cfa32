package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"

	"github.com/holdfast-dev/holdfast/cmd/internal/flags"
	"github.com/holdfast-dev/holdfast/kube"
)

// kubernetesFlags say what is asked of Kubernetes, where it is not given: whose site this is, and by which authority etcd's
// certificates are checked. Both are in ConfigMaps that are mounted too, so that a replica starts while the API server cannot
// be reached; the API server is asked for what the kubelet has not brought yet.
type kubernetesFlags struct {
	kubeconfig, namespace      string
	siteConfigMap, siteUIDFile string
	etcdCAConfigMap            string
	watch                      bool
	namespaces                 []string
	client                     kubernetes.Interface
}

// The keys in the two ConfigMaps.
const (
	siteUIDKey = "uid"
	etcdCAKey  = "ca.crt"
)

func (k *kubernetesFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&k.kubeconfig, "kubeconfig", "", "how to reach Kubernetes' API server (default: as a pod does)")
	f.StringVar(&k.namespace, "namespace", "", "the namespace of the ConfigMaps below: this replica's own")
	f.StringVar(&k.siteConfigMap, "site-configmap", "", "ConfigMap whose key uid keeps whose site it is; used without --site-uid")
	f.StringVar(&k.siteUIDFile, "site-uid-file", "", "file that the key uid of --site-configmap is mounted at")
	f.StringVar(&k.etcdCAConfigMap, "etcd-ca-configmap", "", "ConfigMap whose key ca.crt is waited for where --etcd-ca is not there yet")
	f.BoolVar(&k.watch, "watch-pods", false, "let Kubernetes' own facts count, too, and ask JobManagers without an agent from outside")
	f.StringSliceVar(&k.namespaces, "watch-namespaces", nil, "the namespaces of --watch-pods (default: all)")
}

func (k *kubernetesFlags) check() error {
	if k.namespace == "" && (k.siteConfigMap != "" || k.etcdCAConfigMap != "") {
		return errors.New("--namespace is missing: --site-configmap and --etcd-ca-configmap need it")
	}
	if len(k.namespaces) > 0 && !k.watch {
		return errors.New("--watch-namespaces goes with --watch-pods")
	}
	if k.siteUIDFile != "" && k.siteConfigMap == "" {
		return errors.New("--site-uid-file needs --site-configmap: the ConfigMap that is mounted there")
	}
	return nil
}

// connect makes the client when it is needed for the first time.
func (k *kubernetesFlags) connect() (_ kubernetes.Interface, err error) {
	if k.client == nil {
		k.client, err = kube.Client(k.kubeconfig, "holdfast-aggregator")
	}
	return k.client, err
}

// siteUID gives whose site this is: it waits until the ConfigMap or the API server says so. Whoever learns it from the API server keeps it
// in the ConfigMap.
func (k *kubernetesFlags) siteUID(ctx context.Context, log *slog.Logger) (uid string, err error) {
	client, err := k.connect()
	if err != nil {
		return "", flags.Usage(fmt.Errorf("%w, or --site-uid", err))
	}
	return kube.FileOr(ctx, log, k.siteUIDFile, "the uid of namespace kube-system", func(ctx context.Context) (string, error) {
		uid, err := kube.SiteUID(ctx, client)
		if err == nil {
			k.keep(ctx, uid, log)
		}
		return uid, err
	})
}

// keep writes the uid where the next start finds it. Without it Holdfast works all the same, as long as the API server answers.
func (k *kubernetesFlags) keep(ctx context.Context, uid string, log *slog.Logger) {
	if k.siteConfigMap == "" {
		return
	}
	key := kube.ConfigMapKey{Namespace: k.namespace, Name: k.siteConfigMap, Key: siteUIDKey}
	if err := key.Keep(ctx, k.client, uid); err != nil && ctx.Err() == nil {
		log.Warn("cannot keep the site's uid: while the API server is out of reach, no replica can start", "error", err)
	}
}

// confirm asks the API server whether the uid is right, once it answers. A ConfigMap can be wrong: a backup of another cluster may
// have brought it. The error says so, and the next start has the right one; nil is that all is well, or that ctx ended.
func (k *kubernetesFlags) confirm(ctx context.Context, uid string, log *slog.Logger) error {
	now, err := kube.Await(ctx, log, "the API server, to confirm the site's uid", func(ctx context.Context) (string, error) {
		return kube.SiteUID(ctx, k.client)
	})
	if err != nil || now == uid {
		return nil
	}
	k.keep(ctx, now, log)
	return fmt.Errorf("%s says that this site is that of %s, and this cluster is %s: was the ConfigMap restored from a backup of another "+
		"cluster? It is corrected; start again", k.siteUIDFile, uid, now)
}

// etcdCA gives the certificates that etcd's is checked by: of the file, or, as long as that is not there or empty, of the ConfigMap.
func (k *kubernetesFlags) etcdCA(ctx context.Context, file string, log *slog.Logger) (pem string, err error) {
	client, err := k.connect()
	if err != nil {
		return "", flags.Usage(fmt.Errorf("--etcd-ca-configmap: %w", err))
	}
	key := kube.ConfigMapKey{Namespace: k.namespace, Name: k.etcdCAConfigMap, Key: etcdCAKey}
	return kube.FileOr(ctx, log, file, key.String()+", which holdfast-etcd writes", func(ctx context.Context) (string, error) {
		return key.Read(ctx, client)
	})
}
