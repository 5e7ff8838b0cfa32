package chart

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v4/pkg/engine"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	podsecurity "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// checks must hold for what any combination of values renders.
var checks = map[string]func(t *testing.T, c combination, all []object){
	"names and labels": checkNames,
	"pods":             checkPods,
	"selectors":        checkSelectors,
	"volumes":          checkVolumes,
	"no data":          checkNoData,
	"rights":           checkRights,
	"network":          checkNetwork,
	"webhooks":         checkWebhooks,
	"resilience":       checkResilience,
	"monitor":          checkMonitor,
}

func TestEveryCombination(t *testing.T) {
	c := load(t)
	all := combinations(t)
	for _, combination := range all {
		values, err := complete(c, combination.values)
		if err != nil {
			t.Errorf("%s: %v", combination.name, err)
			continue
		}
		first, err := engine.Render(c, values)
		if err != nil {
			t.Errorf("%s: %v", combination.name, err)
			continue
		}
		again, err := engine.Render(c, values)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(first, again); diff != "" {
			t.Fatalf("%s renders differently the second time: -first +second\n%s", combination.name, diff)
		}
		objects, err := decode(first)
		if err != nil {
			t.Errorf("%s: %v", combination.name, err)
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(checks)) {
			if !t.Run(name+"/"+combination.name, func(t *testing.T) { checks[name](t, combination, objects) }) {
				t.Fatal("the others may well fail for the same reason")
			}
		}
	}
	t.Logf("%d combinations", len(all))
}

func checkNames(t *testing.T, c combination, all []object) {
	seen := map[string]bool{}
	homes := []string{namespace}
	if c.chose["rbac"] == "namespaces" {
		homes = append(homes, "team-a", "123")
	}
	if c.chose["rbac"] == "namespaces, ConfigMaps" {
		homes = append(homes, "team-a")
	}
	if c.chose["network"] == "narrow" {
		homes = append(homes, "team-a", "team-b")
	}
	for _, o := range all {
		if seen[o.String()] {
			t.Errorf("there are two of %s", o)
		}
		seen[o.String()] = true
		for _, label := range []string{"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/managed-by"} {
			if o.meta.GetLabels()[label] == "" {
				t.Errorf("%s has no label %s", o, label)
			}
		}
		cluster := slices.Contains([]string{"ClusterRole", "ClusterRoleBinding", "MutatingWebhookConfiguration"}, o.Kind)
		extra := o.meta.GetLabels()["app.kubernetes.io/name"] == "x" // an extra object
		if home := o.meta.GetNamespace(); !extra && (cluster && home != "" || !cluster && !slices.Contains(homes, home)) {
			t.Errorf("%s is in namespace %q", o, home)
		}
	}
}

// judge is what decides in a namespace with the Pod Security level "restricted".
var judge = once(func() (policy.Evaluator, error) { return policy.NewEvaluator(policy.DefaultChecks(), nil) })

