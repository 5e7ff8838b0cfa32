package record

import (
	"fmt"

	"github.com/holdfast-dev/holdfast/job"
)

type cluster struct {
	V         int             `json:"v"`
	Condition job.Condition   `json:"condition"`
	Over      job.Answer      `json:"over"`
	Certainty job.Certainty   `json:"certainty"`
	Reason    job.Reason      `json:"reason"`
	Since     job.Stamp       `json:"since"`
	LastSeen  job.Stamp       `json:"lastSeen"`
	Pods      []job.PodStatus `json:"pods,omitempty"`
	Workload  *job.Workload   `json:"workload,omitempty"`
	Sequence  int64           `json:"sequence"`
	IdleAt    int64           `json:"idleAt,omitempty"`
}

// EncodeCluster gives the record of what is said of a Flink cluster. Its names are in the key.
func EncodeCluster(c job.Cluster) []byte {
	out := cluster{
		V: Version, Condition: c.Condition, Over: c.Over, Certainty: c.Certainty, Reason: c.Reason, Since: c.Since, LastSeen: c.LastSeen,
		Pods: c.Pods, Sequence: c.Sequence, IdleAt: c.IdleAt,
	}
	if c.Workload != (job.Workload{}) {
		out.Workload = &c.Workload
	}
	return encode(out)
}

// DecodeCluster reads the record that lay at the cluster's key. More pods than the limit are cut.
func DecodeCluster(key job.ClusterKey, data []byte) (job.Cluster, error) {
	var in cluster
	if err := decode(data, &in, &in.V); err != nil {
		return job.Cluster{}, fmt.Errorf("condition of the cluster %s: %w", key, err)
	}
	if in.Sequence < 1 {
		return job.Cluster{}, fmt.Errorf("condition of the cluster %s: sequence %d: %w", key, in.Sequence, ErrCorrupt)
	}
	out := job.Cluster{
		Key: key, Condition: in.Condition, Over: in.Over, Certainty: in.Certainty, Reason: in.Reason, Since: in.Since, LastSeen: in.LastSeen,
		Sequence: in.Sequence, IdleAt: in.IdleAt,
	}
	for _, p := range in.Pods[:min(len(in.Pods), job.PodsLimit)] {
		p.Name, p.Waiting, p.Message = clip(p.Name), clip(p.Waiting), clip(p.Message)
		out.Pods = append(out.Pods, p)
	}
	if w := in.Workload; w != nil {
		out.Workload = job.Workload{Kind: clip(w.Kind), Name: clip(w.Name), UID: clip(w.UID)}
	}
	return out, nil
}
