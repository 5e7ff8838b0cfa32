package board

import (
	"strconv"
	"unicode/utf8"

	"github.com/holdfast-dev/holdfast/job"
)

// What a job looks like in JSON is written down twice, here as bytes and in package api as a type with its schema. A
// test of package api compares the two.

// AppendJob appends the job as JSON, as it is served at the view's moment, with its evidence if that is asked for.
func (v *View) AppendJob(dst []byte, j *Job, evidence bool) []byte {
	path := j.Path()
	cluster := int(j.namespace) + 1
	dst = append(dst, v.prefix...)
	dst = append(dst, path[:j.namespace]...)
	dst = append(dst, `","cluster":"`...)
	dst = append(dst, path[cluster:cluster+int(j.cluster)]...)
	dst = append(dst, j.piece(pieceHead)...)
	dst = append(dst, v.Certainty(j).String()...)
	dst = append(dst, `","reason":"`...)
	dst = append(dst, v.Reason(j).String()...)
	dst = append(dst, `","message":"`...)
	dst = v.appendMessage(dst, j)
	dst = append(dst, `","since":"`...)
	dst = append(dst, j.piece(pieceSince)...)
	dst = append(dst, `","lastSeen":"`...)
	if v.vouched(j) {
		dst = append(dst, v.lastSeen...)
	} else {
		dst = append(dst, j.piece(pieceSeen)...)
	}
	dst = append(dst, j.piece(pieceTail)...)
	dst = v.JobVersion(j).Append(dst)
	dst = append(dst, '"')
	if evidence {
		dst = append(dst, `,"evidence":`...)
		dst = append(dst, j.piece(pieceEvidence)...)
	}
	return append(dst, '}')
}

func appendHead(dst []byte, id, name, pipeline string, v *job.Verdict) []byte {
	dst = append(dst, `","pipeline":"`...)
	dst = appendEscaped(dst, pipeline)
	dst = append(dst, `","jobID":"`...)
	dst = append(dst, id...)
	dst = append(dst, `","name":"`...)
	dst = appendEscaped(dst, name)
	dst = append(dst, `","state":"`...)
	dst = append(dst, v.State.String()...)
	dst = append(dst, `","possible":[`...)
	dst = appendNames(dst, v.Possible, `"`, `,`)
	dst = append(dst, `],"over":"`...)
	dst = append(dst, v.Over.String()...)
	return append(dst, `","certainty":"`...)
}

func appendNames(dst []byte, set job.States, quote, separator string) []byte {
	if set == 0 {
		return dst
	}
	for i, s := range set.List() {
		if i > 0 {
			dst = append(dst, separator...)
		}
		dst = append(dst, quote...)
		dst = append(dst, s.String()...)
		dst = append(dst, quote...)
	}
	return dst
}

func appendTail(dst []byte, v *job.Verdict) []byte {
	dst = append(dst, `","attempt":{"number":`...)
	dst = strconv.AppendInt(dst, int64(v.Attempt.Number), 10)
	dst = append(dst, `,"startTime":"`...)
	dst = appendEscaped(dst, string(v.Attempt.StartTime))
	dst = append(dst, `"},"tasks":{"total":`...)
	dst = strconv.AppendInt(dst, int64(v.Tasks.Total), 10)
	dst = append(dst, `,"running":`...)
	dst = strconv.AppendInt(dst, int64(v.Tasks.Running), 10)
	for _, count := range [...]struct {
		name string
		n    int
	}{{"finished", v.Tasks.Finished}, {"failed", v.Tasks.Failed}, {"canceled", v.Tasks.Canceled}} {
		if count.n != 0 {
			dst = append(append(append(dst, `,"`...), count.name...), `":`...)
			dst = strconv.AppendInt(dst, int64(count.n), 10)
		}
	}
	dst = append(dst, `},"via":"`...)
	dst = append(dst, v.Via.String()...)
	return append(dst, `","version":"`...)
}

func appendEvidence(dst []byte, statements []job.Statement) []byte {
	dst = append(dst, '[')
	for i, s := range statements {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendEscaped(append(dst, `{"source":"`...), s.Source)
		dst = appendEscaped(append(dst, `","subject":"`...), s.Subject)
		dst = appendEscaped(append(dst, `","says":"`...), s.Says)
		dst = appendEscaped(append(dst, `","at":"`...), string(s.At))
		dst = append(dst, `"}`...)
	}
	return append(dst, ']')
}

// appendEscaped appends text as the inside of a JSON string. Bytes that are no UTF-8, such as the half of a letter at
// the end of a name that was cut, become the replacement character.
func appendEscaped(dst []byte, text string) []byte {
	start := 0
	for i := 0; i < len(text); {
		c := text[i]
		if c >= ' ' && c < utf8.RuneSelf && c != '"' && c != '\\' {
			i++
			continue
		}
		size := 1
		if c >= utf8.RuneSelf {
			var r rune
			if r, size = utf8.DecodeRuneInString(text[i:]); r != utf8.RuneError || size > 1 {
				i += size
				continue
			}
		}
		dst = append(dst, text[start:i]...)
		switch {
		case c >= utf8.RuneSelf:
			dst = append(dst, "\uFFFD"...)
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c == '\n':
			dst = append(dst, '\\', 'n')
		default:
			const hex = "0123456789abcdef"
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
		i += size
		start = i
	}
	return append(dst, text[start:]...)
}
