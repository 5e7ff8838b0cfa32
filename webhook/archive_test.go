package webhook

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"
)

// shell makes inPod look into folders of the test instead of the image's, and expands it as Kubernetes does with arguments.
func shell(t testing.TB, archive string) string {
	t.Helper()
	text := expand(inPod, map[string]string{"POD_IP": "10.0.0.1"})
	if text != inPod {
		t.Fatalf("Kubernetes would change what runs in the pod to %s", text)
	}
	text = strings.ReplaceAll(text, "-w "+ArchivePath, "-w "+archive)
	return strings.ReplaceAll(text, defaultConfigFolder+"/", archive+"/no-such-folder/")
}

// expand replaces $(NAME) as Kubernetes does (third_party/forked/golang/expansion): what names no variable stays, $$ becomes $.
func expand(text string, variables map[string]string) string {
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '$' || i+1 == len(text) {
			out.WriteByte(text[i])
			continue
		}
		switch i++; text[i] {
		case '$':
			out.WriteByte('$')
		case '(':
			name, _, closed := strings.Cut(text[i+1:], ")")
			value, known := variables[name]
			switch {
			case !closed:
				out.WriteString("$(")
			case known:
				out.WriteString(value)
				i += len(name) + 1
			default:
				out.WriteString("$(" + name + ")")
				i += len(name) + 1
			}
		default:
			out.WriteByte('$')
			out.WriteByte(text[i])
		}
	}
	return out.String()
}

func TestExpandIsKubernetes(t *testing.T) {
	for text, want := range map[string]string{
		"$(A)": "1", "$(B)": "$(B)", "$$(A)": "$(A)", "$": "$", "$(A": "$(A", "x$(A)y$(A)": "x1y1", "$A": "$A", "$$$(A)": "$1",
	} {
		if got := expand(text, map[string]string{"A": "1"}); got != want {
			t.Errorf("expand(%q) = %q, want %q", text, got, want)
		}
	}
}

// decideInBash runs inPod once for each configuration folder, and says for which it found the archive folder set.
func decideInBash(t testing.TB, folders []string) []bool {
	t.Helper()
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("there is no bash here: " + err.Error())
	}
	archive := t.TempDir()
	script := `for FLINK_CONF_DIR; do x=` + shell(t, archive) + `; echo "[$x]"; done`
	run := exec.Command(bash, append([]string{"-c", script, "jobmanager"}, folders...)...)
	run.Env = []string{"PATH=/nowhere", "LANG=C.UTF-8"} // builtins only
	out, err := run.Output()
	if err != nil {
		t.Fatalf("bash: %v\n%s", err, out)
	}
	lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	if len(lines) != len(folders) {
		t.Fatalf("%d answers for %d folders", len(lines), len(folders))
	}
	set := make([]bool, len(lines))
	for i, line := range lines {
		switch line {
		case "[" + archiveOption + "]":
		case "[]":
			set[i] = true
		default:
			t.Fatalf("bash printed %q", line)
		}
	}
	return set
}

