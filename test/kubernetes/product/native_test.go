//go:build kubernetes

package product

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/settle"
	"github.com/holdfast-dev/holdfast/test/flink/flinkproc"
	"github.com/holdfast-dev/holdfast/test/kubernetes/flinkpod"
)

// As StreamPark starts them: nobody but the label says that there is a Holdfast. An application that was canceled is started again under
// its cluster id, as another job.
func TestNativeApplication(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, dist *flinkproc.Dist) {
		options := flinkpod.Options{Dist: dist, Namespace: namespace(t, "native", nil), ID: "orders"}
		first, _ := canceledInSight(t, options, func(int) int { return 1 }) // each time another job
		record := holdfast.record(t, first.jobs())
		second := begun(t, options, 1)
		if second.job == first.job {
			t.Fatalf("the application's second job has the id of its first one, %s, and nothing remembers that", first.job)
		}
		first.shown(t, first.job, "CANCELED Witnessed over=yes attempt=1")
		second.shown(t, second.job, "RUNNING Witnessed over=no attempt=1")
		first.checkHistory(t, first.job, "INITIALIZING", "CREATED", "RUNNING", "CANCELLING", "CANCELED")
		for _, s := range record.seen(t) {
			if s.job == first.job && !strings.HasPrefix(s.is, "CANCELED Witnessed over=yes attempt=1") {
				t.Errorf("after %s %s shows the job that was canceled as %s", s.at, s.replica, s.is)
			}
		}
	})
}

// With high availability Flink derives the job's id from that of the cluster. It remembers nothing of a job that was canceled, so the same
// job is started again: a second attempt.
func TestNativeApplicationWithHighAvailability(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, dist *flinkproc.Dist) {
		options := flinkpod.Options{Dist: dist, Namespace: namespace(t, "native-ha", nil), ID: "orders", HA: true}
		first, attempt := canceledInSight(t, options, func(try int) int { return try })
		record := holdfast.record(t, first.jobs())
		second := begun(t, options, attempt+1)
		if second.job != first.job {
			t.Errorf("the application's second job is %s, and its first one was %s", second.job, first.job)
		}
		next := fmt.Sprintf("Witnessed over=no attempt=%d", attempt+1)
		record.only(t, fmt.Sprintf("CANCELED Witnessed over=yes attempt=%d", attempt), "INITIALIZING "+next, "CREATED "+next, "RUNNING "+next)
	})
}

// begun starts an application and fails the test unless it is shown as RUNNING, that attempt of its job, within 5 s of when it was, as
// Flink says: pods of our own node have this machine's clock. Elsewhere it counts from when the test heard of it.
func begun(t *testing.T, options flinkpod.Options, attempt int) *running {
	t.Helper()
	holdfast.whole.RLock()
	defer holdfast.whole.RUnlock()
	want := fmt.Sprintf("RUNNING Witnessed over=no attempt=%d", attempt)
	record := holdfast.record(t, flinkJobs{options.Namespace, options.ID})
	r := application(t, options, flinkproc.Job{})
	v := holdfast.watch(t, r.jobs(), prompt, want, "FAILED", "UNKNOWN")
	if v.JobID != r.job || v.Name != "orders" {
		t.Errorf("job %s (%s) is shown, and Flink's is %s", v.JobID, v.Name, r.job)
	}
	ran := r.at
	if cluster.Node != nil {
		var err error
		ran, err = r.flink.Entered(limit(t), r.job, job.Running)
		check(t, err)
	}
	shown := time.Now()
	sights := record.seen(t)
	if i := slices.IndexFunc(sights, func(s sight) bool { return s.job == r.job && strings.HasPrefix(s.is, want) }); i >= 0 {
		shown = record.begin.Add(sights[i].at)
	}
	took := shown.Sub(ran)
	t.Logf("shown %.2f s after Flink's own RUNNING, and the test heard of that %.2f s after it", took.Seconds(), r.at.Sub(ran).Seconds())
	if took > 5*time.Second {
		t.Errorf("shown %s after Flink's own RUNNING, want 5 s at most", took)
	}
	if cluster.Node != nil && took < 0 {
		t.Errorf("shown %s before Flink's own RUNNING: it is not measured by one clock", -took)
	}
	return r
}

// canceledInSight starts an application and cancels it, until its end was seen, three times at most: a JobManager leaves within 2 s of its job's
// end, and whoever asks it now and then misses some. What was missed is held, and never shown as FAILED. attempt says which one a try is.
func canceledInSight(t *testing.T, options flinkpod.Options, attempt func(try int) int) (*running, int) {
	t.Helper()
	for try := 1; try <= 3; try++ {
		r := begun(t, options, attempt(try))
		if pod := r.jobManager(t); !isInjected(pod) {
			t.Errorf("pod %s has no agent", pod.Name)
		}
		if canceled(t, r) {
			return r, attempt(try)
		}
		t.Logf("nobody saw how job %s ended", r.job)
	}
	t.Fatal("of three endings none was seen")
	return nil, 0
}

