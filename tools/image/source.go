package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// source is what an image is made from.
type source struct {
	root string
	// programs are the names of the folders of cmd that become files of /bin, in order.
	programs []string
	version  string
	// revision is the commit, with "-dirty" behind it where files differ from it; empty outside of git.
	revision string
	// created is SOURCE_DATE_EPOCH where that is set, else the commit's time: never the clock, which would make each build
	// another image.
	created time.Time
}

func readSource(ctx context.Context, root, version string) (*source, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	s := &source{root: root, version: version, created: time.Unix(0, 0).UTC()}
	folders, err := filepath.Glob(filepath.Join(root, "cmd", "holdfast*"))
	if err != nil {
		return nil, err
	}
	for _, folder := range folders {
		s.programs = append(s.programs, filepath.Base(folder))
	}
	slices.Sort(s.programs)
	if len(s.programs) == 0 {
		return nil, fmt.Errorf("no programs in %s: give the folder of Holdfast's source with --root", filepath.Join(root, "cmd"))
	}
	seconds := os.Getenv("SOURCE_DATE_EPOCH")
	if _, err := s.git(ctx, "rev-parse", "--verify", "HEAD"); err == nil {
		if s.revision, err = s.git(ctx, "describe", "--match=", "--always", "--abbrev=40", "--dirty"); err != nil {
			return nil, err
		}
		if s.version == "" {
			if s.version, err = s.git(ctx, "describe", "--tags", "--always", "--dirty"); err != nil {
				return nil, err
			}
		}
		if seconds == "" {
			if seconds, err = s.git(ctx, "log", "-1", "--format=%ct"); err != nil {
				return nil, err
			}
		}
	}
	if s.version == "" {
		s.version = "dev"
	}
	if seconds != "" {
		n, err := strconv.ParseInt(seconds, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("SOURCE_DATE_EPOCH is %q: it takes seconds since 1970", seconds)
		}
		s.created = time.Unix(n, 0).UTC()
	}
	return s, nil
}

func (s *source) git(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "git", append([]string{"-C", s.root}, args...)...).Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w", strings.Join(args, " "), explain(err))
	}
	return strings.TrimSpace(string(out)), nil
}

// explain adds what a command said on its standard error.
func explain(err error) error {
	if exit := new(exec.ExitError); errors.As(err, &exit) && len(exit.Stderr) > 0 {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
	}
	return err
}

// platform is what an image runs on.
type platform struct{ os, arch string }

func (p platform) String() string { return p.os + "/" + p.arch }

func parsePlatform(text string) (platform, error) {
	system, arch, ok := strings.Cut(strings.TrimSpace(text), "/")
	if !ok || system != "linux" || arch == "" || strings.Contains(arch, "/") {
		return platform{}, fmt.Errorf("platform %q is not of the form linux/ARCHITECTURE, such as linux/arm64", text)
	}
	return platform{system, arch}, nil
}

// tags are the programs that are built with tags. grpcnotrace leaves a third of gRPC out of the agent.
var tags = map[string]string{"holdfast-agent": "grpcnotrace"}

// build compiles the programs for a platform into a folder. Nothing of this machine gets into them: no path, no setting of the
// environment, and no version, so that a program whose code did not change is the same file in the next release.
func (s *source) build(ctx context.Context, p platform, folder string) error {
	groups := map[string][]string{}
	for _, program := range s.programs {
		groups[tags[program]] = append(groups[tags[program]], "./cmd/"+program)
	}
	for tags, packages := range groups {
		args := []string{"build", "-trimpath", "-buildvcs=false", "-tags", tags, "-ldflags", "-s -w -buildid=", "-o", folder + "/"}
		cmd := exec.CommandContext(ctx, "go", append(args, packages...)...)
		cmd.Dir = s.root
		cmd.Env = append(os.Environ(),
			"GOOS="+p.os, "GOARCH="+p.arch, "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GOEXPERIMENT=", "GOFIPS140=off",
			"GOAMD64=v1", "GOARM64=v8.0", "GODEBUG=")
		if _, err := cmd.Output(); err != nil {
			return fmt.Errorf("go build for %s: %w", p, explain(err))
		}
	}
	return nil
}

// labels are what the image says of itself, in the words of OCI (image-spec, annotations.md).
func (s *source) labels() map[string]string {
	labels := map[string]string{
		"org.opencontainers.image.title":       "holdfast",
		"org.opencontainers.image.description": "The true state of every Apache Flink job on Kubernetes: what it is, how that is known, and since when",
		"org.opencontainers.image.source":      "https://github.com/holdfast-dev/holdfast",
		"org.opencontainers.image.url":         "https://github.com/holdfast-dev/holdfast",
		"org.opencontainers.image.licenses":    "Apache-2.0",
		"org.opencontainers.image.version":     s.version,
		"org.opencontainers.image.created":     s.created.Format(time.RFC3339),
		"dev.holdfast.go":                      runtime.Version(),
	}
	if s.revision != "" {
		labels["org.opencontainers.image.revision"] = s.revision
	}
	return labels
}
