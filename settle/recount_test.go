package settle

import (
	"testing"

	"github.com/holdfast-dev/holdfast/job"
)

// An older state of the store may have a record at the revision at which the store had another. What is known here is said again all the same.
func TestRevisionsOfAnotherStoreMeanNothing(t *testing.T) {
	t.Parallel()
	core, err := New(DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	o := &observer{t: t, core: core}
	key := job.Key{Namespace: "n", Cluster: "c", ID: "j"}
	account := job.Account{Key: key, Books: job.Books{Sequence: 3}, Verdict: job.Verdict{
		State: job.Finished, Over: job.Yes, Certainty: job.Witnessed, Attempt: job.Attempt{Number: 1, StartTime: "T1"},
	}}
	cluster := job.Cluster{Key: key.ClusterKey(), Condition: job.ClusterNoJob, Over: job.No, Certainty: job.Held, Sequence: 3}
	list := func(epoch int64, a job.Account, c job.Cluster) (effects []Effect) {
		for _, in := range []Input{
			Listing{Source: Agents, Epoch: epoch}, Synced{Source: Agents, Revision: 9},
			Listing{Source: Verdicts, Epoch: epoch}, Stored{Account: a, Revision: 7}, Synced{Source: Verdicts, Revision: 9},
			Listing{Source: Clusters, Epoch: epoch}, StoredCluster{Cluster: c, Revision: 8}, Synced{Source: Clusters, Revision: 9},
		} {
			effects = append(effects, core.Step(Event{At: o.now, Input: in})...)
		}
		return effects
	}
	list(1, account, cluster)

	older, olderCluster := account, cluster
	older.Books.Sequence, older.Verdict.State, older.Verdict.Over = 1, job.Running, job.No
	olderCluster.Sequence, olderCluster.Condition = 1, job.ClusterReady
	verdicts, clusters := 0, 0
	for _, effect := range list(2, older, olderCluster) {
		switch e := effect.(type) {
		case Write:
			if verdicts++; e.Account.Verdict.State != job.Finished || e.IfRevision != 7 {
				t.Errorf("the verdict is written as %s, if its revision is %d", e.Account.Verdict.State, e.IfRevision)
			}
		case WriteCluster:
			if clusters++; e.Cluster.Condition != job.ClusterNoJob || e.IfRevision != 8 {
				t.Errorf("the cluster is written as %s, if its revision is %d", e.Cluster.Condition, e.IfRevision)
			}
		}
	}
	if verdicts != 1 || clusters != 1 {
		t.Errorf("%d verdicts and %d clusters are said again, want one of each", verdicts, clusters)
	}
}