func checkPods(t *testing.T, c combination, all []object) {
	for _, w := range workloads(all) {
		level := podsecurity.LevelVersion{Level: podsecurity.LevelRestricted, Version: podsecurity.LatestVersion()}
		for _, result := range judge(t).EvaluatePod(level, &w.template.ObjectMeta, &w.template.Spec) {
			if !result.Allowed {
				t.Errorf("%s is refused by Pod Security: %s: %s", w, result.ForbiddenReason, result.ForbiddenDetail)
			}
		}
		waits := strings.HasSuffix(w.meta.GetName(), "-prepull") || strings.HasSuffix(w.meta.GetName(), "-test")
		for _, container := range w.template.Spec.Containers {
			need := container.Resources
			if need.Requests.Cpu().IsZero() || need.Requests.Memory().IsZero() || need.Limits.Memory().IsZero() {
				t.Errorf("%s does not say what it needs: %+v", w, need)
			}
			if context := container.SecurityContext; context.ReadOnlyRootFilesystem == nil || !*context.ReadOnlyRootFilesystem {
				t.Errorf("%s may write to its own files", w)
			}
			if !waits && (container.LivenessProbe == nil || container.ReadinessProbe == nil || container.StartupProbe == nil) {
				t.Errorf("%s has no probes", w)
			}
			for _, probe := range []*corev1.Probe{container.LivenessProbe, container.ReadinessProbe, container.StartupProbe} {
				if probe != nil && !hasPort(container, probe.HTTPGet.Port.StrVal) {
					t.Errorf("%s is asked at port %s, which it does not have", w, probe.HTTPGet.Port.StrVal)
				}
			}
			image := "ghcr.io/holdfast-dev/holdfast:v0.1.0"
			if c.chose["rest"] == "all" {
				image = "registry.example:5000/team/holdfast@sha256:" + digest
			}
			if container.Image != image {
				t.Errorf("%s runs %s, want %s", w, container.Image, image)
			}
		}
		// Kubernetes would set variables such as HOLDFAST_ETCD_PORT.
		if links := w.template.Spec.EnableServiceLinks; links == nil || *links {
			t.Errorf("%s gets variables for Services", w)
		}
		// Whoever asks the API server says so, and nobody else gets a token.
		if token := w.template.Spec.AutomountServiceAccountToken; token == nil || *token == waits {
			t.Errorf("%s: automountServiceAccountToken is %v", w, token)
		}
		if account := w.template.Spec.ServiceAccountName; !waits {
			named[*corev1.ServiceAccount](t, all, account)
		}
		if secrets := len(w.template.Spec.ImagePullSecrets); c.chose["rest"] == "all" && secrets != 1 {
			t.Errorf("%s has %d pull secrets", w, secrets)
		}
		if _, single := w.typed.(*appsv1.Deployment); single && len(w.template.Spec.TopologySpreadConstraints) == 0 {
			t.Errorf("%s may have all pods on one node", w)
		}
		for _, spread := range w.template.Spec.TopologySpreadConstraints {
			if !selects(t, spread.LabelSelector, w.template.Labels) {
				t.Errorf("%s is spread among other pods: %v", w, spread.LabelSelector)
			}
		}
	}
	if deployments := of[*appsv1.Deployment](all); len(deployments) == 0 {
		t.Error("no Deployment")
	} else {
		for _, d := range deployments {
			if update := d.Spec.Strategy.RollingUpdate; update == nil || update.MaxUnavailable.IntValue() != 0 || update.MaxSurge.IntValue() < 1 {
				t.Errorf("%s is replaced by %+v: an upgrade could leave nobody who serves", d.Name, d.Spec.Strategy)
			}
		}
	}
}

func hasPort(c corev1.Container, name string) bool {
	return slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool { return p.Name == name })
}

func selects(t *testing.T, selector *metav1.LabelSelector, pod map[string]string) bool {
	t.Helper()
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		t.Fatal(err)
	}
	return s.Matches(labels.Set(pod))
}

