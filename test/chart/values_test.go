package chart

import (
	"encoding/json"
	"io"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	yamlv3 "go.yaml.in/yaml/v3"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// A value that does not exist, or is of the wrong type, is refused, and the message names it.
func TestWrongValuesAreRefused(t *testing.T) {
	c := load(t)
	for _, bad := range []struct{ values, want string }{
		{"sites: a", "additional properties 'sites' not allowed"},
		{"site: 1", "/site': got number, want string"},
		{"site: ''", "/site': '' does not match pattern"},
		{"site: a/b", "/site': 'a/b' does not match pattern"},
		{"image: holdfast:dev", "/image': got string, want object"},
		{"image: {tag: 1.0}", "/image/tag': got number, want string"},
		{"image: {digest: 4f9d}", "/image/digest': '4f9d' does not match pattern"},
		{"image: {pullPolicy: Sometimes}", "/image/pullPolicy': value must be one of"},
		{"imagePullSecrets: [registry]", "/imagePullSecrets/0': got string, want object"},
		{"log: {level: loud}", "/log/level': value must be one of"},
		{"aggregator: {replicas: '2'}", "/aggregator/replicas': got string, want integer"},
		{"aggregator: {replicas: 0}", "/aggregator/replicas': minimum: got 0, want 1"},
		{"aggregator: {replica: 3}", "/aggregator': additional properties 'replica' not allowed"},
		{"aggregator: {resources: {request: {}}}", "/aggregator/resources': additional properties 'request' not allowed"},
		{"aggregator: {resources: {requests: {cpu: fast}}}", "/aggregator/resources/requests/cpu': 'fast' does not match pattern"},
		{"aggregator: {extraArgs: [hold=45s]}", "/aggregator/extraArgs/0': 'hold=45s' does not match pattern"},
		{"aggregator: {extraArgs: --hold=45s}", "/aggregator/extraArgs': got string, want array"},
		{"aggregator: {podLabels: {app.kubernetes.io/name: x}}", "/aggregator/podLabels/app.kubernetes.io~1name': false schema"},
		{"aggregator: {podAnnotations: {number: 1}}", "/aggregator/podAnnotations/number': got number, want string"},
		{"aggregator: {service: {type: Ingress}}", "/aggregator/service/type': value must be one of"},
		{"aggregator: {tolerations: {operator: Exists}}", "/aggregator/tolerations': got object, want array"},
		{"webhook: {enabled: 'yes'}", "/webhook/enabled': got string, want boolean"},
		{"webhook: {port: 70000}", "/webhook/port': maximum: got 70,000, want 65,535"},
		{"webhook: {namespaceSelector: {team: a}}", "/webhook/namespaceSelector': additional properties 'team' not allowed"},
		{"webhook: {objectSelector: {matchExpressions: [{key: a, operator: Equals}]}}", "/webhook/objectSelector/matchExpressions/0/operator': value must be one of"},
		{"webhook: {certificates: {mode: letsencrypt}}", "/webhook/certificates/mode': value must be one of"},
		{"webhook: {certificates: {mode: secret}}", "/webhook/certificates/secretName': '' does not match pattern"},
		{"webhook: {certificates: {issuerRef: {kind: Issuer}}}", "/webhook/certificates/issuerRef': missing property 'name'"},
		{"agent: {resources: {limits: {gpu: 1}}}", "/agent/resources/limits': additional properties 'gpu' not allowed"},
		{"agent: {resources: {requests: {cpu: -1}}}", "/agent/resources/requests/cpu': minimum: got -1, want 0"},
		{"agent: {mode: native}", "/agent/mode': value must be one of 'auto', 'plain'"},
		{"agent: {prepull: true}", "/agent/prepull': got boolean, want object"},
		{"endings: {archive: on}", "/endings/archive': got boolean, want string"},
		{"endings: {archive: always}", "/endings/archive': value must be one of 'auto', 'off'"},
		{"endings: {sizeLimit: big}", "/endings/sizeLimit': 'big' does not match pattern"},
		{"rbac: {scope: namespace}", "/rbac/scope': value must be one of"},
		{"rbac: {scope: namespaces}", "/rbac/namespaces': minItems: got 0, want 1"},
		{"rbac: {namespaces: [team-a]}", "/rbac/namespaces': maxItems: got 1, want 0"},
		{"rbac: {scope: namespaces, namespaces: [Team_A]}", "/rbac/namespaces/0': 'Team_A' does not match pattern"},
		{"rbac: {scope: namespaces, namespaces: [watch]}", "rbac.namespaces names watch, where Holdfast itself runs"},
		{"etcd: {mode: none}", "/etcd/mode': value must be one of"},
		{"etcd: {replicas: 2}", "/etcd/replicas': value must be one of 1, 3"},
		{"etcd: {mode: external}", "/etcd/endpoints': minItems: got 0, want 1"},
		{"etcd: {endpoints: ['https://a:2379']}", "/etcd/endpoints': maxItems: got 1, want 0"},
		{"etcd: {mode: external, endpoints: [etcd:2379]}", "/etcd/endpoints/0': 'etcd:2379' does not match pattern"},
		{"etcd: {mode: external, endpoints: ['https://a:2379'], tls: {ca: /etc/ca.crt}}", "/etcd/tls/ca': '/etc/ca.crt' does not match pattern"},
		{"etcd: {mode: external, endpoints: ['https://a:2379'], tls: {ca: '-----BEGIN CERTIFICATE-----', caSecret: b}}", "/etcd/tls/caSecret': value must be ''"},
		{"etcd: {tls: {caKey: 'ca.crt\"'}}", "/etcd/tls/caKey': 'ca.crt\"' does not match pattern"},
		{"etcd: {quota: 2GB}", "/etcd/quota': '2GB' does not match pattern"},
		{"etcd: {persistence: false}", "/etcd/persistence': got boolean, want object"},
		{"etcd: {persistence: {accessModes: ReadWriteOnce}}", "/etcd/persistence/accessModes': got string, want array"},
		{"networkPolicy: {apiServer: {cidrs: [10.0.0.1]}}", "/networkPolicy/apiServer/cidrs/0': '10.0.0.1' does not match pattern"},
		{"metrics: {serviceMonitor: {interval: 30}}", "/metrics/serviceMonitor/interval': got number, want string"},
		{"extraObjects: {}", "/extraObjects': got object, want array"},
	} {
		files, err := texts(c, bad.values)
		if err == nil {
			t.Errorf("%s is taken: %d files", bad.values, len(files))
		} else if !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%s: no %q in\n%v", bad.values, bad.want, err)
		}
	}
	if _, err := texts(c, "global: {anything: 1}"); err != nil {
		t.Errorf("global, which Helm gives to the charts that another is made of: %v", err)
	}
}

