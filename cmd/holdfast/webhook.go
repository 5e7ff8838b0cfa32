package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/holdfast-dev/holdfast/cmd/internal/flags"
	"github.com/holdfast-dev/holdfast/cmd/internal/terminal"
	"github.com/holdfast-dev/holdfast/webhook"
)

func (p *program) webhookCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "webhook", Short: "Look into what the webhook does with pods", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(p.webhookExplainCommand())
	return cmd
}

// asText is the form of output for people.
const asText = "text"

// supposed is an installation and a cluster as the flags describe them. Its defaults are the chart's.
type supposed struct {
	file, output string

	settings      webhook.Settings
	mode, archive string
	etcd          string
	kubernetes    string
	selectors     string
	namespace     string
	namespaceIs   map[string]string
}

func (s *supposed) add(cmd *cobra.Command) {
	s.settings = webhook.Defaults()
	set, r := &s.settings, &s.settings.Resources
	f := cmd.Flags()
	f.StringVarP(&s.file, "filename", "f", "", "the pod, or the workload that would make it, in YAML or JSON; - for standard input")
	f.StringVarP(&s.output, "output", "o", asText, "text, json or yaml")
	f.StringVarP(&s.namespace, "namespace", "n", "default", "the namespace of what names none")
	f.StringToStringVar(&s.namespaceIs, "namespace-labels", nil, "that namespace's labels, where the installation selects by them")
	f.StringVar(&s.selectors, "selectors", "",
		"file with the installed MutatingWebhookConfiguration, or 'helm template' output; default: the chart's own")
	f.StringVar(&s.kubernetes, "kubernetes-version", "1.34", "the API server's version")
	f.StringVar(&set.Image, "agent-image", "ghcr.io/holdfast-dev/holdfast:"+flags.Version(version), "the agent's image")
	f.StringVar(&set.PullPolicy, "agent-pull-policy", set.PullPolicy, "when it is pulled")
	f.StringSliceVar(&set.Architectures, "agent-architectures", set.Architectures, "the processors that it is made for")
	f.StringVar(&s.mode, "agent-mode", string(set.Mode), "auto: a native sidecar where Kubernetes has it; plain: the last of the containers")
	f.StringVar(&r.CPURequest, "agent-cpu-request", r.CPURequest, "the agent's request of cpu")
	f.StringVar(&r.CPULimit, "agent-cpu-limit", r.CPULimit, "its limit of cpu, where it has to have one")
	f.StringVar(&r.MemoryRequest, "agent-memory-request", r.MemoryRequest, "its request of memory")
	f.StringVar(&r.MemoryLimit, "agent-memory-limit", r.MemoryLimit, "its limit of memory")
	f.StringVar(&set.Site, "site", set.Site, "the site")
	f.StringVar(&set.SiteUID, "site-uid", "", "the uid of the namespace kube-system")
	f.StringSliceVar(&set.EtcdEndpoints, "etcd-endpoints", []string{"https://holdfast-etcd.holdfast.svc:2379"}, "where agents find etcd")
	f.StringVar(&s.etcd, "etcd-ca", "", "file with the certificates that agents verify etcd's by")
	f.StringVar(&s.archive, "archive", string(set.Archive), "archive folders for endings: auto or off")
	f.StringVar(&set.ArchiveSizeLimit, "archive-size-limit", set.ArchiveSizeLimit, "how large one may become")
	f.BoolVar(&set.ReadConfigMaps, "read-configmaps", false, "the webhook may read ConfigMaps: those among the documents of --filename")
	offer(cmd, "output", asText, asJSON, asYAML)
	offer(cmd, "agent-mode", string(webhook.ModeAuto), string(webhook.ModePlain))
	offer(cmd, "archive", string(webhook.ArchiveAuto), string(webhook.ArchiveOff))
}

