package webhook

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"go/ast"
	"go/parser"
	"go/token"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

func pemOf(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func TestSettings(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Unix(1<<33, 0), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	good := pemOf("CERTIFICATE", der)
	for _, c := range []struct {
		name   string
		change func(*Settings)
		want   string // what the error names; "" for none
	}{
		{"good", func(*Settings) {}, ""},
		{"no pull policy", func(s *Settings) { s.PullPolicy = "" }, ""},
		{"no site uid", func(s *Settings) { s.SiteUID = "" }, ""},
		{"two certificates", func(s *Settings) { s.EtcdCA = good + "\n" + good }, ""},
		{"plain text", func(s *Settings) { s.EtcdEndpoints = []string{"http://10.0.0.1:2379"} }, ""},
		{"no image", func(s *Settings) { s.Image = "" }, "image"},
		{"an image with a space", func(s *Settings) { s.Image = "a b" }, "image"},
		{"a pull policy of nobody's", func(s *Settings) { s.PullPolicy = "Sometimes" }, "pull policy"},
		{"no site", func(s *Settings) { s.Site = "" }, "site"},
		{"a site with a slash", func(s *Settings) { s.Site = "a/b" }, "site"},
		{"a site uid with a slash", func(s *Settings) { s.SiteUID = "a/b" }, "site's uid"},
		{"no etcd", func(s *Settings) { s.EtcdEndpoints = nil }, "etcd"},
		{"an address without a scheme", func(s *Settings) { s.EtcdEndpoints = []string{"etcd:2379"} }, "etcd"},
		{"two addresses in one", func(s *Settings) { s.EtcdEndpoints = []string{"https://a,https://b"} }, "etcd"},
		{"a certificate that is none", func(s *Settings) { s.EtcdCA = "x" }, "certificate"},
		{"a broken certificate", func(s *Settings) { s.EtcdCA = pemOf("CERTIFICATE", der[:20]) }, "certificate"},
		{"a key among the certificates", func(s *Settings) { s.EtcdCA = good + pemOf("PRIVATE KEY", keyDER) }, "PRIVATE KEY"},
		{"too many certificates", func(s *Settings) { s.EtcdCA = strings.Repeat(good, 100) }, "bytes"},
		{"no archive policy", func(s *Settings) { s.Archive = "" }, "archive"},
		{"a quantity that is none", func(s *Settings) { s.Resources.MemoryLimit = "64 MB" }, "memory limit"},
		{"a quantity of nothing", func(s *Settings) { s.Resources.CPURequest = "0" }, "cpu request"},
		{"a size below zero", func(s *Settings) { s.ArchiveSizeLimit = "-1Mi" }, "size limit"},
		{"a cpu request above its limit", func(s *Settings) { s.Resources.CPURequest = "1" }, "above"},
		{"a memory request above its limit", func(s *Settings) { s.Resources.MemoryRequest = "1Gi" }, "above"},
	} {
		s := settings()
		s.EtcdCA = good
		c.change(&s)
		err := s.Validate()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// The words of a decision are a closed list, and each says what it means.
func TestReasonsAreAllListedAndExplained(t *testing.T) {
	var listed []string
	for _, reason := range Reasons() {
		listed = append(listed, string(reason))
	}
	for _, reason := range ArchiveReasons() {
		listed = append(listed, string(reason))
	}
	file, err := parser.ParseFile(token.NewFileSet(), "reason.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	var written []string
	ast.Inspect(file, func(n ast.Node) bool {
		spec, is := n.(*ast.ValueSpec)
		if !is || len(spec.Values) != 1 {
			return true
		}
		word := strings.Trim(spec.Values[0].(*ast.BasicLit).Value, `"`)
		written = append(written, word)
		if name := spec.Names[0].Name; !strings.HasPrefix(spec.Doc.Text(), name) {
			t.Errorf("%s has no comment that begins with its name", name)
		}
		return true
	})
	slices.Sort(listed)
	slices.Sort(written)
	if diff := cmp.Diff(written, listed); diff != "" {
		t.Errorf("(-written +listed):\n%s", diff)
	}
	if len(slices.Compact(written)) != len(listed) {
		t.Error("two reasons have one word")
	}
}

// What people can write on a pod, and every reason that they can be given, stands in the guide.
func TestTheGuideIsComplete(t *testing.T) {
	guide, err := os.ReadFile("../docs/injection.md")
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	for _, reason := range Reasons() {
		words = append(words, "| `"+string(reason)+"` |")
	}
	words = append(words, containerNames...)
	words = append(words, portNames...)
	for _, word := range append(words, LabelInject, LabelInjected, AnnotationArchive, AnnotationClusterID, AnnotationContainer,
		AnnotationRESTPort, AnnotationStatus, ContainerName, ArchiveVolume, ArchivePath) {
		if !strings.Contains(string(guide), word) {
			t.Errorf("docs/injection.md does not say %s", word)
		}
	}
}

// Every way of naming a JobManager is taken by one selector, and by one only.
func TestSelectorsExcludeEachOther(t *testing.T) {
	var selectors []labels.Selector
	names := map[string]bool{}
	for _, named := range Selectors() {
		selector, err := metav1.LabelSelectorAsSelector(&named.Selector)
		if err != nil {
			t.Fatal(err)
		}
		selectors = append(selectors, selector)
		if strings.Count(named.Name, ".") < 2 || names[named.Name] {
			t.Errorf("%s is not a name of its own that Kubernetes takes", named.Name)
		}
		names[named.Name] = true
	}
	values := []string{"", "jobmanager", "taskmanager", "other"}
	for _, component := range values {
		for _, deployment := range values {
			for _, inject := range []string{"", "true", "false", "no"} {
				pod := labels.Set{"app": "x"}
				for name, value := range map[string]string{"component": component, "flink-deployment-type": deployment, LabelInject: inject} {
					if value != "" {
						pod[name] = value
					}
				}
				taken := 0
				for _, selector := range selectors {
					if selector.Matches(pod) {
						taken++
					}
				}
				jobManager := component == "jobmanager" || deployment == "jobmanager"
				task := component == "taskmanager" || deployment == "taskmanager"
				want := 0
				if inject != "false" && (jobManager || inject == "true" && !task) {
					want = 1
				}
				if taken != want {
					t.Errorf("%v is taken by %d selectors, want %d", pod, taken, want)
				}
			}
		}
	}
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

func TestConfigMapNeeded(t *testing.T) {
	const pod = `{"metadata":{"name":"a","annotations":{ANNOTATION}},"spec":{"containers":[{"name":"jobmanager","args":["ARG","-Da=b"],` +
		`"env":[{"name":"X","value":"ENV"}],"volumeMounts":[{"name":"c","mountPath":"PATH"SUB}]}],` +
		`"volumes":[{"name":"c","configMap":{"name":"flink-config"}}]}}`
	for _, c := range []struct {
		name, annotation, arg, env, path, sub string
		off, unread                           bool
		want                                  string
	}{
		{name: "needed", want: "flink-config"},
		{name: "another way to write the path", path: "/opt/flink/conf/", want: "flink-config"},
		{name: "not read in this installation", unread: true},
		{name: "no archives in this installation", off: true},
		{name: "a session", arg: "jobmanager"},
		{name: "the annotation says off", annotation: `"holdfast.dev/archive":"off"`},
		{name: "the annotation asks for it", annotation: `"holdfast.dev/archive":"inject"`},
		{name: "a variable sets it", env: "-Djobmanager.archive.fs.dir=x"},
		{name: "mounted elsewhere", path: "/etc/flink"},
		{name: "one file is mounted", sub: `,"subPath":"config.yaml"`},
	} {
		s := settings()
		s.ReadConfigMaps = !c.unread
		if c.off {
			s.Archive = ArchiveOff
		}
		raw := strings.NewReplacer("ANNOTATION", c.annotation, "ARG", or(c.arg, "standalone-job"), "ENV", c.env, "PATH",
			or(c.path, "/opt/flink/conf"), "SUB", c.sub).Replace(pod)
		name, needed := ConfigMapNeeded(s, []byte(raw))
		if name != c.want || needed != (c.want != "") {
			t.Errorf("%s: %q %t, want %q", c.name, name, needed, c.want)
		}
	}
	// Another folder, which the pod names.
	raw := `{"metadata":{"name":"a"},"spec":{"containers":[{"name":"jobmanager","args":["standalone-job"],` +
		`"env":[{"name":"FLINK_CONF_DIR","value":"/etc/f/"}],` +
		`"volumeMounts":[{"name":"c","mountPath":"/etc/f"}]}],"volumes":[{"name":"c","configMap":{"name":"mine"}}]}}`
	s := settings()
	s.ReadConfigMaps = true
	if name, _ := ConfigMapNeeded(s, []byte(raw)); name != "mine" {
		t.Errorf("%q", name)
	}
}

// What is not seen is not overridden, and what is seen is.
func TestStandaloneArchive(t *testing.T) {
	const pod = `{"metadata":{"name":"a"},"spec":{"containers":[{"name":"jobmanager","args":["standalone-job"],"env":[ENV]FROM,` +
		`"volumeMounts":[{"name":"c","mountPath":"MOUNT"}]}],` +
		`"volumes":[{"name":"VOLUME","emptyDir":{}},{"name":"c","configMap":{"name":"x"ITEMS}}]}}`
	plain := map[string]string{"flink-conf.yaml": "rest.port: 1\nhistoryserver.archive.fs.dir: x\n",
		"log4j.properties": "jobmanager.archive.fs.dir: x"}
	for _, c := range []struct {
		name, env, from, mount, volume, items string
		config                                map[string]string
		want                                  ArchiveReason
	}{
		{name: "read", config: plain, want: ArchiveNotConfigured},
		{name: "there is no file", config: map[string]string{}, want: ArchiveNotConfigured},
		{name: "not read", want: ArchiveConfigUnknown},
		{name: "set", config: map[string]string{"flink-conf.yaml": "jobmanager.archive.fs.dir: x"}, want: ArchiveUserSet},
		{name: "set in the other file", config: map[string]string{"flink-conf.yaml": "", "config.yaml": "jobmanager: {archive: x}"},
			want: ArchiveUserSet},
		{name: "set under a key of another name", items: `,"items":[{"key":"mine","path":"config.yaml"}]`,
			config: map[string]string{"mine": "jobmanager:\n  archive:\n    fs:\n      dir: x"}, want: ArchiveUserSet},
		{name: "set under a key that is not mounted", items: `,"items":[{"key":"mine","path":"config.yaml"}]`,
			config: map[string]string{"mine": "", "flink-conf.yaml": "jobmanager.archive.fs.dir: x"}, want: ArchiveNotConfigured},
		{name: "FLINK_PROPERTIES sets it", env: `{"name":"FLINK_PROPERTIES","value":"a: b\njobmanager.archive.fs.dir: x"}`,
			config: plain, want: ArchiveUserSet},
		{name: "FLINK_PROPERTIES sets something else",
			env: `{"name":"FLINK_PROPERTIES","value":"a: b\n# jobmanager.archive.fs.dir: x"}`, config: plain, want: ArchiveNotConfigured},
		{name: "FLINK_PROPERTIES comes from elsewhere",
			env: `{"name":"FLINK_PROPERTIES","valueFrom":{"configMapKeyRef":{"name":"a","key":"b"}}}`, config: plain, want: ArchiveConfigUnknown},
		{name: "variables come from elsewhere", from: `,"envFrom":[{"configMapRef":{"name":"a"}}]`, config: plain, want: ArchiveConfigUnknown},
		{name: "the volume's name is taken", volume: "holdfast-archive", config: plain, want: ArchiveNameTaken},
		{name: "the path is taken", mount: "/holdfast/archive/", config: plain, want: ArchiveNameTaken},
		{name: "the path is taken below", mount: "/holdfast/archive/x", config: plain, want: ArchiveNameTaken},
		{name: "the path is taken above", mount: "/holdfast", config: plain, want: ArchiveNameTaken},
		{name: "a path that begins alike", mount: "/holdfast/archives", config: nil, want: ArchiveConfigUnknown},
	} {
		raw := strings.NewReplacer("ENV", c.env, "FROM", c.from, "MOUNT", or(c.mount, "/opt/flink/conf"), "VOLUME", or(c.volume, "v"),
			"ITEMS", c.items).Replace(pod)
		r := Request{Pod: []byte(raw), FlinkConfig: c.config}
		d := Decide(settings(), r)
		checkDecision(t, settings(), r, d)
		if d.Archive.Reason != c.want {
			t.Errorf("%s: %s (%s), want %s", c.name, d.Archive.Reason, d.Archive.Message, c.want)
		}
	}
	off := settings()
	off.Archive = ArchiveOff
	asked := `{"metadata":{"name":"a","annotations":{"holdfast.dev/archive":"inject"}},` +
		`"spec":{"containers":[{"name":"jobmanager","args":["standalone-job"]}]}}`
	if d := Decide(off, Request{Pod: []byte(asked)}); d.Archive.Reason != ArchivePolicyOff {
		t.Errorf("switched off, and asked for: %s", d.Archive.Reason)
	}
}
