package flink

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/holdfast-dev/holdfast/job"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the golden files")

// decoded is what a Client makes of a body.
func decoded[T any](read func(*answer) (T, error), body io.Reader) (v T, err error) {
	a := newAnswer(body, singleMaxBody)
	if v, err = read(a); err == nil {
		err = a.end()
	}
	if err != nil {
		var none T
		return none, err
	}
	return v, nil
}

// The shapes of 1.20 and 2.3, field by field.
func TestGolden(t *testing.T) {
	for _, release := range []string{"1.20", "2.3"} {
		t.Run(release, func(t *testing.T) {
			var trace strings.Builder
			show := func(file string, read func(*answer) (any, error)) {
				body, err := os.ReadFile(filepath.Join("testdata", release, file))
				if err != nil {
					t.Fatal(err)
				}
				v, err := decoded(read, strings.NewReader(string(body)))
				if err != nil {
					t.Errorf("%s: %v", file, err)
				}
				if o, ok := v.(Overview); ok {
					for _, j := range o.Jobs {
						fmt.Fprintf(&trace, "%s: %+v\n", file, j)
					}
					v = fmt.Sprintf("%d jobs, %d skipped", len(o.Jobs), len(o.Skipped))
				}
				fmt.Fprintf(&trace, "%s: %+v\n", file, v)
			}
			show("overview.json", func(a *answer) (any, error) { return readOverview(a) })
			show("status.json", func(a *answer) (any, error) { return readStatus(a) })
			show("detail.json", func(a *answer) (any, error) { return readDetail(a) })
			show("exceptions.json", func(a *answer) (any, error) { return readCause(a) })
			show("config.json", func(a *answer) (any, error) { return readConfig(a) })
			show("jobmanager-config.json", func(a *answer) (any, error) { return readJobManager(a) })
			golden := filepath.Join("testdata", release, "decoded.golden")
			if *rewrite {
				if err := os.WriteFile(golden, []byte(trace.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), trace.String()); diff != "" {
				t.Errorf("what was read (rewrite with -rewrite):\n%s", diff)
			}
		})
	}
}

// One bad entry is named, and its neighbours are unharmed.
func TestBadEntriesLeaveTheirNeighboursAlone(t *testing.T) {
	good := func(id string) string {
		return `{"jid":"` + strings.Repeat(id, 32) + `","name":"n","start-time":1,"end-time":-1,"state":"RUNNING","tasks":{"total":1,"running":1}}`
	}
	const id = "cccccccccccccccccccccccccccccccc"
	tests := map[string]struct {
		entry, id, says string
	}{
		"unknown state":     {`{"jid":"` + id + `","state":"SINGING","start-time":1}`, id, "SINGING"},
		"no state":          {`{"jid":"` + id + `","start-time":1}`, id, "state"},
		"null state":        {`{"jid":"` + id + `","state":null}`, id, "state"},
		"our UNKNOWN":       {`{"jid":"` + id + `","state":"UNKNOWN"}`, id, "UNKNOWN"},
		"state of a number": {`{"jid":"` + id + `","state":7}`, id, "state"},
		"no id":             {`{"state":"RUNNING"}`, "", "job id"},
		"short id":          {`{"jid":"abc","state":"RUNNING"}`, "abc", "abc"},
		"upper-case id":     {`{"jid":"` + strings.ToUpper(id) + `","state":"RUNNING"}`, strings.ToUpper(id), "hexadecimal"},
		"a path for an id":  {`{"jid":"../config","state":"RUNNING"}`, "../config", "hexadecimal"},
		"a very long id":    {`{"jid":"` + strings.Repeat("a", 10_000) + `","state":"RUNNING"}`, strings.Repeat("a", 64), "hexadecimal"},
		"control in id":     {`{"jid":"a\u001b[2Jb","state":"RUNNING"}`, "a\ufffd[2Jb", "hexadecimal"},
		"time of text":      {`{"jid":"` + id + `","state":"RUNNING","start-time":"now"}`, id, "start-time"},
		"time of a float":   {`{"jid":"` + id + `","state":"RUNNING","start-time":1.5}`, id, "start-time"},
		"time out of range": {`{"jid":"` + id + `","state":"RUNNING","start-time":1` + strings.Repeat("0", 400) + `}`, id, "number"},
		"tasks of a list":   {`{"jid":"` + id + `","state":"RUNNING","tasks":[]}`, id, "tasks"},
		"a number":          {`42`, "", "number"},
		"null":              {`null`, "", "job id"},
		"a list":            {`[{"jid":"` + id + `"}]`, "", "array"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			o, err := decoded(readOverview, strings.NewReader(`{"jobs":[`+good("a")+`,`+test.entry+`,`+good("b")+`]}`))
			if err != nil {
				t.Fatal(err)
			}
			if len(o.Jobs) != 2 || o.Jobs[0].ID != strings.Repeat("a", 32) || o.Jobs[1].ID != strings.Repeat("b", 32) ||
				o.Jobs[0].State != job.Running || o.Jobs[1].Tasks != (job.Tasks{Total: 1, Running: 1}) {
				t.Errorf("the neighbours: %+v", o.Jobs)
			}
			if len(o.Skipped) != 1 || o.Skipped[0].ID != test.id {
				t.Fatalf("skipped: %+v, want %q", o.Skipped, test.id)
			}
			text := o.Skipped[0].Err.Error()
			if !strings.Contains(text, test.says) || !strings.HasPrefix(text, "entry 2: ") || len(text) > 320 {
				t.Errorf("the error says %q", text)
			}
		})
	}
}