func (p *program) webhookExplainCommand() *cobra.Command {
	var s supposed
	cmd := &cobra.Command{
		Use:   "explain -f FILE",
		Short: "Say what the webhook would do with a pod, and why",
		Long: `Say what the installed selectors and the webhook would do with a pod, and why. Nothing is asked of any cluster.

FILE holds a pod, or a Deployment, StatefulSet, Job, CronJob, ReplicaSet or DaemonSet whose pod is meant, in YAML or JSON; there may be
several, and lists. LimitRanges and ResourceQuotas of the pod's namespace may stand beside it, and its ConfigMap.

In JSON one pod is {"decision", "reason", "mode", "archive": {"decision", "reason"}, "patch", "pod"}, and pod is what comes of it.

Without flags the installation is the chart's, with its defaults. What was installed with other values is said with flags, which have
the names of holdfast-webhook's, and --selectors takes the installed MutatingWebhookConfiguration.`,
		Example: `  kubectl get pod orders-5d8f7b6c9d-x2k7p -o yaml | holdfast webhook explain -f -
  holdfast webhook explain -f jobmanager.yaml -n team-a -o json
  kubectl get deployment,limitrange,resourcequota -n team-a -o yaml | holdfast webhook explain -f -
  kubectl get mutatingwebhookconfiguration holdfast -o yaml > installed.yaml
  holdfast webhook explain -f jobmanager.yaml --selectors installed.yaml --namespace-labels team=a`,
		Args: cobra.NoArgs,
		RunE: flags.Run(func(cmd *cobra.Command, _ []string) error {
			entries, err := s.check()
			if err != nil {
				return err
			}
			documents, err := readDocuments(s.file, cmd.InOrStdin())
			if err != nil {
				return err
			}
			pods, beside, err := findPods(documents, s.namespace)
			if err != nil {
				return fmt.Errorf("%s: %w", s.file, err)
			}
			for i, pod := range pods {
				e, err := s.explain(pod, entries, beside)
				if err != nil {
					return err
				}
				if err := p.tellExplanation(s.output, e, i > 0); err != nil {
					return err
				}
			}
			return nil
		}),
	}
	s.add(cmd)
	return cmd
}

// check completes the settings, and gives the selectors.
func (s *supposed) check() ([]webhook.NamedSelector, error) {
	if !slices.Contains([]string{asText, asJSON, asYAML}, s.output) {
		return nil, flags.Usage(fmt.Errorf("--output %q does not exist: give text, json or yaml", s.output))
	}
	if s.file == "" {
		return nil, flags.Usage(errors.New("--filename is missing: give the file with the pod, or - for standard input"))
	}
	s.settings.Version = flags.Version(version)
	s.settings.Mode, s.settings.Archive = webhook.ModePolicy(s.mode), webhook.ArchivePolicy(s.archive)
	var err error
	if s.settings.NativeSidecars, err = webhook.HasNativeSidecars(s.kubernetes); err != nil {
		return nil, flags.Usage(fmt.Errorf("--kubernetes-version: %w", err))
	}
	if s.etcd != "" {
		text, err := os.ReadFile(s.etcd)
		if err != nil {
			return nil, fmt.Errorf("--etcd-ca: %w", err)
		}
		s.settings.EtcdCA = string(text)
	}
	if err := s.settings.Validate(); err != nil {
		return nil, flags.Usage(err)
	}
	if s.selectors == "" {
		return webhook.Selectors(), nil
	}
	documents, err := readDocuments(s.selectors, nil)
	if err != nil {
		return nil, err
	}
	entries, err := installedSelectors(documents)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.selectors, err)
	}
	return entries, nil
}

// explanation is what would become of one pod.
type explanation struct {
	subject, namespace string
	note               string // what was supposed of the pod; "" for a pod as it is
	entry              string // the selector that takes it
	decision           webhook.Decision
	before, after      json.RawMessage
}

