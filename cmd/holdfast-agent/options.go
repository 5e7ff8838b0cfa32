package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/holdfast-dev/holdfast/evidence"
)

// options are what the flags say.
type options struct {
	site       string
	siteUID    string
	witness    evidence.Agent
	pod, podIP string

	flink      string
	restPort   int
	restScheme string

	endpoints                []string
	caFile, caText           string
	certificateFile, keyFile string

	lease, poll time.Duration
	listen      string
	level       slog.Level
	strict      bool
	idle        bool
	showVersion bool
}

const usage = `holdfast-agent tells Holdfast what the JobManager beside it says of its jobs.

Each flag can be given as a variable of the environment instead: --etcd-endpoints is HOLDFAST_ETCD_ENDPOINTS.
The flag counts where both are given; an empty variable is not.

`

// parse reads the flags, and the environment for those that are not given. Of options that cannot be used, strict is right all
// the same.
func parse(args []string, lookup func(string) (string, bool), out io.Writer) (o options, err error) {
	fs := flag.NewFlagSet("holdfast-agent", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	endpoints := ""
	fs.StringVar(&o.site, "site", "default", "the `name` of the Kubernetes cluster, one for all its agents")
	fs.StringVar(&o.siteUID, "site-uid", "", "the `uid` that tells this Kubernetes cluster from others, such as that of its namespace kube-system; not compared if empty")
	fs.StringVar(&o.witness.Namespace, "namespace", "", "the pod's `namespace`")
	fs.StringVar(&o.witness.Cluster, "cluster-id", "", "the Flink cluster's `id`")
	fs.StringVar(&o.pod, "pod-name", "", "the pod's `name`, for people")
	fs.StringVar(&o.witness.PodUID, "pod-uid", "", "the pod's `uid`")
	fs.StringVar(&o.podIP, "pod-ip", "", "the pod's `address`, asked where Flink does not listen on loopback")
	fs.IntVar(&o.restPort, "rest-port", 8081, "Flink's REST `port`")
	fs.StringVar(&o.restScheme, "rest-scheme", "", "http or https; found out if not given")
	fs.StringVar(&o.flink, "flink", "", "Flink's REST API as a `URL`, instead of --rest-port and --rest-scheme")
	fs.StringVar(&endpoints, "etcd-endpoints", "", "etcd's `addresses`, with commas between them")
	fs.StringVar(&o.caFile, "etcd-ca", "", "the `file` with the certificates that etcd's is verified by, in PEM")
	fs.StringVar(&o.caText, "etcd-ca-pem", "", "those certificates themselves, in `PEM`, instead of --etcd-ca")
	fs.StringVar(&o.certificateFile, "etcd-cert", "", "the `file` with the agent's own certificate, in PEM")
	fs.StringVar(&o.keyFile, "etcd-key", "", "the `file` with its key, in PEM")
	fs.DurationVar(&o.lease, "lease", 20*time.Second, "the lease `time` of the sign of life")
	fs.DurationVar(&o.poll, "poll", time.Second, "the `time` between two looks at Flink")
	fs.StringVar(&o.listen, "listen", "127.0.0.1:7079", "the `address` where the agent itself can be asked (/jobs, /healthz); empty for none")
	fs.TextVar(&o.level, "log-level", slog.LevelInfo, "the least `level` that is logged: debug, info, warn, error")
	fs.BoolVar(&o.strict, "strict", false, "end with code 2 where the options are wrong, instead of waiting for the pod's end")
	fs.BoolVar(&o.idle, "idle", false, "do nothing until the pod ends: the pod keeps the image on its node")
	fs.BoolVar(&o.showVersion, "version", false, "print the version and end")

	// Strictness decides what becomes of the other mistakes, so it is looked for by itself.
	o.strict = strictly(args, lookup)
	strict := o.strict
	if err = fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		fs.SetOutput(out)
		fmt.Fprint(out, usage)
		fs.PrintDefaults()
	}
	if err == nil && fs.NArg() > 0 {
		err = fmt.Errorf("%q is not a flag: every option begins with --", fs.Arg(0))
	}
	if err == nil {
		err = fromEnvironment(fs, lookup)
	}
	if o.strict = o.strict || strict; err != nil {
		return o, err
	}
	if o.showVersion {
		fmt.Fprintln(out, "holdfast-agent", programVersion(lookup))
		return o, nil
	}
	if o.idle {
		return o, nil
	}
	for endpoint := range strings.SplitSeq(endpoints, ",") {
		if endpoint = strings.TrimSpace(endpoint); endpoint != "" {
			o.endpoints = append(o.endpoints, endpoint)
		}
	}
	return o, o.check(given(fs))
}

