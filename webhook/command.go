package webhook

import (
	"path"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// role is what a container's command starts.
type role uint8

const (
	unknownRole role = iota
	nativeApplication
	nativeSession
	standaloneApplication
	standaloneSession
	otherRole // Flink, but not a JobManager
)

func (r role) jobManager() bool { return r >= nativeApplication && r <= standaloneSession }
func (r role) native() bool     { return r == nativeApplication || r == nativeSession }
func (r role) session() bool    { return r == nativeSession || r == standaloneSession }

// starters are the words that start a part of Flink: the image's own, its scripts, and the classes behind them.
var starters = map[string]role{
	"kubernetes-application":                 nativeApplication,
	"KubernetesApplicationClusterEntrypoint": nativeApplication,
	"kubernetes-session":                     nativeSession,
	"KubernetesSessionClusterEntrypoint":     nativeSession,
	"standalone-job":                         standaloneApplication,
	"standalone-job.sh":                      standaloneApplication,
	"StandaloneApplicationClusterEntryPoint": standaloneApplication,
	"jobmanager":                             standaloneSession,
	"jobmanager.sh":                          standaloneSession,
	"StandaloneSessionClusterEntrypoint":     standaloneSession,
	"taskmanager":                            otherRole,
	"taskmanager.sh":                         otherRole,
	"kubernetes-taskmanager.sh":              otherRole,
	"TaskManagerRunner":                      otherRole,
	"KubernetesTaskExecutorRunner":           otherRole,
	"history-server":                         otherRole,
	"historyserver.sh":                       otherRole,
	"sql-gateway.sh":                         otherRole,
	"sql-client.sh":                          otherRole,
}

// beforeStarter are words that may stand before the one that starts something. Of any other word it is not known whether what
// follows is a command.
var beforeStarter = map[string]bool{
	"bash": true, "sh": true, "-c": true, "-ec": true, "-lc": true, "exec": true, "tini": true, "-s": true, "-g": true, "--": true,
	"dumb-init": true, "gosu": true, "su-exec": true, "flink": true, "kubernetes-jobmanager.sh": true, "native-k8s": true,
}

// roleOf reads what a container starts from its command and its arguments.
func roleOf(c *corev1.Container) role {
	for _, word := range words(c, 64) {
		name := path.Base(word)
		if strings.HasPrefix(name, "org.apache.flink.") {
			name = name[strings.LastIndexByte(name, '.')+1:]
		}
		if found, is := starters[name]; is {
			return found
		}
		if !beforeStarter[name] && !strings.HasSuffix(name, "entrypoint.sh") && !strings.HasPrefix(name, "start") && name != "java" &&
			!strings.HasSuffix(word, "/bin/java") && !strings.HasPrefix(word, "-X") && !strings.HasPrefix(word, "-D") {
			return unknownRole
		}
	}
	return unknownRole
}

// words are a container's command and arguments, at most limit of them. What is written for a shell is taken apart at its spaces,
// without its quotes: good enough to find a known word in, never to run.
func words(c *corev1.Container, limit int) []string {
	var all []string
	for _, list := range [][]string{c.Command, c.Args} {
		for _, text := range list {
			if !strings.ContainsAny(text, " \t\n") {
				all = append(all, text)
			} else {
				for word := range strings.FieldsSeq(text) {
					if word = strings.Trim(word, `"';`); word != "" {
						all = append(all, word)
					}
					if len(all) >= limit {
						break
					}
				}
			}
			if len(all) >= limit {
				return all[:limit]
			}
		}
	}
	return all
}

// options are Flink's settings that stand in a container's arguments, as -Dkey=value or as -D key=value. The last one of a key
// counts, as it does for Flink.
func options(c *corev1.Container) map[string]string {
	set := map[string]string{}
	all := words(c, 10_000)
	for i, word := range all {
		setting, is := strings.CutPrefix(word, "-D")
		if is && setting == "" && i+1 < len(all) {
			setting = all[i+1]
		}
		if key, value, found := strings.Cut(setting, "="); is && found {
			set[strings.Trim(key, `"'`)] = strings.Trim(value, `"'`)
		}
	}
	return set
}

// mentions says whether a text stands anywhere in a container's command or arguments.
func mentions(c *corev1.Container, text string) bool {
	in := func(s string) bool { return strings.Contains(s, text) }
	return slices.ContainsFunc(c.Command, in) || slices.ContainsFunc(c.Args, in)
}

// portIn reads a port as rest.bind-port has it: a number, a list or a range, of which Flink takes the first that is free.
func portIn(text string) (port int, ok bool) {
	text, _, _ = strings.Cut(text, ",")
	text, _, _ = strings.Cut(text, "-")
	port, err := strconv.Atoi(strings.TrimSpace(text))
	return port, err == nil && port >= 0 && port <= 65535
}