// canceled cancels an application's job, waits until Flink has removed its cluster by itself, and says whether the job is shown as CANCELED.
func canceled(t *testing.T, r *running) (seen bool) {
	t.Helper()
	check(t, r.flink.Cancel(limit(t), r.job))
	for begin := time.Now(); !seen && time.Since(begin) < prompt; time.Sleep(100 * time.Millisecond) {
		all, err := holdfast.jobs(t.Context(), r.jobs())
		if err != nil {
			continue
		}
		for _, v := range all {
			if v.State == "FAILED" || v.State == "UNKNOWN" {
				t.Fatalf("job %s was canceled, and is shown as %s", v.JobID, v)
			}
			seen = seen || v.JobID == r.job && strings.HasPrefix(v.String(), "CANCELED Witnessed over=yes")
		}
	}
	eventually(t, time.Minute, "Flink removes its cluster", func(ctx context.Context) error {
		pods, err := r.JobManagers(ctx)
		if err == nil && len(pods) > 0 {
			err = errors.New(flinkpod.DescribePod(&pods[0]))
		}
		if err != nil {
			return err
		}
		_, err = cluster.Set.AppsV1().Deployments(r.Namespace()).Get(ctx, r.ID(), metav1.GetOptions{})
		if err == nil {
			return errors.New("its Deployment is there")
		}
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
	return seen
}

// concluded is when the end of a pod has had all its consequences: the lease of its agent has run out, then the hold time, then the grace
// time. They are the aggregator's defaults, which the chart does not change.
func concluded() time.Duration {
	c := settle.DefaultConfig()
	return c.Lease + c.Hold + c.Grace
}

// sometime is how much longer than necessary a test looks for what comes late.
const sometime = 5 * time.Second

// Without high availability a JobManager that is replaced begins its job anew, under another id. Of the old one nobody has seen the end: it is
// over, since only a JobManager runs that does not know it, and not taken for FAILED, however long one waits.
func TestPodDeleted(t *testing.T) {
	t.Parallel()
	replaced(t, false, func(t *testing.T, r *running) {
		eventually(t, 2*time.Minute, "another job runs and is shown", func(ctx context.Context) error {
			return another(ctx, r, r.job, "RUNNING Witnessed over=no attempt=1")
		})
	}, func(t *testing.T, r *running) {
		// Where another test's agent is silent at this time, the few agents of this site make that one more than a fifth (S9).
		holdfast.until(t, r.jobs(), settle.DefaultConfig().FreezeLimit, "UNKNOWN Inferred over=yes attempt=1 Replaced", "FAILED")
	}, func(t *testing.T, r *running, sights []sight) {
		last := map[string]string{}
		for _, s := range sights {
			may := []string{"INITIALIZING Witnessed over=no", "CREATED Witnessed over=no", "RUNNING Witnessed over=no"}
			if s.job == r.job {
				may = []string{"RUNNING Witnessed over=no", "RUNNING Held over=no", "UNKNOWN Inferred over=yes"}
			}
			if !slices.ContainsFunc(may, func(prefix string) bool { return strings.HasPrefix(s.is, prefix+" attempt=1") }) {
				t.Errorf("%s: after %s %s shows job %s as %s, and only %q may be", r.Namespace(), s.at, s.replica, s.job, s.is, may)
			}
			last[s.job] = s.is
		}
		if len(last) != 2 {
			t.Errorf("%s: these jobs were shown, and there were two: %v", r.Namespace(), last)
		}
		if is := last[r.job]; is != "UNKNOWN Inferred over=yes attempt=1 Replaced" {
			t.Errorf("%s: in the end the job whose JobManager was replaced is shown as %s", r.Namespace(), is)
		}
	})
}

// With high availability the next JobManager takes the job up again.
func TestPodDeletedWithHighAvailability(t *testing.T) {
	t.Parallel()
	replaced(t, true, func(t *testing.T, r *running) {
		holdfast.until(t, r.jobs(), 2*time.Minute, "RUNNING Witnessed over=no attempt=2", "FAILED", "UNKNOWN")
	}, func(*testing.T, *running) {
		// Nothing is concluded where the job goes on.
	}, func(t *testing.T, r *running, sights []sight) {
		for _, s := range sights {
			if state := strings.Fields(s.is)[0]; state == "FAILED" || state == "UNKNOWN" || state == "NOTHING" {
				t.Errorf("%s: after %s %s shows job %s as %s", r.Namespace(), s.at, s.replica, s.job, s.is)
			}
		}
		if v := onlyJob(t, r); !strings.HasPrefix(v.String(), "RUNNING Witnessed over=no attempt=2") {
			t.Errorf("%s: in the end the job is shown as %s", r.Namespace(), v)
		}
	})
}

// replaced deletes the JobManager's pod of an application of each version, waits until each is back as the test has it, goes on recording
// until all is concluded that could be, and shows the test what was shown. All wait together.
func replaced(t *testing.T, ha bool, back, concludes func(t *testing.T, r *running), verify func(t *testing.T, r *running, sights []sight)) {
	t.Helper()
	var all []*running
	var records []*recorder
	for _, dist := range cluster.Flinks {
		r := application(t, flinkpod.Options{Dist: dist, Namespace: namespace(t, "deleted", nil), ID: "orders", HA: ha},
			flinkproc.Job{Restarts: 1000, Delay: time.Second})
		holdfast.until(t, r.jobs(), prompt, "RUNNING Witnessed over=no attempt=1", "FAILED", "UNKNOWN")
		all, records = append(all, r), append(records, holdfast.record(t, r.jobs()))
	}
	for _, r := range all {
		deletePod(t, r.Namespace(), r.jobManager(t).Name)
	}
	deleted := time.Now()
	for i, r := range all {
		back(t, r)
		t.Logf("Flink %s in %s: shown again %.1f s after its pod was deleted", cluster.Flinks[i].Version, r.Namespace(), time.Since(deleted).Seconds())
	}
	time.Sleep(concluded() + sometime) // only what answers takes the place of what is gone
	for i, r := range all {
		concludes(t, r)
		verify(t, r, records[i].seen(t))
	}
}

func deletePod(t *testing.T, namespace, name string) {
	t.Helper()
	check(t, cluster.Set.CoreV1().Pods(namespace).Delete(limit(t), name, metav1.DeleteOptions{}))
}
