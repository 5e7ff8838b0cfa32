//go:build kubernetes

package product

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/holdfast-dev/holdfast/test/flink/flinkproc"
	"github.com/holdfast-dev/holdfast/test/kubernetes/flinkpod"
	"github.com/holdfast-dev/holdfast/test/kubernetes/rig"
)

// The strictest Pod Security level takes the pod of a JobManager with an agent, if it takes Flink's own container.
func TestRestrictedNamespace(t *testing.T) {
	t.Parallel()
	ns := namespace(t, "restricted", map[string]string{"pod-security.kubernetes.io/enforce": "restricted"})
	r := application(t, flinkpod.Options{
		Dist: cluster.Flinks[0], Namespace: ns, ID: "orders", Pod: restricted(), TaskManagerPod: restricted(),
	}, flinkproc.Job{})
	checkAgents(t, r)
	holdfast.until(t, r.jobs(), prompt, "RUNNING Witnessed over=no attempt=1", "FAILED", "UNKNOWN")
}

// restricted is what the level "restricted" asks of Flink's container.
func restricted() corev1.PodTemplateSpec {
	yes, no := true, false
	var pod corev1.PodTemplateSpec
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{
		RunAsNonRoot: &yes, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	pod.Spec.Containers = []corev1.Container{{
		Name: flinkpod.MainContainer,
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		},
	}}
	return pod
}

// Holdfast's own pods fit that level, too.
func TestRestrictedHome(t *testing.T) {
	set, warnings := warned(t)
	patch := []byte(`{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"restricted"}}}`)
	_, err := set.CoreV1().Namespaces().Patch(limit(t), home, types.MergePatchType, patch, metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}})
	check(t, err)
	if told := warnings.told(); len(told) > 0 {
		t.Errorf("pods of Holdfast's own are not restricted: %q", told)
	}
}

// A quota that demands requests and limits of every container takes the agent, too.
func TestQuota(t *testing.T) {
	t.Parallel()
	ns := namespace(t, "quota", nil)
	quota(t, ns, "4", "4Gi", "20", "8Gi")
	r := application(t, flinkpod.Options{Dist: cluster.Flinks[len(cluster.Flinks)-1], Namespace: ns, ID: "orders"}, flinkproc.Job{})
	checkAgents(t, r)
	holdfast.until(t, r.jobs(), prompt, "RUNNING Witnessed over=no attempt=1", "FAILED", "UNKNOWN")
}

// Where the namespace has room for Flink alone, Flink starts without an agent, and it can be seen why.
func TestNoRoomForAgent(t *testing.T) {
	t.Parallel()
	tests := map[string]func(t *testing.T, ns string){
		// The TaskManager, which has no limits here, is refused, and takes no room.
		"quota": func(t *testing.T, ns string) { quota(t, ns, "200m", "768Mi", "2", "768Mi") },
		"pod's maximum": func(t *testing.T, ns string) {
			limitRange(t, ns,
				corev1.LimitRangeItem{Type: corev1.LimitTypePod, Max: resources("2", "768Mi")},
				corev1.LimitRangeItem{Type: corev1.LimitTypeContainer, Default: resources("2", "768Mi"), DefaultRequest: resources("100m", "512Mi")},
			)
		},
	}
	for name, limits := range tests {
		t.Run(name, func(t *testing.T) {
			ns := namespace(t, "no-room", nil)
			limits(t, ns)
			pod := standaloneJobManager()
			giveResources(&pod.Spec, "200m", "768Mi", "2", "768Mi")
			checkNoRoom(t, ns, pod)

			before := decisions(t, "skip", "NamespaceLimits")
			flink, err := cluster.StartDocumentedSession(limit(t), flinkpod.Documented{Dist: cluster.Flinks[0], Namespace: ns,
				Pod: func(pod *corev1.PodTemplateSpec) { giveResources(&pod.Spec, "200m", "768Mi", "2", "768Mi") }})
			check(t, err)
			r := session(t, flink)
			if pod := r.jobManager(t); isInjected(pod) || len(pod.Spec.InitContainers)+len(pod.Spec.Containers) != 1 {
				t.Errorf("pod %s has an agent", pod.Name)
			}
			if after := decisions(t, "skip", "NamespaceLimits"); after <= before {
				t.Errorf("the webhook counts %v pods without an agent for the namespace's limits, and %v before", after, before)
			}
		})
	}
}

