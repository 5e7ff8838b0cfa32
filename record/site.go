package record

import (
	"fmt"

	"github.com/holdfast-dev/holdfast/job"
)

// SiteIdentity says whose a site is. Two clusters that share an etcd must not share a site by mistake.
type SiteIdentity struct {
	// UID is that of the cluster's namespace kube-system, or of the data folder of a local Holdfast.
	UID string
	// Epoch counts the lives of the store, from 1: it grows when etcd was restored or emptied.
	Epoch int64
}

type identity struct {
	V     int    `json:"v"`
	UID   string `json:"uid"`
	Epoch int64  `json:"epoch"`
}

// EncodeIdentity gives the record of a site's identity.
func EncodeIdentity(i SiteIdentity) []byte {
	return encode(identity{V: Version, UID: i.UID, Epoch: i.Epoch})
}

// DecodeIdentity reads the record of a site's identity.
func DecodeIdentity(data []byte) (SiteIdentity, error) {
	var r identity
	if err := decode(data, &r, &r.V); err != nil {
		return SiteIdentity{}, fmt.Errorf("identity of the site: %w", err)
	}
	if r.UID == "" || r.Epoch < 1 {
		return SiteIdentity{}, fmt.Errorf("identity of the site: uid %q, epoch %d: %w", r.UID, r.Epoch, ErrCorrupt)
	}
	return SiteIdentity{UID: r.UID, Epoch: r.Epoch}, nil
}

// SiteCondition says whether negative conclusions are frozen, and how many agents are heard.
type SiteCondition struct {
	Frozen bool
	// Source is the source that is sick, and Why says how that shows.
	Source string
	Why    string
	// Since is when the freeze began, by the clock of the aggregator that led.
	Since job.Stamp
	// Expected counts the agents whose silence would be noticed, Beating those of them that are heard.
	Expected, Beating int
}

type condition struct {
	V      int       `json:"v"`
	Frozen bool      `json:"frozen"`
	Source string    `json:"source,omitempty"`
	Why    string    `json:"why,omitempty"`
	Since  job.Stamp `json:"since,omitempty"`
	Agents agents    `json:"agents"`
}

type agents struct {
	Expected int `json:"expected"`
	Beating  int `json:"beating"`
}

// EncodeCondition gives the record of a site's condition.
func EncodeCondition(c SiteCondition) []byte {
	return encode(condition{V: Version, Frozen: c.Frozen, Source: c.Source, Why: c.Why, Since: c.Since, Agents: agents{c.Expected, c.Beating}})
}

// DecodeCondition reads the record of a site's condition.
func DecodeCondition(data []byte) (SiteCondition, error) {
	var r condition
	if err := decode(data, &r, &r.V); err != nil {
		return SiteCondition{}, fmt.Errorf("condition of the site: %w", err)
	}
	return SiteCondition{
		Frozen: r.Frozen, Source: r.Source, Why: r.Why, Since: r.Since,
		Expected: r.Agents.Expected, Beating: r.Agents.Beating,
	}, nil
}

// SiteLeader says which aggregator leads. The election's lease is its proof of life.
type SiteLeader struct {
	Name string
	// Address is where its API answers, for people.
	Address string
	Since   job.Stamp
	// Ticked is when the leader last said that it hears all its sources and judges by them, by its own clock. Equal to Since, it has not
	// said so yet; empty, it never does. Who reads it counts from when a change of it came: the moment itself is for people.
	Ticked job.Stamp
	// Fresh says that it has not watched for so long yet that it knows who is silent: until then it leaves everything as it found it (S11).
	Fresh bool
}

type leader struct {
	V       int       `json:"v"`
	Name    string    `json:"name"`
	Address string    `json:"address,omitempty"`
	Since   job.Stamp `json:"since"`
	Ticked  job.Stamp `json:"ticked,omitempty"`
	Fresh   bool      `json:"fresh,omitempty"`
}

// EncodeLeader gives the record of the leader.
func EncodeLeader(l SiteLeader) []byte {
	return encode(leader{V: Version, Name: l.Name, Address: l.Address, Since: l.Since, Ticked: l.Ticked, Fresh: l.Fresh})
}

// DecodeLeader reads the record of the leader.
func DecodeLeader(data []byte) (SiteLeader, error) {
	var r leader
	if err := decode(data, &r, &r.V); err != nil {
		return SiteLeader{}, fmt.Errorf("leader of the site: %w", err)
	}
	return SiteLeader{Name: r.Name, Address: r.Address, Since: r.Since, Ticked: r.Ticked, Fresh: r.Fresh}, nil
}