// configs are what people's configuration files look like, and whether they set the archive folder.
var configTexts = []struct {
	name, text string
	set        bool
}{
	{"empty", "", false},
	{"flat", "rest.port: 8081\njobmanager.archive.fs.dir: hdfs:///archive\n", true},
	{"flat, last line without an end", "rest.port: 8081\njobmanager.archive.fs.dir: s3://b/a", true},
	{"flat, with a space before the colon", "jobmanager.archive.fs.dir : s3://b/a\n", true},
	{"flat and indented, which the flat file allows", "a: b\n  jobmanager.archive.fs.dir: s3://b/a\n", true},
	{"nested", "jobmanager:\n  archive:\n    fs:\n      dir: hdfs:///archive\n", true},
	{"nested, between others", "rest:\n  port: 1\njobmanager:\n  rpc:\n    port: 6123\n  archive:\n    fs:\n      dir: x\nenv: {}\n", true},
	{"half nested", "jobmanager:\n  archive.fs.dir: x\n", true},
	{"half nested the other way", "jobmanager.archive:\n  fs.dir: x\n", true},
	{"nested with comments and empty lines", "jobmanager:\n# here\n\n  archive:\n      # there\n      fs:\n\n         dir: x\n", true},
	{"nested with tabs after the colon", "jobmanager:\t\n  archive:\t# c\n    fs:\n      dir:\tx\n", true},
	{"commented out", "#jobmanager.archive.fs.dir: hdfs:///archive\n  # jobmanager.archive.fs.dir: x\n", false},
	{"nested, commented out", "jobmanager:\n  archive:\n    fs:\n#      dir: hdfs:///archive\n", false},
	{"double quotes", `"jobmanager.archive.fs.dir": "x"` + "\n", true},
	{"single quotes", `'jobmanager.archive.fs.dir': 'x'` + "\n", true},
	{"nested in quotes", "\"jobmanager\":\n  'archive':\n    \"fs\":\n      'dir': x\n", true},
	{"an escape within quotes", `"jobmanager\u002earchive.fs.dir": x` + "\n", true},
	{"CRLF", "rest.port: 8081\r\njobmanager.archive.fs.dir: x\r\n", true},
	{"CRLF, nested", "jobmanager:\r\n  archive:\r\n    fs:\r\n      dir: x\r\n", true},
	{"CRLF, not set", "rest:\r\n  port: 8081\r\n", false},
	{"a byte order mark", "\ufeffjobmanager.archive.fs.dir: x\n", true},
	{"bytes that are no UTF-8", "a: \xff\xfe\njobmanager.archive.fs.dir: \xff\n", true},
	{"no value", "jobmanager.archive.fs.dir:\n", true},
	{"a flow mapping", "jobmanager: {archive: {fs: {dir: x}}}\n", true},
	{"a flow mapping inside", "jobmanager:\n  archive: {fs: {dir: x}}\n", true},
	{"a flow mapping of all", "{jobmanager.archive.fs.dir: x}\n", true},
	{"an anchor", "jobmanager: &j\n  archive:\n    fs:\n      dir: x\n", true},
	{"a merge key", "x: &x\n  archive.fs.dir: y\njobmanager:\n  <<: *x\n", true},
	{"an explicit key", "? jobmanager.archive.fs.dir\n: x\n", true},
	{"the history server's own", "historyserver.archive.fs.dir: x\n", false},
	{"the history server's own, nested", "historyserver:\n  archive:\n    fs:\n      dir: x\njobmanager:\n  rpc:\n    port: 1\n", false},
	{"a longer key", "jobmanager.archive.fs.dir.other: x\nmy.jobmanager.archive.fs.dir: y\n", false},
	{"a longer key, nested", "jobmanager:\n  archive:\n    fs:\n      dirs: x\n      dir.other: y\n", false},
	{"a value that holds it", "env.java.opts.all: -Djobmanager.archive.fs.dir=x\n", false},
	{"siblings that look like it", "jobmanager:\n  archive:\n    x: 1\nfs:\n  dir: 2\n", false},
	{"after leaving the nesting", "jobmanager:\n  archive:\n    max: 1\n  fs:\n    dir: 2\n", false},
	{"lists", "env:\n  - a: b\n  - jobmanager\n", false},
	{"what Flink 1.20 writes for a native cluster", "blob.server.port: 6124\nkubernetes.cluster-id: orders\n" +
		"jobmanager.memory.process.size: 1024m\nexecution.target: kubernetes-application\n$internal.deployment.config-dir: /conf\n", false},
	{"what Flink 2.3 writes for a native cluster",
		"$internal:\n  application:\n    main: ControlledJob\n  deployment:\n    config-dir: /conf\n" +
			"jobmanager:\n  memory:\n    process:\n      size: 1024m\n  rpc:\n    address: localhost\n", false},
}

