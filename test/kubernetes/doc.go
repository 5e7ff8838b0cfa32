// Package realkubernetes holds the tests that need a real Kubernetes. They run with the build tag kubernetes only:
//
//	go test -tags kubernetes -count 1 -timeout 90m ./test/kubernetes/...
//
// As root on Debian they boot a node of their own, whose first time takes a quarter of an hour, or use one that is running (go run
// ./test/kubernetes/cmd up). With KUBECONFIG they run on any other cluster, without those that break the node: see package
// rig. HOLDFAST_FLINK_VERSIONS chooses other versions of Flink.
package realkubernetes
