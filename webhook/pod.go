package webhook

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfast-dev/holdfast/record"
)

// view is a JobManager's pod as it is looked at. The pod is only read.
type view struct {
	settings  Settings
	pod       *corev1.Pod
	index     int               // of the JobManager's container
	container *corev1.Container // that one
	role      role
	configs   []config                    // Flink's configuration files; nil where they are not known
	asks      corev1.ResourceRequirements // of the agent's container
	warnings  []string
}

const (
	mostWarnings   = 6
	longestWarning = 256 // of what Kubernetes hands on of one warning
	longestMessage = 400
)

// warn says what is wrong with the pod. What it quotes of the pod goes through shown.
func (v *view) warn(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if len(v.warnings) < mostWarnings && !slices.Contains(v.warnings, text) {
		v.warnings = append(v.warnings, text[:min(len(text), longestWarning)])
	}
}

// shown quotes text of a pod for people: short, and with nothing in it that steers a terminal or ends a header.
func shown(text string) string {
	const most = 40
	if runes := []rune(text[:min(len(text), 4*most)]); len(runes) > most || len(text) > 4*most {
		return strconv.QuoteToASCII(string(runes[:min(len(runes), most)])) + "…"
	}
	return strconv.QuoteToASCII(text)
}

// containerNames are how the ways of deploying Flink call the JobManager's container, the surest first.
var containerNames = []string{
	"flink-main-container",            // native from 1.13 on, and the Flink operator
	"jobmanager",                      // Flink's docs, Spotify's and Lyft's operators
	"flink-job-manager",               // native up to 1.12
	"job-manager", "flink-jobmanager", // charts
}

// portNames are how they call the port of the REST API.
var portNames = []string{"rest", "webui", "ui"}

// find finds the JobManager's container; false if it cannot be told.
func (v *view) find() bool {
	all := v.pod.Spec.Containers
	choose := func(is func(c *corev1.Container) bool) bool {
		v.index = slices.IndexFunc(all, func(c corev1.Container) bool { return is(&c) })
		return v.index >= 0
	}
	if name, set := v.pod.Annotations[AnnotationContainer]; set {
		if name != "" && choose(func(c *corev1.Container) bool { return c.Name == name }) {
			return true
		}
		v.warn("annotation %s names no container of this pod: %s", AnnotationContainer, shown(name))
	}
	for _, name := range containerNames {
		if choose(func(c *corev1.Container) bool { return c.Name == name }) {
			return true
		}
	}
	if choose(func(c *corev1.Container) bool { return roleOf(c).jobManager() }) {
		return true
	}
	if choose(func(c *corev1.Container) bool { return restPort(c) != 0 }) {
		return true
	}
	v.index = 0
	return len(all) == 1
}

// restPort is the port that a container declares for the REST API; 0 if none.
func restPort(c *corev1.Container) int {
	for _, name := range portNames {
		for _, port := range c.Ports {
			if port.Name == name && port.ContainerPort > 0 && port.ContainerPort <= 65535 {
				return int(port.ContainerPort)
			}
		}
	}
	return 0
}

const (
	labelApp        = "app"
	labelType       = "type"
	labelLyftApp    = "flink-app"
	labelLyftHash   = "flink-app-hash"
	labelCluster    = "cluster" // Spotify's operator
	labelInstance   = "app.kubernetes.io/instance"
	labelTemplate   = "pod-template-hash"
	optionClusterID = "kubernetes.cluster-id"
)

// clusterID names the Flink cluster; "" if nothing in the pod does. It is the same for every pod that the cluster will have, so a
// pod's own name counts only where nobody made it up. In this order:
//
//   - the annotation;
//   - kubernetes.cluster-id, where an argument or FLINK_PROPERTIES sets it;
//   - the label app, which is the cluster id in native mode and of the Flink operator (the label type tells);
//   - Lyft's operator: flink-app and flink-app-hash, for an application has two clusters while it is updated;
//   - Spotify's operator: the label cluster, beside app: flink;
//   - the name of the workload that owns the pod, without -jobmanager at its end: two workloads in a namespace have two names, which
//     cannot be said of the labels that people copy (in Flink's docs every cluster is app: flink);
//   - the label app.kubernetes.io/instance, and the name of a pod that nobody owns.
func (v *view) clusterID() string {
	meta := &v.pod.ObjectMeta
	if name, set := meta.Annotations[AnnotationClusterID]; set {
		err := record.CheckSegment("the cluster id", name)
		if err == nil {
			return name
		}
		v.warn("annotation %s cannot be used: it takes up to %d letters, digits, '-', '_' and '.', and is %s", AnnotationClusterID,
			record.SegmentLimit, shown(name))
	}
	lyft := meta.Labels[labelLyftApp]
	if hash := meta.Labels[labelLyftHash]; lyft != "" && hash != "" {
		lyft += "-" + hash
	}
	typed, spotify := "", ""
	switch meta.Labels[labelType] {
	case "flink-native-kubernetes", "flink-standalone-kubernetes":
		typed = meta.Labels[labelApp]
	}
	if meta.Labels[labelApp] == "flink" {
		spotify = meta.Labels[labelCluster]
	}
	for _, name := range []string{
		options(v.container)[optionClusterID], v.properties().values[optionClusterID], typed, lyft, spotify, ownersName(meta),
		meta.Labels[labelInstance],
	} {
		if record.CheckSegment("the cluster id", name) == nil {
			return name
		}
	}
	if len(meta.OwnerReferences) == 0 && meta.GenerateName == "" && record.CheckSegment("the cluster id", meta.Name) == nil {
		return withoutRole(meta.Name)
	}
	return ""
}

