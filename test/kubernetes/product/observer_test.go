//go:build kubernetes

package product

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// verdict is what the API says of a job, as far as the suite looks at it.
type verdict struct {
	Site, Namespace, Cluster, JobID, Name, State, Certainty, Over, Reason, Message string

	Attempt struct {
		Number    int
		StartTime string
	}
	LastSeen time.Time
}

func (v verdict) String() string {
	return fmt.Sprintf("%s %s over=%s attempt=%d %s", v.State, v.Certainty, v.Over, v.Attempt.Number, v.Reason)
}

// jobs asks one replica for all jobs of a Flink cluster, the newest attempt of each.
func (r replica) jobs(ctx context.Context, namespace, cluster string) ([]verdict, error) {
	var list struct{ Items []verdict }
	err := r.ask(ctx, fmt.Sprintf("/api/v1/jobs?namespace=%s&cluster=%s", namespace, cluster), &list)
	return list.Items, err
}

func (r replica) ask(ctx context.Context, path string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url+path, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: HTTP %d: %s", path, response.StatusCode, body)
	}
	return json.Unmarshal(body, into)
}

const (
	// prompt is within which time Holdfast must show what a live agent sees: it asks each second, and the tests leave little of the machine's
	// processors to it.
	prompt = 10 * time.Second
	// recovery is within which time after healing a verdict must be Witnessed again: an agent that lost its lease tries for 10 s to get
	// another, then pauses for 10 s, the longest of its pauses, then connects, in 5 s at most, and asks Flink. It is the part of invariant
	// 13 (lease, hold and grace time, and the longest pause) that is not spent on silence.
	recovery = 30 * time.Second
)

// flinkJobs are the jobs of one Flink cluster, as the suite watches them.
type flinkJobs struct{ namespace, cluster string }

// until waits until exactly one job of a cluster is shown as wanted (a beginning of verdict.String), by any replica that answers.
// What no job of the cluster may ever be shown as, on the way, fails the test.
func (s *site) until(t *testing.T, jobs flinkJobs, limit time.Duration, want string, never ...string) verdict {
	t.Helper()
	s.whole.RLock()
	defer s.whole.RUnlock()
	return s.watch(t, jobs, limit, want, never...)
}

