package certs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/holdfast-dev/holdfast/pki"
)

// Three replicas, restarted now and then, and three API servers that hear of everything late: through several rotations, no admission fails
// and no replica stops being ready.
func TestNoAdmissionFailsWhileAuthoritiesRotate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("a", "b", "c")
		m.latency = 2 * time.Second
		views := []*apiServerView{m.view(t, 0), m.view(t, 10*time.Second), m.view(t, time.Minute)}
		replicas := []*replica{run(t, m, fast()), run(t, m, fast()), run(t, m, fast())}
		for _, r := range replicas {
			eventually(t, time.Minute, "ready", r.Ready)
		}
		time.Sleep(2 * time.Minute) // the API servers hear of the first authority

		seen, admissions := map[string]bool{}, 0
		restart := time.Now().Add(7 * time.Minute)
		for end := time.Now().Add(24 * time.Hour); time.Now().Before(end); time.Sleep(rand.N(4 * time.Minute)) {
			if time.Now().After(restart) {
				i := rand.N(len(replicas))
				replicas[i].stop()
				replicas[i] = run(t, m, fast())
				eventually(t, time.Minute, "ready after a restart", replicas[i].Ready)
				restart = time.Now().Add(rand.N(3 * time.Hour))
			}
			for i, r := range replicas {
				if err := r.Ready(); err != nil {
					t.Fatalf("%s: replica %d: %v\n%s", time.Now(), i, err, r.log)
				}
				seen[authorityOf(t, r)] = true
				for j, v := range views {
					admissions++
					if err := v.admit(r); err != nil {
						t.Fatalf("%s: API server %d, replica %d: %v\n%s", time.Now(), j, i, err, r.log)
					}
				}
			}
		}
		if len(seen) < 5 {
			t.Errorf("%d authorities in a day, and each is current for four hours", len(seen))
		}
		data, entries := m.snapshot()
		for _, e := range entries {
			if certs, err := pki.ParseCertificates(e.bundle); err != nil || len(certs) > 3 {
				t.Errorf("%d certificates in a bundle, error %v", len(certs), err)
			}
		}
		if m.saves > 40 || m.patches > 40 {
			t.Errorf("%d writes of the Secret and %d of the configuration: a rotation is made of three each", m.saves, m.patches)
		}
		t.Logf("%d admissions, %d authorities, %d and %d writes; last: %s", admissions, len(seen), m.saves, m.patches, data[lastChange])
	})
}

// With the ages that users have: an authority is replaced when a third of its life is left, and a certificate when half of it is.
func TestDefaultsRotateInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("a")
		o := fast()
		o.AuthorityLife, o.LeafLife, o.Overlap = 0, 0, 0
		v, r := m.view(t, time.Second), run(t, m, o)
		eventually(t, 10*time.Second, "ready", r.Ready)
		first := authorityOf(t, r)
		time.Sleep(30 * time.Hour)
		if f := r.Facts(); f.Rotations != 1 || f.Renewals != 3 || time.Until(f.LeafExpires) < 12*time.Hour ||
			time.Until(f.AuthorityExpires) < 363*24*time.Hour {
			t.Errorf("facts after the first day: %+v", f)
		}
		r.stop()
		time.Sleep(240 * 24 * time.Hour)
		r = run(t, m, o)
		time.Sleep(time.Hour)
		if authorityOf(t, r) != first {
			t.Error("the authority was replaced although two thirds of its life have not gone by")
		}
		r.stop()
		time.Sleep(2 * 24 * time.Hour)
		r = run(t, m, o)
		time.Sleep(26 * time.Hour)
		if authorityOf(t, r) == first {
			t.Error("the authority was not replaced although two thirds of its life have gone by")
		}
		if err := errors.Join(r.Ready(), v.admit(r)); err != nil {
			t.Error(err)
		}
		data, _ := m.snapshot()
		if len(data[previousCerts]) != 0 {
			t.Error("the previous authority is still trusted")
		}
		if f := r.Facts(); f.Rotations != 2 || f.SecretRepairs != 0 || f.BundleRepairs != 0 || time.Until(f.AuthorityExpires) < 300*24*time.Hour {
			t.Errorf("facts %+v", f)
		}
	})
}

