package aggregator

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-dev/holdfast/aggregator/api"
	"github.com/holdfast-dev/holdfast/etcd"
	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
)

// history reads what is recorded of a job from etcd, for the API.
type history struct {
	client *clientv3.Client
	site   string
}

// History returns the newest entries, oldest first. An entry that cannot be read is counted and left out.
func (h history) History(ctx context.Context, key job.Key, limit int) (api.HistoryPage, error) {
	pairs, revision, err := etcd.ReadAll(ctx, h.client, record.HistoryPrefix(h.site, key), 0)
	if err != nil {
		return api.HistoryPage{}, err
	}
	pairs = pairs[max(0, len(pairs)-limit):]
	page := api.HistoryPage{Transitions: make([]job.Transition, 0, len(pairs)), Revision: revision}
	for _, pair := range pairs {
		entry, err := record.DecodeTransition(key, pair.Value)
		if err != nil {
			page.Unreadable++
			continue
		}
		page.Transitions = append(page.Transitions, entry)
	}
	return page, nil
}