// What a job lacks is not known; it is never taken from its neighbour.
func TestMissingFields(t *testing.T) {
	const a, b = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	o, err := decoded(readOverview, strings.NewReader(`{"jobs":[{"jid":"`+a+`","name":"x","start-time":5,"end-time":6,"last-modification":7,`+
		`"state":"FAILED","jobType":"BATCH","schedulerType":"Default","tasks":{"total":3,"running":-2,"failed":99999999999}},{"jid":"`+b+`","state":"CREATED"}]}`))
	want := Overview{Jobs: []Job{
		{
			ID: a, Name: "x", State: job.Failed, StartTime: "1970-01-01T00:00:00.005Z", EndTime: "1970-01-01T00:00:00.006Z",
			LastModification: "1970-01-01T00:00:00.007Z", Tasks: job.Tasks{Total: 3, Failed: 1<<31 - 1}, Type: "BATCH", Scheduler: "Default",
		},
		{ID: b, State: job.Created},
	}}
	if diff := cmp.Diff(want, o); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
}

// Nonsense as a whole is an error of every decoder, and no decoder makes an answer of it.
func TestNonsense(t *testing.T) {
	decoders := map[string]func(*answer) (any, error){
		"overview":   func(a *answer) (any, error) { return readOverview(a) },
		"status":     func(a *answer) (any, error) { return readStatus(a) },
		"detail":     func(a *answer) (any, error) { return readDetail(a) },
		"cause":      func(a *answer) (any, error) { return readCause(a) },
		"config":     func(a *answer) (any, error) { return readConfig(a) },
		"jobmanager": func(a *answer) (any, error) { return readJobManager(a) },
		"errors":     func(a *answer) (any, error) { return readErrors(a) },
	}
	everywhere := []string{
		``, ` `, `null`, `7`, `"RUNNING"`, `true`, `{`, `[`, `{"jobs"`, `{"jobs":`, `{"jobs":[`, `{"jobs":[{}`, `{"jobs":[{}]`,
		`[{"key":"a"`, `{]`, `}`, `{"a":1,}`, `{"a" 1}`, "\xff\xfe", "<html>", "\x00", `{"status":"RUNNING"`, "{\"a\":\"\x01\"}",
		`{"x":` + strings.Repeat(`[`, 300) + strings.Repeat(`]`, 300) + `}`,
		`{"x":"` + strings.Repeat("a", window+10) + `"}`, `{"jobs":[],"x":` + strings.Repeat(" ", window*2) + `1}`,
	}
	special := map[string][]string{
		"overview": {`{}`, `[]`, `{"jobs":null}`, `{"jobs":{}}`, `{"jobs":"x"}`, `{"jobs":[],"jobs":[]}`, `{"jobs":[]}{}`, `{"jobs":[nonsense]}`},
		"status":   {`{}`, `[]`, `{"status":[]}`, `{"status":"running"}`, `{"status":"RUNNING"}x`},
		"detail":   {`{}`, `[]`, `{"jid":"x"}`, `{"vertices":3}`, `{"vertices":[{"tasks":{"RUNNING":"x"}}]}`},
		"cause":    {`[]`, `{"root-exception":3}`, `{"exceptionHistory":3}`, `{"exceptionHistory":{"entries":{}}}`, `{"exceptionHistory":{"entries":[3]}}`},
		"config":   {`{}`, `[]`, `{"flink-version":""}`, `{"flink-version":1}`, `{"flink-version":"1","features":3}`},
		"errors":   {`{}`, `[]`, `{"errors":[]}`, `{"errors":"x"}`, `{"errors":[1]}`, `{"errors":["x"]} more`},
	}
	for name, read := range decoders {
		for _, body := range append(everywhere, special[name]...) {
			if v, err := decoded(read, strings.NewReader(body)); err == nil {
				t.Errorf("%s makes %+v of %.60q", name, v, body)
			} else if len(err.Error()) > 4096 {
				t.Errorf("%s: an error of %d bytes", name, len(err.Error()))
			}
		}
	}
}

