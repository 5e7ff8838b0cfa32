package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/kubernetes"

	"github.com/holdfast-dev/holdfast/cmd/internal/flags"
	"github.com/holdfast-dev/holdfast/webhook"
	"github.com/holdfast-dev/holdfast/webhook/certs"
	"github.com/holdfast-dev/holdfast/webhook/server"
)

// options are the flags.
type options struct {
	listen, metricsListen string
	kubeconfig            string
	namespace, podName    string
	service               string
	configuration         string

	caSecret            string
	tlsCert, tlsKey, ca string
	manageBundle        bool

	// settings are those of the agents, as far as flags say them.
	settings                webhook.Settings
	mode, archive           string
	etcdCA, etcdCAConfigMap string

	namespaces    []string
	breakerPause  time.Duration
	shutdownDelay time.Duration
	log           flags.Log
}

func (o *options) add(cmd *cobra.Command) {
	s := &o.settings
	*s = webhook.Defaults()
	f := cmd.Flags()
	f.StringVar(&o.listen, "listen", ":10250", "where the API server's reviews are answered, by HTTPS; port 0 takes a free one")
	f.StringVar(&o.metricsListen, "metrics-listen", ":7071", "where /metrics, /livez and /readyz are answered, by plain HTTP")
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "how to reach Kubernetes' API server (default: as a pod does)")
	f.StringVar(&o.namespace, "namespace", "", "this replica's own namespace; required")
	f.StringVar(&o.podName, "pod-name", "", "this replica's own pod (default: the host's name)")
	f.StringVar(&o.service, "service", "", "the webhook's Service, which the API server calls; required")
	f.StringVar(&o.configuration, "configuration", "", "the MutatingWebhookConfiguration that names this webhook; required")

	f.StringVar(&o.caSecret, "ca-secret", "",
		"Secret in which all replicas keep a certificate authority of their own; this, or --tls-cert and --tls-key")
	f.StringVar(&o.tlsCert, "tls-cert", "", "file with the certificate, and its chain, where somebody else renews it")
	f.StringVar(&o.tlsKey, "tls-key", "", "file with the key of --tls-cert")
	f.StringVar(&o.ca, "ca-file", "", "file with the authorities of --tls-cert, for the configuration's caBundle")
	f.BoolVar(&o.manageBundle, "manage-ca-bundle", true,
		"write the configuration's caBundle; false where somebody else does, such as cert-manager")

	f.StringVar(&s.Image, "agent-image", "", "the agent's image; required")
	f.StringVar(&s.PullPolicy, "agent-pull-policy", s.PullPolicy, "when the agent's image is pulled: Always, IfNotPresent or Never")
	f.StringSliceVar(&s.Architectures, "agent-architectures", s.Architectures,
		"the processors that the agent's image is made for; empty for all")
	f.StringVar(&o.mode, "agent-mode", string(s.Mode),
		"auto: a native sidecar where Kubernetes has it, from 1.29 on; plain: the last of the containers everywhere")
	f.StringVar(&s.Resources.CPURequest, "agent-cpu-request", s.Resources.CPURequest, "the agent's request of cpu")
	f.StringVar(&s.Resources.MemoryRequest, "agent-memory-request", s.Resources.MemoryRequest, "the agent's request of memory")
	f.StringVar(&s.Resources.CPULimit, "agent-cpu-limit", s.Resources.CPULimit,
		"the agent's limit of cpu, set only where the pod's other containers have one")
	f.StringVar(&s.Resources.MemoryLimit, "agent-memory-limit", s.Resources.MemoryLimit, "the agent's limit of memory")
	f.StringVar(&s.Site, "site", s.Site, "the site's name, as the aggregator has it")
	f.StringVar(&s.SiteUID, "site-uid", "", "whose site it is (default: the uid of the namespace kube-system)")
	f.StringSliceVar(&s.EtcdEndpoints, "etcd-endpoints", nil, "where agents find etcd's members; required")
	f.StringVar(&o.etcdCA, "etcd-ca", "", "file with the certificates that agents check etcd's against (default: their system's)")
	f.StringVar(&o.etcdCAConfigMap, "etcd-ca-configmap", "",
		"ConfigMap of this namespace whose key ca.crt has them; it is waited for, where --etcd-ca is not there")
	f.StringVar(&o.archive, "archive", string(s.Archive), "whether Flink is given a folder for what became of its jobs: auto or off")
	f.StringVar(&s.ArchiveSizeLimit, "archive-size-limit", s.ArchiveSizeLimit, "how large that folder may become")
	f.BoolVar(&s.ReadConfigMaps, "read-configmaps", false,
		"read the ConfigMap with Flink's configuration, where the decision about that folder needs it")

	f.StringSliceVar(&o.namespaces, "namespaces", nil, "the namespaces in which injected pods are watched (default: all)")
	f.DurationVar(&o.breakerPause, "breaker-pause", 2*time.Minute,
		"how long no agents are injected after one could not start, until one is tried; it doubles up to 30m")
	f.DurationVar(&o.shutdownDelay, "shutdown-delay", 10*time.Second,
		"how long to serve on after SIGTERM, until nobody sends anything any more")
	o.log.Add(cmd)
}