// Flink's containers of this namespace have no resources of their own and get the LimitRange's; the agent's own are below its least.
func TestLimitRange(t *testing.T) {
	t.Parallel()
	dist := cluster.Flinks[len(cluster.Flinks)-1]
	ns := namespace(t, "limit-range", nil)
	limitRange(t, ns, corev1.LimitRangeItem{
		Type: corev1.LimitTypeContainer, Min: resources("10m", "32Mi"), Max: resources("3", "1Gi"),
		Default: resources("2", "768Mi"), DefaultRequest: resources("100m", "512Mi"),
	})
	flink, err := cluster.StartDocumentedSession(limit(t), flinkpod.Documented{Dist: dist, Namespace: ns})
	check(t, err)
	r := session(t, flink)
	for _, c := range r.jobManager(t).Spec.InitContainers {
		if memory := c.Resources.Limits.Memory(); memory.Cmp(resource.MustParse("64Mi")) != 0 {
			t.Errorf("%s has a memory limit of %s: not its own, which fits", c.Name, memory)
		}
	}
	id, _ := r.submit(t, dist, "orders")
	r.shown(t, id, "RUNNING Witnessed over=no attempt=1")
	checkAgents(t, r)
}

// No container of this namespace may have as much memory as the agent needs at the least. What Flink could not run in either stands for
// something smaller than Flink here.
func TestLimitRangeBelowAgent(t *testing.T) {
	t.Parallel()
	ns := namespace(t, "limit-range", nil)
	limitRange(t, ns, corev1.LimitRangeItem{Type: corev1.LimitTypeContainer, Max: resources("1", "12Mi")})
	pod := standaloneJobManager()
	giveResources(&pod.Spec, "10m", "8Mi", "1", "8Mi")
	checkNoRoom(t, ns, pod)
}

// checkAgents fails the test unless every JobManager of a namespace has an agent, and no other pod has one, of which there are some.
func checkAgents(t *testing.T, r *running) {
	t.Helper()
	pods, err := cluster.Set.CoreV1().Pods(r.Namespace()).List(limit(t), metav1.ListOptions{})
	check(t, err)
	others := 0
	for _, pod := range pods.Items {
		is := pod.Labels["component"] == "jobmanager" && pod.Labels["holdfast.dev/inject"] != "false"
		if !is {
			others++
		}
		// By its command, whatever the container is called.
		if has := strings.Contains(pod.Spec.String(), "/bin/holdfast-agent"); has != is || isInjected(pod) != is {
			t.Errorf("pod %s has an agent: %t", pod.Name, has)
		}
	}
	if others == 0 || others == len(pods.Items) {
		t.Errorf("of %d pods %d are no JobManager's: nothing is tried here", len(pods.Items), others)
	}
}

