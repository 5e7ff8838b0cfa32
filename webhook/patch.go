package webhook

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	corev1 "k8s.io/api/core/v1"
)

// Operation is one step of a JSON patch (RFC 6902): add, test or replace.
type Operation struct {
	Op    string          `json:"op"`
	Path  string          `json:"path"`
	Value json.RawMessage `json:"value"`
}

// Encode writes a patch as it is sent. Nothing in it is escaped anew: Kubernetes compares what a test says byte for byte.
func Encode(patch []Operation) ([]byte, error) {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(patch); err != nil {
		return nil, fmt.Errorf("write the patch: %w", err)
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}

// Apply gives the document that a patch makes, or an error where a test of it fails. It is done by the library that the API server
// does it with.
func Apply(doc []byte, patch []Operation) ([]byte, error) {
	if len(patch) == 0 {
		return doc, nil
	}
	text, err := Encode(patch)
	if err != nil {
		return nil, err
	}
	decoded, err := jsonpatch.DecodePatch(text)
	if err != nil {
		return nil, fmt.Errorf("read the patch: %w", err)
	}
	patched, err := decoded.Apply(bytes.TrimSpace(doc))
	if err != nil {
		return nil, fmt.Errorf("apply the patch: %w", err)
	}
	return patched, nil
}

// patching collects the operations on one pod.
type patching struct {
	pod *node // as it was
	ops []Operation
}

// add sets a member of a map, or puts an element into a list.
func (p *patching) add(value any, path ...string) {
	text, err := json.Marshal(value)
	if err == nil { // of what is given here, all can be written
		p.ops = append(p.ops, Operation{"add", pointer(path...), text})
	}
}

// test lets the patch apply only to a pod that has the same there. It is left out where there is nothing: a test cannot say so.
func (p *patching) test(path ...string) {
	if value := p.pod.at(path); value != nil {
		p.ops = append(p.ops, Operation{"test", pointer(path...), value})
	}
}

// patch is how the pod gets the agent. It only adds, but for the argument that change is about. It begins with tests of what the pod is,
// and each list is tested where something is put into it.
func (v *view) patch(d Decision, change edit, raw json.RawMessage) []Operation {
	p := &patching{pod: &node{raw: raw}}
	main := []string{"spec", "containers", strconv.Itoa(v.index)}
	within := func(base []string, more ...string) []string { return append(base[:len(base):len(base)], more...) }

	p.test("metadata", "namespace")
	p.test("metadata", cmp.Or(presentName(v.pod), "name"))
	p.test(within(main, "name")...)

	v.patchMetadata(p, d)
	if d.Archive.Inject {
		if v.pod.Spec.Volumes == nil {
			p.add([]any{}, "spec", "volumes")
		}
		size := quantity(v.settings.ArchiveSizeLimit)
		p.add(corev1.Volume{Name: ArchiveVolume, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: &size}}},
			"spec", "volumes", "-")
		if v.container.VolumeMounts == nil {
			p.add([]any{}, within(main, "volumeMounts")...)
		}
		p.add(archiveMount(), within(main, "volumeMounts", "-")...)
		argument := within(main, "args", strconv.Itoa(change.index))
		if change.insert {
			p.test(within(main, "args", strconv.Itoa(change.index-1))...)
			p.add(change.text, argument...)
		} else {
			p.test(argument...)
			p.add(change.text, argument...)
			p.ops[len(p.ops)-1].Op = "replace"
		}
	}

	agent := v.agent(d)
	if d.Mode == Native {
		always := corev1.ContainerRestartPolicyAlways
		agent.RestartPolicy = &always
		if v.pod.Spec.InitContainers == nil {
			p.add([]any{}, "spec", "initContainers")
		}
		p.test("spec", "initContainers", "0", "name")
		p.add(agent, "spec", "initContainers", "0")
	} else {
		p.add(agent, "spec", "containers", "-")
	}
	return p.ops
}

// presentName is the member that names the pod.
func presentName(pod *corev1.Pod) string {
	if pod.Name == "" && pod.GenerateName != "" {
		return "generateName"
	}
	return "name"
}

const (
	annotationDefaultContainer = "kubectl.kubernetes.io/default-container"
	// annotationEvictable names volumes whose loss nobody minds. The cluster autoscaler never removes a node with a pod that has an emptyDir
	// of which it is not told so; a pod of Flink's that has none keeps its node no longer because of ours.
	annotationEvictable = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"
)

func (v *view) patchMetadata(p *patching, d Decision) {
	meta := &v.pod.ObjectMeta
	if meta.Labels == nil {
		p.add(map[string]string{}, "metadata", "labels")
	}
	p.add("true", "metadata", "labels", LabelInjected)

	if meta.Annotations == nil {
		p.add(map[string]string{}, "metadata", "annotations")
	}
	status := Status{Version: v.settings.Version, Mode: d.Mode, Container: v.container.Name, Archive: "skip"}
	if d.Archive.Inject {
		status.Archive = "inject"
		volumes := meta.Annotations[annotationEvictable]
		switch {
		case volumes == "":
			p.add(ArchiveVolume, "metadata", "annotations", annotationEvictable)
		case !slices.Contains(strings.Split(volumes, ","), ArchiveVolume):
			p.add(volumes+","+ArchiveVolume, "metadata", "annotations", annotationEvictable)
		}
	}
	text, err := json.Marshal(status)
	if err == nil { // it is four strings
		p.add(string(text), "metadata", "annotations", AnnotationStatus)
	}
	if _, set := meta.Annotations[annotationDefaultContainer]; !set && v.container.Name != "" {
		p.add(v.container.Name, "metadata", "annotations", annotationDefaultContainer)
	}
}