// Whoever comes first makes the authority; the others take it.
func TestManyAtOnceMakeOneAuthority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("a", "b")
		m.latency = time.Second
		var replicas []*replica
		for range 7 {
			replicas = append(replicas, run(t, m, fast()))
		}
		made := int64(0)
		for _, r := range replicas {
			eventually(t, time.Minute, "ready", r.Ready)
			made += r.Facts().Rotations
			if authorityOf(t, r) != authorityOf(t, replicas[0]) {
				t.Error("the replicas have different authorities")
			}
		}
		if made != 1 || m.saves != 1 || m.patches != 1 {
			t.Errorf("%d authorities in %d writes, published %d times; want one each", made, m.saves, m.patches)
		}
	})
}

// authority makes one of somebody else's.
func authority(t *testing.T, life time.Duration) *pki.Authority {
	t.Helper()
	a, err := pki.NewAuthority("somebody's", time.Now(), life)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func pair(t *testing.T, a *pki.Authority) (cert, key []byte) {
	t.Helper()
	cert, key, err := a.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// Whatever is in the Secret, a replica that starts comes to a good end, and says that it mended something if it did.
func TestSecretsThatCannotBeUsed(t *testing.T) {
	for _, c := range []struct {
		name    string
		data    func(t *testing.T) map[string][]byte
		repairs int64
		keeps   bool // the current authority
	}{
		{"empty", func(t *testing.T) map[string][]byte { return nil }, 0, false},
		{"a good authority of somebody else's", func(t *testing.T) map[string][]byte {
			cert, key := pair(t, authority(t, 100*time.Hour))
			return map[string][]byte{currentCert: cert, currentKey: key}
		}, 0, true},
		{"garbage", func(t *testing.T) map[string][]byte {
			return map[string][]byte{currentCert: []byte("x"), currentKey: []byte("y")}
		}, 1, false},
		{"no key", func(t *testing.T) map[string][]byte {
			cert, _ := pair(t, authority(t, 100*time.Hour))
			return map[string][]byte{currentCert: cert}
		}, 1, false},
		{"another's key", func(t *testing.T) map[string][]byte {
			cert, _ := pair(t, authority(t, 100*time.Hour))
			_, key := pair(t, authority(t, 100*time.Hour))
			return map[string][]byte{currentCert: cert, currentKey: key}
		}, 1, false},
		{"a certificate that signs nothing", func(t *testing.T) map[string][]byte {
			leaf, err := authority(t, 100*time.Hour).Sign(pki.Request{Name: host, Hosts: []string{host}, Server: true, Life: time.Hour}, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			cert, key, err := pki.EncodePair(leaf)
			if err != nil {
				t.Fatal(err)
			}
			return map[string][]byte{currentCert: cert, currentKey: key}
		}, 1, false},
		{"expired", func(t *testing.T) map[string][]byte {
			cert, key := pair(t, authority(t, -time.Minute))
			return map[string][]byte{currentCert: cert, currentKey: key}
		}, 0, false},
		{"half of a next one", func(t *testing.T) map[string][]byte {
			cert, key := pair(t, authority(t, 100*time.Hour))
			half, _ := pair(t, authority(t, 100*time.Hour))
			return map[string][]byte{currentCert: cert, currentKey: key, nextCert: half}
		}, 1, true},
		{"broken previous ones", func(t *testing.T) map[string][]byte {
			cert, key := pair(t, authority(t, 100*time.Hour))
			return map[string][]byte{currentCert: cert, currentKey: key, previousCerts: key}
		}, 1, true},
		{"an expired next one", func(t *testing.T) map[string][]byte {
			cert, key := pair(t, authority(t, 100*time.Hour))
			cert2, key2 := pair(t, authority(t, -time.Minute))
			return map[string][]byte{currentCert: cert, currentKey: key, nextCert: cert2, nextKey: key2}
		}, 0, true},
		{"not valid before tomorrow", func(t *testing.T) map[string][]byte {
			a, err := pki.NewAuthority("of a wrong clock", time.Now().Add(25*time.Hour), 100*time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			cert, key := pair(t, a)
			return map[string][]byte{currentCert: cert, currentKey: key}
		}, 0, false},
		{"an expired one, and the next one is good", func(t *testing.T) map[string][]byte {
			cert, key := pair(t, authority(t, -time.Minute))
			cert2, key2 := pair(t, authority(t, 100*time.Hour))
			return map[string][]byte{currentCert: cert, currentKey: key, nextCert: cert2, nextKey: key2}
		}, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMemory("a", "b")
				m.data = c.data(t)
				was, next := m.data[currentCert], m.data[nextCert]
				noted := m.data != nil
				if noted {
					m.data["note"] = []byte("somebody's own")
				}
				v, r := m.view(t, 0), run(t, m, fast())
				eventually(t, 10*time.Second, "ready", r.Ready)
				eventually(t, 10*time.Second, "trusted", func() error { return v.admit(r) })
				time.Sleep(time.Minute)
				data, _ := m.snapshot()
				if s, wrong := parse(data, func(*pki.Authority) error { return nil }); wrong != nil || s.current == nil || s.next != nil {
					t.Errorf("the Secret is not good afterwards: %v %+v", wrong, s)
				}
				if took := bytes.Equal(data[currentCert], next); took != strings.HasSuffix(c.name, "the next one is good") {
					t.Errorf("the next authority was taken: %t", took)
				}
				if kept := bytes.Equal(data[currentCert], was); kept != c.keeps {
					t.Errorf("authority kept: %t, want %t", kept, c.keeps)
				}
				if noted && string(data["note"]) != "somebody's own" {
					t.Error("a key of somebody else's is gone")
				}
				if got := r.Facts().SecretRepairs; got != c.repairs {
					t.Errorf("%d repairs, want %d\n%s", got, c.repairs, r.log)
				}
				if said := strings.Contains(r.log.String(), "could not be used"); said != (c.repairs > 0) {
					t.Errorf("a repair was logged: %t\n%s", said, r.log)
				}
			})
		})
	}
}

// cut is a cluster that can be cut off from one replica.
type cut struct {
	*memory
	off atomic.Bool
}

func (c *cut) configuration(ctx context.Context) (published, error) {
	if c.off.Load() {
		return published{}, errors.New("no route to host")
	}
	return c.memory.configuration(ctx)
}

// A replica that is cut off from the API server serves what it has, and that is trusted for as long as it is valid, whatever the others do.
func TestReplicaCutOffDuringRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("a")
		o := fast()
		o.LeafLife = 45 * time.Minute
		lonely := &cut{memory: m}
		v, r, other := m.view(t, time.Second), run(t, lonely, o), run(t, m, o)
		eventually(t, 10*time.Second, "ready", r.Ready)
		eventually(t, 10*time.Second, "ready", other.Ready)
		first := authorityOf(t, r)
		time.Sleep(4*time.Hour + 9*time.Minute)
		lonely.off.Store(true)
		time.Sleep(2 * time.Minute)
		if authorityOf(t, other) == first || authorityOf(t, r) != first {
			t.Fatal("the rotation is not where this test needs it")
		}
		for end := time.Now().Add(25 * time.Minute); time.Now().Before(end); time.Sleep(time.Minute) {
			if err := errors.Join(r.Ready(), v.admit(r)); err != nil {
				t.Fatal(err)
			}
		}
		lonely.off.Store(false)
		eventually(t, 15*time.Minute, "the new authority", func() error {
			if err := errors.Join(r.Ready(), v.admit(r)); err != nil {
				t.Fatal(err)
			}
			if authorityOf(t, r) == first {
				return errors.New("still the old one")
			}
			return nil
		})
	})
}

