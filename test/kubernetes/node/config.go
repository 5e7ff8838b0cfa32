package node

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
)

// files are the configuration of a node. Paths that a program would otherwise take outside of the node's folder are set, or
// private to its box.
func (p *place) writeFiles() error {
	const mode = 0o644
	for _, dir := range []string{"logs", "etc/cni", "etcd", "volumes"} {
		if err := os.MkdirAll(p.path(dir), 0o755); err != nil {
			return err
		}
	}
	if err := p.writeCertificates(); err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(p.path("etc", "containerd.toml"), []byte(p.containerdConfig()), mode),
		os.WriteFile(p.path("etc", "cni", "10-node.conflist"), []byte(p.networkConfig()), mode),
		os.WriteFile(p.path("etc", "kubelet.yaml"), []byte(p.kubeletConfig()), mode),
		os.WriteFile(p.path("etc", "Corefile"), []byte(p.dnsConfig()), mode),
		os.WriteFile(p.path("etc", "resolv.conf"), fmt.Appendf(nil, "nameserver %s\n", p.node), mode),
		os.WriteFile(p.path("etc", "audit.yaml"), []byte(auditPolicy), mode),
	)
}

// writeCertificates makes a certificate for each program, under the name that Kubernetes' own roles are bound to.
func (p *place) writeCertificates() error {
	ca, err := newAuthority(p.path("pki"))
	if err != nil {
		return err
	}
	err = errors.Join(
		ca.issue("apiserver", "kube-apiserver", nil, apiServerNames(p.node, p.kubernetes)...),
		ca.issue("service-accounts", "service-accounts", nil),
		ca.issue("kubelet-client", "kube-apiserver-kubelet-client", []string{"system:masters"}),
		ca.issue("kubelet-server", p.name, nil, p.name, p.node.String()),
		ca.issueAdmin(),
		ca.kubeconfig(p.kubeconfig(), p.apiServer(), "admin"),
	)
	for _, user := range []struct {
		file, name string
		groups     []string
	}{
		{"kubelet", "system:node:" + p.name, []string{"system:nodes"}},
		{"controllers", "system:kube-controller-manager", nil},
		{"scheduler", "system:kube-scheduler", nil},
		{"proxy", "system:kube-proxy", nil},
	} {
		config := p.path("etc", user.file+".kubeconfig")
		err = errors.Join(err, ca.issue(user.file, user.name, user.groups), ca.kubeconfig(config, p.apiServer(), user.file))
	}
	return err
}

// apiServerNames are what the API server's certificate stands for.
func apiServerNames(addresses ...netip.Addr) []string {
	names := []string{"localhost", "127.0.0.1", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}
	for _, address := range addresses {
		names = append(names, address.String())
	}
	return names
}

// apiServer says what differs between the API server of a node and one that stands alone.
type apiServer struct {
	pki      string
	etcd     string
	address  netip.Addr
	port     int
	services netip.Prefix
	more     []string
}

// argv has the admission plugins of Kubernetes' defaults (among them PodSecurity, LimitRanger, ResourceQuota and the webhooks), and
// NodeRestriction, as kubeadm does.
func (a apiServer) argv(program string) []string {
	pki := func(name string) string { return filepath.Join(a.pki, name) }
	return append([]string{
		program,
		"--etcd-servers=" + a.etcd,
		"--bind-address=" + a.address.String(),
		"--advertise-address=" + a.address.String(),
		fmt.Sprintf("--secure-port=%d", a.port),
		"--client-ca-file=" + pki("ca.crt"),
		"--tls-cert-file=" + pki("apiserver.crt"),
		"--tls-private-key-file=" + pki("apiserver.key"),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + pki("service-accounts.key"),
		"--service-account-signing-key-file=" + pki("service-accounts.key"),
		"--service-cluster-ip-range=" + a.services.String(),
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true",
	}, a.more...)
}

