package chart

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// peer is one end of a connection: a pod, or an address outside of the cluster.
type peer struct {
	namespace string
	labels    map[string]string
	address   string
}

func (p peer) String() string {
	if p.address != "" {
		return p.address
	}
	return fmt.Sprintf("%s/%v", p.namespace, p.labels)
}

// wire is a network that enforces NetworkPolicies as Kubernetes' documentation has it.
type wire struct {
	t        *testing.T
	policies []*networkingv1.NetworkPolicy
}

// passes says whether a connection passes both ends' policies.
func (w wire) passes(from, to peer, port int, protocol corev1.Protocol) bool {
	w.t.Helper()
	out := w.end(from, networkingv1.PolicyTypeEgress, func(p *networkingv1.NetworkPolicy) bool {
		return slices.ContainsFunc(p.Spec.Egress, func(r networkingv1.NetworkPolicyEgressRule) bool {
			return w.matches(p.Namespace, r.To, to) && hasNumber(r.Ports, port, protocol)
		})
	})
	in := w.end(to, networkingv1.PolicyTypeIngress, func(p *networkingv1.NetworkPolicy) bool {
		return slices.ContainsFunc(p.Spec.Ingress, func(r networkingv1.NetworkPolicyIngressRule) bool {
			return w.matches(p.Namespace, r.From, from) && hasNumber(r.Ports, port, protocol)
		})
	})
	return out && in
}

// end says whether a policy of a pod allows something, or none is about it.
func (w wire) end(of peer, way networkingv1.PolicyType, allows func(*networkingv1.NetworkPolicy) bool) bool {
	about, allowed := false, false
	for _, p := range w.policies {
		here := of.address == "" && p.Namespace == of.namespace && selects(w.t, &p.Spec.PodSelector, of.labels)
		if here && slices.Contains(p.Spec.PolicyTypes, way) {
			about = true
			allowed = allowed || allows(p)
		}
	}
	return !about || allowed
}

func (w wire) matches(home string, peers []networkingv1.NetworkPolicyPeer, who peer) bool {
	return len(peers) == 0 || slices.ContainsFunc(peers, func(p networkingv1.NetworkPolicyPeer) bool {
		if p.IPBlock != nil {
			address, err := netip.ParseAddr(who.address)
			return err == nil && netip.MustParsePrefix(p.IPBlock.CIDR).Contains(address)
		}
		if who.address != "" {
			return false
		}
		there := who.namespace == home
		if p.NamespaceSelector != nil {
			there = selects(w.t, p.NamespaceSelector, map[string]string{"kubernetes.io/metadata.name": who.namespace})
		}
		pods := p.PodSelector
		if pods == nil {
			pods = &metav1.LabelSelector{}
		}
		return there && selects(w.t, pods, who.labels)
	})
}

func hasNumber(ports []networkingv1.NetworkPolicyPort, number int, protocol corev1.Protocol) bool {
	return len(ports) == 0 || slices.ContainsFunc(ports, func(p networkingv1.NetworkPolicyPort) bool {
		return p.Port.IntValue() == number && *p.Protocol == protocol
	})
}

func checkNetwork(t *testing.T, c combination, all []object) {
	w := wire{t: t, policies: of[*networkingv1.NetworkPolicy](all)}
	if c.chose["network"] == "open" {
		if len(w.policies) > 0 {
			t.Errorf("networkPolicy.enabled is false, and there are %d policies", len(w.policies))
		}
		return
	}
	pods := map[string]peer{}
	for _, workload := range workloads(all) {
		labels := workload.template.Labels
		pods[labels["app.kubernetes.io/component"]] = peer{namespace: namespace, labels: labels}
	}
	narrow := c.chose["network"] == "narrow"
	stranger := peer{namespace: "team-c", labels: map[string]string{"app": "web"}}
	agent := peer{namespace: "team-c", labels: map[string]string{"holdfast.dev/injected": "true", "component": "jobmanager"}}
	guarded := peer{namespace: "team-a", labels: agent.labels}
	apiServer, internet := peer{address: "10.0.0.1"}, peer{address: "192.0.2.1"}
	dns := peer{namespace: "kube-system", labels: map[string]string{"k8s-app": "kube-dns"}}

	try := func(from, to peer, port int, want bool) {
		t.Helper()
		protocol := corev1.ProtocolTCP
		if port == 53 {
			protocol = corev1.ProtocolUDP
		}
		if got := w.passes(from, to, port, protocol); got != want {
			t.Errorf("%s to %s at port %d: passes %t, want %t", from, to, port, got, want)
		}
	}
	for _, pod := range pods {
		try(stranger, pod, 22, false)
	}
	aggregator := pods["aggregator"]
	try(stranger, aggregator, 7070, !narrow)
	try(peer{namespace: namespace, labels: map[string]string{"asks": "yes"}}, aggregator, 7070, true)
	try(pods["test"], aggregator, 7070, true)
	try(pods["test"], internet, 443, false)
	try(aggregator, apiServer, 443, true)
	try(aggregator, apiServer, 6443, true)
	try(aggregator, internet, 9999, !narrow)
	try(aggregator, dns, 53, true)
	if webhook, ok := pods["webhook"]; ok {
		try(apiServer, webhook, 10250, true)
		try(stranger, webhook, 7071, true)
		try(webhook, apiServer, 6443, true)
		try(webhook, dns, 53, true)
	}
	if prepull, ok := pods["prepull"]; ok {
		try(prepull, apiServer, 6443, false)
	}
	if etcd, ok := pods["etcd"]; ok {
		for _, from := range []peer{aggregator, etcd, agent, guarded} {
			try(from, etcd, 2379, true)
		}
		for _, from := range []peer{stranger, pods["test"], internet, {namespace: "team-c", labels: map[string]string{"holdfast.dev/injected": "false"}}} {
			try(from, etcd, 2379, false)
		}
		try(peer{address: "10.0.0.7"}, etcd, 2379, narrow)
		try(etcd, etcd, 2380, true)
		try(aggregator, etcd, 2380, false)
		try(agent, etcd, 2380, false)
		try(stranger, etcd, 2381, true)
		try(etcd, apiServer, 6443, true)
		try(etcd, dns, 53, true)
		try(guarded, peer{namespace: "team-b", labels: map[string]string{}}, 2379, !narrow)
	} else {
		theirs, port := peer{address: "10.1.2.3"}, map[string]int{"plain": 80, "inline": 443, "secret": 2379}[c.chose["etcd"]]
		try(aggregator, theirs, port, true)
		try(guarded, theirs, port, true)
		try(guarded, internet, port, !narrow)
	}
	try(guarded, dns, 53, true)
	try(guarded, stranger, 8080, !narrow)
	try(peer{namespace: "team-a", labels: map[string]string{"app": "web"}}, internet, 443, true)
	if agents := slices.DeleteFunc(slices.Clone(w.policies), func(p *networkingv1.NetworkPolicy) bool {
		return !strings.HasPrefix(p.Namespace, "team-")
	}); narrow != (len(agents) == 2) {
		t.Errorf("%d policies for agents", len(agents))
	}
}