// An authority that no API server was told of is not put in its place, however old it is: a replica that starts would have nothing else.
func TestNextIsNotTakenBeforeItIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("a")
		r := run(t, m, fast())
		eventually(t, 10*time.Second, "ready", r.Ready)
		first, _ := m.snapshot()
		time.Sleep(3*time.Hour + 50*time.Minute)
		m.edit(func() { m.noConfig = true })
		time.Sleep(2 * time.Hour)
		if data, _ := m.snapshot(); len(data[nextCert]) == 0 || !bytes.Equal(data[currentCert], first[currentCert]) {
			t.Fatal("the next authority should have been made, and wait")
		}
		// Back again, with what the API servers knew: the old authority alone.
		m.edit(func() { m.noConfig, m.entries[0].bundle = false, first[currentCert] })
		v, fresh := m.view(t, 5*time.Second), run(t, m, fast())
		eventually(t, time.Minute, "ready", fresh.Ready)
		for range 9 {
			time.Sleep(time.Minute)
			if err := errors.Join(v.admit(r), v.admit(fresh)); err != nil {
				t.Error(err)
			}
		}
	})
}

// interrupted is a cluster in which something happens between a replica's first question of a round and its second.
type interrupted struct {
	*memory
	once func()
}

func (i *interrupted) then() {
	if once := i.once; once != nil {
		i.once = nil
		once()
	}
}