// A connection that breaks is silence, wherever it does; a body that ends too early is nonsense.
func TestBrokenIsNotCut(t *testing.T) {
	whole := `{"later":[1],"jobs":[{"jid":"` + strings.Repeat("a", 32) + `","state":"RUNNING"}]}`
	snap := errors.New("snap")
	for n := range len(whole) {
		a := newAnswer(io.MultiReader(strings.NewReader(whole[:n]), iotest.ErrReader(snap)), singleMaxBody)
		_, err := readOverview(a)
		if err == nil || !a.broken() || !errors.Is(a.err, snap) {
			t.Fatalf("broken after %d bytes: %v, kept %v", n, err, a.err)
		}
		a = newAnswer(strings.NewReader(whole[:n]), singleMaxBody)
		if _, err := readOverview(a); err == nil || a.broken() {
			t.Fatalf("cut after %d bytes: %v, kept %v", n, err, a.err)
		}
	}
	// A body that breaks after a whole value was not read whole.
	a := newAnswer(io.MultiReader(strings.NewReader(whole), iotest.ErrReader(snap)), singleMaxBody)
	_, err := readOverview(a)
	if err == nil {
		err = a.end()
	}
	if err == nil || !a.broken() {
		t.Errorf("broken at the end: %v", err)
	}
}

func TestLimitIsExact(t *testing.T) {
	body := `{"status":"RUNNING"}`
	for limit, want := range map[int64]bool{int64(len(body)): true, int64(len(body)) - 1: false, int64(len(body)) + 1: true} {
		a := newAnswer(iotest.OneByteReader(strings.NewReader(body)), limit)
		_, err := readStatus(a)
		if err == nil {
			err = a.end()
		}
		if (err == nil) != want {
			t.Errorf("limit %d of %d: %v", limit, len(body), err)
		}
	}
}

// repeated is head, then the same piece for ever.
type repeated struct {
	head, piece string
	given       int64
}

func (r *repeated) Read(p []byte) (int, error) {
	if r.head != "" {
		n := copy(p, r.head)
		r.head = r.head[n:]
		return n, nil
	}
	for n := 0; n < len(p); {
		k := copy(p[n:], r.piece[r.given%int64(len(r.piece)):])
		n, r.given = n+k, r.given+int64(k)
	}
	return len(p), nil
}

// An answer without an end costs at most the limit in bytes read, and a small multiple of the window in memory.
func TestMemoryIsBounded(t *testing.T) {
	tests := map[string]struct {
		head, piece string
		garbage     float64 // bytes allocated, and dropped again, for each byte that is read
	}{
		"one string":            {`{"jobs":[{"name":"`, strings.Repeat("a", 4096), 0},
		"one key":               {`{"`, strings.Repeat("a", 4096), 0},
		"blanks":                {`{"jobs":`, strings.Repeat(" ", 4096), 0},
		"blanks after the end":  {`{"jobs":[]}`, strings.Repeat("\n", 4096), 0},
		"depth":                 {`{"x":`, `[`, 0},
		"a number":              {`{"x":1`, strings.Repeat("0", 4096), 0},
		"a number for an entry": {`{"jobs":[1`, strings.Repeat("0", 4096), 0},
		"bad entries":           {`{"jobs":[0`, `,0`, 300},
		"empty entries":         {`{"jobs":[{}`, `,{}`, 300},
		"unknown list":          {`{"x":[0`, `,0`, 100},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			limit := int64(16 << 20)
			if test.garbage > 0 {
				limit = 1 << 18
			}
			source := &repeated{head: test.head, piece: test.piece}
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			a := newAnswer(source, limit)
			o, err := readOverview(a)
			if err == nil {
				err = a.end()
			}
			live := len(o.Jobs) + len(o.Skipped)
			runtime.ReadMemStats(&after)
			if err == nil {
				t.Fatal("it ended")
			}
			if source.given > limit+1 {
				t.Errorf("%d bytes were read", source.given)
			}
			if live > maxSkipped {
				t.Errorf("%d entries are kept", live)
			}
			// All that was ever allocated, garbage included.
			if total := float64(after.TotalAlloc - before.TotalAlloc); total > 8*window+test.garbage*float64(limit) {
				t.Errorf("%.1f MiB were allocated for an answer of %d MiB", total/(1<<20), limit>>20)
			}
		})
	}
}

