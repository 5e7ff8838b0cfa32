// Package webhook decides what becomes of a JobManager's pod that is about to be created: whether the agent is put into it, in which
// form, and with which JSON patch. This part of it is pure: it reads one pod and the installation's settings, asks nobody, and for
// whatever it is given it answers; a pod that it does not understand is left alone. Serving lies beside it.
package webhook

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/holdfast-dev/holdfast/record"
)

// What people write on their pods. Labels, because the API server selects by them; annotations for the rest.
const (
	// LabelInject is "true" on a pod that no other label tells to be a JobManager's, and "false" on one that is to be left alone.
	LabelInject = "holdfast.dev/inject"
	// AnnotationClusterID names the Flink cluster, where it cannot be told from the pod or should be called otherwise.
	AnnotationClusterID = "holdfast.dev/cluster-id"
	// AnnotationRESTPort is the port where Flink's REST API listens.
	AnnotationRESTPort = "holdfast.dev/rest-port"
	// AnnotationContainer names the container that the JobManager runs in.
	AnnotationContainer = "holdfast.dev/container"
	// AnnotationArchive is "inject" where the archive folder is wanted though Flink's configuration cannot be read, and "off" where
	// it is not wanted.
	AnnotationArchive = "holdfast.dev/archive"
)

// What the patch writes on a pod.
const (
	// LabelInjected is "true" on every pod that has the agent: NetworkPolicies select it.
	LabelInjected = "holdfast.dev/injected"
	// AnnotationStatus tells in JSON what was injected: see Status.
	AnnotationStatus = "holdfast.dev/status"
	// ContainerName is the agent's container. A pod that has one of this name is left alone.
	ContainerName = "holdfast-agent"
	// ArchiveVolume is the volume of the archive folder.
	ArchiveVolume = "holdfast-archive"
	// ArchivePath is where the archive folder is mounted, in the JobManager's container and in the agent's alike: an agent can learn
	// it from Flink's own configuration.
	ArchivePath = "/holdfast/archive"
)

// Mode is the form in which the agent is put into a pod.
type Mode string

const (
	// Native is the first init container, with the restart policy Always. It starts before Flink and is stopped after it, and a pod
	// completes without it. Kubernetes has it from 1.29 on.
	Native Mode = "native"
	// Plain is the last one of the containers.
	Plain Mode = "plain"
)

// ModePolicy says which form the agent may have.
type ModePolicy string

const (
	// ModeAuto is Native where Kubernetes has it, and else Plain.
	ModeAuto ModePolicy = "auto"
	// ModePlain is Plain everywhere, for clusters where something else does not get along with native sidecars. The pods of Jobs get none then.
	ModePlain ModePolicy = "plain"
)

// ArchivePolicy says whether archive folders are injected at all.
type ArchivePolicy string

const (
	// ArchiveAuto injects one where that overrides nothing of the user's.
	ArchiveAuto ArchivePolicy = "auto"
	// ArchiveOff injects none, whatever a pod's annotation says.
	ArchiveOff ArchivePolicy = "off"
)

// Settings are what an installation says of all the agents that it injects.
type Settings struct {
	// Image is the agent's, and PullPolicy Kubernetes' word for when it is pulled; "" is Kubernetes' own choice.
	Image      string
	PullPolicy string
	// Architectures are those that the image is made for, in Kubernetes' words. None means that it runs everywhere.
	Architectures []string

	Site    string // one Kubernetes cluster's name
	SiteUID string // what tells it from another cluster of that name: the uid of its namespace kube-system; "" is not told to agents

	EtcdEndpoints []string
	EtcdCA        string // certificates in PEM by which etcd's is verified. They are public. "" for the system's own, or plain text.

	Resources Resources

	Archive          ArchivePolicy
	ArchiveSizeLimit string // a quantity
	// ReadConfigMaps says that Request.FlinkConfig is told where ConfigMapNeeded asks for it.
	ReadConfigMaps bool

	Mode ModePolicy
	// NativeSidecars says that the API server is of Kubernetes 1.29 or newer.
	NativeSidecars bool

	Version string // Holdfast's
}

// Resources are what an agent asks of its node, in Kubernetes' quantities.
type Resources struct {
	CPURequest, MemoryRequest, MemoryLimit string
	// CPULimit is set only where one has to be: in a Guaranteed pod, and where every other container has one, which is how a pod
	// looks in a namespace whose quota demands it. Elsewhere the agent has none, for a limit slows down and saves nothing.
	CPULimit string
}

// Defaults are the settings that the chart has without values, but for the image, the site and etcd, which no program can know.
func Defaults() Settings {
	return Settings{
		PullPolicy:       string(corev1.PullIfNotPresent),
		Architectures:    []string{"amd64", "arm64"},
		Site:             "default",
		Resources:        Resources{CPURequest: "2m", MemoryRequest: "16Mi", MemoryLimit: "64Mi", CPULimit: "50m"},
		Archive:          ArchiveOff,
		ArchiveSizeLimit: "128Mi",
		Mode:             ModeAuto,
		NativeSidecars:   true,
	}
}

