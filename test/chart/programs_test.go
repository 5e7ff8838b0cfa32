package chart

import (
	"context"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Every command line that the chart can render is one that its program understands, and every variable is one that it reads.
func TestProgramsUnderstandTheirFlags(t *testing.T) {
	c := load(t)
	lines := map[string]map[string][]string{} // program → command line → its arguments
	variables := map[string]map[string]bool{} // program → variable
	for _, choice := range slices.Concat(slices.Collect(maps.Values(parts))...) {
		files, err := texts(c, choice.values)
		if err != nil {
			t.Fatal(err)
		}
		all, err := decode(files)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range workloads(all) {
			container := w.template.Spec.Containers[0]
			program := strings.TrimPrefix(container.Command[0], "/bin/")
			if lines[program] == nil {
				lines[program], variables[program] = map[string][]string{}, map[string]bool{}
			}
			lines[program][strings.Join(container.Args, " ")] = container.Args
			for _, v := range container.Env {
				if strings.HasPrefix(v.Name, "HOLDFAST_") {
					variables[program][v.Name] = true
				}
			}
		}
	}
	bin := build(t)
	for _, program := range slices.Sorted(maps.Keys(lines)) {
		t.Run(program, func(t *testing.T) {
			path := filepath.Join(bin, program)
			if _, err := os.Stat(path); err != nil {
				t.Fatalf("the image has no %s", program)
			}
			for _, line := range slices.Sorted(maps.Keys(lines[program])) {
				args := append(slices.Clone(lines[program][line]), "--help")
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				cmd := exec.CommandContext(ctx, path, args...)
				// An agent that is started wrongly waits for the end of its pod; strictly it says so and ends.
				cmd.Env = append(os.Environ(), "HOLDFAST_STRICT=true")
				out, err := cmd.CombinedOutput()
				cancel()
				if err != nil {
					t.Fatalf("%s %s: %v\n%s", program, line, err, out)
				}
				for variable := range variables[program] {
					if !strings.Contains(string(out), "["+variable+"]") {
						t.Fatalf("%s does not read %s:\n%s", program, variable, out)
					}
				}
			}
			t.Logf("%d command lines, %d variables", len(lines[program]), len(variables[program]))
		})
	}
}

// build builds the programs that are in the image: the folders of cmd whose names begin with holdfast.
func build(t *testing.T) string {
	t.Helper()
	bin := t.TempDir()
	folders, err := filepath.Glob("../../cmd/holdfast*")
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"build", "-o", bin + string(filepath.Separator)}
	for _, folder := range folders {
		args = append(args, "./cmd/"+filepath.Base(folder))
	}
	cmd := exec.Command("go", args...)
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return bin
}
