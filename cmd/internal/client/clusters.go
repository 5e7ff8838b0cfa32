package client

import (
	"bytes"
	"context"
	"encoding/json"
	"net/url"
)

// Cluster is one Flink cluster as a whole, as the API gives it.
type Cluster struct {
	Site      string       `json:"site"`
	Namespace string       `json:"namespace"`
	Cluster   string       `json:"cluster"`
	Condition string       `json:"condition"`
	Over      string       `json:"over"`
	Certainty string       `json:"certainty"`
	Reason    string       `json:"reason"`
	Message   string       `json:"message"`
	Since     string       `json:"since"`
	LastSeen  string       `json:"lastSeen"`
	Workload  string       `json:"workload"`
	Pods      []Pod        `json:"pods"`
	Jobs      []ClusterJob `json:"jobs"`
	JobCount  int          `json:"jobCount"`

	// Raw is the cluster as it came, with fields that this client does not know.
	Raw json.RawMessage `json:"-"`
}

// Pod is one JobManager's pod.
type Pod struct {
	Name     string `json:"name"`
	Running  string `json:"running"`
	Restarts int    `json:"restarts"`
	ExitCode *int   `json:"exitCode"`
	Waiting  string `json:"waiting"`
	Message  string `json:"message"`
	Reach    string `json:"reach"`
}

// ClusterJob is a job of a cluster, in short.
type ClusterJob struct {
	JobID     string `json:"jobID"`
	Pipeline  string `json:"pipeline"`
	State     string `json:"state"`
	Over      string `json:"over"`
	Certainty string `json:"certainty"`
}

// Path tells the cluster from every other of its site: namespace/cluster.
func (c *Cluster) Path() string { return c.Namespace + "/" + c.Cluster }

// UnmarshalJSON reads a cluster and keeps its text.
func (c *Cluster) UnmarshalJSON(data []byte) error {
	type plain Cluster
	if err := json.Unmarshal(data, (*plain)(c)); err != nil {
		return err
	}
	c.Raw = bytes.Clone(data)
	return nil
}

// MarshalJSON writes the cluster as it came.
func (c Cluster) MarshalJSON() ([]byte, error) { return c.Raw, nil }

// ClusterList is a list of clusters, all pages together.
type ClusterList = list[Cluster]

// Clusters lists the clusters that pass a filter, which has the API's own parameters.
func (c *Client) Clusters(ctx context.Context, filter url.Values) (ClusterList, error) {
	return all[Cluster](ctx, c, "/api/v1/clusters", filter)
}

// Cluster gives one cluster with its jobs.
func (c *Client) Cluster(ctx context.Context, of *Cluster) (Cluster, error) {
	var answer Cluster
	path := "/api/v1/clusters/" + url.PathEscape(of.Site) + "/" + url.PathEscape(of.Namespace) + "/" + url.PathEscape(of.Cluster)
	err := c.get(ctx, path, nil, &answer)
	return answer, err
}