// watch is until for who holds site.whole already.
func (s *site) watch(t *testing.T, jobs flinkJobs, limit time.Duration, want string, never ...string) verdict {
	t.Helper()
	begin, last := time.Now(), map[string]string{}
	for {
		all, err := s.jobs(t.Context(), jobs)
		if err != nil {
			last[""] = err.Error()
		}
		for _, v := range all {
			now := v.String()
			if last[v.JobID] != now {
				t.Logf("%6.2f s  %s  %s", time.Since(begin).Seconds(), v.JobID[:8], now)
				last[v.JobID] = now
			}
			if slices.Contains(never, v.State) {
				t.Fatalf("%s/%s is shown as %s (%s)", jobs.cluster, v.JobID, v, v.Message)
			}
			if strings.HasPrefix(now, want) {
				return v
			}
		}
		if time.Since(begin) > limit {
			t.Fatalf("%s: after %s no job is shown as %q, but %v", jobs.cluster, limit, want, last)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// everywhere waits until every replica shows a job of a cluster as wanted, and says how long that took.
func (s *site) everywhere(t *testing.T, jobs flinkJobs, limit time.Duration, want string) time.Duration {
	t.Helper()
	begin := time.Now()
	eventually(t, limit, jobs.cluster+" is shown by all as "+want, func(ctx context.Context) error {
		pods, err := s.aggregators(ctx)
		if err != nil {
			return err
		}
		replicas := s.replicas(ctx)
		if len(replicas) == 0 || len(replicas) < len(pods) {
			return fmt.Errorf("%d of %d replicas can be asked", len(replicas), len(pods))
		}
		for _, r := range replicas {
			all, err := r.jobs(ctx, jobs.namespace, jobs.cluster)
			if err != nil {
				return err
			}
			if !slices.ContainsFunc(all, func(v verdict) bool { return strings.HasPrefix(v.String(), want) }) {
				return fmt.Errorf("%s shows %v", r.pod, all)
			}
		}
		return nil
	})
	return time.Since(begin)
}

// jobs asks the replicas one after another until one answers.
func (s *site) jobs(ctx context.Context, jobs flinkJobs) (all []verdict, err error) {
	err = errors.New("there is no replica of the aggregator")
	for _, r := range s.replicas(ctx) {
		if all, err = r.jobs(ctx, jobs.namespace, jobs.cluster); err == nil {
			return all, nil
		}
	}
	return nil, err
}

// sight is what one replica showed of one job, from when on.
type sight struct {
	at               time.Duration
	replica, job, is string
}

// recorder asks every replica about a cluster's jobs, four times a second, and keeps each change.
type recorder struct {
	begin time.Time
	stop  func()

	mu      sync.Mutex
	sights  []sight
	now     map[string]string
	answers map[string]int
}

func (s *site) record(t *testing.T, jobs flinkJobs) *recorder {
	ctx, cancel := context.WithCancel(context.Background())
	r := &recorder{begin: time.Now(), now: map[string]string{}, answers: map[string]int{}}
	var done, asking sync.WaitGroup
	done.Go(func() {
		asked := map[string]chan struct{}{} // by pod: a replica that does not answer keeps nobody from being asked
		for ctx.Err() == nil {
			for _, one := range s.replicas(ctx) {
				select {
				case <-asked[one.pod]:
				default:
					if asked[one.pod] != nil {
						continue
					}
				}
				answered := make(chan struct{})
				asked[one.pod] = answered
				asking.Go(func() {
					defer close(answered)
					if all, err := one.jobs(ctx, jobs.namespace, jobs.cluster); err == nil {
						r.note(one.pod, all)
					}
				})
			}
			select {
			case <-ctx.Done():
			case <-time.After(250 * time.Millisecond):
			}
		}
		asking.Wait()
	})
	var once sync.Once
	r.stop = func() { once.Do(func() { cancel(); done.Wait() }) }
	t.Cleanup(r.stop)
	return r
}

func (r *recorder) note(replica string, all []verdict) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answers[replica]++
	if len(all) == 0 && len(r.sights) > 0 && time.Since(r.begin)-r.sights[0].at > time.Second {
		all = []verdict{{JobID: "(no job)", State: "NOTHING"}} // though a job was shown before
	}
	for _, v := range all {
		key := replica + " " + v.JobID
		if is := v.String(); r.now[key] != is {
			r.now[key] = is
			r.sights = append(r.sights, sight{time.Since(r.begin), replica, v.JobID, is})
		}
	}
}

// seen ends the recording, logs it, and gives all that was shown.
func (r *recorder) seen(t *testing.T) []sight {
	t.Helper()
	r.stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sights {
		t.Logf("%7.1f s  %s  %s  %s", s.at.Seconds(), s.replica, s.job[:8], s.is)
	}
	for replica, n := range r.answers {
		t.Logf("%s answered %d times", replica, n)
	}
	return r.sights
}

// only fails the test if anything was shown that begins with none of the given words.
func (r *recorder) only(t *testing.T, allowed ...string) {
	t.Helper()
	sights := r.seen(t)
	if len(sights) == 0 {
		t.Error("nothing was shown at all")
	}
	for _, s := range sights {
		if !slices.ContainsFunc(allowed, func(prefix string) bool { return strings.HasPrefix(s.is, prefix) }) {
			t.Errorf("after %s replica %s shows job %s as %s, and only %v may be", s.at.Round(100*time.Millisecond), s.replica, s.job, s.is, allowed)
		}
	}
}

// never fails the test if any of the states was shown.
func (r *recorder) never(t *testing.T, states ...string) {
	t.Helper()
	for _, s := range r.seen(t) {
		if slices.Contains(states, strings.Fields(s.is)[0]) {
			t.Errorf("after %s replica %s shows job %s as %s", s.at.Round(100*time.Millisecond), s.replica, s.job, s.is)
		}
	}
}

// another says whether a job that is not the given one is shown as wanted.
func another(ctx context.Context, r *running, not, want string) error {
	all, err := holdfast.jobs(ctx, r.jobs())
	if err != nil {
		return err
	}
	for _, v := range all {
		if v.JobID != not && strings.HasPrefix(v.String(), want) {
			return nil
		}
	}
	return fmt.Errorf("shown: %v", all)
}
