package client

import (
	"context"
	"encoding/json"
	"fmt"
)

// Status is how well the server knows what it says.
type Status struct {
	Site     string   `json:"site"`
	Program  string   `json:"program"`
	Epoch    int64    `json:"epoch"`
	Version  string   `json:"version"`
	Jobs     int      `json:"jobs"`
	Watchers int      `json:"watchers"`
	Leader   Leader   `json:"leader"`
	Agents   Agents   `json:"agents"`
	Frozen   *Frozen  `json:"frozen"`
	Weakened *Weak    `json:"weakened"`
	Sources  []Source `json:"sources"`

	// Raw is the status as it came.
	Raw json.RawMessage `json:"-"`
}

// Leader is the aggregator that settles.
type Leader struct {
	Leads   bool    `json:"leads"`
	Name    string  `json:"name"`
	Address string  `json:"address"`
	Since   string  `json:"since"`
	Age     float64 `json:"age"`
}

// Agents counts the site's agents.
type Agents struct {
	Expected int `json:"expected"`
	Beating  int `json:"beating"`
}

// Weak says why and since when everything is shown as Held.
type Weak struct {
	Reason string `json:"reason"`
	Since  string `json:"since"`
}

// Source is the health of something that the server knows things from. Age is in seconds, -1 for never.
type Source struct {
	Name    string  `json:"name"`
	Healthy bool    `json:"healthy"`
	Age     float64 `json:"age"`
	Why     string  `json:"why"`
}

// Status asks the server about itself.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var status Status
	if err := c.get(ctx, "/api/v1/status", nil, &status.Raw); err != nil {
		return Status{}, err
	}
	raw := status.Raw
	if err := json.Unmarshal(raw, &status); err != nil {
		return Status{}, fmt.Errorf("the status that %s gives cannot be read (is the client older than the server?): %w", c.base, err)
	}
	return status, nil
}
