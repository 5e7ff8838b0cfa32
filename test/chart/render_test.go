package chart

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	certmanager "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	chartv2 "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

const (
	folder    = "../../charts/holdfast"
	release   = "holdfast"
	namespace = "watch" // the release's
)

func load(t testing.TB) *chartv2.Chart {
	t.Helper()
	c, err := loader.Load(folder)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// complete makes what templates see of "helm install holdfast --namespace watch" with the values, which are YAML.
func complete(c *chartv2.Chart, values string) (common.Values, error) {
	var given map[string]any
	if err := yaml.Unmarshal([]byte(values), &given); err != nil {
		return nil, fmt.Errorf("the test's own values: %w", err)
	}
	return util.ToRenderValues(c, given, common.ReleaseOptions{Name: release, Namespace: namespace, Revision: 1, IsInstall: true}, nil)
}

// texts renders the chart.
func texts(c *chartv2.Chart, values string) (map[string]string, error) {
	all, err := complete(c, values)
	if err != nil {
		return nil, err
	}
	return engine.Render(c, all)
}

// object is what the chart rendered: its type, and the object in the type that Kubernetes has for it.
type object struct {
	metav1.TypeMeta
	meta metav1.Object
	// typed is a pointer such as *appsv1.Deployment.
	typed any
	text  string
}

func (o object) String() string { return o.Kind + " " + o.meta.GetNamespace() + "/" + o.meta.GetName() }

// kinds are the types of what the chart may render. A field that its type does not have is an error.
var kinds = map[string]func() metav1.Object{
	"v1 ConfigMap":                                    func() metav1.Object { return &corev1.ConfigMap{} },
	"v1 Pod":                                          func() metav1.Object { return &corev1.Pod{} },
	"v1 Secret":                                       func() metav1.Object { return &corev1.Secret{} },
	"v1 Service":                                      func() metav1.Object { return &corev1.Service{} },
	"v1 ServiceAccount":                               func() metav1.Object { return &corev1.ServiceAccount{} },
	"apps/v1 DaemonSet":                               func() metav1.Object { return &appsv1.DaemonSet{} },
	"apps/v1 Deployment":                              func() metav1.Object { return &appsv1.Deployment{} },
	"apps/v1 StatefulSet":                             func() metav1.Object { return &appsv1.StatefulSet{} },
	"policy/v1 PodDisruptionBudget":                   func() metav1.Object { return &policyv1.PodDisruptionBudget{} },
	"networking.k8s.io/v1 NetworkPolicy":              func() metav1.Object { return &networkingv1.NetworkPolicy{} },
	"rbac.authorization.k8s.io/v1 Role":               func() metav1.Object { return &rbacv1.Role{} },
	"rbac.authorization.k8s.io/v1 RoleBinding":        func() metav1.Object { return &rbacv1.RoleBinding{} },
	"rbac.authorization.k8s.io/v1 ClusterRole":        func() metav1.Object { return &rbacv1.ClusterRole{} },
	"rbac.authorization.k8s.io/v1 ClusterRoleBinding": func() metav1.Object { return &rbacv1.ClusterRoleBinding{} },
	"admissionregistration.k8s.io/v1 MutatingWebhookConfiguration": func() metav1.Object {
		return &admissionv1.MutatingWebhookConfiguration{}
	},
	"cert-manager.io/v1 Issuer":               func() metav1.Object { return &certmanager.Issuer{} },
	"cert-manager.io/v1 Certificate":          func() metav1.Object { return &certmanager.Certificate{} },
	"monitoring.coreos.com/v1 ServiceMonitor": func() metav1.Object { return &monitoring.ServiceMonitor{} },
	"monitoring.coreos.com/v1 PrometheusRule": func() metav1.Object { return &monitoring.PrometheusRule{} },
}

// decode takes the rendered files apart. NOTES.txt is no object.
func decode(files map[string]string) ([]object, error) {
	var all []object
	for _, file := range slices.Sorted(maps.Keys(files)) {
		if path.Base(file) == "NOTES.txt" {
			continue
		}
		for text := range strings.SplitSeq("\n"+files[file], "\n---") {
			if empty(text) {
				continue
			}
			o := object{text: text}
			if err := yaml.Unmarshal([]byte(text), &o.TypeMeta); err != nil {
				return nil, fmt.Errorf("%s: %w\n%s", file, err, text)
			}
			make, known := kinds[o.APIVersion+" "+o.Kind]
			if !known {
				return nil, fmt.Errorf("%s: %q is no kind that the chart should render:\n%s", file, o.APIVersion+" "+o.Kind, text)
			}
			o.meta = make()
			o.typed = o.meta
			if err := yaml.UnmarshalStrict([]byte(text), o.typed); err != nil {
				return nil, fmt.Errorf("%s: %w\n%s", file, err, text)
			}
			all = append(all, o)
		}
	}
	return all, nil
}

// empty says that a document has nothing but comments.
func empty(text string) bool {
	for line := range strings.SplitSeq(text, "\n") {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			return false
		}
	}
	return true
}

