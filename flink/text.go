package flink

import (
	"fmt"
	"math"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/holdfast-dev/holdfast/job"
)

// clean makes text of Flink or of a user fit for terminals, logs and records: what would steer a terminal or reorder a
// line (control characters, line separators, bidirectional overrides) and what is not UTF-8 becomes U+FFFD, and
// the result has at most limit bytes, cut between runes.
func clean(s string, limit int) string {
	if len(s) <= limit && plain(s) {
		return s
	}
	var b strings.Builder
	b.Grow(min(len(s), limit))
	for _, r := range s {
		if unfit(r) {
			r = utf8.RuneError
		}
		if b.Len()+utf8.RuneLen(r) > limit {
			break
		}
		b.WriteRune(r)
	}
	return b.String()
}

// plain is the common case, which costs nothing: printable ASCII.
func plain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

func unfit(r rune) bool {
	return unicode.IsControl(r) || r >= '\u2028' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069'
}

// lastMilli is the end of the year 9999, after which RFC 3339 has no form.
const lastMilli = 253402300799999

// stamp gives Flink's milliseconds since 1970. Flink writes -1 for a moment that has not come.
func stamp(milli int64) job.Stamp {
	if milli < 0 || milli > lastMilli {
		return ""
	}
	return job.Stamp(time.UnixMilli(milli).UTC().Format("2006-01-02T15:04:05.000Z07:00"))
}

// checkID wants what JobID.java prints: 32 lower-case hexadecimal digits. Nothing else may become part of a path or a key.
func checkID(id string) error {
	ok := len(id) == 32
	for i := 0; ok && i < len(id); i++ {
		ok = '0' <= id[i] && id[i] <= '9' || 'a' <= id[i] && id[i] <= 'f'
	}
	if !ok {
		return fmt.Errorf("job id %q is not 32 lower-case hexadecimal digits", clean(id, 64))
	}
	return nil
}

// count makes a number of tasks of what Flink sent.
func count(n int64) int { return int(min(max(n, 0), math.MaxInt32)) }