// quantity is what Kubernetes takes as a number, too.
var quantity = regexp.MustCompile(`^[0-9]+(m|[KMGT]i)$`)

// No value is taken in a type that is not its own, and the message names it.
func TestEveryValueHasItsType(t *testing.T) {
	c := load(t)
	var root yamlv3.Node
	if err := yamlv3.Unmarshal(defaults(t), &root); err != nil {
		t.Fatal(err)
	}
	log.SetOutput(io.Discard) // Helm warns of each
	defer log.SetOutput(os.Stderr)
	tried := 0
	var walk func(path []string, node *yamlv3.Node)
	walk = func(path []string, node *yamlv3.Node) {
		if node.Kind == yamlv3.MappingNode {
			for i := 0; i < len(node.Content); i += 2 {
				walk(append(slices.Clone(path), node.Content[i].Value), node.Content[i+1])
			}
		}
		if len(path) == 0 {
			return
		}
		for tag, wrong := range map[string]string{"!!map": "{wrong: 1}", "!!seq": "[wrong]", "!!str": "'1'", "!!int": "1", "!!bool": "true"} {
			if tag == node.Tag || tag == "!!int" && quantity.MatchString(node.Value) {
				continue
			}
			tried++
			values, want := wrong, ""
			for _, key := range slices.Backward(path) {
				values, want = "{"+key+": "+values+"}", "/"+strings.ReplaceAll(key, "/", "~1")+want
			}
			if _, err := complete(c, values); err == nil {
				t.Errorf("%s is taken", values)
			} else if !strings.Contains(err.Error(), want+"'") {
				t.Errorf("%s: no %q in\n%v", values, want, err)
			}
		}
	}
	walk(nil, root.Content[0])
	if tried < 400 {
		t.Errorf("only %d tried", tried)
	}
}

