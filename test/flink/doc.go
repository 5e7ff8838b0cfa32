// Package realflink holds the tests that need a real Flink. They run with the build tag flink only:
//
//	go test -tags flink -count 1 -timeout 30m ./test/flink/...
//
// The first run downloads Flink, and that counts as time of the tests (see flinkproc.Distribution);
// HOLDFAST_FLINK_VERSIONS chooses other versions. Each test
// runs for each version, one cluster at a time; tests that change nothing but their own job share a session cluster.
// A test keeps its cluster's folder when it fails, and says where.
package realflink