func (i *interrupted) secret(ctx context.Context) (*corev1.Secret, error) {
	defer i.then()
	return i.memory.secret(ctx)
}

func (i *interrupted) configuration(ctx context.Context) (published, error) {
	defer i.then()
	return i.memory.configuration(ctx)
}

// A replica that was slow must not take back what a quick one published meanwhile.
func TestSlowReplicaTakesNothingBack(t *testing.T) {
	m := newMemory("a")
	slowly := &interrupted{memory: m}
	slow, err := newOwn(fast(), slowly)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // makes the authority; finds nothing else to do
		if err := slow.round(t.Context()); err != nil && !errors.Is(err, errLater) {
			t.Fatal(err)
		}
	}
	var want []entry
	slowly.once = func() {
		data, _ := m.snapshot()
		s, _ := parse(data, func(*pki.Authority) error { return nil })
		s.next = authority(t, time.Hour)
		m.edit(func() {
			m.data, _ = s.encode(m.data, "")
			m.entries[0].bundle = s.bundle()
		})
		_, want = m.snapshot()
	}
	if err := slow.round(t.Context()); !errors.Is(err, errLater) {
		t.Errorf("the slow replica's round: %v", err)
	}
	if _, got := m.snapshot(); !bytes.Equal(got[0].bundle, want[0].bundle) {
		t.Error("the slow replica wrote its old bundle")
	}
}

// Who writes nonsense into the Secret all the time is told so, and not fought at his own pace.
func TestSecretDestroyedAgainAndAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("a")
		r := run(t, m, fast())
		eventually(t, 10*time.Second, "ready", r.Ready)
		for end := time.Now().Add(15 * time.Minute); time.Now().Before(end); time.Sleep(time.Second) {
			m.edit(func() { m.data = map[string][]byte{currentCert: []byte("nonsense")} })
		}
		if got := r.Facts().SecretRepairs; got < 10 || got > 16 {
			t.Errorf("%d repairs within 15 minutes; one a minute is meant", got)
		}
		if !strings.Contains(r.log.String(), "does somebody else write it") {
			t.Errorf("nobody was told\n%s", r.log)
		}
		time.Sleep(2 * time.Hour)
		if err := r.Ready(); err != nil {
			t.Error(err)
		}
	})
}