// The schema knows the values of values.yaml and no others, in both directions and at every level that is the chart's own.
func TestSchemaKnowsTheValues(t *testing.T) {
	var schema map[string]any
	data, err := os.ReadFile(folder + "/values.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &schema); err != nil {
		t.Fatal(err)
	}
	if schema["$schema"] != "http://json-schema.org/draft-07/schema#" {
		t.Errorf("the schema is of %v", schema["$schema"])
	}
	var root yamlv3.Node
	if err := yamlv3.Unmarshal(defaults(t), &root); err != nil {
		t.Fatal(err)
	}
	definitions := schema["definitions"].(map[string]any)
	var compare func(path string, schema map[string]any, node *yamlv3.Node)
	compare = func(path string, schema map[string]any, node *yamlv3.Node) {
		if ref, ok := schema["$ref"].(string); ok {
			// What is Kubernetes' own has more fields than the defaults use; a ServiceAccount's values are ours.
			if ref != "#/definitions/serviceAccount" {
				return
			}
			schema = definitions["serviceAccount"].(map[string]any)
		}
		properties, ours := schema["properties"].(map[string]any)
		if !ours || node.Kind != yamlv3.MappingNode {
			return
		}
		if schema["additionalProperties"] != false {
			t.Errorf("a misspelt value below %q would be taken", path)
		}
		seen := map[string]bool{"global": true}
		for i := 0; i < len(node.Content); i += 2 {
			key := node.Content[i].Value
			seen[key] = true
			if below, ok := properties[key].(map[string]any); ok {
				compare(path+"."+key, below, node.Content[i+1])
			} else {
				t.Errorf("the schema does not know %s.%s", path, key)
			}
		}
		for key := range properties {
			if !seen[key] {
				t.Errorf("values.yaml does not have %s.%s", path, key)
			}
		}
	}
	compare("", schema, root.Content[0])
}

// Every value has an explanation above it, or is a group of values that have.
func TestValuesAreExplained(t *testing.T) {
	var root yamlv3.Node
	if err := yamlv3.Unmarshal(defaults(t), &root); err != nil {
		t.Fatal(err)
	}
	explained := 0
	var walk func(path string, node *yamlv3.Node)
	walk = func(path string, node *yamlv3.Node) {
		for i := 0; i+1 < len(node.Content); i += 2 {
			key, value := node.Content[i], node.Content[i+1]
			if len(strings.TrimSpace(strings.TrimPrefix(key.HeadComment, "#"))) > 10 {
				explained++
			} else if value.Kind != yamlv3.MappingNode || len(value.Content) == 0 {
				t.Errorf("line %d: %s.%s is not explained", key.Line, path, key.Value)
			} else {
				walk(path+"."+key.Value, value)
				continue
			}
			// What an explained group has inside may be plain, such as resources, or be a group of the chart's own.
			if value.Kind == yamlv3.MappingNode && !slices.Contains([]string{"resources", "nodeSelector"}, key.Value) {
				walk(path+"."+key.Value, value)
			}
		}
	}
	walk("", root.Content[0])
	if explained < 80 {
		t.Errorf("only %d values are explained", explained)
	}
}

// A change that a running program would not notice replaces its pods, and a new version of the chart alone does not.
func TestWhatReplacesPods(t *testing.T) {
	external := "etcd: {mode: external, endpoints: ['https://etcd.example'], tls: {ca: \"-----BEGIN CERTIFICATE-----\\nA\"}}"
	before, after := render(t, external), render(t, strings.Replace(external, "nA", "nB", 1))
	for _, component := range []string{"aggregator", "webhook"} {
		a, b := named[*appsv1.Deployment](t, before, "holdfast-"+component), named[*appsv1.Deployment](t, after, "holdfast-"+component)
		if cmp.Equal(a.Spec.Template, b.Spec.Template) {
			t.Errorf("the %s keeps its pods when etcd's authority changes", component)
		}
	}

	c := load(t)
	templates := func() map[string]corev1.PodTemplateSpec {
		files, err := texts(c, "image: {tag: v1}\nagent: {prepull: {enabled: true}}")
		if err != nil {
			t.Fatal(err)
		}
		all, err := decode(files)
		if err != nil {
			t.Fatal(err)
		}
		some := map[string]corev1.PodTemplateSpec{}
		for _, w := range workloads(all) {
			if w.Kind != "Pod" {
				some[w.String()] = w.template
			}
		}
		return some
	}
	old := templates()
	c.Metadata.Version, c.Metadata.AppVersion = "9.9.9", "v9.9.9"
	if diff := cmp.Diff(old, templates()); diff != "" || len(old) != 4 {
		t.Errorf("pods are replaced though nothing of theirs changed:\n%s", diff)
	}
}