// properties is what FLINK_PROPERTIES sets.
func (v *view) properties() config {
	text := ""
	for _, variable := range v.container.Env {
		if variable.Name == propertiesVariable {
			text = variable.Value
		}
	}
	return readConfig(text)
}

// madeHash is how Kubernetes makes the last part of a ReplicaSet's name: from letters that spell no word.
var madeHash = regexp.MustCompile(`-[bcdfghjklmnpqrstvwxz2456789]{5,10}$`)

// ownersName is the name of the workload that owns a pod; "" if none does.
func ownersName(meta *metav1.ObjectMeta) string {
	owner := metav1.GetControllerOfNoCopy(meta)
	if owner == nil {
		if len(meta.OwnerReferences) == 0 {
			return ""
		}
		owner = &meta.OwnerReferences[0]
	}
	name := owner.Name
	if owner.Kind == "ReplicaSet" {
		// The Deployment's name, and Kubernetes' hash of the pod template, which an update changes.
		if hash := meta.Labels[labelTemplate]; hash != "" && strings.HasSuffix(name, "-"+hash) {
			name = strings.TrimSuffix(name, "-"+hash)
		} else if at := madeHash.FindStringIndex(name); at != nil && at[0] > 0 {
			name = name[:at[0]]
		}
	}
	return withoutRole(name)
}

// withoutRole is a workload's name without what only says that it is the JobManager's.
func withoutRole(name string) string {
	for _, end := range []string{"-jobmanager", "-job-manager"} {
		if rest, is := strings.CutSuffix(name, end); is && rest != "" {
			return rest
		}
	}
	return name
}

const (
	optionRESTPort     = "rest.port"
	optionRESTBindPort = "rest.bind-port"
	defaultRESTPort    = 8081
)

// port is where the REST API listens. The annotation comes first. Then Flink's own settings, of which an argument beats
// FLINK_PROPERTIES and that beats the configuration file, and rest.bind-port beats rest.port; then the port that the container
// declares; then Flink's default. It is not sure where it is nothing but that default, or where Flink takes any port that is free.
func (v *view) port() (port int, sure bool) {
	if text, set := v.pod.Annotations[AnnotationRESTPort]; set {
		port, err := strconv.Atoi(text)
		if err == nil && port >= 1 && port <= 65535 {
			return port, true
		}
		v.warn("annotation %s is %s, and no port between 1 and 65535: it is not used", AnnotationRESTPort, shown(text))
	}
	settings := map[string]string{}
	for _, layer := range append(slices.Clone(v.configs), v.properties(), config{values: options(v.container)}) {
		for _, key := range []string{optionRESTPort, optionRESTBindPort} {
			if text := layer.values[key]; text != "" {
				settings[key] = text
			}
		}
	}
	for _, key := range []string{optionRESTBindPort, optionRESTPort} {
		text, set := settings[key]
		if !set {
			continue
		}
		port, ok := portIn(text)
		switch {
		case !ok:
			v.warn("Flink's %s is %s, which is not understood: annotation %s can say the port", key, shown(text), AnnotationRESTPort)
		case port == 0 && v.role.native():
			return defaultRESTPort, true // native Flink puts its default in place of a random port
		case port == 0:
			return 0, false
		default:
			return port, true
		}
	}
	if port := restPort(v.container); port != 0 {
		return port, true
	}
	declared := slices.ContainsFunc(v.container.Ports, func(p corev1.ContainerPort) bool { return p.ContainerPort == defaultRESTPort })
	return defaultRESTPort, declared
}

// platform says why the agent's image does not run where the pod is bound to; "" if nothing says so.
func (v *view) platform() string {
	spec := &v.pod.Spec
	if spec.OS != nil && spec.OS.Name != "" && spec.OS.Name != corev1.Linux {
		return "the pod is for " + shown(string(spec.OS.Name))
	}
	if value := bound(spec, "kubernetes.io/os", func(s string) bool { return s == string(corev1.Linux) }); value != "" {
		return "the pod is bound to nodes that run " + shown(value)
	}
	built := v.settings.Architectures
	if len(built) == 0 {
		return ""
	}
	if value := bound(spec, "kubernetes.io/arch", func(s string) bool { return slices.Contains(built, s) }); value != "" {
		return "the pod is bound to nodes of the architecture " + shown(value) + ", for which the agent's image is not made"
	}
	return ""
}

// bound gives the value that a node label must have for the pod though it does not fit; "" if there is none.
func bound(spec *corev1.PodSpec, label string, fits func(string) bool) string {
	for _, key := range []string{label, "beta." + label} {
		if value, set := spec.NodeSelector[key]; set && !fits(value) {
			return value
		}
	}
	if spec.Affinity == nil || spec.Affinity.NodeAffinity == nil ||
		spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return ""
	}
	// The terms are alternatives: none of them may fit.
	unfit := ""
	for _, term := range spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		found := ""
		for _, e := range term.MatchExpressions {
			if (e.Key == label || e.Key == "beta."+label) && e.Operator == corev1.NodeSelectorOpIn && len(e.Values) > 0 &&
				!slices.ContainsFunc(e.Values, fits) {
				found = e.Values[0]
			}
		}
		if found == "" {
			return ""
		}
		unfit = found
	}
	return unfit
}