// variable is a flag's name in the environment.
func variable(name string) string {
	return "HOLDFAST_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// fromEnvironment sets the flags that were not given.
func fromEnvironment(fs *flag.FlagSet, lookup func(string) (string, bool)) error {
	var all []error
	set := given(fs)
	fs.VisitAll(func(f *flag.Flag) {
		text, ok := lookup(variable(f.Name))
		if !ok || text == "" || set[f.Name] {
			return
		}
		if err := fs.Set(f.Name, text); err != nil {
			all = append(all, fmt.Errorf("%s is %q: %w", variable(f.Name), text, err))
		}
	})
	return errors.Join(all...)
}

func given(fs *flag.FlagSet) map[string]bool {
	set := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { set[f.Name] = true })
	return set
}

func strictly(args []string, lookup func(string) (string, bool)) bool {
	for _, arg := range args {
		if name := strings.TrimLeft(arg, "-"); name != arg && (name == "strict" || name == "strict=true") {
			return true
		}
	}
	text, _ := lookup(variable("strict"))
	return text == "true" || text == "1"
}

// check finds what is missing and what contradicts.
func (o options) check(set map[string]bool) error {
	var all []error
	for _, need := range []struct{ name, value string }{
		{"namespace", o.witness.Namespace}, {"cluster-id", o.witness.Cluster}, {"pod-uid", o.witness.PodUID},
	} {
		if need.value == "" {
			all = append(all, fmt.Errorf("--%s (or %s) is missing", need.name, variable(need.name)))
		}
	}
	if len(o.endpoints) == 0 {
		all = append(all, fmt.Errorf("--etcd-endpoints (or %s) is missing: name at least one, such as http://127.0.0.1:2379", variable("etcd-endpoints")))
	}
	for _, pair := range [][2]string{
		{"flink", "rest-port"}, {"flink", "rest-scheme"}, {"etcd-ca", "etcd-ca-pem"},
	} {
		if set[pair[0]] && set[pair[1]] {
			all = append(all, fmt.Errorf("--%s and --%s contradict each other: give one of them", pair[0], pair[1]))
		}
	}
	if (o.certificateFile == "") != (o.keyFile == "") {
		all = append(all, errors.New("--etcd-cert and --etcd-key go together: give both or neither"))
	}
	return errors.Join(all...)
}

// tls is how etcd is spoken to: nil for plain text, or where the system's certificates are enough.
func (o options) tls() (*tls.Config, error) {
	if o.caFile == "" && o.caText == "" && o.certificateFile == "" {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	text := []byte(o.caText)
	if o.caFile != "" {
		var err error
		if text, err = os.ReadFile(o.caFile); err != nil {
			return nil, fmt.Errorf("--etcd-ca: %w", err)
		}
	}
	if len(text) > 0 {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, errors.New("--etcd-ca, --etcd-ca-pem: there is no certificate in PEM in it")
		}
	}
	if o.certificateFile != "" {
		certificate, err := tls.LoadX509KeyPair(o.certificateFile, o.keyFile)
		if err != nil {
			return nil, fmt.Errorf("--etcd-cert, --etcd-key: %w", err)
		}
		config.Certificates = []tls.Certificate{certificate}
	}
	return config, nil
}

// programVersion is what the linker was given, else what the image says (the programs in it are built without a version, so
// that one whose code did not change is the same file in the next release), else what "go install" left.
func programVersion(lookup func(string) (string, bool)) string {
	if version != "" {
		return version
	}
	if image, ok := lookup("HOLDFAST_IMAGE_VERSION"); ok && image != "" {
		return image
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "dev"
}