// Beyond the first thousand, entries that are skipped are counted only.
func TestSkippedAreBounded(t *testing.T) {
	o, err := decoded(readOverview, strings.NewReader(`{"jobs":[`+strings.Repeat(`0,`, 2999)+`{"jid":"`+strings.Repeat("a", 32)+`","state":"RUNNING"}]}`))
	if err != nil || len(o.Skipped) != maxSkipped || o.Unnamed != 2999-maxSkipped || len(o.Jobs) != 1 {
		t.Errorf("%v: %d named, %d not, %d jobs", err, len(o.Skipped), o.Unnamed, len(o.Jobs))
	}
}

func TestNames(t *testing.T) {
	tests := map[string]struct{ in, want string }{
		"plain":            {"insert-into_sink", "insert-into_sink"},
		"empty":            {"", ""},
		"other scripts":    {"注文 → заказы ☂", "注文 → заказы ☂"},
		"terminal":         {"a\x1b[31mb\r\nc\x00\x7f\u0085", "a\ufffd[31mb\ufffd\ufffdc\ufffd\ufffd\ufffd"},
		"turned around":    {"a\u202egnp.exe\u2066", "a\ufffdgnp.exe\ufffd"},
		"line separators":  {"a\u2028b\u2029c", "a\ufffdb\ufffdc"},
		"not UTF-8":        {"a\xffb\xc3", "a\ufffdb\ufffd"},
		"10 000":           {strings.Repeat("x", 10_000), strings.Repeat("x", job.NameLimit)},
		"cut between":      {strings.Repeat("x", job.NameLimit-1) + "é", strings.Repeat("x", job.NameLimit-1)},
		"fits to the byte": {strings.Repeat("x", job.NameLimit-2) + "é", strings.Repeat("x", job.NameLimit-2) + "é"},
		"grows":            {strings.Repeat("\x00", job.NameLimit), strings.Repeat("\ufffd", job.NameLimit/3)},
	}
	for name, test := range tests {
		if got := clean(test.in, job.NameLimit); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.OneOf(rapid.String(), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) })).Draw(t, "in")
		limit := rapid.IntRange(0, 40).Draw(t, "limit")
		out := clean(in, limit)
		if len(out) > limit || !utf8.ValidString(out) || strings.ContainsFunc(out, unfit) {
			t.Fatalf("clean(%q, %d) = %q", in, limit, out)
		}
		if clean(out, limit) != out {
			t.Fatalf("clean(%q, %d) changes its own result %q", in, limit, out)
		}
		if utf8.ValidString(in) && !strings.ContainsFunc(in, unfit) && !strings.HasPrefix(in, out) {
			t.Fatalf("clean(%q, %d) = %q changes what is fit", in, limit, out)
		}
	})
}

func TestStamp(t *testing.T) {
	here := time.Local
	time.Local = time.FixedZone("elsewhere", 5*60*60)
	defer func() { time.Local = here }()
	for milli, want := range map[int64]job.Stamp{
		-1: "", -1 << 63: "", 0: "1970-01-01T00:00:00.000Z", 1795389840123: "2026-11-22T23:24:00.123Z",
		1795389840000: "2026-11-22T23:24:00.000Z", lastMilli: "9999-12-31T23:59:59.999Z", lastMilli + 1: "", 1<<63 - 1: "",
	} {
		if got := stamp(milli); got != want {
			t.Errorf("stamp(%d) = %q, want %q", milli, got, want)
		}
	}
}