// Each file is read in bash, as either of Flink's files, and by the webhook.
func TestArchiveFolderIsFoundInFlinksConfiguration(t *testing.T) {
	root := t.TempDir()
	var folders []string
	var want []bool
	for i, c := range configTexts {
		if got := readConfig(c.text).sets(archiveKey); got != c.set {
			t.Errorf("%s: the webhook reads %t, want %t", c.name, got, c.set)
		}
		for _, name := range []string{"config.yaml", "flink-conf.yaml"} {
			folder := filepath.Join(root, strconv.Itoa(i)+name)
			write(t, filepath.Join(folder, name), c.text)
			folders, want = append(folders, folder), append(want, c.set)
		}
	}
	// In these, nothing can be read.
	folders, want = append(folders, filepath.Join(root, "missing")), append(want, false)
	write(t, filepath.Join(root, "other", "log4j.properties"), "jobmanager.archive.fs.dir: x\n")
	folders, want = append(folders, filepath.Join(root, "other")), append(want, false)
	write(t, filepath.Join(root, "folder", "config.yaml", "file"), "")
	folders, want = append(folders, filepath.Join(root, "folder")), append(want, true)
	// Both files count.
	write(t, filepath.Join(root, "both", "flink-conf.yaml"), "rest.port: 1\n")
	write(t, filepath.Join(root, "both", "config.yaml"), "jobmanager:\n  archive.fs.dir: x\n")
	folders, want = append(folders, filepath.Join(root, "both")), append(want, true)
	// A folder whose name is meant to run something.
	hostile := filepath.Join(root, `$(touch hacked) "; touch hacked; '`)
	write(t, filepath.Join(hostile, "config.yaml"), "jobmanager.archive.fs.dir: x\n")
	folders, want = append(folders, hostile), append(want, true)

	for i, got := range decideInBash(t, folders) {
		if got != want[i] {
			text, _ := os.ReadFile(filepath.Join(folders[i], "config.yaml"))
			t.Errorf("%s: bash says set: %t, want %t\n%s", folders[i], got, want[i], text)
		}
	}
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// configLines are drawn from, so that random files often come near to setting the folder.
var configLines = rapid.SampledFrom([]string{
	"jobmanager:", "archive:", "fs:", "dir: x", "dir:", "jobmanager.archive:", "fs.dir: x", "archive.fs.dir: x",
	"jobmanager.archive.fs.dir: x",
	"rest:", "port: 8081", "# dir: x", "", "- dir: x", `"dir": x`, "'jobmanager':", "jobmanager: # all of it", "jobmanager: x",
	"historyserver:",
	"dir : x", "dir:x", "<<: *a", "{a: b}", "? a", `"a\tb": c`, "archive: {fs: 1}", "\ufefffs:", "\xff: y", "fs: \xff", "archive: |",
})

func configText(t *rapid.T) string {
	var text strings.Builder
	for range rapid.IntRange(0, 8).Draw(t, "lines") {
		blank := rapid.SampledFrom([]string{" ", " ", " ", "\t"}).Draw(t, "blank")
		text.WriteString(strings.Repeat(blank, rapid.IntRange(0, 6).Draw(t, "indent")))
		text.WriteString(configLines.Draw(t, "line"))
		text.WriteString(rapid.SampledFrom([]string{"\n", "\n", "\n", "\r\n", " \n"}).Draw(t, "end"))
	}
	return text.String()
}

// What runs in the pod and what runs in the webhook read alike.
func TestBashAndTheWebhookReadAlike(t *testing.T) {
	root := t.TempDir()
	var folders, texts []string
	random := rapid.Custom(configText)
	for i := range 400 {
		texts = append(texts, random.Example(i))
		folders = append(folders, filepath.Join(root, strconv.Itoa(i)))
		write(t, filepath.Join(folders[i], "config.yaml"), texts[i])
	}
	count := map[bool]int{}
	for i, got := range decideInBash(t, folders) {
		count[got]++
		if want := readConfig(texts[i]).sets(archiveKey); got != want {
			t.Errorf("bash says set: %t, the webhook %t\n%q", got, want, texts[i])
		}
	}
	if count[true] < 50 || count[false] < 50 {
		t.Errorf("of the random files %d set the folder and %d do not: too few of one kind", count[true], count[false])
	}
}

// Whatever a real reader of YAML finds, the reading line by line finds too. The other way round it may find too much.
func TestNoSettingOfAUserIsMissed(t *testing.T) {
	names := rapid.SampledFrom([]string{
		"jobmanager", "archive", "fs", "dir", "jobmanager.archive", "archive.fs", "fs.dir", "archive.fs.dir", "jobmanager.archive.fs.dir", "rest",
	})
	var tree func(r *rapid.T, depth int) any
	tree = func(r *rapid.T, depth int) any {
		if depth == 0 || rapid.IntRange(0, 3).Draw(r, "leaf") == 0 {
			return rapid.SampledFrom([]any{"x", 1, nil, "", "a: b", "# c", []any{"y"}}).Draw(r, "value")
		}
		node := map[string]any{}
		for range rapid.IntRange(1, 3).Draw(r, "members") {
			node[names.Draw(r, "name")] = tree(r, depth-1)
		}
		return node
	}
	hits := 0
	rapid.Check(t, func(r *rapid.T) {
		for range 20 {
			doc, isMap := tree(r, 4).(map[string]any)
			if !isMap {
				continue
			}
			text, err := yaml.Marshal(doc)
			if err != nil {
				r.Fatal(err)
			}
			if _, truly := flatten("", doc)[archiveKey]; truly {
				hits++
				if !readConfig(string(text)).sets(archiveKey) {
					r.Fatalf("the folder is set and was not found:\n%s", text)
				}
			}
		}
	})
	if hits < 5 {
		t.Errorf("%d random files set the folder: the test tests little", hits)
	}
}

func flatten(prefix string, node any) map[string]any {
	all := map[string]any{}
	members, isMap := node.(map[string]any)
	if !isMap {
		all[strings.TrimSuffix(prefix, ".")] = node
	}
	for name, member := range members {
		maps.Copy(all, flatten(prefix+name+".", member))
	}
	return all
}

// A native application's whole command runs in bash, whatever the user put behind it, and Flink gets the option before the user's own.
func TestNativeCommandRuns(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("there is no bash here: " + err.Error())
	}
	archive, bin := t.TempDir(), t.TempDir()
	write(t, filepath.Join(bin, "kubernetes-jobmanager.sh"), "#!"+bash+"\nprintf '<%s>' \"$@\"\n")
	if err := os.Chmod(filepath.Join(bin, "kubernetes-jobmanager.sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ command, want string }{
		{"kubernetes-jobmanager.sh kubernetes-application ", "<kubernetes-application><OPTION>"},
		{"kubernetes-jobmanager.sh kubernetes-application", "<kubernetes-application><OPTION>"},
		{" exec kubernetes-jobmanager.sh  kubernetes-application -Da=b", "<kubernetes-application><OPTION><-Da=b>"},
		{bin + "/kubernetes-jobmanager.sh kubernetes-application -D a='b c'", "<kubernetes-application><OPTION><-D><a=b c>"},
		{"kubernetes-jobmanager.sh kubernetes-application # of team A", "<kubernetes-application><OPTION>"},
		{"kubernetes-jobmanager.sh kubernetes-application -Da=b && echo done", "<kubernetes-application><OPTION><-Da=b>done\n"},
		{"kubernetes-jobmanager.sh kubernetes-application \\\n -Da=b; echo", "<kubernetes-application><OPTION><-Da=b>\n"},
		{`kubernetes-jobmanager.sh kubernetes-application "$X" '`, ""}, // broken before, broken after
		{`kubernetes-jobmanager.sh kubernetes-application "$UNSET" $(echo -Dx=y)`, "<kubernetes-application><OPTION><><-Dx=y>"},
	} {
		v := commandView("bash", "-c", c.command)
		change, ok := v.archiveEdit()
		if !ok || change.index != 2 || change.insert {
			t.Errorf("%q: the option is not added", c.command)
			continue
		}
		for _, options := range [][]string{nil, {"SHELLOPTS=nounset"}, {"SHELLOPTS=errexit:pipefail"}, {"IFS=-D"},
			{"FLINK_CONF_DIR=" + archive}} {
			text := strings.Replace(change.text, inPod, shell(t, archive), 1)
			run := exec.Command(bash, "-c", text)
			run.Env = append([]string{"PATH=" + bin}, options...)
			if strings.Contains(c.command, "$UNSET") && len(options) > 0 && strings.Contains(options[0], "nounset") {
				continue
			}
			out, _ := run.Output()
			if want := strings.ReplaceAll(c.want, "OPTION", archiveOption); string(out) != want {
				t.Errorf("%q with %v:\n got %s\nwant %s", c.command, options, out, want)
			}
		}
		// Where Flink could not write, it is not told to.
		text := strings.Replace(change.text, inPod, shell(t, filepath.Join(archive, "missing")), 1)
		run := exec.Command(bash, "-c", text)
		run.Env = []string{"PATH=" + bin}
		if out, _ := run.Output(); strings.Contains(string(out), archiveOption) {
			t.Errorf("%q without a folder: %s", c.command, out)
		}
	}
}

// Commands that are not exactly what Flink writes are left alone.
func TestOnlyKnownCommandsAreChanged(t *testing.T) {
	for _, args := range [][]string{
		{"bash", "-c", "source /env; kubernetes-jobmanager.sh kubernetes-application"},
		{"bash", "-c", "kubernetes-jobmanager.sh kubernetes-application; x"},
		{"bash", "-c", "kubernetes-jobmanager.sh kubernetes-applications"},
		{"bash", "-c", "kubernetes-jobmanager.sh\nkubernetes-application"},
		{"bash", "-c", "'kubernetes-jobmanager.sh' kubernetes-application"},
		{"bash", "-c", "$(x)/kubernetes-jobmanager.sh kubernetes-application"},
		{"bash", "-lc", "kubernetes-jobmanager.sh kubernetes-application"},
		{"sh", "-c", "kubernetes-jobmanager.sh kubernetes-application"},
		{"bash", "-c", "kubernetes-jobmanager.sh kubernetes-application", "x"},
		{"kubernetes-jobmanager.sh", "kubernetes-application"},
		{"native-k8s", "$JAVA_HOME/bin/java -Xmx1g org.apache.flink.kubernetes.entrypoint.KubernetesApplicationClusterEntrypoint"},
		{"bash", "-c", "standalone-job.sh start-foreground"},
		{"x", "standalone-job"},
	} {
		v := commandView(args...)
		if change, ok := v.archiveEdit(); ok {
			t.Errorf("%q is changed to %q", args, change.text)
		}
	}
	v := commandView("standalone-job", "--job-classname", "A")
	if change, ok := v.archiveEdit(); !ok || change != (edit{index: 1, text: archiveOption, insert: true}) {
		t.Errorf("standalone-job: %v %v", change, ok)
	}
}

func commandView(args ...string) *view {
	c := container("flink-main-container")
	c.Args = args
	v := &view{container: c}
	v.role = roleOf(c)
	return v
}

func TestWhatIsInThePodIsShort(t *testing.T) {
	if len(inPod) > 1200 {
		t.Errorf("%d characters stand in every native application's pod", len(inPod))
	}
}
