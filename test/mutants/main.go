// Mutants plants known bugs, one at a time, and shows that a test notices each of them. A bug that no test notices is a missing test.
//
// A bug is planted by an overlay: the tree stays as it is.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// bug is one change of one file that makes Holdfast say what is not so.
type bug struct {
	name string
	// file holds old exactly once; new takes its place.
	file, old, new string
	// tests are what should notice it, each the arguments of go test.
	tests []string
}

func main() {
	only := flag.String("only", "", "plant only the bugs whose names match this expression")
	flag.Parse()
	wanted, err := regexp.Compile(*only)
	if err == nil {
		err = run(wanted)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run(wanted *regexp.Regexp) error {
	dir, err := os.MkdirTemp("", "holdfast-mutants-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	planted, survivors := 0, []string{}
	for _, b := range bugs {
		if !wanted.MatchString(b.name) {
			continue
		}
		planted++
		begin := time.Now()
		by, err := b.plant(dir)
		switch {
		case err != nil:
			return fmt.Errorf("%s: %w", b.name, err)
		case by == "":
			survivors = append(survivors, b.name)
			by = "NOBODY"
		}
		fmt.Printf("%-74s %5.1f s  %s\n", b.name, time.Since(begin).Seconds(), by)
	}
	fmt.Printf("%d bugs planted, %d noticed\n", planted, planted-len(survivors))
	if len(survivors) > 0 {
		return fmt.Errorf("not noticed: %s", strings.Join(survivors, "; "))
	}
	return nil
}

// in gives the text of a file with the bug in place. What is to be changed must be there once.
func (b bug) in(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if n := bytes.Count(text, []byte(b.old)); n != 1 {
		return nil, fmt.Errorf("%s has what is to be changed %d times: adapt the bug to the code", b.file, n)
	}
	return bytes.Replace(text, []byte(b.old), []byte(b.new), 1), nil
}

// plant runs the tests with the bug in place, and says which test noticed it; "" if none did.
func (b bug) plant(dir string) (by string, err error) {
	path, err := filepath.Abs(b.file)
	if err != nil {
		return "", err
	}
	text, err := b.in(path)
	if err != nil {
		return "", err
	}
	mutant, overlay := filepath.Join(dir, "mutant.go"), filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(mutant, text, 0o644); err != nil {
		return "", err
	}
	index, err := json.Marshal(map[string]map[string]string{"Replace": {path: mutant}})
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(overlay, index, 0o644); err != nil {
		return "", err
	}
	for _, test := range b.tests {
		args := append([]string{"test", "-count", "1", "-failfast", "-timeout", "3m", "-overlay", overlay}, strings.Fields(test)...)
		out, err := exec.Command("go", args...).CombinedOutput()
		if err == nil {
			continue
		}
		if bytes.Contains(out, []byte("panic: test timed out")) {
			return "it does not end (" + strings.Fields(test)[0] + ")", nil
		}
		if failed := failure.FindSubmatch(out); failed != nil {
			return string(failed[1]) + " (" + strings.Fields(test)[0] + ")", nil
		}
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return "", nil
}

var failure = regexp.MustCompile(`--- FAIL: (\S+)`)