func TestCauses(t *testing.T) {
	const done = "org.apache.flink.runtime.jobmaster.JobAlreadyDoneException: The job (" + "00" + ") has already terminated"
	tests := map[string]struct{ stack, want string }{
		"none":               {"", ""},
		"blank":              {" \n\t\n", ""},
		"alone":              {"java.io.IOException: gone\n\tat a.b(C.java:1)\n", "java.io.IOException: gone"},
		"no message":         {"java.lang.NullPointerException\n\tat a.b(C.java:1)\n", "java.lang.NullPointerException"},
		"chain":              {"A: a\n\tat x\nCaused by: B: b\n\tat y\nCaused by: C: c\n\t... 3 more\n", "C: c"},
		"suppressed":         {"A: a\n\tat x\n\tSuppressed: S: s\n\t\tat z\n\tCaused by: T: t\nCaused by: B: b\n\tat y", "B: b"},
		"suppressed only":    {"A: a\n\tat x\n\tSuppressed: S: s\n\t\tat z\n\tCaused by: T: t\n\t\tat z\n", "A: a"},
		"two lines":          {"A: first,\nthen second\n\tat x", "A: first, then second"},
		"Windows lines":      {"A: a\r\n\tat x\r\nCaused by: B: b\r\n\tat y", "B: b"},
		"ends in a cause":    {"A: a\n\tat x\nCaused by: ", "A: a"},
		"control characters": {"A: \x1b[2Jred\x00\n\tat x", "A: \ufffd[2Jred\ufffd"},
		"long":               {"A: " + strings.Repeat("x", 10_000), "A: " + strings.Repeat("x", job.CauseLimit-3)},
		"long, lines":        {"A: a\n" + strings.Repeat("xyz\n", 10_000), ("A: a" + strings.Repeat(" xyz", 10_000))[:job.CauseLimit]},
		"already done":       {done + "\n\tat x", done},
		"done, deeper":       {"A: a\n\tat x\nCaused by: " + done + "\n\tat y\nCaused by: B: b", done},
		"done, inside":       {"A: wrapped " + done + "\n\tat x", done},
		"done, bare":         {"A: a JobAlreadyDoneException came", "JobAlreadyDoneException came"},
		"done, somebody's":   {"com.example.MyJobAlreadyDoneException: x\n\tat y", "com.example.MyJobAlreadyDoneException: x"},
		"done, in the way":   {"com.example.MyJobAlreadyDoneException: x\n\tat y\nCaused by: B: b", "B: b"},
		"done, longer":       {"a.JobAlreadyDoneExceptions: x\nCaused by: " + done, done},
	}
	for name, test := range tests {
		body := func(s string) string {
			return strings.NewReplacer("\n", `\n`, "\t", `\t`, "\r", `\r`, "\x1b", `\u001b`, "\x00", `\u0000`).Replace(s)
		}
		for layout, answer := range map[string]string{
			"1.x": `{"root-exception":"` + body(test.stack) + `","timestamp":1,"all-exceptions":[],"truncated":false,"exceptionHistory":{"entries":[],"truncated":false}}`,
			"2.x": `{"exceptionHistory":{"entries":[{"exceptionName":"","stacktrace":"` + body(test.stack) + `","timestamp":1},{"stacktrace":"Older: o"}],"truncated":false}}`,
		} {
			want := test.want
			if want == "" && layout == "2.x" {
				continue // an entry that says nothing leaves the next
			}
			if got, err := decoded(readCause, strings.NewReader(answer)); got != want || err != nil {
				t.Errorf("%s, %s: %q, want %q (%v)", name, layout, got, want, err)
			}
		}
	}
	both := `{"root-exception":"Root: r","exceptionHistory":{"entries":[{"exceptionName":"E","stacktrace":"%s"}]}}`
	for stack, want := range map[string]string{"Newest: n": "Root: r", done: done} {
		if got, err := decoded(readCause, strings.NewReader(fmt.Sprintf(both, stack))); got != want || err != nil {
			t.Errorf("both layouts, history %q: %q, want %q (%v)", stack, got, want, err)
		}
	}
	if got, err := decoded(readCause, strings.NewReader(`{"root-exception":null,"exceptionHistory":{"entries":[{"exceptionName":"a.B","stacktrace":null}]}}`)); got != "a.B" || err != nil {
		t.Errorf("a name alone: %q, %v", got, err)
	}
}

