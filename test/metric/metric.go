// Package metric reads what a program says of itself at /metrics, for tests. It knows as much of the text format as they need.
package metric

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Sum adds up the series of a program that begin with a prefix, which is a metric's name with as many of its labels as are wanted. The error says
// that the program could not be asked within 5 s, or has no such series.
func Sum(ctx context.Context, program, prefix string) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, program+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("%s/metrics: %s, %w", program, response.Status, err)
	}
	sum, found := 0.0, false
	for line := range strings.Lines(string(text)) {
		series, value, _ := strings.Cut(strings.TrimSpace(line), "} ")
		if !strings.HasPrefix(series, prefix) {
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return 0, fmt.Errorf("%s/metrics: %q: %w", program, line, err)
		}
		sum, found = sum+n, true
	}
	if !found {
		return 0, fmt.Errorf("%s/metrics has nothing that begins with %s", program, prefix)
	}
	return sum, nil
}

// Unmended says whether an aggregator has held what it remembers against etcd since it was started, and never found a difference.
func Unmended(ctx context.Context, aggregator string) error {
	for deadline := time.Now().Add(time.Minute); ; {
		found, err := Sum(ctx, aggregator, "holdfast_check_differences_total{")
		if err != nil {
			return err
		}
		if found != 0 {
			return fmt.Errorf("%s: %v records were remembered otherwise than they lay in etcd: its log says which", aggregator, found)
		}
		done, err := Sum(ctx, aggregator, `holdfast_checks_total{memory="board",outcome="done"`)
		switch {
		case err != nil:
			return err
		case done > 0:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("%s has not held what it remembers against etcd for a minute", aggregator)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}