// explain decides as the API server and the webhook would together.
func (s *supposed) explain(pod foundPod, entries []webhook.NamedSelector, beside around) (*explanation, error) {
	e := &explanation{subject: pod.subject, namespace: pod.namespace, note: pod.note, before: pod.raw, after: pod.raw}
	request := webhook.Request{Namespace: pod.namespace, Pod: pod.raw, Limits: beside.limits[pod.namespace]}
	if name, needed := webhook.ConfigMapNeeded(s.settings, pod.raw); needed {
		request.FlinkConfig = beside.configMaps[pod.namespace+"/"+name]
	}
	e.decision = webhook.Decide(s.settings, request)
	if e.decision.Reason == webhook.ReasonUnreadable {
		return nil, fmt.Errorf("%s: %s", pod.subject, e.decision.Message)
	}
	namespace := map[string]string{webhook.LabelNamespaceName: pod.namespace}
	if pod.namespace == s.namespace {
		for name, value := range s.namespaceIs {
			namespace[name] = value
		}
	}
	entry, reason, message, err := webhook.Select(entries, namespace, pod.labels)
	switch {
	case err != nil:
		return nil, err
	case entry != "":
		e.entry = entry
	case reason != webhook.ReasonNotSelected || e.decision.Inject || e.decision.Reason == webhook.ReasonNoContainer:
		// What the pod itself says tells more than that nobody selects it: that it opts out, that it is a TaskManager's.
		e.decision = webhook.Decision{
			Reason: reason, Message: message, Warnings: e.decision.Warnings,
			Archive: webhook.ArchiveDecision{Reason: webhook.ArchiveNotInjected, Message: "the pod gets no agent"},
		}
	}
	if e.after, err = webhook.Apply(pod.raw, e.decision.Patch); err != nil {
		return nil, fmt.Errorf("%s: %w", pod.subject, err)
	}
	return e, nil
}

// explained is an explanation for programs.
type explained struct {
	Decision string              `json:"decision"`
	Reason   webhook.Reason      `json:"reason"`
	Mode     webhook.Mode        `json:"mode"`
	Archive  explainedArchive    `json:"archive"`
	Patch    []webhook.Operation `json:"patch"`
	Pod      json.RawMessage     `json:"pod"`
}

type explainedArchive struct {
	Decision string                `json:"decision"`
	Reason   webhook.ArchiveReason `json:"reason"`
}

func decisionWord(inject bool) string {
	if inject {
		return "inject"
	}
	return "skip"
}

func (p *program) tellExplanation(output string, e *explanation, more bool) error {
	if output == asText {
		if more {
			fmt.Fprintln(p.out)
		}
		return p.tellPeople(e)
	}
	d := e.decision
	answer := explained{
		Decision: decisionWord(d.Inject), Reason: d.Reason, Mode: d.Mode, Patch: d.Patch, Pod: e.after,
		Archive: explainedArchive{decisionWord(d.Archive.Inject), d.Archive.Reason},
	}
	if answer.Patch == nil {
		answer.Patch = []webhook.Operation{}
	}
	if output == asYAML && more {
		fmt.Fprintln(p.out, "---")
	}
	return p.print(output, answer)
}

// tellPeople prints an explanation as sentences.
func (p *program) tellPeople(e *explanation) error {
	v, d := p.view(), e.decision
	text := bufio.NewWriter(p.out)
	headline := "would be left alone."
	if d.Inject {
		headline = "would get the agent."
	}
	fmt.Fprintf(text, "%s\n", v.paint(terminal.Bold, terminal.Clean(e.namespace+"/"+e.subject)+" "+headline))
	if e.note != "" {
		fmt.Fprintf(text, "%s\n", terminal.Clean(e.note))
	}
	fmt.Fprintln(text)
	t := &terminal.Table{Colours: v.colours, Indent: "  "}
	fact := func(name, value string) {
		if value != "" {
			t.Row(terminal.Cell{Text: name, Colour: terminal.Faint}, terminal.Text(value))
		}
	}
	fact("reason", string(d.Reason)+": "+d.Message)
	fact("selected by", e.entry)
	if d.Inject {
		fact("mode", string(d.Mode)+": "+modes[d.Mode])
		fact("JobManager", d.Container)
		fact("cluster id", d.ClusterID)
		fact("REST port", fmt.Sprint(d.RESTPort))
		fact("archive", decisionWord(d.Archive.Inject)+", "+string(d.Archive.Reason)+": "+d.Archive.Message)
	}
	for _, warning := range d.Warnings {
		t.Row(terminal.Cell{Text: "warning", Colour: terminal.Yellow}, terminal.Text(warning))
	}
	if err := t.Write(text); err != nil {
		return err
	}
	if d.Inject {
		fmt.Fprintln(text, "\nWhat the patch does:")
		for _, op := range d.Patch {
			if op.Op != "test" {
				fmt.Fprintf(text, "  %s\n", terminal.Clean(change(op)))
			}
		}
		fmt.Fprintln(text, "\nThe patch itself, and the pod that comes of it: -o json, or -o yaml.")
	}
	return text.Flush()
}

