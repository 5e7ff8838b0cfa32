//go:build flink

package product

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/test/flink/flinkproc"
)

// condition is what the API says of a cluster.
func (p *product) condition(cluster string) string {
	p.t.Helper()
	var c struct{ Condition, Certainty, Over, Reason string }
	if code := p.get("/api/v1/clusters/local/default/"+cluster, &c); code != http.StatusOK {
		return fmt.Sprintf("HTTP %d", code)
	}
	return fmt.Sprintf("%s %s over=%s %s", c.Condition, c.Certainty, c.Over, c.Reason)
}

// untilCondition waits for what a cluster is to be shown as. What it must never be shown as, on the way, fails the test.
func (p *product) untilCondition(cluster, want string, never ...string) {
	p.t.Helper()
	begin, last := time.Now(), ""
	for time.Since(begin) < 90*time.Second {
		if now := p.condition(cluster); now != last {
			p.t.Logf("%6.2f s  %s", time.Since(begin).Seconds(), now)
			last = now
		}
		if slices.ContainsFunc(never, func(word string) bool { return strings.HasPrefix(last, word) }) {
			p.t.Fatalf("the cluster %s is shown as %s", cluster, last)
		}
		if strings.HasPrefix(last, want) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	p.t.Fatalf("the cluster %s is shown as %s, want %s", cluster, last, want)
}

// jobs says how many jobs there are.
func (p *product) jobs() int {
	p.t.Helper()
	var list struct{ Items []verdict }
	if code := p.get("/api/v1/jobs", &list); code != http.StatusOK {
		p.t.Fatalf("jobs: HTTP %d", code)
	}
	return len(list.Items)
}

// A cluster in which all is well is ready, through a hang of its JobManager, which is held.
func TestClusterThatIsWell(t *testing.T) {
	eachVersion(t, func(t *testing.T, dist *flinkproc.Dist) {
		c := control(t)
		cluster := application(t, flinkproc.Options{Dist: dist}, flinkproc.Application{Job: flinkproc.Job{Name: "orders", Sources: []string{c.Addr()}}})
		p := startProduct(t, nil)
		p.attend(cluster, "well")
		p.untilCondition("well", "Ready Witnessed over=no FlinkSaid", "JobManagerDown", "CrashLoop")
		check(t, cluster.JobManager().Pause())
		p.untilCondition("well", "Ready Held over=no JobManagerUnreachable", "NoJob", "Unknown", "JobManagerDown", "HTTP")
		check(t, cluster.JobManager().Continue())
		p.untilCondition("well", "Ready Witnessed over=no FlinkSaid", "NoJob", "Unknown", "JobManagerDown", "HTTP")
	})
}

// An application whose main() has not submitted anything has no job id, and so no verdict: what there is to say, the cluster says.
func TestClusterWithoutAJob(t *testing.T) {
	eachVersion(t, func(t *testing.T, dist *flinkproc.Dist) {
		cluster := application(t, flinkproc.Options{Dist: dist}, flinkproc.Application{Job: flinkproc.Job{Idle: true}})
		p := startProduct(t, nil)
		p.attend(cluster, "idle")
		p.untilCondition("idle", "NoJob Witnessed over=no FlinkSaid", "Ready", "JobManagerDown", "CrashLoop")
		if n := p.jobs(); n != 0 {
			t.Errorf("%d jobs are shown, and none was submitted", n)
		}
	})
}

// Where main() throws, Flink ends the JobManager. Without Kubernetes nobody knows that it is gone: it does not answer, and that is all that is
// said, of the cluster; and of a job, nothing.
func TestMainThrows(t *testing.T) {
	eachVersion(t, func(t *testing.T, dist *flinkproc.Dist) {
		cluster := application(t, flinkproc.Options{Dist: dist}, flinkproc.Application{Job: flinkproc.Job{Throws: true}})
		p := startProduct(t, nil)
		p.attend(cluster, "throws")
		select {
		case <-cluster.JobManager().Ended():
		case <-limit(t).Done():
			t.Fatal("the JobManager outlives a main() that threw")
		}
		if code, _ := cluster.JobManager().ExitCode(); code == 0 {
			t.Error("the JobManager ended with exit code 0")
		}
		p.untilCondition("throws", "Unknown Held over=no JobManagerUnreachable", "Ready", "NoJob", "JobManagerDown", "CrashLoop")
		if n := p.jobs(); n != 0 {
			t.Errorf("%d jobs are shown, and none was submitted", n)
		}
	})
}