// checkSelectors holds that each selector selects pods of exactly one workload.
func checkSelectors(t *testing.T, _ combination, all []object) {
	running := workloads(all)
	one := func(who string, selector *metav1.LabelSelector) (found workload) {
		t.Helper()
		count := 0
		for _, w := range running {
			if selects(t, selector, w.template.Labels) {
				count, found = count+1, w
			}
		}
		if count != 1 {
			t.Errorf("%s selects pods of %d workloads: %v", who, count, selector)
		}
		return found
	}
	for _, w := range running {
		if got := one(w.String(), w.selector); got.String() != w.String() {
			t.Errorf("%s selects the pods of %s", w, got)
		}
	}
	for _, b := range of[*policyv1.PodDisruptionBudget](all) {
		if w := one("PodDisruptionBudget "+b.Name, b.Spec.Selector); b.Name != w.meta.GetName() {
			t.Errorf("the budget %s is for %s", b.Name, w)
		}
		if b.Spec.MaxUnavailable.IntValue() != 1 {
			t.Errorf("the budget %s lets %s go", b.Name, b.Spec.MaxUnavailable)
		}
	}
	for _, s := range of[*corev1.Service](all) {
		w := one("Service "+s.Name, &metav1.LabelSelector{MatchLabels: s.Spec.Selector})
		for _, p := range s.Spec.Ports {
			if !hasPort(w.template.Spec.Containers[0], p.TargetPort.StrVal) {
				t.Errorf("Service %s leads to port %s, which %s does not have", s.Name, p.TargetPort.StrVal, w)
			}
		}
	}
	for _, s := range of[*appsv1.StatefulSet](all) {
		peers := named[*corev1.Service](t, all, s.Spec.ServiceName)
		if peers.Spec.ClusterIP != corev1.ClusterIPNone || !peers.Spec.PublishNotReadyAddresses {
			t.Errorf("the members of %s do not find one another before they are ready", s.Name)
		}
		if s.Spec.PodManagementPolicy != appsv1.ParallelPodManagement {
			t.Errorf("%s starts its members one after the other: the first waits for ever", s.Name)
		}
		data := slices.ContainsFunc(s.Spec.Template.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == "data" })
		if data == (len(s.Spec.VolumeClaimTemplates) == 1) {
			t.Errorf("%s has no volume for its data, or two", s.Name)
		}
	}
}

// checkVolumes holds that what pods mount is there: rendered, or named by the values.
func checkVolumes(t *testing.T, c combination, all []object) {
	theirs := []string{"their-ca", "our-client", "our-certificate"}
	for _, o := range all {
		if strings.HasPrefix(o.APIVersion, "cert-manager.io/") && o.Kind == "Certificate" {
			for line := range strings.SplitSeq(o.text, "\n") {
				if name, ok := strings.CutPrefix(strings.TrimSpace(line), "secretName: "); ok {
					theirs = append(theirs, name)
				}
			}
		}
	}
	for _, w := range workloads(all) {
		volumes := map[string]bool{}
		for _, v := range w.template.Spec.Volumes {
			volumes[v.Name] = true
			switch {
			case v.Secret != nil && !slices.Contains(theirs, v.Secret.SecretName):
				t.Errorf("%s mounts the Secret %s, which nobody makes", w, v.Secret.SecretName)
			case v.ConfigMap != nil:
				named[*corev1.ConfigMap](t, all, v.ConfigMap.Name)
			case v.HostPath != nil:
				t.Errorf("%s mounts %s of its node", w, v.HostPath.Path)
			}
		}
		if s, ok := w.typed.(*appsv1.StatefulSet); ok {
			for _, v := range s.Spec.VolumeClaimTemplates {
				volumes[v.Name] = true
			}
		}
		mounted := map[string]bool{}
		for _, m := range w.template.Spec.Containers[0].VolumeMounts {
			mounted[m.Name] = true
		}
		if diff := cmp.Diff(volumes, mounted); diff != "" {
			t.Errorf("%s: -volumes +mounted\n%s", w, diff)
		}
		// A file that a flag names is below something that is mounted.
		for _, arg := range w.template.Spec.Containers[0].Args {
			_, file, _ := strings.Cut(arg, "=")
			if strings.HasPrefix(file, "/") && !slices.ContainsFunc(w.template.Spec.Containers[0].VolumeMounts, func(m corev1.VolumeMount) bool {
				return file == m.MountPath || strings.HasPrefix(file, m.MountPath+"/")
			}) {
				t.Errorf("%s: %s is in no volume", w, arg)
			}
		}
	}
}