// checkNoRoom fails the test unless a pod is taken as it is, and whoever creates it is told that the namespace's limits leave no room.
func checkNoRoom(t *testing.T, ns string, pod *corev1.Pod) {
	t.Helper()
	set, warnings := warned(t)
	// Until the webhook has heard of the limits, Kubernetes refuses the pod with its agent, and a controller makes it again.
	eventually(t, 30*time.Second, "a pod without an agent", func(ctx context.Context) error {
		got, err := set.CoreV1().Pods(ns).Create(ctx, pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err == nil && (isInjected(*got) || len(got.Spec.InitContainers) > 0) {
			err = errors.New("it has one")
		}
		return err
	})
	told := warnings.told()
	if len(told) == 0 || !strings.Contains(told[len(told)-1], "(NamespaceLimits)") {
		t.Errorf("whoever creates the pod is told %q", told)
	}
	t.Logf("told: %q", told)
}

func resources(cpu, memory string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
}

// giveResources sets what each container of a pod asks for, and may have at the most.
func giveResources(spec *corev1.PodSpec, cpu, memory, cpuLimit, memoryLimit string) {
	for i := range spec.Containers {
		spec.Containers[i].Resources = corev1.ResourceRequirements{Requests: resources(cpu, memory), Limits: resources(cpuLimit, memoryLimit)}
	}
}

// quota gives a namespace one that demands requests and limits of every container, and waits until it counts.
func quota(t *testing.T, ns, cpu, memory, cpuLimit, memoryLimit string) {
	t.Helper()
	hard := corev1.ResourceList{
		corev1.ResourceRequestsCPU: resource.MustParse(cpu), corev1.ResourceRequestsMemory: resource.MustParse(memory),
		corev1.ResourceLimitsCPU: resource.MustParse(cpuLimit), corev1.ResourceLimitsMemory: resource.MustParse(memoryLimit),
	}
	made := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "strict"}, Spec: corev1.ResourceQuotaSpec{Hard: hard}}
	_, err := cluster.Set.CoreV1().ResourceQuotas(ns).Create(limit(t), made, metav1.CreateOptions{})
	check(t, err)
	eventually(t, time.Minute, "the quota counts", func(ctx context.Context) error {
		now, err := cluster.Set.CoreV1().ResourceQuotas(ns).Get(ctx, "strict", metav1.GetOptions{})
		if err == nil && len(now.Status.Used) < len(hard) {
			err = fmt.Errorf("it is %+v", now.Status)
		}
		return err
	})
}

func limitRange(t *testing.T, ns string, items ...corev1.LimitRangeItem) {
	t.Helper()
	made := &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Name: "strict"}, Spec: corev1.LimitRangeSpec{Limits: items}}
	_, err := cluster.Set.CoreV1().LimitRanges(ns).Create(limit(t), made, metav1.CreateOptions{})
	check(t, err)
}