// programs are the node's processes, in the order of their start.
func (n *Node) newProcesses(built *programs) []*Process {
	p := n.place
	kube := func(name string) string { return filepath.Join(built.Kube, name) }
	config := func(name string) string { return p.path("etc", name+".kubeconfig") }
	const etcd = "http://127.0.0.1:2379"
	server := apiServer{
		pki: p.path("pki"), etcd: etcd, address: p.node, port: apiServerPort, services: p.services,
		more: []string{
			"--kubelet-client-certificate=" + p.path("pki", "kubelet-client.crt"),
			"--kubelet-client-key=" + p.path("pki", "kubelet-client.key"),
			"--kubelet-certificate-authority=" + p.path("pki", "ca.crt"),
			"--kubelet-preferred-address-types=InternalIP",
			"--audit-policy-file=" + p.path("etc", "audit.yaml"),
			"--audit-log-path=" + p.AuditLog(),
		},
	}
	commands := [][]string{
		{"containerd", "--config", p.path("etc", "containerd.toml")},
		etcdArgv(kube("etcd"), p.path("etcd"), etcd, "http://127.0.0.1:2380"),
		server.argv(kube("kube-apiserver")),
		{kube("kube-controller-manager"),
			"--kubeconfig=" + config("controllers"),
			"--bind-address=127.0.0.1",
			"--service-account-private-key-file=" + p.path("pki", "service-accounts.key"),
			"--root-ca-file=" + p.path("pki", "ca.crt"),
			"--cluster-signing-cert-file=" + p.path("pki", "ca.crt"),
			"--cluster-signing-key-file=" + p.path("pki", "ca.key"),
			"--use-service-account-credentials=true",
			"--flex-volume-plugin-dir=" + p.path("volume-plugins"),
			"--leader-elect=false"},
		{kube("kube-scheduler"), "--kubeconfig=" + config("scheduler"), "--bind-address=127.0.0.1", "--leader-elect=false"},
		{kube("kubelet"),
			"--config=" + p.path("etc", "kubelet.yaml"),
			"--kubeconfig=" + config("kubelet"),
			"--root-dir=" + p.path("kubelet"),
			"--hostname-override=" + p.name,
			"--node-ip=" + p.node.String()},
		{kube("kube-proxy"),
			"--kubeconfig=" + config("proxy"),
			"--hostname-override=" + p.name,
			"--cluster-cidr=" + p.pods.String(),
			"--proxy-mode=iptables",
			"--iptables-min-sync-period=100ms",
			// Settings of the whole machine, and not for us to change.
			"--oom-score-adj=0", "--conntrack-max-per-core=0",
			"--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0"},
		{filepath.Join(built.Tools, "coredns"), "-conf", p.path("etc", "Corefile")},
	}
	var all []*Process
	for _, argv := range commands {
		all = append(all, n.newProcess(filepath.Base(argv[0]), n.box.inside(argv...)))
	}
	return all
}

// etcdArgv is an etcd that forgets nothing when it is killed, but may when the machine is.
func etcdArgv(program, data, client, peer string) []string {
	return []string{program,
		"--data-dir=" + data, "--unsafe-no-fsync",
		"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=default=" + peer,
		"--log-level=warn"}
}

// containerd has folders, socket and plugins of its own. restrict_oom_score_adj is for machines without CAP_SYS_RESOURCE, where runc
// could not start any container otherwise.
func (p *place) containerdConfig() string {
	return fmt.Sprintf(`version = 2
root = %q
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]

[grpc]
  address = %q

[plugins."io.containerd.internal.v1.opt"]
  path = %q

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  restrict_oom_score_adj = true
  enable_unprivileged_ports = true

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = %q
`, p.path("containerd"), p.containerd(), p.path("opt"), PodtoolImage, p.path("etc", "cni"))
}

// A wire for each pod, and no bridge: all that pods send one another is routed by the node, so that a service's answers come back
// the way that they went, without help from the kernel's bridge filter.
func (p *place) networkConfig() string {
	return fmt.Sprintf(`{
  "cniVersion": "0.4.0",
  "name": "holdfast",
  "plugins": [
    {"type": "ptp", "ipam": {"type": "host-local", "ranges": [[{"subnet": %q}]], "routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`, p.pods)
}

// The kubelet of this minor version still takes both versions of cgroups. Nothing is evicted and no image is thrown away for
// lack of space: that would be the machine's, not the test's.
func (p *place) kubeletConfig() string {
	return fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: %[1]s/pki/ca.crt}
authorization: {mode: Webhook}
tlsCertFile: %[1]s/pki/kubelet-server.crt
tlsPrivateKeyFile: %[1]s/pki/kubelet-server.key
port: %[2]d
cgroupDriver: cgroupfs
cgroupRoot: /%[3]s
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
containerRuntimeEndpoint: unix://%[4]s
clusterDNS: [%[5]s]
clusterDomain: cluster.local
resolvConf: %[1]s/etc/resolv.conf
podLogsDir: %[1]s/pod-logs
volumePluginDir: %[1]s/volume-plugins
serializeImagePulls: false
imageGCHighThresholdPercent: 100
evictionHard: {nodefs.available: "0%%", imagefs.available: "0%%", memory.available: 100Mi}
`, p.dir, kubeletPort, p.name, p.containerd(), p.node)
}

// dnsConfig answers for the cluster, and says of every other name that there is none.
func (p *place) dnsConfig() string {
	return fmt.Sprintf(`.:53 {
  bind %[1]s
  errors
  ready %[1]s:%[2]d
  kubernetes cluster.local {
    kubeconfig %[3]s
    pods insecure
    ttl 1
  }
  template ANY ANY {
    rcode NXDOMAIN
  }
}
`, p.node, readyPort, p.kubeconfig())
}

// auditPolicy keeps what webhooks said of pods, which nothing else tells.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  verbs: [create]
  resources: [{group: "", resources: [pods]}]
- level: None
`

// AuditLog is the path of the API server's audit log, one line of JSON for each creation of a pod: with the annotations that
// admission webhooks left.
func (p *place) AuditLog() string { return p.path("logs", "audit.log") }

// process gives the process of that name.
func (n *Node) process(name string) *Process {
	if i := slices.IndexFunc(n.processes, func(p *Process) bool { return p.name == name }); i >= 0 {
		return n.processes[i]
	}
	return nil
}