func TestExternalEtcdIsNotRun(t *testing.T) {
	for _, o := range render(t, "etcd: {mode: external, endpoints: ['https://etcd.example']}") {
		if o.meta.GetLabels()["app.kubernetes.io/component"] == "etcd" {
			t.Errorf("%s is of no use with an external etcd", o)
		}
	}
}

func TestNotes(t *testing.T) {
	c := load(t)
	for _, n := range []struct{ values, want, not string }{
		{"", "helm test holdfast -n watch", "is false"},
		{"", "svc/holdfast-aggregator 7070:7070", "LoadBalancer"},
		{"", "If holdfast-etcd-0 stays Pending", ""},
		{"site: prod", `as site "prod": aggregator, webhook, etcd (1).`, ""},
		{"webhook: {enabled: false}", "no pod gets an agent", "JobManager pods get an agent"},
		{"etcd: {persistence: {enabled: false}}", "the history of jobs is gone when holdfast-etcd-0", "Pending"},
		{"etcd: {replicas: 3, persistence: {enabled: false}}", "when two members are deleted at once", ""},
		{"etcd: {mode: external, endpoints: ['http://e']}", "aggregator, webhook.", "Pending"},
		{"networkPolicy: {enabled: false}", "every pod of this cluster can read and write Holdfast's etcd", ""},
		{"rbac: {scope: namespaces, namespaces: [team-a, team-b]}", "in team-a, team-b:", ""},
		{"tests: {enabled: false}", "kubectl -n watch get pods", "helm test"},
		{"aggregator: {service: {type: LoadBalancer, port: 80}}", "7070:80", ""},
		{"aggregator: {service: {type: LoadBalancer}}", "The API is open", ""},
	} {
		files, err := texts(c, n.values)
		if err != nil {
			t.Fatal(err)
		}
		notes := files["holdfast/templates/NOTES.txt"]
		if !strings.Contains(notes, n.want) || n.not != "" && strings.Contains(notes, n.not) {
			t.Errorf("%s: want %q and not %q in\n%s", n.values, n.want, n.not, notes)
		}
	}
}

// Each metric that an alert asks for is one that Holdfast has, by its source, or one of etcd's.
func TestAlertsAskForMetricsThatExist(t *testing.T) {
	source := goSource(t, "../../aggregator", "../../webhook", "../../cmd")
	files, err := texts(load(t), "metrics: {prometheusRule: {enabled: true}}")
	if err != nil {
		t.Fatal(err)
	}
	rules := files["holdfast/templates/monitoring/prometheusrule.yaml"]
	seen := map[string]bool{}
	for _, name := range regexp.MustCompile(`\bholdfast_[a-z_]+`).FindAllString(rules, -1) {
		short := strings.TrimPrefix(name, "holdfast_")
		seen[name] = true
		if !slices.ContainsFunc([]string{name, short, strings.TrimPrefix(short, "webhook_")}, func(n string) bool {
			return strings.Contains(source, `"`+n+`"`)
		}) {
			t.Errorf("nobody has the metric %s", name)
		}
	}
	if len(seen) < 8 {
		t.Errorf("only the metrics %v in\n%s", seen, rules)
	}
}

// goSource is all Go source below some folders, without tests.
func goSource(t *testing.T, folders ...string) string {
	t.Helper()
	var all strings.Builder
	for _, folder := range folders {
		err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			data, err := os.ReadFile(path)
			all.Write(data)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all.String()
}
