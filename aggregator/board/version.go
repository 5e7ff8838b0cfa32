package board

import (
	"errors"
	"strconv"
	"strings"
)

// Version is a place in the history of a site's verdicts. Clients get it as "epoch.revision" and are to take it as
// opaque; revisions of different epochs do not compare.
type Version struct {
	// Epoch is that of the site's identity; 0 as long as no identity has been read.
	Epoch int64
	// Revision is etcd's.
	Revision int64
	// Lowered marks, as a third part "held", what was shown while rule S13 lowered it. A watcher that goes on from such a
	// place cannot tell which jobs it last saw lowered, so they are all shown to it anew.
	Lowered bool
}

const loweredMark = ".held"

// errNoVersion is what ParseVersion returns for a text of any other form.
var errNoVersion = errors.New(`a version looks like "1.8123"`)

// ParseVersion reads what Version.String gave.
func ParseVersion(text string) (Version, error) {
	text, lowered := strings.CutSuffix(text, loweredMark)
	epoch, revision, found := strings.Cut(text, ".")
	v := Version{Epoch: number(epoch), Revision: number(revision), Lowered: lowered}
	if !found || v.Epoch < 0 || v.Revision < 0 {
		return Version{}, errNoVersion
	}
	return v, nil
}

// number reads a decimal number without a sign, and returns -1 for anything else.
func number(text string) int64 {
	if text == "" || text[0] < '0' || text[0] > '9' {
		return -1
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// Append appends the version's text to dst.
func (v Version) Append(dst []byte) []byte {
	dst = strconv.AppendInt(dst, v.Epoch, 10)
	dst = append(dst, '.')
	dst = strconv.AppendInt(dst, v.Revision, 10)
	if v.Lowered {
		dst = append(dst, loweredMark...)
	}
	return dst
}

func (v Version) String() string { return string(v.Append(nil)) }