// decisions is how many pods all replicas of the webhook have decided upon so, as their metrics say.
func decisions(t *testing.T, decision, reason string) (sum float64) {
	t.Helper()
	pods, err := cluster.Set.CoreV1().Pods(home).List(limit(t), metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=webhook"})
	check(t, err)
	for _, pod := range pods.Items {
		text, err := cluster.Set.CoreV1().Pods(home).ProxyGet("http", pod.Name, "7071", "/metrics", nil).DoRaw(limit(t))
		check(t, err)
		counter := fmt.Sprintf("holdfast_webhook_decisions_total{decision=%q,reason=%q} ", decision, reason)
		for line := range strings.Lines(string(text)) {
			if count, is := strings.CutPrefix(line, counter); is {
				n, err := strconv.ParseFloat(strings.TrimSpace(count), 64)
				check(t, err)
				sum += n
			}
		}
	}
	return sum
}

// In a namespace that denies its pods everything but what Flink needs, the chart's policies let the agent out to etcd, and etcd lets in
// nobody else of that namespace. This node enforces no policy: what the live ones mean is worked out here.
func TestNetworkPolicies(t *testing.T) {
	t.Parallel()
	dist := cluster.Flinks[0]
	ns := namespace(t, "denied", nil)
	flink, err := cluster.StartDocumentedSession(limit(t), flinkpod.Documented{Dist: dist, Namespace: ns})
	check(t, err)
	optedOut := standaloneJobManager()
	optedOut.Labels = map[string]string{"component": "jobmanager", "holdfast.dev/inject": "false"}
	optedOut.Spec.Containers[0].Image, optedOut.Spec.Containers[0].Args = rig.PodtoolImage(), nil
	_, err = cluster.Set.CoreV1().Pods(ns).Create(limit(t), optedOut, metav1.CreateOptions{})
	check(t, err)
	ofFlink := metav1.LabelSelector{MatchLabels: map[string]string{"app": "flink"}}
	among := []networkingv1.NetworkPolicyPeer{{PodSelector: &ofFlink}}
	createPolicy(t, ns, "deny", networkingv1.NetworkPolicySpec{PolicyTypes: bothWays})
	createPolicy(t, ns, "flink", networkingv1.NetworkPolicySpec{
		PolicyTypes: bothWays, PodSelector: ofFlink,
		Ingress: []networkingv1.NetworkPolicyIngressRule{{From: among}}, Egress: []networkingv1.NetworkPolicyEgressRule{{To: among}},
	})
	r := session(t, flink)
	id, _ := r.submit(t, dist, "orders")
	r.shown(t, id, "RUNNING Witnessed over=no attempt=1")
	checkAgents(t, r)

	jobManager, taskManager := r.jobManager(t), podOf(t, ns, "component=taskmanager")
	optedOut, err = cluster.Set.CoreV1().Pods(ns).Get(limit(t), optedOut.Name, metav1.GetOptions{})
	check(t, err)
	etcd, webhook := podOf(t, home, "app.kubernetes.io/component=etcd"), podOf(t, home, "app.kubernetes.io/component=webhook")
	aggregator := podOf(t, home, "app.kubernetes.io/component=aggregator")
	if n := networkOf(t); n.reaches(jobManager, etcd, 2379) || !n.reaches(jobManager, taskManager, 6122) {
		t.Error("the namespace does not deny what it was made to deny: nothing is tried here")
	}
	for _, policy := range agentPolicies(t, ns) {
		createPolicy(t, ns, policy.Name, policy.Spec)
	}
	n := networkOf(t)
	for _, test := range []struct {
		from, to corev1.Pod
		port     int32
		may      bool
	}{
		{jobManager, etcd, 2379, true}, {taskManager, etcd, 2379, false}, {*optedOut, etcd, 2379, false}, {webhook, etcd, 2379, false},
		{jobManager, etcd, 2380, false}, {jobManager, taskManager, 6122, true}, {jobManager, webhook, 10250, false},
		{aggregator, etcd, 2379, true}, {aggregator, etcd, 2380, false}, {etcd, etcd, 2380, true},
		{aggregator, aggregator, 7070, true}, {aggregator, aggregator, 22, false},
	} {
		if may := n.reaches(test.from, test.to, test.port); may != test.may {
			t.Errorf("pod %s reaches %s at %d: %t, want %t", test.from.Name, test.to.Name, test.port, may, test.may)
		}
	}
	for _, pod := range []corev1.Pod{taskManager, *optedOut} {
		if n.allows(networkingv1.PolicyTypeIngress, etcd, pod, 2379) {
			t.Errorf("etcd lets in pod %s, which has no agent", pod.Name)
		}
	}
}

var bothWays = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}

func createPolicy(t *testing.T, ns, name string, spec networkingv1.NetworkPolicySpec) {
	t.Helper()
	policy := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}
	_, err := cluster.Set.NetworkingV1().NetworkPolicies(ns).Create(limit(t), policy, metav1.CreateOptions{})
	check(t, err)
}

// agentPolicies are what the chart makes in a namespace that networkPolicy.flinkNamespaces lists.
func agentPolicies(t *testing.T, ns string) (of []networkingv1.NetworkPolicy) {
	t.Helper()
	root, err := repository()
	check(t, err)
	text, err := cluster.Run(limit(t), "helm", append([]string{"template", "holdfast", filepath.Join(root, "charts/holdfast"), "--namespace", home,
		"--show-only", "templates/networkpolicy.yaml", "--set", "networkPolicy.flinkNamespaces={" + ns + "}"}, holdfast.values()...)...)
	check(t, err)
	documents := yaml.NewYAMLReader(bufio.NewReader(strings.NewReader(text)))
	for {
		document, err := documents.Read()
		if err == io.EOF {
			break
		}
		check(t, err)
		var policy networkingv1.NetworkPolicy
		check(t, yaml.UnmarshalStrict(document, &policy))
		if policy.Namespace == ns {
			of = append(of, policy)
		}
	}
	if len(of) == 0 {
		t.Fatal("the chart makes no policy for the namespace")
	}
	return of
}