// checkNoData holds that nothing is rendered that a program writes: the next upgrade would take it away.
func checkNoData(t *testing.T, c combination, all []object) {
	for _, s := range of[*corev1.Secret](all) {
		if s.Data != nil || s.StringData != nil {
			t.Errorf("Secret %s has data", s.Name)
		}
	}
	for _, m := range of[*corev1.ConfigMap](all) {
		if m.Data != nil && !strings.HasSuffix(m.Name, "-external-etcd-ca") {
			t.Errorf("ConfigMap %s has data", m.Name)
		}
	}
	for _, configuration := range of[*admissionv1.MutatingWebhookConfiguration](all) {
		for _, w := range configuration.Webhooks {
			if w.ClientConfig.CABundle != nil {
				t.Errorf("%s has a caBundle", w.Name)
			}
		}
	}
	for _, o := range all {
		keep := o.meta.GetAnnotations()["helm.sh/resource-policy"] == "keep"
		if want := strings.HasSuffix(o.meta.GetName(), "-etcd-ca") && !strings.HasSuffix(o.meta.GetName(), "-external-etcd-ca"); keep != want {
			t.Errorf("%s stays when Holdfast goes: %t, want %t", o, keep, want)
		}
	}
}

func checkRights(t *testing.T, c combination, all []object) {
	for _, role := range roles(all) {
		for _, rule := range role.rules {
			checkRule(t, c, role, rule, all)
		}
	}
	if c.chose["rbac"] == "none" && len(roles(all)) > 0 {
		t.Errorf("rbac.create is false, and there are %d roles", len(roles(all)))
	}
	// Every binding binds a role of the chart, in its own namespace, to one of its accounts.
	for _, b := range of[*rbacv1.RoleBinding](all) {
		checkBinding(t, all, b.Namespace, b.RoleRef, b.Subjects)
	}
	for _, b := range of[*rbacv1.ClusterRoleBinding](all) {
		checkBinding(t, all, "", b.RoleRef, b.Subjects)
	}
}

type role struct {
	name, namespace string
	rules           []rbacv1.PolicyRule
}

func (r role) String() string { return r.namespace + "/" + r.name }

func roles(all []object) []role {
	var some []role
	for _, r := range of[*rbacv1.ClusterRole](all) {
		some = append(some, role{r.Name, "", r.Rules})
	}
	for _, r := range of[*rbacv1.Role](all) {
		some = append(some, role{r.Name, r.Namespace, r.Rules})
	}
	return some
}

// ConfigMaps are read by those who have something to look for in them: the aggregator, and the webhook where it gives
// Flink archive folders.
func TestWhoMayReadConfigMaps(t *testing.T) {
	for values, want := range map[string][]string{
		"":                                nil,
		"endings: {archive: auto}":        nil,
		"endings: {readConfigMaps: true}": {"/holdfast-aggregator"},
		"endings: {archive: auto, readConfigMaps: true}": {"/holdfast-aggregator", "/holdfast-webhook"},
	} {
		var may []string
		for _, r := range roles(render(t, values)) {
			for _, rule := range r.rules {
				if slices.Contains(rule.Resources, "configmaps") && len(rule.ResourceNames) == 0 {
					may = append(may, r.String())
				}
			}
		}
		slices.Sort(may)
		if diff := cmp.Diff(want, may); diff != "" {
			t.Errorf("%s (-want +got):\n%s", values, diff)
		}
	}
}