// High availability is off only if a list that is certainly a JobManager's own says so, or leaves it out.
func TestHighAvailability(t *testing.T) {
	const whole = `{"key":"web.tmpdir","value":"/tmp/flink-web-2f1cb0c1-7a52-4a4b-9cf5-6b0a2f6a6c8e"}`
	pair := func(k, v string) string { return `,{"key":"` + k + `","value":` + v + `}` }
	tests := map[string]struct {
		list string
		want job.Answer
	}{
		"left out":             {whole, job.No},
		"none":                 {whole + pair("high-availability.type", `"NONE"`), job.No},
		"none, lower case":     {whole + pair("high-availability.type", `"none"`), job.No},
		"kubernetes":           {whole + pair("high-availability.type", `"kubernetes"`), job.Yes},
		"zookeeper, 1.16":      {whole + pair("high-availability", `"zookeeper"`), job.Yes},
		"the new key wins":     {whole + pair("high-availability", `"NONE"`) + pair("high-availability.type", `"a.b.Factory"`), job.Yes},
		"the old key loses":    {whole + pair("high-availability", `"zookeeper"`) + pair("high-availability.type", `"NONE"`), job.No},
		"empty":                {whole + pair("high-availability.type", `""`), job.Unanswered},
		"null":                 {whole + pair("high-availability.type", `null`), job.Unanswered},
		"of a number":          {whole + pair("high-availability.type", `3`), job.Unanswered},
		"a damaged entry":      {whole + `,7`, job.Unanswered},
		"somebody's list":      {`{"key":"a","value":"b"}`, job.Unanswered},
		"off in somebody's":    {`{"key":"high-availability.type","value":"NONE"}`, job.Unanswered},
		"on in somebody's":     {`{"key":"high-availability.type","value":"kubernetes"}`, job.Yes},
		"no list to speak of":  {``, job.Unanswered},
		"an odd incarnation":   {`{"key":"web.tmpdir","value":"/tmp/flink-web-zzz"}`, job.Unanswered},
		"incarnation, cut":     {`{"key":"web.tmpdir","value":"/tmp/flink-web-2f1cb0c1-7a52-4a4b-9cf5-6b0a2f6a6c8"}`, job.Unanswered},
		"incarnation, no dash": {`{"key":"web.tmpdir","value":"/tmp/flink-web-2f1cb0c1a7a52-4a4b-9cf5-6b0a2f6a6c8e"}`, job.Unanswered},
	}
	for name, test := range tests {
		jm, err := decoded(readJobManager, strings.NewReader("["+test.list+"]"))
		if err != nil || jm.HighAvailability != test.want {
			t.Errorf("%s: %s, want %s (%v)", name, jm.HighAvailability, test.want, err)
		}
		if (jm.Incarnation != "") != strings.Contains(test.list, whole) {
			t.Errorf("%s: incarnation %q", name, jm.Incarnation)
		}
	}
}

// A JobManager runs one application if its entry point said so, and takes jobs only if a list that is certainly its own leaves that out.
func TestApplication(t *testing.T) {
	const whole = `{"key":"web.tmpdir","value":"/tmp/flink-web-2f1cb0c1-7a52-4a4b-9cf5-6b0a2f6a6c8e"}`
	for list, want := range map[string]job.Answer{
		whole: job.No,
		whole + `,{"key":"execution.target","value":"embedded"}`:           job.Yes,
		whole + `,{"key":"execution.target","value":"kubernetes-session"}`: job.No,
		whole + `,7`: job.Unanswered,
		``:           job.Unanswered,
		`{"key":"execution.target","value":"embedded"}`: job.Yes,
		`{"key":"execution.target","value":"remote"}`:   job.Unanswered,
	} {
		if jm, err := decoded(readJobManager, strings.NewReader("["+list+"]")); err != nil || jm.Application != want {
			t.Errorf("%s: %s, want %s (%v)", list, jm.Application, want, err)
		}
	}
}

func TestGist(t *testing.T) {
	for want, texts := range map[string][]string{
		"Flink gave no reason":         {"", " \n"},
		"Internal server error.":       {"Internal server error."},
		"java.lang.Error: x":           {"Internal server error.", "<Exception on server side:\njava.lang.Error: x\n\tat y"},
		"RestHandlerException: \ufffd": {"RestHandlerException: \x07\n\tat y", "second"},
	} {
		if got := gist(texts); got != want {
			t.Errorf("gist(%q) = %q, want %q", texts, got, want)
		}
	}
}