// podOf is one of the pods with given labels.
func podOf(t *testing.T, ns, selector string) corev1.Pod {
	t.Helper()
	pods, err := cluster.Set.CoreV1().Pods(ns).List(limit(t), metav1.ListOptions{LabelSelector: selector})
	check(t, err)
	if len(pods.Items) == 0 {
		t.Fatalf("namespace %s has no pod with %s", ns, selector)
	}
	return pods.Items[0]
}

// network knows from the live NetworkPolicies which pod may reach which, as Kubernetes defines it.
type network struct {
	policies   []networkingv1.NetworkPolicy
	namespaces map[string]labels.Set
}

func networkOf(t *testing.T) network {
	t.Helper()
	policies, err := cluster.Set.NetworkingV1().NetworkPolicies("").List(limit(t), metav1.ListOptions{})
	check(t, err)
	namespaces, err := cluster.Set.CoreV1().Namespaces().List(limit(t), metav1.ListOptions{})
	check(t, err)
	n := network{policies.Items, map[string]labels.Set{}}
	for _, ns := range namespaces.Items {
		n.namespaces[ns.Name] = ns.Labels
	}
	return n
}

// reaches says whether the policies of both ends let one pod connect to the other's port.
func (n network) reaches(from, to corev1.Pod, port int32) bool {
	return n.allows(networkingv1.PolicyTypeEgress, from, to, port) && n.allows(networkingv1.PolicyTypeIngress, to, from, port)
}

// allows says whether one end's policies let it speak with the other: they do where none selects it.
func (n network) allows(direction networkingv1.PolicyType, end, other corev1.Pod, port int32) bool {
	isolated := false
	for _, policy := range n.policies {
		if policy.Namespace != end.Namespace || !slices.Contains(policy.Spec.PolicyTypes, direction) ||
			!selects(&policy.Spec.PodSelector, end.Labels) {
			continue
		}
		isolated = true
		var rules []networkingv1.NetworkPolicyEgressRule // the two kinds differ in a name only
		if direction == networkingv1.PolicyTypeEgress {
			rules = policy.Spec.Egress
		} else {
			for _, rule := range policy.Spec.Ingress {
				rules = append(rules, networkingv1.NetworkPolicyEgressRule{Ports: rule.Ports, To: rule.From})
			}
		}
		for _, rule := range rules {
			at := len(rule.Ports) == 0 || slices.ContainsFunc(rule.Ports, func(p networkingv1.NetworkPolicyPort) bool {
				return *p.Protocol == corev1.ProtocolTCP && (p.Port == nil || p.Port.IntVal == port)
			})
			with := len(rule.To) == 0 || slices.ContainsFunc(rule.To, func(peer networkingv1.NetworkPolicyPeer) bool {
				return n.means(peer, policy.Namespace, other)
			})
			if at && with {
				return true
			}
		}
	}
	return !isolated
}

// means says whether a policy's peer is a pod. One without a selector of namespaces means those of the policy's own.
func (n network) means(peer networkingv1.NetworkPolicyPeer, own string, pod corev1.Pod) bool {
	switch {
	case peer.IPBlock != nil:
		return false // that is for the world outside
	case peer.NamespaceSelector == nil:
		return pod.Namespace == own && selects(peer.PodSelector, pod.Labels)
	default:
		return selects(peer.NamespaceSelector, n.namespaces[pod.Namespace]) && (peer.PodSelector == nil || selects(peer.PodSelector, pod.Labels))
	}
}

func selects(selector *metav1.LabelSelector, of labels.Set) bool {
	s, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && s.Matches(of)
}