// The Secret is emptied, or destroyed, under replicas that run, and one that starts sees it first: a new authority is made, and no
// admission fails on the way to it.
func TestSecretLostUnderRunningReplicas(t *testing.T) {
	for name, lost := range map[string]map[string][]byte{
		"emptied": nil, "destroyed": {currentCert: []byte("x"), previousCerts: []byte("y")},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMemory("a")
				v := m.view(t, 20*time.Second)
				replicas := []*replica{run(t, m, fast()), run(t, m, fast())}
				for _, r := range replicas {
					eventually(t, 10*time.Second, "ready", r.Ready)
				}
				time.Sleep(time.Minute)
				first := authorityOf(t, replicas[0])
				// The replicas are slow to hear, so that the new one decides.
				m.mu.Lock()
				m.data, m.heard = lost, nil
				m.version++
				m.mu.Unlock()
				fresh := run(t, m, fast())
				eventually(t, time.Minute, "ready", fresh.Ready)
				if authorityOf(t, fresh) == first {
					t.Fatal("the new replica has the old authority")
				}
				for end := time.Now().Add(2 * time.Hour); time.Now().Before(end); time.Sleep(rand.N(30 * time.Second)) {
					for _, r := range replicas {
						if err := errors.Join(r.Ready(), v.admit(r)); err != nil {
							t.Fatal(err)
						}
					}
				}
				for _, r := range replicas {
					if authorityOf(t, r) != authorityOf(t, fresh) {
						t.Error("the replicas have different authorities after two hours")
					}
				}
				if data, _ := m.snapshot(); len(data[previousCerts]) != 0 {
					t.Error("the lost authority is still trusted")
				}
			})
		})
	}
}

// A cluster that slept for a year comes back by itself.
func TestAfterAYearOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("a", "b")
		v, r := m.view(t, time.Second), run(t, m, fast())
		eventually(t, 10*time.Second, "ready", r.Ready)
		r.stop()
		time.Sleep(366 * 24 * time.Hour)
		if err := r.Ready(); err == nil || !strings.Contains(err.Error(), "expired") {
			t.Errorf("Ready says %v of an expired certificate", err)
		}
		replicas := []*replica{run(t, m, fast()), run(t, m, fast())}
		for _, r := range replicas {
			eventually(t, 10*time.Second, "ready", r.Ready)
			eventually(t, 5*time.Second, "trusted", func() error { return v.admit(r) })
		}
	})
}

// What somebody writes into the caBundle is taken back within seconds, counted and logged; what lies beside it is not touched.
func TestBundleOverwritten(t *testing.T) {
	for name, overwrite := range map[string]func(e []entry) []entry{
		"all emptied":      func(e []entry) []entry { return []entry{{name: "a"}, {name: "b"}} },
		"one of two":       func(e []entry) []entry { return []entry{e[0], {name: "b", bundle: []byte("LS0t")}} },
		"one more trusted": func(e []entry) []entry { return []entry{{"a", append(bytes.Clone(e[0].bundle), e[0].bundle...)}, e[1]} },
		"in another order": func(e []entry) []entry { return []entry{{name: "b"}, e[0]} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMemory("a", "b")
				v := m.view(t, 0)
				replicas := []*replica{run(t, m, fast()), run(t, m, fast())}
				for _, r := range replicas {
					eventually(t, 10*time.Second, "ready", r.Ready)
				}
				_, right := m.snapshot()
				m.edit(func() { m.entries = overwrite(m.entries) })
				eventually(t, time.Second, "put right", func() error {
					_, now := m.snapshot()
					for _, e := range now {
						if !bytes.Equal(e.bundle, right[0].bundle) {
							return fmt.Errorf("webhook %s has %q", e.name, e.bundle)
						}
					}
					return nil
				})
				repairs, told := int64(0), 0
				for _, r := range replicas {
					eventually(t, 2*time.Second, "ready", r.Ready)
					eventually(t, time.Second, "trusted", func() error { return v.admit(r) })
					repairs += r.Facts().BundleRepairs
					told += strings.Count(r.log.String(), "a caBundle was overwritten")
				}
				if repairs != 1 || told != 1 {
					t.Errorf("%d repairs, told %d times; want one", repairs, told)
				}
			})
		})
	}
}

