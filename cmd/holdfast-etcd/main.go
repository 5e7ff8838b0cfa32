// Command holdfast-etcd is one member of the etcd that the chart brings along: etcd's own server, with certificates that its members
// make for one another, in a pod of a StatefulSet.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/holdfast-dev/holdfast/cmd/internal/flags"
	"github.com/holdfast-dev/holdfast/etcd/member"
	"github.com/holdfast-dev/holdfast/kube"
)

// version is set by the linker.
var version string

// program is what the command has from its surroundings.
type program struct {
	out, err io.Writer
	lookup   flags.Lookup
}

func main() {
	p := &program{out: os.Stdout, err: os.Stderr, lookup: os.LookupEnv}
	os.Exit(p.run(context.Background(), os.Args[1:]))
}

// run runs the command and gives the exit code. The first SIGINT or SIGTERM ends it in order, the second one at once.
func (p *program) run(ctx context.Context, args []string) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	root := p.root()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil {
		io.WriteString(p.err, flags.Complain(cmd, err))
	}
	return flags.ExitCode(err)
}

func (p *program) root() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "holdfast-etcd",
		Short: "Be one member of the etcd that the chart brings along",
		Long: `Be one member of the etcd that the chart brings along, in a pod of a StatefulSet. Every flag can be given as a variable too, whose name
stands in brackets; the flag wins.

One member, or three, of which one may be lost. More members than before join by themselves; fewer need "etcdctl member remove" first.
A member that has lost its data leaves the cluster and joins it anew.

Exit codes: 0 fine, 1 error, 2 wrong command line.`,
		Args:    cobra.NoArgs,
		Version: flags.Version(version),
		RunE: flags.Run(func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd.Context(), p.err)
		}),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.SetOut(p.out)
	cmd.SetErr(p.err)
	o.add(cmd)
	flags.Bind(cmd, p.lookup)
	return cmd
}

// options are the flags.
type options struct {
	kubeconfig                   string
	name, namespace              string
	service, peerService, domain string
	replicas                     int
	data, certs, healthListen    string
	persistent                   bool
	clientPort, peerPort         int
	quota                        string
	retention                    time.Duration
	caSecret, caConfigMap        string
	log                          flags.Log
}

func (o *options) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "how to reach Kubernetes' API server (default: as a pod does)")
	f.StringVar(&o.name, "name", "", "this pod's name, which ends in its number; required")
	f.StringVar(&o.namespace, "namespace", "", "this pod's namespace; required")
	f.StringVar(&o.service, "service", "", "the Service that clients use; required")
	f.StringVar(&o.peerService, "peer-service", "", "the headless Service that gives each member a name; required")
	f.StringVar(&o.domain, "cluster-domain", "cluster.local", "what names of services end in, beside .svc")
	f.IntVar(&o.replicas, "replicas", 1, "how many members there shall be")
	f.StringVar(&o.data, "data", "", "the folder for the data; required")
	f.BoolVar(&o.persistent, "persistent", true, "whether the data outlives the pod")
	f.StringVar(&o.certs, "certs", "", "the folder for this member's certificate and key, best in memory; required")
	f.IntVar(&o.clientPort, "client-port", 2379, "the port for clients")
	f.IntVar(&o.peerPort, "peer-port", 2380, "the port for the other members")
	f.StringVar(&o.healthListen, "health-listen", ":2381", "where /livez, /readyz and /metrics are served, without TLS")
	f.StringVar(&o.quota, "quota", "2Gi", "how large the database may grow; above it etcd takes no writes")
	f.DurationVar(&o.retention, "compaction-retention", 5*time.Minute, "how old history may be before it is compacted")
	f.StringVar(&o.caSecret, "ca-secret", "", "the Secret with the certificate authority, which is made where there is none; required")
	f.StringVar(&o.caConfigMap, "ca-configmap", "", "the ConfigMap that the authority's certificate is published in; required")
	o.log.Add(cmd)
}

// numbered is the name of a pod of a StatefulSet.
var numbered = regexp.MustCompile(`^(.+)-(\d+)$`)

// check says all that is wrong with the flags, and gives the quota in bytes.
func (o *options) check() (quota int64, err error) {
	var wrong []error
	for _, need := range []struct{ flag, value string }{
		{"name", o.name}, {"namespace", o.namespace}, {"service", o.service}, {"peer-service", o.peerService}, {"data", o.data},
		{"certs", o.certs}, {"ca-secret", o.caSecret}, {"ca-configmap", o.caConfigMap},
	} {
		if need.value == "" {
			wrong = append(wrong, fmt.Errorf("--%s is missing", need.flag))
		}
	}
	if o.name != "" && !numbered.MatchString(o.name) {
		wrong = append(wrong, fmt.Errorf("--name %q does not end in a number, as the name of a StatefulSet's pod does", o.name))
	}
	if o.replicas < 1 || o.replicas%2 == 0 || o.replicas > 7 {
		wrong = append(wrong, fmt.Errorf("--replicas is %d: give 1, 3, 5 or 7; an even number can lose no more members than one less", o.replicas))
	}
	amount, err := resource.ParseQuantity(o.quota)
	if err != nil || amount.Value() < 16<<20 || amount.Value() > 16<<30 {
		wrong = append(wrong, fmt.Errorf("--quota is %q: give 16Mi to 16Gi", o.quota))
	}
	if o.retention < time.Minute {
		wrong = append(wrong, fmt.Errorf("--compaction-retention is %s: watches that catch up need a minute at least", o.retention))
	}
	return amount.Value(), errors.Join(wrong...)
}

func (o *options) run(ctx context.Context, logs io.Writer) error {
	log, err := o.log.Logger(logs)
	if err != nil {
		return err
	}
	quota, err := o.check()
	if err != nil {
		return flags.Usage(err)
	}
	client, err := kube.Client(o.kubeconfig, "holdfast-etcd")
	if err != nil {
		return flags.Usage(err)
	}
	v := &vault{client: client, namespace: o.namespace, secret: o.caSecret, configMap: o.caConfigMap, log: log}
	authority, begun, err := v.open(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	return member.Run(ctx, member.Options{
		Name: o.name, Members: o.members(), Token: o.namespace + "/" + o.service, Data: o.data, Certs: o.certs, Persistent: o.persistent,
		Begun: begun, Begin: v.begin, ClientPort: o.clientPort, PeerPort: o.peerPort, Health: o.healthListen, Hosts: o.hosts(),
		Authority: authority, Quota: quota, Retention: o.retention, Log: log,
	})
}

// members are the pods of the StatefulSet.
func (o *options) members() (all []member.Member) {
	set := numbered.FindStringSubmatch(o.name)[1]
	for i := range o.replicas {
		name := fmt.Sprintf("%s-%d", set, i)
		all = append(all, member.Member{Name: name, Host: fmt.Sprintf("%s.%s.%s.svc", name, o.peerService, o.namespace)})
	}
	return all
}

// hosts are the names by which clients know this member, beside the one that the others use.
func (o *options) hosts() (all []string) {
	for _, name := range []string{o.service, o.name + "." + o.peerService} {
		base := name + "." + o.namespace
		all = append(all, name, base, base+".svc", base+".svc."+o.domain)
	}
	return all
}
