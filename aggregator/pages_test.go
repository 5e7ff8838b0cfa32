package aggregator

import (
	"fmt"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/etcd/etcdlocal/etcdproc"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
)

// A check of many pages, on a site where nothing happens, waits for one proof of life, not for one a page.
func TestManyPagesAreCheckedAtOnce(t *testing.T) {
	t.Parallel()
	const jobs = 12 * checkPage
	client := etcdproc.Start(t, 0).Client()
	for i := 0; i < jobs; i += 100 {
		var ops []etcd.Op
		for n := i; n < i+100; n++ {
			key := job.Key{Namespace: "default", Cluster: "orders", ID: fmt.Sprintf("%032x", n)}
			account := forged(key, job.Finished, job.Yes)
			account.Books.OverAt = time.Now().UnixMilli()
			ops = append(ops, etcd.Op{Key: record.VerdictKey(site, key), Value: record.EncodeAccount(account)})
		}
		if _, err := etcd.Commit(t.Context(), client, nil, ops); err != nil {
			t.Fatal(err)
		}
	}
	r := startWith(t, Options{Site: site, UID: "uid-1", Name: "one", Etcd: client, CheckPeriod: time.Hour})
	eventually(t, "it leads and has heard everything", r.settler.judges)
	for _, c := range []*checker{r.checker(), r.settler.checker(nil)} {
		begin := time.Now()
		if err := c.check(t.Context(), c.kinds[0]); err != nil || c.kinds[0].name != "verdicts" {
			t.Errorf("%s, %s: %v", c.name, c.kinds[0].name, err)
		}
		took := time.Since(begin)
		t.Logf("%s: %d verdicts in %s", c.name, jobs, took.Round(time.Millisecond))
		if took > 30*time.Second { // a page each proof of life, which comes each 5 s, would take a minute
			t.Errorf("%s: a check of %d verdicts took %s", c.name, jobs, took)
		}
	}
}