// Who overwrites the caBundle all the time is told so, and not fought at his own pace.
func TestNoEndlessFight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("a")
		r := run(t, m, fast())
		eventually(t, 10*time.Second, "ready", r.Ready)
		for end := time.Now().Add(time.Hour); time.Now().Before(end); time.Sleep(time.Second) {
			m.edit(func() { m.entries[0].bundle = []byte("mine") })
		}
		if got := r.Facts().BundleRepairs; got > 80 || got < 30 {
			t.Errorf("%d repairs within an hour; one a minute is meant", got)
		}
		if err := r.Ready(); err == nil || !strings.Contains(err.Error(), "again and again (fields of others: [somebody])") {
			t.Errorf("Ready: %v", err)
		}
		eventually(t, 90*time.Second, "ready, when the other has given up", r.Ready)
	})
}

// A configuration that does not exist is waited for, and one that is made again is written again.
func TestConfigurationComesLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("a")
		m.noConfig = true
		v, r := m.view(t, 0), run(t, m, fast())
		for range 2 {
			time.Sleep(time.Hour)
			if err := r.Ready(); err == nil || !strings.Contains(err.Error(), "does not exist") {
				t.Errorf("Ready: %v", err)
			}
			m.edit(func() { m.noConfig, m.entries, m.uid = false, []entry{{name: "a"}}, m.uid+1 })
			eventually(t, time.Second, "ready", r.Ready)
			if err := v.admit(r); err != nil {
				t.Error(err)
			}
			m.edit(func() { m.noConfig = true })
		}
		if got := r.Facts(); got.BundleRepairs != 0 || got.Rotations != 1 {
			t.Errorf("facts %+v: nothing was repaired here", got)
		}
		m.edit(func() { m.noConfig, m.entries = false, nil })
		time.Sleep(time.Minute)
		if err := r.Ready(); err == nil || !strings.Contains(err.Error(), "has no webhooks") {
			t.Errorf("Ready: %v", err)
		}
	})
}

// An API server that cannot be asked makes nothing worse: certificates are renewed from memory.
func TestAPIServerAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("a")
		o := fast()
		o.AuthorityLife = 100 * time.Hour
		v, r := m.view(t, 0), run(t, m, o)
		eventually(t, 10*time.Second, "ready", r.Ready)
		m.mu.Lock()
		m.down = errors.New("connection refused")
		m.mu.Unlock()
		for range 50 {
			time.Sleep(time.Hour)
			if err := errors.Join(r.Ready(), v.admit(r)); err != nil {
				t.Fatal(err)
			}
		}
		if n := strings.Count(r.log.String(), "connection refused"); n != 1 {
			t.Errorf("said %d times that the API server cannot be asked, want once", n)
		}
	})
}

// Without the Secret, or without the right to read it, a replica says so and waits.
func TestNoSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory("a")
		m.noSecret = true
		r := run(t, m, fast())
		time.Sleep(time.Hour)
		if err := r.Ready(); err == nil || !strings.Contains(err.Error(), "no certificate yet; Secret does not exist") {
			t.Errorf("Ready: %v", err)
		}
		if err := handshake(r, nil); err == nil {
			t.Error("a handshake without a certificate")
		}
		m.edit(func() { m.noSecret = false })
		eventually(t, time.Second, "ready", r.Ready)
	})
}

func TestOptionsThatCannotWork(t *testing.T) {
	if _, err := NewOwn(fast()); err == nil {
		t.Error("no error without a client of an API server")
	}
	for name, change := range map[string]func(*OwnOptions){
		"no host":                   func(o *OwnOptions) { o.Hosts = nil },
		"no Secret":                 func(o *OwnOptions) { o.Secret = "" },
		"no time for the overlap":   func(o *OwnOptions) { o.Overlap = o.LeafLife },
		"no time for a certificate": func(o *OwnOptions) { o.LeafLife = o.AuthorityLife },
	} {
		o := fast()
		change(&o)
		if _, err := newOwn(o, newMemory()); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