var modes = map[webhook.Mode]string{
	webhook.Native: "an init container that goes on running; it starts before Flink and is stopped after it",
	webhook.Plain:  "the last of the containers, since native sidecars are not to be had, or not wanted",
}

// change is one operation in words.
func change(op webhook.Operation) string {
	path := strings.NewReplacer("~1", "/", "~0", "~").Replace(strings.TrimPrefix(op.Path, "/"))
	value := string(op.Value)
	var named struct{ Name string }
	switch {
	case op.Op == "replace":
		return "changes " + path + ": the option is put behind the command's first words"
	case value == "{}" || value == "[]":
		return "adds " + path + ", which is not there yet"
	case json.Unmarshal(op.Value, &named) == nil && named.Name != "":
		return "adds " + path + ": " + named.Name
	}
	return "adds " + path + ": " + terminal.Clip(value, 100)
}

// documentsLimit bounds what is read of a file.
const documentsLimit = 64 << 20

// readDocuments reads the documents of a file, in JSON. in is read for the name -.
func readDocuments(file string, in io.Reader) ([]json.RawMessage, error) {
	if file != "-" {
		opened, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer opened.Close()
		in = opened
	} else {
		file = "standard input"
	}
	if in == nil {
		return nil, flags.Usage(errors.New("standard input holds the pod: give a file for --selectors"))
	}
	text, err := io.ReadAll(io.LimitReader(in, documentsLimit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", file, err)
	case len(text) > documentsLimit:
		return nil, fmt.Errorf("%s is larger than %d MiB: give the pod alone", file, documentsLimit>>20)
	}
	return splitDocuments(file, text)
}

func splitDocuments(file string, text []byte) (all []json.RawMessage, err error) {
	// JSON documents one after another are taken as they are: no number is written anew.
	if decoder := json.NewDecoder(strings.NewReader(string(text))); strings.HasPrefix(strings.TrimSpace(string(text)), "{") {
		for {
			var document json.RawMessage
			if err := decoder.Decode(&document); err == io.EOF {
				return all, nil
			} else if err != nil {
				break // perhaps it is YAML's flow style
			}
			all = append(all, document)
		}
		all = nil
	}
	for i, part := range splitYAML(string(text)) {
		document, err := yaml.YAMLToJSONStrict([]byte(part))
		if err != nil {
			return nil, fmt.Errorf("%s: document %d is neither YAML nor JSON: %w", file, i+1, err)
		}
		if string(document) != "null" {
			all = append(all, document)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s is empty: it should hold a pod", file)
	}
	return all, nil
}

// splitYAML cuts a text at the lines that separate documents.
func splitYAML(text string) []string {
	var all []string
	var one strings.Builder
	for line := range strings.Lines(text) {
		if rest, is := strings.CutPrefix(line, "---"); is && (strings.TrimSpace(rest) == "" || rest[0] == ' ') {
			all = append(all, one.String())
			one.Reset()
			one.WriteString(rest) // a comment, or the beginning of the document
			continue
		}
		one.WriteString(line)
	}
	return append(all, one.String())
}
