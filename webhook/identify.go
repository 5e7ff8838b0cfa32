package webhook

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"github.com/holdfast-dev/holdfast/record"
)

// Identity is what a JobManager's pod says of itself.
type Identity struct {
	// ClusterID names the Flink cluster, and Container its JobManager's container.
	ClusterID, Container string
	// FlinkID is kubernetes.cluster-id, by which Flink knows its cluster; "" where the pod does not tell.
	FlinkID string
	// RESTPort is where its REST API should listen.
	RESTPort int
	// Application says that the JobManager runs one application, and Session that it takes jobs from anybody; where neither is said, nobody knows.
	Application, Session bool
	// Injected says that there is an agent in the pod.
	Injected bool
}

// Identify reads a pod as Decide does, though it has been created already: with an agent or without. What an agent was told, counts.
// false means that it is no JobManager's pod, or that it cannot be told of which cluster.
func Identify(pod *corev1.Pod) (Identity, bool) {
	v := &view{pod: pod}
	if v.otherRole() != "" || !v.find() {
		return Identity{}, false
	}
	v.container = &pod.Spec.Containers[v.index]
	if v.role = roleOf(v.container); v.role == otherRole || v.container.Name == ContainerName {
		return Identity{}, false
	}
	id := Identity{
		ClusterID: v.clusterID(), Container: v.container.Name,
		Application: v.role == nativeApplication || v.role == standaloneApplication, Session: v.role.session(),
	}
	id.RESTPort, _ = v.port()
	id.FlinkID = options(v.container)[optionClusterID]
	if pod.Labels[labelType] == "flink-native-kubernetes" && id.FlinkID == "" {
		id.FlinkID = pod.Labels[labelApp]
	}
	each(&pod.Spec, func(c *corev1.Container) {
		if c.Name != ContainerName {
			return
		}
		id.Injected = true
		for _, e := range c.Env {
			switch e.Name {
			case "HOLDFAST_CLUSTER_ID":
				if record.CheckSegment("the cluster id", e.Value) == nil {
					id.ClusterID = e.Value
				}
			case "HOLDFAST_REST_PORT":
				if port, err := strconv.Atoi(e.Value); err == nil && port > 0 && port <= 65535 {
					id.RESTPort = port
				}
			}
		}
	})
	return id, id.ClusterID != ""
}