// caLimit bounds the certificates in bytes: they are written into every pod.
const caLimit = 32 << 10

// Validate names everything that is wrong with the settings.
func (s Settings) Validate() error {
	var all []error
	wrong := func(format string, args ...any) { all = append(all, fmt.Errorf(format, args...)) }
	if s.Image == "" || len(s.Image) > 500 || strings.ContainsFunc(s.Image, func(r rune) bool { return r <= ' ' || r > '~' }) {
		wrong("the agent's image %.80q is not the name of an image: give one such as registry.example/holdfast:1.0", s.Image)
	}
	switch corev1.PullPolicy(s.PullPolicy) {
	case "", corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever:
	default:
		wrong("the pull policy %.80q is not one of Always, IfNotPresent and Never", s.PullPolicy)
	}
	if err := record.CheckSegment("the site", s.Site); err != nil {
		all = append(all, err)
	}
	if s.SiteUID != "" {
		if err := record.CheckSegment("the site's uid", s.SiteUID); err != nil {
			all = append(all, err)
		}
	}
	if len(s.EtcdEndpoints) == 0 {
		wrong("there is no address of etcd: give at least one, such as https://etcd.example:2379")
	}
	for _, endpoint := range s.EtcdEndpoints {
		at, err := url.Parse(endpoint)
		if err != nil || at.Host == "" || at.Scheme != "http" && at.Scheme != "https" || strings.ContainsAny(endpoint, ", ") {
			wrong("etcd's address %.80q is not a URL such as https://etcd.example:2379", endpoint)
		}
	}
	if err := checkCA(s.EtcdCA); err != nil {
		all = append(all, err)
	}
	if s.Mode != ModeAuto && s.Mode != ModePlain {
		wrong("the agent's mode %.80q is neither auto nor plain", s.Mode)
	}
	if s.Archive != ArchiveAuto && s.Archive != ArchiveOff {
		wrong("the archive policy %.80q is neither auto nor off", s.Archive)
	}
	for _, q := range []struct{ name, text string }{
		{"cpu request", s.Resources.CPURequest}, {"memory request", s.Resources.MemoryRequest},
		{"cpu limit", s.Resources.CPULimit}, {"memory limit", s.Resources.MemoryLimit},
		{"size limit of the archive folder", s.ArchiveSizeLimit},
	} {
		if parsed, err := resource.ParseQuantity(q.text); err != nil || parsed.Sign() <= 0 {
			wrong("the %s %.80q is not a quantity above zero: give one such as 20m or 64Mi", q.name, q.text)
		}
	}
	if errors.Join(all...) == nil {
		r := s.Resources
		cpu, memory := quantity(r.CPURequest), quantity(r.MemoryRequest)
		if cpu.Cmp(quantity(r.CPULimit)) > 0 || memory.Cmp(quantity(r.MemoryLimit)) > 0 {
			wrong("the agent's requests (cpu %s, memory %s) are above its limits (cpu %s, memory %s)",
				r.CPURequest, r.MemoryRequest, r.CPULimit, r.MemoryLimit)
		}
	}
	return errors.Join(all...)
}

func checkCA(text string) error {
	if text == "" {
		return nil
	}
	if len(text) > caLimit {
		return fmt.Errorf("etcd's certificates have %d bytes: at most %d are allowed, for they are written into every pod", len(text), caLimit)
	}
	found := 0
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("there is a %s among etcd's certificates: give certificates only, for they are written into every pod", block.Type)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return fmt.Errorf("etcd's certificates: %w", err)
		}
		found++
	}
	if found == 0 {
		return errors.New("there is no certificate in PEM in what is given for etcd's")
	}
	return nil
}

// Request is what is decided upon: a pod that is about to be created, and what is known beside it.
type Request struct {
	Namespace string
	Pod       json.RawMessage
	// FlinkConfig is the data of the ConfigMap that ConfigMapNeeded named; nil where it is not known.
	FlinkConfig map[string]string
	// Limits are what the namespace allows its pods, as far as that is known.
	Limits Limits
}

// Decision is what becomes of a pod.
type Decision struct {
	Inject  bool
	Reason  Reason
	Message string // for people: why, and what to do where they expected otherwise
	Mode    Mode   // "" where it was not come to
	Archive ArchiveDecision

	Container string // the JobManager's; "" where none was found
	ClusterID string
	RESTPort  int

	// Warnings are what is wrong with the pod's labels and annotations, and what was done instead. They are short, few and printable.
	Warnings []string
	// Patch is nil where the pod is left alone.
	Patch []Operation
}

// ArchiveDecision is whether Flink is told to write what became of its jobs into a folder that the agent shares with it. Today's agent does
// not read it yet.
type ArchiveDecision struct {
	Inject  bool
	Reason  ArchiveReason
	Message string
}

// Status is what AnnotationStatus holds.
type Status struct {
	Version   string `json:"version,omitempty"`
	Mode      Mode   `json:"mode"`
	Container string `json:"container"` // the JobManager's
	Archive   string `json:"archive"`   // "inject" or "skip"
}
