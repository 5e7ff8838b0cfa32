package terminal

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain":               "plain",
		"日本語 ok":              "日本語 ok",
		"a\x1b[2Jb":           `a\x1b[2Jb`,
		"line\nbreak\ttab":    `line\nbreak\ttab`,
		"bell\a":              `bell\a`,
		"c1\u009b31m":         `c1\u009b31m`,
		"turned\u202egnp.exe": `turned\u202egnp.exe`,
		"zero\u200bwidth":     `zero\u200bwidth`,
		"\x7f":                `\x7f`,
		"half \xe6":           "half \uFFFD",
		"raw c1 \x9b31m":      "raw c1 \uFFFD31m",
		`back\slash`:          `back\slash`,
	} {
		if got := Clean(in); got != want {
			t.Errorf("Clean(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestWidthAndClip(t *testing.T) {
	for _, c := range []struct {
		text    string
		columns int
		want    string
	}{
		{"short", 5, "short"}, {"longer", 5, "long…"}, {"日本語", 6, "日本語"}, {"日本語", 5, "日本…"}, {"日本語", 4, "日…"},
		{"e\u0301e\u0301e\u0301", 3, "e\u0301e\u0301e\u0301"}, {"", 3, ""}, {"ab", 1, "…"},
	} {
		if got := Clip(c.text, c.columns); got != c.want {
			t.Errorf("Clip(%q, %d) = %q, want %q", c.text, c.columns, got, c.want)
		}
	}
}

func TestClipIsNeverTooWide(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text, columns := Clean(rapid.String().Draw(t, "text")), rapid.IntRange(1, 40).Draw(t, "columns")
		if got := Clip(text, columns); Width(got) > columns {
			t.Fatalf("Clip(%q, %d) = %q, which is %d wide", text, columns, got, Width(got))
		}
	})
}

func TestAge(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0s", 59*time.Second + 999*time.Millisecond: "59s", time.Minute: "1m", 61 * time.Second: "1m1s",
		time.Hour: "1h", 26*time.Hour + 5*time.Minute: "1d2h", 100 * 24 * time.Hour: "100d", 3*time.Hour + 4*time.Minute: "3h4m",
	} {
		if got := Age(d); got != want {
			t.Errorf("Age(%s) = %q, want %q", d, got, want)
		}
	}
}

func TestTableLinesUp(t *testing.T) {
	for _, colours := range []bool{false, true} {
		table := Table{Colours: colours, Limit: 10, Indent: "  "}
		table.Header("NAME", "STATE", "ID")
		table.Row(Text("日本"), Cell{Text: "RUNNING", Colour: Green}, Text("1"))
		table.Row(Text("evil\x1b[31mname"), Cell{Text: "FAILED", Colour: Red}, Text(""))
		var out bytes.Buffer
		if err := table.Write(&out); err != nil {
			t.Fatal(err)
		}
		text := out.String()
		if colours {
			if !strings.Contains(text, "\x1b[32mRUNNING\x1b[0m  1\n") {
				t.Errorf("no colour around the state in %q", text)
			}
			for _, escape := range append(escapes[1:], "\x1b[0m") {
				text = strings.ReplaceAll(text, escape, "")
			}
		}
		want := "  NAME        STATE    ID\n" +
			"  日本        RUNNING  1\n" +
			"  evil\\x1b[…  FAILED   -\n"
		if diff := cmp.Diff(want, text); diff != "" {
			t.Errorf("colours %t: -want +got\n%s", colours, diff)
		}
	}
}

func TestColours(t *testing.T) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0) // a character device, as a terminal is
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	file, err := os.Create(t.TempDir() + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, c := range []struct {
		name string
		env  map[string]string
		out  any
		want bool
	}{
		{"a terminal", map[string]string{"TERM": "xterm"}, null, true},
		{"NO_COLOR", map[string]string{"TERM": "xterm", "NO_COLOR": "1"}, null, false},
		{"NO_COLOR empty", map[string]string{"TERM": "xterm", "NO_COLOR": ""}, null, true},
		{"dumb", map[string]string{"TERM": "dumb"}, null, false},
		{"no TERM", nil, null, false},
		{"a file", map[string]string{"TERM": "xterm"}, file, false},
		{"a buffer", map[string]string{"TERM": "xterm"}, &bytes.Buffer{}, false},
	} {
		lookup := func(name string) (string, bool) { v, found := c.env[name]; return v, found }
		if got := Colours(c.out.(interface{ Write([]byte) (int, error) }), lookup); got != c.want {
			t.Errorf("%s: %t, want %t", c.name, got, c.want)
		}
	}
}