func checkRule(t *testing.T, c combination, r role, rule rbacv1.PolicyRule, all []object) {
	t.Helper()
	for _, verb := range rule.Verbs {
		if !slices.Contains([]string{"get", "list", "watch", "update", "patch"}, verb) {
			t.Errorf("%s may %s %v", r, verb, rule.Resources)
		}
		byName := len(rule.ResourceNames) > 0
		if (verb == "update" || verb == "patch") && !byName {
			t.Errorf("%s may %s any of %v", r, verb, rule.Resources)
		}
	}
	for _, resource := range rule.Resources {
		switch resource {
		case "secrets":
			if r.namespace != namespace || len(rule.ResourceNames) != 1 {
				t.Errorf("%s may %v Secrets %v", r, rule.Verbs, rule.ResourceNames)
			}
			for _, name := range rule.ResourceNames {
				named[*corev1.Secret](t, all, name)
			}
		case "configmaps":
			reads := strings.HasSuffix(c.chose["rbac"], "ConfigMaps") && watches(r)
			if len(rule.ResourceNames) == 0 && (!reads || !slices.Equal(rule.Verbs, []string{"get"})) {
				t.Errorf("%s may %v any ConfigMap", r, rule.Verbs)
			}
			for _, name := range rule.ResourceNames {
				named[*corev1.ConfigMap](t, all, name)
			}
		case "pods":
			if !watches(r) {
				t.Errorf("%s may see pods", r)
			}
		case "deployments", "replicasets", "statefulsets", "jobs", "flinkdeployments":
			if !strings.HasSuffix(r.name, "-aggregator") || !slices.Equal(rule.Verbs, []string{"get"}) {
				t.Errorf("%s may %v %s", r, rule.Verbs, resource)
			}
		case "flinksessionjobs":
			if !strings.HasSuffix(r.name, "-aggregator") || !slices.Equal(rule.Verbs, []string{"list", "watch"}) {
				t.Errorf("%s may %v %s", r, rule.Verbs, resource)
			}
		case "limitranges", "resourcequotas":
			if !strings.HasSuffix(r.name, "-webhook") || !slices.Equal(rule.Verbs, []string{"list", "watch"}) {
				t.Errorf("%s may %v %s", r, rule.Verbs, resource)
			}
		case "namespaces":
			if !slices.Equal(rule.ResourceNames, []string{"kube-system"}) || !slices.Equal(rule.Verbs, []string{"get"}) {
				t.Errorf("%s may %v namespaces %v", r, rule.Verbs, rule.ResourceNames)
			}
		case "mutatingwebhookconfigurations":
			own, verbs := of[*admissionv1.MutatingWebhookConfiguration](all)[0].Name, []string{"get", "watch", "patch"}
			if c.chose["webhook"] == "cert-manager" || c.chose["webhook"] == "issuer" {
				verbs = verbs[:2] // cert-manager writes it
			}
			if !slices.Equal(rule.ResourceNames, []string{own}) || !slices.Equal(rule.Verbs, verbs) {
				t.Errorf("%s may %v webhook configurations %v", r, rule.Verbs, rule.ResourceNames)
			}
		default:
			t.Errorf("%s may %v %s, of which the test has not heard", r, rule.Verbs, resource)
		}
		// By scope: only what has to be is cluster-wide.
		narrow := strings.HasPrefix(c.chose["rbac"], "namespaces")
		if narrow && r.namespace == "" && len(rule.ResourceNames) == 0 {
			t.Errorf("rbac.scope is namespaces, and %s may %v %s everywhere", r, rule.Verbs, resource)
		}
	}
}

// watches says whether a role is that of somebody who looks at JobManagers.
func watches(r role) bool {
	return strings.HasSuffix(r.name, "-webhook") || strings.HasSuffix(r.name, "-aggregator")
}

func checkBinding(t *testing.T, all []object, home string, ref rbacv1.RoleRef, subjects []rbacv1.Subject) {
	t.Helper()
	if !slices.ContainsFunc(roles(all), func(r role) bool { return r.name == ref.Name && r.namespace == home }) {
		t.Errorf("a binding in %q names the role %s, which is not there", home, ref.Name)
	}
	if len(subjects) != 1 || subjects[0].Namespace != namespace || subjects[0].Name != ref.Name {
		t.Errorf("the role %s in %q is bound to %v", ref.Name, home, subjects)
	}
	named[*corev1.ServiceAccount](t, all, subjects[0].Name)
}

// once makes something once.
func once[T any](make func() (T, error)) func(t testing.TB) T {
	var made *T
	return func(t testing.TB) T {
		t.Helper()
		if made == nil {
			one, err := make()
			if err != nil {
				t.Fatal(fmt.Errorf("before any test: %w", err))
			}
			made = &one
		}
		return *made
	}
}
