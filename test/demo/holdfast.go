package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// holdfast is the program under show, as a process that can be killed.
type holdfast struct {
	dir     string
	program string
	address string
	url     string
	cmd     *exec.Cmd
	ended   chan struct{}
}

func (h *holdfast) build(ctx context.Context) error {
	h.program = filepath.Join(h.dir, "holdfast")
	out, err := exec.CommandContext(ctx, "go", "build", "-o", h.program, "./cmd/holdfast").CombinedOutput()
	if err != nil {
		return fmt.Errorf("build holdfast: %w\n%s", err, out)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	h.address = ln.Addr().String()
	h.url = "http://" + h.address
	return ln.Close()
}

func (h *holdfast) start(ctx context.Context, flink string) error {
	log, err := os.OpenFile(h.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	h.cmd = exec.Command(h.program, "local", "--flink", "demo="+flink, "--data", filepath.Join(h.dir, "data"),
		"--listen", h.address, "--hold", hold.String(), "--lease", lease.String(), "--poll", poll.String())
	h.cmd.Stdout, h.cmd.Stderr = log, log
	if err := h.cmd.Start(); err != nil {
		return err
	}
	h.ended = make(chan struct{})
	go func() { _ = h.cmd.Wait(); close(h.ended) }()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		select {
		case <-h.ended:
			return errors.New("holdfast ended at once\n" + h.lastLog())
		default:
		}
		response, err := http.Get(h.url + "/readyz")
		if err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
		if !sleep(ctx, 50*time.Millisecond) {
			return errors.New("holdfast did not become ready\n" + h.lastLog())
		}
	}
}

// kill ends it without its doing.
func (h *holdfast) kill() {
	if h.cmd != nil {
		_ = h.cmd.Process.Kill()
		<-h.ended
		h.cmd = nil
	}
}

func (h *holdfast) log() string { return filepath.Join(h.dir, "holdfast.log") }

func (h *holdfast) lastLog() string {
	data, err := os.ReadFile(h.log())
	if err != nil {
		return err.Error()
	}
	return "the end of Holdfast's log:\n" + string(data[max(0, len(data)-3000):])
}

// verdict is what the API says of a job.
type verdict struct {
	State, Certainty, Over, Reason, Message string
	LastSeen                                time.Time
	Attempt                                 struct{ Number int }
}

func (v verdict) String() string { return v.State + " " + v.Certainty }

func (h *holdfast) verdict(ctx context.Context, id string) (verdict, error) {
	var v verdict
	return v, h.get(ctx, "/api/v1/jobs/local/default/demo/"+id, &v)
}

// history gives one line an entry, and checks that none is missing.
func (h *holdfast) history(ctx context.Context, id string) ([]string, error) {
	var list struct {
		Items []struct {
			Sequence         int64
			State, Certainty string
		}
	}
	if err := h.get(ctx, "/api/v1/jobs/local/default/demo/"+id+"/history", &list); err != nil {
		return nil, err
	}
	var lines []string
	for i, item := range list.Items {
		if item.Sequence != int64(i+1) {
			return nil, fmt.Errorf("entry %d of the history has number %d", i+1, item.Sequence)
		}
		lines = append(lines, item.State+" "+item.Certainty)
	}
	return lines, nil
}

func (h *holdfast) get(ctx context.Context, path string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, h.url+path, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, response.Status)
	}
	return json.NewDecoder(response.Body).Decode(into)
}

// until waits for a verdict. A job that runs must not be shown as anything final on the way.
func (h *holdfast) until(ctx context.Context, id, state, certainty string) error {
	return h.await(ctx, id, state, certainty, func(v verdict) error {
		if v.State == "FAILED" || v.State == "FINISHED" || v.State == "UNKNOWN" {
			return fmt.Errorf("job %s is shown as %s (%s)", id, v, v.Message)
		}
		return nil
	})
}

func (h *holdfast) untilFailed(ctx context.Context, id string) error {
	return h.await(ctx, id, "FAILED", "Witnessed", func(v verdict) error {
		if v.State == "FINISHED" || v.State == "CANCELED" || v.State == "UNKNOWN" {
			return fmt.Errorf("a job that fails is shown as %s (%s)", v, v.Message)
		}
		return nil
	})
}

func (h *holdfast) await(ctx context.Context, id, state, certainty string, check func(verdict) error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	begin, last := time.Now(), "not known yet"
	for {
		v, err := h.verdict(ctx, id)
		if err == nil {
			if err := check(v); err != nil {
				return err
			}
			if v.String() != last {
				last = v.String()
				fmt.Printf("  %5.1f s  %s  (%s)\n", time.Since(begin).Seconds(), last, v.Message)
			}
			if v.State == state && v.Certainty == certainty {
				return nil
			}
		}
		if !sleep(ctx, 50*time.Millisecond) {
			return fmt.Errorf("job %s is %s after %s, and should be %s %s", id, last, time.Since(begin).Round(time.Second), state, certainty)
		}
	}
}

// stays watches that a verdict does not change.
func (h *holdfast) stays(ctx context.Context, id, state, certainty string, d time.Duration) error {
	for end := time.Now().Add(d); time.Now().Before(end) && sleep(ctx, 100*time.Millisecond); {
		v, err := h.verdict(ctx, id)
		if err != nil {
			return err
		}
		if v.State != state || v.Certainty != certainty {
			return fmt.Errorf("job %s became %s (%s)", id, v, v.Message)
		}
	}
	return ctx.Err()
}

// show runs the command line as a person would.
func (h *holdfast) show(ctx context.Context, args ...string) error {
	fmt.Printf("\n  $ holdfast %s\n", strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, h.program, args...)
	cmd.Env = append(os.Environ(), "HOLDFAST_SERVER="+h.url)
	out, err := cmd.CombinedOutput()
	for line := range bytes.Lines(out) {
		fmt.Printf("  %s", line)
	}
	if err != nil {
		return fmt.Errorf("holdfast %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
