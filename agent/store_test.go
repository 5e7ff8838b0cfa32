package agent

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/record"
)

// Two clusters that share an etcd and, by mistake, a site name: the second one's agents write nothing into the first one's site.
func TestAnotherClustersSiteIsLeftAlone(t *testing.T) {
	w := newWorld(t, 0)
	theirs := func(uid string, epoch int64) []byte {
		return record.EncodeIdentity(record.SiteIdentity{UID: uid, Epoch: epoch})
	}
	w.put(record.IdentityKey(testSite), theirs("them", 1))
	o := w.options()
	o.SiteUID = "us"
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	stop := w.start(a)
	w.eventually("it says what is wrong", func() bool {
		return strings.Contains(w.log.String(), `site \"test\" in this etcd is that of them, this agent is in us`)
	})
	time.Sleep(5 * minRetry) // it tries several times meanwhile, and must not succeed
	if _, there := w.pair(record.BeatKey(testSite, w.who)); there {
		t.Error("it beats in another cluster's site")
	}

	// The site becomes ours, and then begins a new epoch: the agent goes on by itself, both times.
	w.put(record.IdentityKey(testSite), theirs("us", 1))
	w.eventually("it beats", func() bool { _, there := w.pair(record.BeatKey(testSite, w.who)); return there })
	w.put(record.IdentityKey(testSite), theirs("us", 2))
	w.delete(record.BeatKey(testSite, w.who))
	w.eventually("it beats again", func() bool { _, there := w.pair(record.BeatKey(testSite, w.who)); return there })

	// Whoever takes the site away takes the right to write with it, beats included.
	w.put(record.IdentityKey(testSite), theirs("them", 9))
	wrote := w.put(record.BeatKey(testSite, w.who), []byte("theirs"))
	time.Sleep(3 * o.Repair) // it looks at what it wrote several times meanwhile, and must not mend it
	if pair, _ := w.pair(record.BeatKey(testSite, w.who)); pair.ModRevision != wrote {
		t.Error("it wrote into a site that was taken from it")
	}
	stop()
}

// A write is compared with the identity in the same transaction: what is decided between looking and writing counts.
func TestTheIdentityIsComparedWithEachWrite(t *testing.T) {
	w := newWorld(t, 0)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r := &remote{client: w.client, site: testSite, uid: "us"}
	op := []etcd.Op{{Key: record.BeatKey(testSite, w.who), Value: []byte("x")}}
	if _, err := r.commit(ctx, nil, op); err != nil {
		t.Fatalf("a site that is nobody's: %v", err)
	}
	w.put(record.IdentityKey(testSite), record.EncodeIdentity(record.SiteIdentity{UID: "them", Epoch: 1}))
	if _, err := r.commit(ctx, nil, op); !errors.Is(err, ErrForeignSite) {
		t.Errorf("the site was taken meanwhile, and the write says %v", err)
	}
	w.put(record.IdentityKey(testSite), []byte("nonsense"))
	if _, err := r.commit(ctx, nil, op); err == nil || errors.Is(err, ErrForeignSite) {
		t.Errorf("an identity that nobody can read, and the write says %v", err)
	}
}
