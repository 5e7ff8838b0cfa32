// Package terminal puts text on a terminal: text of strangers made harmless, tables that line up, moments and ages as people
// read them, and colours where they are wanted. It knows nothing of jobs.
package terminal

import (
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"

	"golang.org/x/text/width"
)

// Clean makes text harmless: what could steer a terminal, or turn the direction of writing, is shown as Go would escape it. A
// job's name is whatever its owner chose.
func Clean(text string) string {
	if !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) {
		return text
	}
	var out strings.Builder
	for _, r := range text { // a byte that is no UTF-8 becomes the replacement character
		if unicode.IsPrint(r) {
			out.WriteRune(r)
			continue
		}
		escaped := strconv.QuoteRuneToASCII(r)
		out.WriteString(escaped[1 : len(escaped)-1])
	}
	return out.String()
}

// Width is how many columns a terminal gives to text that is clean.
func Width(text string) int {
	columns := 0
	for _, r := range text {
		columns += runeWidth(r)
	}
	return columns
}

func runeWidth(r rune) int {
	if r < 0x300 {
		return 1
	}
	if unicode.In(r, unicode.Mn, unicode.Me) {
		return 0
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	}
	return 1
}

// Clip shortens text that is wider than columns, and shows that it did.
func Clip(text string, columns int) string {
	if Width(text) <= columns {
		return text
	}
	left := columns - 1
	for i, r := range text {
		if left -= runeWidth(r); left < 0 {
			return text[:i] + "…"
		}
	}
	return text
}

// Age is a time as people say it, in its two largest units.
func Age(d time.Duration) string {
	s := int64(max(d, 0) / time.Second)
	two := func(big int64, bigUnit string, small int64, smallUnit string) string {
		text := strconv.FormatInt(big, 10) + bigUnit
		if small > 0 {
			text += strconv.FormatInt(small, 10) + smallUnit
		}
		return text
	}
	switch {
	case s < 60:
		return two(s, "s", 0, "")
	case s < 3600:
		return two(s/60, "m", s%60, "s")
	case s < 86400:
		return two(s/3600, "h", s/60%60, "m")
	}
	return two(s/86400, "d", s/3600%24, "h")
}

// Colour is one that a terminal has.
type Colour uint8

const (
	Plain Colour = iota
	Bold
	Faint
	Red
	Green
	Yellow
	Cyan
)

var escapes = [...]string{"", "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[36m"}

// Paint gives text a colour.
func (c Colour) Paint(text string) string {
	if c == Plain || text == "" {
		return text
	}
	return escapes[c] + text + "\x1b[0m"
}

// Colours says whether colours are wanted on out: only on a terminal, and unless NO_COLOR (no-color.org) or a terminal
// that knows none forbids them. lookup reads the environment.
func Colours(out io.Writer, lookup func(string) (string, bool)) bool {
	if value, found := lookup("NO_COLOR"); found && value != "" {
		return false
	}
	if kind, _ := lookup("TERM"); kind == "" || kind == "dumb" {
		return false
	}
	file, ok := out.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