// check says all that is wrong with the flags, and completes them.
func (o *options) check() error {
	var wrong []error
	mistake := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	for _, name := range []struct{ flag, value, what string }{
		{"namespace", o.namespace, "the namespace that this replica is in"},
		{"service", o.service, "the name of the Service in front of it"},
		{"configuration", o.configuration, "the name of the MutatingWebhookConfiguration"},
	} {
		if name.value == "" {
			mistake("--%s is missing: give %s", name.flag, name.what)
		}
	}
	for _, name := range []struct{ flag, value string }{{"namespace", o.namespace}, {"service", o.service}} {
		if problems := validation.IsDNS1123Label(name.value); name.value != "" && len(problems) > 0 {
			mistake("--%s %q cannot be a name in Kubernetes: %s", name.flag, name.value, problems[0])
		}
	}
	for _, name := range o.namespaces {
		if problems := validation.IsDNS1123Label(name); len(problems) > 0 {
			mistake("--namespaces: %q cannot be a namespace: %s", name, problems[0])
		}
	}
	switch files := o.tlsCert != "" || o.tlsKey != ""; {
	case files && o.caSecret != "":
		mistake("--ca-secret and --tls-cert exclude one another: either the webhook signs its own certificate, or somebody else does")
	case !files && o.caSecret == "":
		mistake("there is no certificate: give --ca-secret, or --tls-cert and --tls-key")
	case files && (o.tlsCert == "" || o.tlsKey == ""):
		mistake("--tls-cert and --tls-key go together: give both, or neither")
	case files && o.manageBundle && o.ca == "":
		mistake("--ca-file is missing: the configuration's caBundle is made of it. Where somebody else writes that, such as cert-manager, " +
			"give --manage-ca-bundle=false")
	case files && !o.manageBundle && o.ca != "":
		mistake("--ca-file and --manage-ca-bundle=false exclude one another: the file is for writing the caBundle")
	case !files && o.ca != "":
		mistake("--ca-file goes with --tls-cert: the authority of --ca-secret needs none")
	case !files && !o.manageBundle:
		mistake("--manage-ca-bundle=false goes with --tls-cert: nobody else knows the authority of --ca-secret")
	}
	if o.etcdCA != "" && o.etcdCAConfigMap == "" {
		if _, err := os.ReadFile(o.etcdCA); err != nil {
			mistake("--etcd-ca: %w", err)
		}
	}
	if o.breakerPause < time.Second {
		mistake("--breaker-pause %s is shorter than a second: a pod that cannot start would be made each time", o.breakerPause)
	}
	if o.shutdownDelay < 0 {
		mistake("--shutdown-delay %s is negative", o.shutdownDelay)
	}
	o.settings.Mode, o.settings.Archive = webhook.ModePolicy(o.mode), webhook.ArchivePolicy(o.archive)
	if err := o.settings.Validate(); err != nil {
		wrong = append(wrong, err)
	}
	if o.podName == "" {
		o.podName, _ = os.Hostname() // without a name, replicas may try at the same time
	}
	return errors.Join(wrong...)
}

// host is the name that the API server calls.
func (o *options) host() string { return o.service + "." + o.namespace + ".svc" }

// certificates are where the certificate comes from. Run keeps them valid.
type certificates interface {
	server.Certificates
	runner
}

// certificates makes the provider that the flags ask for.
func (o *options) certificates(client kubernetes.Interface, log *slog.Logger) (certificates, error) {
	if o.caSecret != "" {
		return certs.NewOwn(certs.OwnOptions{
			Client: client, Namespace: o.namespace, Secret: o.caSecret, Configuration: o.configuration, Hosts: []string{o.host()}, Log: log,
		})
	}
	return certs.NewFiles(certs.FilesOptions{
		Cert: o.tlsCert, Key: o.tlsKey, CA: o.ca, Client: client, Configuration: o.configuration, Host: o.host(), Log: log,
	})
}