func archiveMount() corev1.VolumeMount {
	return corev1.VolumeMount{Name: ArchiveVolume, MountPath: ArchivePath}
}

// agent is the agent's container. It has no probe and needs no Secret, so nothing of it can keep the pod from starting but its image; and its
// first process never ends before the pod, so that nothing of it can make the pod unready.
func (v *view) agent(d Decision) *corev1.Container {
	s := v.settings
	c := &corev1.Container{
		Name: ContainerName, Image: s.Image, ImagePullPolicy: corev1.PullPolicy(s.PullPolicy),
		Command:         []string{"/bin/holdfast-supervisor", "/bin/holdfast-agent"},
		Args:            []string{"--listen="}, // the pod's ports are the user's, and it starts before whoever wants one
		Resources:       v.asks,
		SecurityContext: v.security(),
	}
	literal := func(name, value string) {
		if value != "" {
			// Kubernetes replaces $(NAME) in values.
			c.Env = append(c.Env, corev1.EnvVar{Name: name, Value: strings.ReplaceAll(value, "$", "$$")})
		}
	}
	own := func(name, field string) {
		c.Env = append(c.Env, corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{
			FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: field},
		}})
	}
	literal("HOLDFAST_SITE", s.Site)
	literal("HOLDFAST_SITE_UID", s.SiteUID)
	own("HOLDFAST_NAMESPACE", "metadata.namespace")
	own("HOLDFAST_POD_NAME", "metadata.name")
	own("HOLDFAST_POD_UID", "metadata.uid")
	own("HOLDFAST_POD_IP", "status.podIP")
	literal("HOLDFAST_CLUSTER_ID", d.ClusterID)
	literal("HOLDFAST_REST_PORT", strconv.Itoa(d.RESTPort))
	literal("HOLDFAST_ETCD_ENDPOINTS", strings.Join(s.EtcdEndpoints, ","))
	literal("HOLDFAST_ETCD_CA_PEM", s.EtcdCA)
	if d.Archive.Inject {
		literal("HOLDFAST_ARCHIVE_DIR", ArchivePath)
		c.VolumeMounts = []corev1.VolumeMount{archiveMount()}
	}
	return c
}

// imageUser is the user that the image itself names.
const imageUser int64 = 65532

// security is what the strictest of Kubernetes' Pod Security Standards asks for. The agent runs as the user that the pod names for Flink,
// for Flink may write its archive for nobody else; where that is root, or the pod names none, as the image's own. The image's is
// said only where the pod would say otherwise: clusters that give each namespace its users (OpenShift) refuse to be told one.
func (v *view) security() *corev1.SecurityContext {
	yes, no := true, false
	c := &corev1.SecurityContext{
		AllowPrivilegeEscalation: &no,
		Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		ReadOnlyRootFilesystem:   &yes,
		RunAsNonRoot:             &yes,
		SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	var pods, flinks, group *int64
	if of := v.pod.Spec.SecurityContext; of != nil {
		pods, flinks = of.RunAsUser, of.RunAsUser
	}
	if of := v.container.SecurityContext; of != nil && of.RunAsUser != nil {
		flinks, group = of.RunAsUser, of.RunAsGroup
	}
	switch {
	case flinks != nil && *flinks != 0:
		if pods == nil || *pods != *flinks {
			user := *flinks
			c.RunAsUser, c.RunAsGroup = &user, group
		}
	case pods != nil && *pods == 0:
		user, users := imageUser, imageUser
		c.RunAsUser, c.RunAsGroup = &user, &users
	}
	return c
}

// pointer is the path to a member, each of whose names is escaped.
func pointer(names ...string) string {
	var path strings.Builder
	for _, name := range names {
		path.WriteByte('/')
		path.WriteString(escape.Replace(name))
	}
	return path.String()
}

var escape = strings.NewReplacer("~", "~0", "/", "~1")

// node is a part of a document, taken apart as far as it was looked into.
type node struct {
	raw      json.RawMessage
	members  map[string]*node
	elements []*node
}

// at is what stands at a path, as it is written there; nil if there is nothing, or null.
func (n *node) at(path []string) json.RawMessage {
	for _, name := range path {
		if n.members == nil && n.elements == nil {
			n.open()
		}
		index, err := strconv.Atoi(name)
		switch {
		case err == nil && index < len(n.elements):
			n = n.elements[index]
		case n.members[name] != nil:
			n = n.members[name]
		default:
			return nil
		}
	}
	if raw := bytes.TrimSpace(n.raw); len(raw) > 0 && string(raw) != "null" {
		return raw
	}
	return nil
}

func (n *node) open() {
	var members map[string]json.RawMessage
	var elements []json.RawMessage
	if json.Unmarshal(n.raw, &members) == nil {
		n.members = make(map[string]*node, len(members))
		for name, raw := range members {
			n.members[name] = &node{raw: raw}
		}
	} else if json.Unmarshal(n.raw, &elements) == nil {
		for _, raw := range elements {
			n.elements = append(n.elements, &node{raw: raw})
		}
	}
}
