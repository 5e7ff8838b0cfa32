package flink

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dev/holdfast/job"
)

// seed adds the real shapes, and each of them cut and bent.
func seed(f *testing.F, files ...string) {
	f.Helper()
	for _, pattern := range files {
		paths, err := filepath.Glob(filepath.Join("testdata", "*", pattern))
		if err != nil || len(paths) == 0 {
			f.Fatalf("no seeds for %s: %v", pattern, err)
		}
		for _, path := range paths {
			body, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(body)
			f.Add(body[:len(body)/2])
			f.Add([]byte(strings.ReplaceAll(string(body), "RUNNING", "SINGING")))
			f.Add([]byte(strings.ReplaceAll(string(body), "-1", "null")))
		}
	}
	for _, body := range []string{``, `null`, `{}`, `[]`, `{"jobs":[{}]}`, `{"jobs":[null]}`, `{"errors":["x"]}`, "{\"a\":\"\xff\"}"} {
		f.Add([]byte(body))
	}
}

// inBothPaces reads a body whole and byte by byte: how it arrives must not matter.
func inBothPaces[T any](t *testing.T, body []byte, read func(*answer) (T, error)) (T, error) {
	t.Helper()
	one, oneErr := decoded(read, strings.NewReader(string(body)))
	two, twoErr := decoded(read, iotest.OneByteReader(strings.NewReader(string(body))))
	if fmt.Sprint(oneErr) != fmt.Sprint(twoErr) {
		t.Fatalf("whole: %v; byte by byte: %v", oneErr, twoErr)
	}
	if diff := cmp.Diff(one, two, cmp.Transformer("text", func(err error) string { return err.Error() })); diff != "" {
		t.Fatalf("how the answer arrives matters:\n%s", diff)
	}
	return one, oneErr
}

func checkJob(t *testing.T, j Job) {
	t.Helper()
	if checkID(j.ID) != nil || !job.AllStates.Has(j.State) {
		t.Errorf("id %q, state %s", j.ID, j.State)
	}
	if len(j.Name) > job.NameLimit || !utf8.ValidString(j.Name) || strings.ContainsFunc(j.Name, unfit) {
		t.Errorf("name %q", j.Name)
	}
	if j.Tasks.Total < 0 || j.Tasks.Running < 0 || j.Tasks.Finished < 0 || j.Tasks.Failed < 0 || j.Tasks.Canceled < 0 {
		t.Errorf("tasks %+v", j.Tasks)
	}
	for _, s := range []job.Stamp{j.StartTime, j.EndTime, j.LastModification} {
		if s != "" && (len(s) != len("2026-11-22T23:24:00.123Z") || !strings.HasSuffix(string(s), "Z")) {
			t.Errorf("stamp %q", s)
		}
	}
}

func FuzzOverview(f *testing.F) {
	seed(f, "overview.json")
	f.Fuzz(func(t *testing.T, body []byte) {
		o, err := inBothPaces(t, body, readOverview)
		if err != nil {
			return
		}
		for _, j := range o.Jobs {
			checkJob(t, j)
		}
		for _, s := range o.Skipped {
			if s.Err == nil || len(s.ID) > 64 || strings.ContainsFunc(s.ID, unfit) {
				t.Errorf("skipped %+v", s)
			}
		}
	})
}

func FuzzDetail(f *testing.F) {
	seed(f, "detail.json", "status.json")
	f.Fuzz(func(t *testing.T, body []byte) {
		if j, err := inBothPaces(t, body, readDetail); err == nil {
			checkJob(t, j)
		}
		if s, err := inBothPaces(t, body, readStatus); err == nil && !job.AllStates.Has(s) {
			t.Errorf("state %s", s)
		}
	})
}

func FuzzCause(f *testing.F) {
	seed(f, "exceptions.json")
	f.Fuzz(func(t *testing.T, body []byte) {
		cause, err := inBothPaces(t, body, readCause)
		if len(cause) > job.CauseLimit || !utf8.ValidString(cause) || strings.ContainsFunc(cause, unfit) || err != nil && cause != "" {
			t.Errorf("cause %q, %v", cause, err)
		}
		stack := string(body)
		if done := alreadyDone(stack); done != "" && !strings.Contains(done, AlreadyDone) && len(done) < job.CauseLimit-len(AlreadyDone) {
			t.Errorf("done %q", done)
		}
		if root := rootCause(stack); len(root) > job.CauseLimit || strings.ContainsFunc(root, unfit) {
			t.Errorf("root %q", root)
		}
	})
}

func FuzzJobManager(f *testing.F) {
	seed(f, "jobmanager-config.json", "config.json")
	f.Fuzz(func(t *testing.T, body []byte) {
		jm, err := inBothPaces(t, body, readJobManager)
		if err == nil && jm.HighAvailability == job.No && jm.Incarnation == "" {
			t.Errorf("a No of nobody's: %+v", jm)
		}
		if c, err := inBothPaces(t, body, readConfig); err == nil && c.Version == "" {
			t.Errorf("Flink without a version: %+v", c)
		}
	})
}

// The only No must not be made of anything but Flink's own words about the job.
func FuzzErrors(f *testing.F) {
	const id = "5d2f6c6a8f4f4b7e9d1c0a3b2e4f6a80"
	seed(f, "status.json")
	f.Add([]byte(`{"errors":["Could not find Flink job (` + id + `)"]}`))
	f.Add([]byte(`{"errors":["Job ` + id + ` not found"]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		texts, err := inBothPaces(t, body, readErrors)
		if err == nil && saysNotFound(texts, id) && !strings.Contains(strings.Join(texts, "\n"), id) {
			t.Errorf("a No about another job: %q", texts)
		}
		if text := gist(texts); len(text) > 300 || text == "" || strings.ContainsFunc(text, unfit) {
			t.Errorf("gist %q", text)
		}
	})
}

func FuzzDial(f *testing.F) {
	for _, address := range []string{"http://localhost:8081", "https://[::1]:8081/x/", "localhost:8081", "http://a:b@c", "http://%zz", "http://h:99999"} {
		f.Add(address)
	}
	f.Fuzz(func(t *testing.T, address string) {
		c, err := Dial(address, Options{})
		if err == nil {
			if !strings.HasPrefix(c.Address(), "http") || strings.HasSuffix(c.Address(), "/") {
				t.Errorf("address %q", c.Address())
			}
			c.Close()
		} else if len(err.Error()) > 500 || strings.ContainsFunc(err.Error(), unfit) {
			t.Errorf("error %q", err)
		}
	})
}
