package webhook

import (
	"fmt"
	"path"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

const (
	// archiveKey is Flink's setting for the folder into which it writes what became of each job.
	archiveKey    = "jobmanager.archive.fs.dir"
	archiveOption = "-D" + archiveKey + "=file://" + ArchivePath

	defaultConfigFolder = "/opt/flink/conf"
	propertiesVariable  = "FLINK_PROPERTIES" // what Flink's image appends to its configuration file
)

// inPod is what a native application's shell runs where its JobManager starts: it prints the option, unless a configuration file of
// Flink's sets the folder, cannot be read, or holds what a reading line by line does not understand. A native cluster's
// configuration is a ConfigMap that does not exist yet when the pod is created, so nobody can decide earlier. It uses nothing
// but what is built into bash, changes nothing for what runs after it, and reads as readConfig does. There is nothing of a pod's text
// in it. Kubernetes replaces $(NAME) in arguments, and leaves what is no variable's name as it is.
const inPod = `$({ LC_ALL=C; k=` + archiveKey + `; n=; ` +
	`r='^([[:space:]]*)["'\'']?([A-Za-z0-9_.-]+)["'\'']?[[:space:]]*:([[:space:]]+(.*))?$'; ` +
	`o='^[[:space:]]*(\{|\? |<<|"[^"]*\\)'; ` +
	`for f in "${FLINK_CONF_DIR-}"/{flink-conf,config}.yaml "${FLINK_HOME-}"/conf/{flink-conf,config}.yaml ` +
	defaultConfigFolder + `/{flink-conf,config}.yaml; do ` +
	`[[ -e $f ]] || continue; [[ -f $f && -r $f ]] || { n=1; continue; }; ` +
	`c=0; p=(""); i=(0); ` +
	`while IFS= read -r l || [[ $l ]]; do ` +
	`l=${l#$'\xef\xbb\xbf'}; [[ $l =~ $o ]] && n=1; [[ $l =~ $r ]] || continue; ` +
	`d=${#BASH_REMATCH[1]}; b=${BASH_REMATCH[2]}; v=${BASH_REMATCH[4]}; ` +
	`while ((c > 0 && i[c] >= d)); do ((c--)); done; ` +
	`q=${p[c]}$b; ((++c)); i[c]=$d; p[c]=$q.; ` +
	`[[ $b == "$k" || $q == "$k" ]] && n=1; ` +
	`[[ $k == "$q".* && $v && $v != "#"* ]] && n=1; ` +
	`done < "$f"; done; ` +
	`[[ $n || ! -w ` + ArchivePath + ` ]] || printf %s ` + archiveOption + `; } 2>/dev/null)`

// nativeStart is how Flink begins the command of a native application's JobManager. What follows is the user's.
var nativeStart = regexp.MustCompile(
	`^[ \t]*(exec[ \t]+)?([A-Za-z0-9._/-]*/)?kubernetes-jobmanager\.sh[ \t]+kubernetes-application([ \t]|$)`)

// edit is the change of one argument of the JobManager's container, by which Flink is told of the archive folder. The option always
// stands before what the user gives: the last -D of a key counts, so the user's own wins wherever it comes from.
type edit struct {
	index  int
	text   string
	insert bool // a new argument at index, instead of another text there
}

// archive decides about the archive folder of a JobManager that gets the agent.
func (v *view) archive() (ArchiveDecision, edit) {
	no := func(reason ArchiveReason, message string) (ArchiveDecision, edit) {
		return ArchiveDecision{Reason: reason, Message: message}, edit{}
	}
	wish := v.archiveWish()
	switch {
	case v.settings.Archive == ArchiveOff:
		return no(ArchivePolicyOff, "archive folders are switched off in this installation")
	case wish == wishOff:
		return no(ArchiveAnnotationOff, "the annotation "+AnnotationArchive+" says off")
	case v.role.session():
		return no(ArchiveSession, "a session cluster outlives its jobs, and can be asked how they ended")
	}
	if where := v.setByUser(); where != "" {
		return no(ArchiveUserSet, fmt.Sprintf("%s sets %s already, and that is never overridden", where, archiveKey))
	}
	change, form := v.archiveEdit()
	if !form {
		return no(ArchiveCommandUnknown, "the JobManager is not started in a way that an option can safely be added to")
	}
	if taken := v.archiveTaken(); taken != "" {
		return no(ArchiveNameTaken, taken)
	}
	yes := func(reason ArchiveReason, message string) (ArchiveDecision, edit) {
		return ArchiveDecision{Inject: true, Reason: reason, Message: message}, change
	}
	switch {
	case v.role.native():
		return yes(ArchiveDecidedInPod, "when it starts, the container looks whether Flink's configuration sets "+archiveKey+
			"; only where it does not, Flink writes its archive into the pod's own folder")
	case wish == wishInject:
		return yes(ArchiveAskedFor, "the annotation "+AnnotationArchive+" asks for it")
	case v.configKnown():
		return yes(ArchiveNotConfigured, "Flink's configuration does not set "+archiveKey)
	}
	return no(ArchiveConfigUnknown, "Flink's configuration may set "+archiveKey+" and could not be read here; if it does not, the annotation "+
		AnnotationArchive+": inject adds the folder")
}

// setByUser says where the pod sets an archive folder of its own, or may; "" if nowhere that can be seen.
func (v *view) setByUser() string {
	if mentions(v.container, archiveKey) {
		return "the command"
	}
	for _, variable := range v.container.Env {
		switch {
		case variable.Name == propertiesVariable:
			if readConfig(variable.Value).sets(archiveKey) {
				return "the variable " + propertiesVariable
			}
		case strings.Contains(variable.Value, archiveKey):
			return "a variable"
		}
	}
	for _, c := range v.configs {
		if c.sets(archiveKey) {
			return "the mounted ConfigMap"
		}
	}
	return ""
}

// configKnown says whether all that can set Flink's configuration has been seen.
func (v *view) configKnown() bool {
	if v.configs == nil || len(v.container.EnvFrom) > 0 {
		return false
	}
	for _, variable := range v.container.Env {
		if variable.Name == propertiesVariable && variable.ValueFrom != nil {
			return false
		}
	}
	return true
}

// archiveEdit is how Flink would be told; false where it is not started in one of the ways that are known to take it.
func (v *view) archiveEdit() (edit, bool) {
	args := v.container.Args
	switch v.role {
	case nativeApplication:
		if len(args) != 3 || path.Base(args[0]) != "bash" || args[1] != "-c" || len(v.container.Command) > 1 {
			return edit{}, false
		}
		found := nativeStart.FindStringSubmatchIndex(args[2])
		if found == nil {
			return edit{}, false
		}
		at := found[6] // where the word kubernetes-application ends
		return edit{index: 2, text: args[2][:at] + " " + inPod + args[2][at:]}, true
	case standaloneApplication:
		if len(args) > 0 && args[0] == "standalone-job" && len(v.container.Command) <= 1 {
			return edit{index: 1, text: archiveOption, insert: true}, true
		}
	}
	return edit{}, false
}

// archiveTaken says what stands in the way of the volume.
func (v *view) archiveTaken() string {
	for i := range v.pod.Spec.Volumes {
		if v.pod.Spec.Volumes[i].Name == ArchiveVolume {
			return "the pod has a volume " + ArchiveVolume + " of its own"
		}
	}
	for _, mount := range v.container.VolumeMounts {
		at := path.Clean("/" + mount.MountPath)
		if at == ArchivePath || strings.HasPrefix(at, ArchivePath+"/") || strings.HasPrefix(ArchivePath, strings.TrimSuffix(at, "/")+"/") {
			return "the JobManager's container has something of its own mounted at " + ArchivePath
		}
	}
	return ""
}

type archiveWish uint8

const (
	wishNothing archiveWish = iota
	wishInject
	wishOff
)

func (v *view) archiveWish() archiveWish {
	text, set := v.pod.Annotations[AnnotationArchive]
	switch {
	case !set:
		return wishNothing
	case text == "inject":
		return wishInject
	case text == "off":
		return wishOff
	}
	v.warn("annotation %s is %s, and neither inject nor off: it is not used", AnnotationArchive, shown(text))
	return wishNothing
}

// ConfigMapNeeded names the ConfigMap that the decision about the archive folder wants to read, in the pod's namespace.
func ConfigMapNeeded(s Settings, pod []byte) (name string, needed bool) {
	v, _ := look(s, Request{Pod: pod})
	if v == nil || !s.ReadConfigMaps {
		return "", false
	}
	if decision, _ := v.archive(); decision.Reason != ArchiveConfigUnknown {
		return "", false
	}
	if source := configSource(v.pod, v.container); source != nil {
		return source.Name, source.Name != ""
	}
	return "", false
}

// configSource is the ConfigMap that is mounted where Flink looks for its configuration; nil if there is none.
func configSource(pod *corev1.Pod, c *corev1.Container) *corev1.ConfigMapVolumeSource {
	folder := defaultConfigFolder
	for _, variable := range c.Env {
		if variable.Name == "FLINK_CONF_DIR" && variable.Value != "" {
			folder = path.Clean(variable.Value)
		}
	}
	for _, mount := range c.VolumeMounts {
		if path.Clean("/"+mount.MountPath) != folder || mount.SubPath != "" || mount.SubPathExpr != "" {
			continue
		}
		for i := range pod.Spec.Volumes {
			if volume := &pod.Spec.Volumes[i]; volume.Name == mount.Name {
				return volume.ConfigMap
			}
		}
	}
	return nil
}

// configFiles reads those of a ConfigMap's texts that become Flink's configuration files. They are nil where the ConfigMap is not
// known, and empty where it holds no such file.
func configFiles(source *corev1.ConfigMapVolumeSource, data map[string]string) []config {
	if source == nil || data == nil {
		return nil
	}
	files := map[string]string{}
	for key, text := range data {
		files[key] = text
	}
	if len(source.Items) > 0 {
		files = map[string]string{}
		for _, item := range source.Items {
			files[item.Path] = data[item.Key]
		}
	}
	all := []config{}
	for _, name := range []string{"config.yaml", "flink-conf.yaml"} { // the older name wins where both are there
		if text, found := files[name]; found {
			all = append(all, readConfig(text))
		}
	}
	return all
}