func render(t testing.TB, values string) []object {
	t.Helper()
	files, err := texts(load(t), values)
	if err != nil {
		t.Fatal(err)
	}
	all, err := decode(files)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// of gives the objects of a type, such as *appsv1.Deployment.
func of[T any](all []object) []T {
	var some []T
	for _, o := range all {
		if typed, ok := o.typed.(T); ok {
			some = append(some, typed)
		}
	}
	return some
}

// named gives the object of a type with a name.
func named[T metav1.Object](t testing.TB, all []object, name string) T {
	t.Helper()
	for _, o := range of[T](all) {
		if o.GetName() == name {
			return o
		}
	}
	var none T
	t.Fatalf("there is no %T %s", none, name)
	return none
}

// workload is something that makes pods.
type workload struct {
	object
	selector *metav1.LabelSelector
	template corev1.PodTemplateSpec
}

func workloads(all []object) []workload {
	var some []workload
	for _, o := range all {
		switch typed := o.typed.(type) {
		case *appsv1.Deployment:
			some = append(some, workload{o, typed.Spec.Selector, typed.Spec.Template})
		case *appsv1.StatefulSet:
			some = append(some, workload{o, typed.Spec.Selector, typed.Spec.Template})
		case *appsv1.DaemonSet:
			some = append(some, workload{o, typed.Spec.Selector, typed.Spec.Template})
		case *corev1.Pod:
			some = append(some, workload{o, &metav1.LabelSelector{MatchLabels: typed.Labels}, corev1.PodTemplateSpec{
				ObjectMeta: typed.ObjectMeta, Spec: typed.Spec,
			}})
		}
	}
	return some
}

// choice is one way to fill a part of the values.
type choice struct{ name, values string }

// parts are the values that change what is rendered, and how they may be filled. Every combination is tested.
var parts = map[string][]choice{
	"etcd": {
		{"one", ""},
		{"three", "etcd: {replicas: 3, persistence: {enabled: false}, podSecurityContext: {fsGroup: null}}"},
		{"plain", "etcd: {mode: external, endpoints: ['http://etcd.example:2379', 'http://etcd.example']}"},
		{"inline", "etcd: {mode: external, endpoints: ['https://etcd.example'], " +
			"tls: {ca: '-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----'}}"},
		{"secret", "etcd: {mode: external, endpoints: ['https://[fd00::1]:2379'], tls: {caSecret: their-ca, clientSecret: our-client}}"},
	},
	"webhook": {
		{"own", ""},
		{"off", "webhook: {enabled: false}"},
		{"cert-manager", "webhook: {certificates: {mode: certManager}}"},
		{"issuer", "webhook: {certificates: {mode: certManager, issuerRef: {name: ours, kind: ClusterIssuer}}}"},
		{"given", "webhook: {certificates: {mode: secret, secretName: our-certificate}, objectSelector: {matchLabels: {team: a}, matchExpressions: [{key: old, operator: DoesNotExist}]}, " +
			"namespaceSelector: {matchExpressions: [{key: flink, operator: Exists}]}}"},
	},
	"rbac": {
		{"cluster", ""},
		{"cluster, ConfigMaps", "endings: {archive: auto, readConfigMaps: true}"},
		{"namespaces", "rbac: {scope: namespaces, namespaces: [team-a, '123']}"},
		{"namespaces, ConfigMaps", "rbac: {scope: namespaces, namespaces: [team-a]}\nendings: {archive: auto, readConfigMaps: true}"},
		{"none", "rbac: {create: false}"},
	},
	"network": {
		{"open", "networkPolicy: {enabled: false}"},
		{"closed", ""},
		{"narrow", "networkPolicy: {flinkNamespaces: [team-a, team-b], apiServer: {cidrs: [10.0.0.1/32]}, " +
			"aggregator: {from: [{podSelector: {matchLabels: {asks: 'yes'}}}]}, " +
			"etcd: {from: [{ipBlock: {cidr: 10.0.0.0/24}}], cidrs: [10.1.0.0/16]}}"},
	},
	"rest": {
		{"default", ""},
		{"all", everything},
	},
}

// everything sets what has no influence on anything else.
const everything = `
nameOverride: other
fullnameOverride: another
commonLabels: {team: data}
site: prod.eu-1
image: {repository: registry.example:5000/team/holdfast, digest: "sha256:` + digest + `", pullPolicy: Always}
imagePullSecrets: [{name: registry}]
log: {level: debug, format: json}
aggregator: &component
  replicas: 3
  extraArgs: [--log-level=warn]
  extraEnv: [{name: TZ, value: UTC}]
  podAnnotations: {a: b}
  podLabels: {c: d}
  podSecurityContext: {runAsUser: 1000}
  nodeSelector: {disk: fast}
  tolerations: [{operator: Exists}]
  affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: kubernetes.io/hostname}]}}
  topologySpreadConstraints: [{topologyKey: rack, maxSkew: 2, whenUnsatisfiable: DoNotSchedule}]
  priorityClassName: high
  serviceAccount: {annotations: {e: f}}
agent: {resources: {requests: {cpu: 1, memory: 32Mi}}, prepull: {enabled: true, tolerations: [{operator: Exists}]}}
metrics: {serviceMonitor: {enabled: true, labels: {prometheus: main}, interval: 30s}, prometheusRule: {enabled: true, labels: {prometheus: main}}}
extraObjects:
  - apiVersion: v1
    kind: ConfigMap
    metadata:
      name: '{{ .Release.Name }}-map'
      labels: {app.kubernetes.io/name: x, app.kubernetes.io/instance: x, app.kubernetes.io/managed-by: x}
  - |
    apiVersion: v1
    kind: ConfigMap
    metadata:
      name: text
      labels: {app.kubernetes.io/name: x, app.kubernetes.io/instance: x, app.kubernetes.io/managed-by: x}
`

const digest = "4f9d1c1e4f9d1c1e4f9d1c1e4f9d1c1e4f9d1c1e4f9d1c1e4f9d1c1e4f9d1c1e"

// combination is one choice of each part.
type combination struct {
	name   string
	values string
	chose  map[string]string
}

func combinations(t testing.TB) []combination {
	t.Helper()
	all := []combination{{}}
	for _, part := range slices.Sorted(maps.Keys(parts)) {
		var next []combination
		for _, before := range all {
			for _, c := range parts[part] {
				chose := maps.Clone(before.chose)
				if chose == nil {
					chose = map[string]string{}
				}
				chose[part] = c.name
				next = append(next, combination{
					name: strings.TrimPrefix(before.name+"/"+part+"="+c.name, "/"), values: merge(t, before.values, c.values), chose: chose,
				})
			}
		}
		all = next
	}
	return all
}

// merge puts values together as Helm does with several files.
func merge(t testing.TB, a, b string) string {
	t.Helper()
	var first, second map[string]any
	if err := errors.Join(yaml.Unmarshal([]byte(a), &first), yaml.Unmarshal([]byte(b), &second)); err != nil {
		t.Fatal(err)
	}
	merged, err := yaml.Marshal(loader.MergeMaps(first, second))
	if err != nil {
		t.Fatal(err)
	}
	return string(merged)
}

// defaults are the chart's values.yaml.
func defaults(t testing.TB) []byte {
	t.Helper()
	data, err := os.ReadFile(folder + "/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return data
}
