// Package record is the form in which Holdfast's facts lie in etcd and in last words: keys, and JSON that people read
// with etcdctl. Agents outlive upgrades by a year, so what was written once must be readable for as long: the golden files in
// testdata/v1 never change. Nothing here knows what a record means for a verdict.
package record

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/holdfast-dev/holdfast/evidence"
	"github.com/holdfast-dev/holdfast/job"
)

// Root is the prefix below which every site has its own.
const Root = "/holdfast/v1/"

// Kind tells what lies at a key.
type Kind uint8

const (
	Identity Kind = iota + 1
	Beat
	Report
	Verdict
	History
	Leader
	Condition
	Cluster
)

// Place is a key taken apart. Which fields are set depends on the kind.
type Place struct {
	Kind     Kind
	Agent    evidence.Agent // Beat, Report
	Job      job.Key        // Report, Verdict, History; without an ID Cluster
	Sequence int64          // History
}

// ErrForeign is wrapped by the error for a key that is none of Holdfast's.
var ErrForeign = errors.New("not a key of Holdfast")

// SegmentLimit bounds one segment of a key in bytes: Kubernetes allows 253 for a name, and Flink 32 for a job id.
const SegmentLimit = 253

// CheckSegment says why a name cannot be a part of a key. A site, a namespace, a cluster id, a pod uid and a job id are
// each one segment.
func CheckSegment(what, name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%s is empty", what)
	case len(name) > SegmentLimit:
		return fmt.Errorf("%s has %d characters: at most %d are allowed", what, len(name), SegmentLimit)
	case name == "." || name == "..":
		return fmt.Errorf("%s %q: choose a name of letters and digits", what, name)
	}
	for _, r := range name {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !letter && r != '-' && r != '_' && r != '.' {
			return fmt.Errorf("%s %q has the character %q: only letters, digits, '-', '_' and '.' are allowed", what, name, r)
		}
	}
	return nil
}

// SitePrefix is the prefix of all that belongs to a site.
func SitePrefix(site string) string { return Root + site + "/" }

// IdentityKey is where a site says whose it is.
func IdentityKey(site string) string { return SitePrefix(site) + "identity" }

// LeaderKey is the key of the election.
func LeaderKey(site string) string { return SitePrefix(site) + "leader" }

// ConditionKey is where the leader says whether conclusions are frozen.
func ConditionKey(site string) string { return SitePrefix(site) + "condition" }

// AgentPrefix is the prefix of all that one agent writes.
func AgentPrefix(site string, a evidence.Agent) string {
	return SitePrefix(site) + "agents/" + a.Namespace + "/" + a.Cluster + "/" + a.PodUID + "/"
}

// BeatKey is the key of an agent's sign of life.
func BeatKey(site string, a evidence.Agent) string { return AgentPrefix(site, a) + "beat" }

// ReportKey is the key of what an agent saw of one job.
func ReportKey(site string, a evidence.Agent, jobID string) string {
	return AgentPrefix(site, a) + "jobs/" + jobID
}

// VerdictKey is the key of a job's verdict.
func VerdictKey(site string, k job.Key) string { return SitePrefix(site) + "verdicts/" + k.String() }

// HistoryPrefix is the prefix of a job's history.
func HistoryPrefix(site string, k job.Key) string {
	return SitePrefix(site) + "history/" + k.String() + "/"
}

// HistoryKey is the key of one entry of a history. The number is padded, so that etcd lists a history in its order.
func HistoryKey(site string, k job.Key, sequence int64) string {
	return fmt.Sprintf("%s%012d", HistoryPrefix(site, k), sequence)
}

// ClusterKey is the key of what is said of a Flink cluster as a whole.
func ClusterKey(site string, k job.ClusterKey) string {
	return SitePrefix(site) + "clusters/" + k.String()
}

// ParseKey takes a key of a site apart. The error wraps ErrForeign if the key is none of Holdfast's.
func ParseKey(site, key string) (Place, error) {
	rest, ok := strings.CutPrefix(key, SitePrefix(site))
	if !ok {
		return Place{}, foreign(key)
	}
	switch rest {
	case "identity":
		return Place{Kind: Identity}, nil
	case "leader":
		return Place{Kind: Leader}, nil
	case "condition":
		return Place{Kind: Condition}, nil
	}
	var part [7]string
	n := 0
	for more := true; more; n++ {
		if n == len(part) {
			return Place{}, foreign(key)
		}
		if part[n], rest, more = strings.Cut(rest, "/"); part[n] == "" {
			return Place{}, foreign(key)
		}
	}
	switch agent := (evidence.Agent{Namespace: part[1], Cluster: part[2], PodUID: part[3]}); {
	case part[0] == "agents" && n == 5 && part[4] == "beat":
		return Place{Kind: Beat, Agent: agent}, nil
	case part[0] == "agents" && n == 6 && part[4] == "jobs":
		return Place{Kind: Report, Agent: agent, Job: job.Key{Namespace: part[1], Cluster: part[2], ID: part[5]}}, nil
	case part[0] == "verdicts" && n == 4:
		return Place{Kind: Verdict, Job: job.Key{Namespace: part[1], Cluster: part[2], ID: part[3]}}, nil
	case part[0] == "clusters" && n == 3:
		return Place{Kind: Cluster, Job: job.Key{Namespace: part[1], Cluster: part[2]}}, nil
	case part[0] == "history" && n == 5:
		sequence, err := strconv.ParseInt(part[4], 10, 64)
		if err != nil || sequence < 1 {
			return Place{}, foreign(key)
		}
		return Place{Kind: History, Job: job.Key{Namespace: part[1], Cluster: part[2], ID: part[3]}, Sequence: sequence}, nil
	}
	return Place{}, foreign(key)
}

func foreign(key string) error {
	if len(key) > 512 {
		key = key[:512] + "…"
	}
	return fmt.Errorf("%q: %w", key, ErrForeign)
}
