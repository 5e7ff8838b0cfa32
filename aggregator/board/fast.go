package board

import (
	"strings"
	"unicode/utf8"

	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
)

// Reading a hundred thousand verdicts is most of what a restart costs, and encoding/json takes 11 µs for each. A fast
// reader knows exactly the form in which record.EncodeAccount writes, and takes a tenth of that. It judges nothing: whatever
// it does not know at sight (another order is fine; an escape, a space, a field that came later, a fold, a slip) it leaves to
// package record, which alone says what a record means and whether it is one.
type fast struct {
	text string
	at   int
	// seen are the fields of the verdict that came already, as bits: one that comes twice is odd.
	seen uint32
	// odd says that the record is for package record to read.
	odd bool
}

// readVerdict reads the verdict out of the record at a job's key, as record.DecodeAccount does.
func readVerdict(key job.Key, data []byte) (job.Verdict, error) {
	f := fast{text: string(data)}
	if v, ok := f.verdict(); ok {
		return v, nil
	}
	account, err := record.DecodeAccount(key, data)
	return account.Verdict, err
}

// verdict reads all of the text. ok is false if anything about it is odd.
func (f *fast) verdict() (v job.Verdict, ok bool) {
	var version, sequence int
	f.object(func(name string) {
		switch name {
		case "v":
			f.once(0)
			version = f.number()
		case "name":
			f.once(1)
			v.Name = f.bounded()
		case "pipeline":
			f.once(2)
			v.Pipeline = f.bounded()
		case "state":
			f.once(3)
			v.State = f.state()
		case "possible":
			f.once(4)
			f.list(func() { v.Possible |= job.StatesOf(f.state()) })
		case "over":
			f.once(5)
			v.Over = word(f, answers)
		case "certainty":
			f.once(6)
			v.Certainty = word(f, certainties)
		case "reason":
			f.once(7)
			v.Reason = word(f, reasons)
		case "cause":
			f.once(8)
			v.Cause = f.bounded()
		case "since":
			f.once(9)
			v.Since = job.Stamp(f.string())
		case "lastSeen":
			f.once(10)
			v.LastSeen = job.Stamp(f.string())
		case "attempt":
			f.once(11)
			f.attempt(&v.Attempt)
		case "tasks":
			f.once(12)
			f.tasks(&v.Tasks)
		case "via":
			f.once(13)
			v.Via = word(f, roads)
		case "evidence":
			f.once(14)
			f.list(func() { v.Evidence = append(v.Evidence, f.statement()) })
		case "sequence":
			f.once(15)
			sequence = f.number()
		default:
			f.books(name)
		}
	})
	ok = !f.odd && f.at == len(f.text) && version == record.Version && sequence >= 1 && v.Attempt.Number >= 1
	return v, ok
}

// books reads over what only the settler needs, with the same care: half a record is none.
func (f *fast) books(name string) {
	switch name {
	case "past":
		f.once(16)
		f.list(func() { f.string() })
	case "marks":
		f.once(17)
		f.list(func() {
			f.object(func(name string) {
				switch name {
				case "witness":
					f.string()
				case "number":
					f.number()
				default:
					f.odd = true
				}
			})
		})
	case "recent":
		f.once(18)
		f.list(func() { f.state() })
	default:
		f.odd = true
	}
}

func (f *fast) attempt(a *job.Attempt) {
	f.object(func(name string) {
		switch name {
		case "number":
			a.Number = f.number()
		case "startTime":
			a.StartTime = job.Stamp(f.string())
		default:
			f.odd = true
		}
	})
}

func (f *fast) tasks(t *job.Tasks) {
	f.object(func(name string) {
		switch name {
		case "total":
			t.Total = f.number()
		case "running":
			t.Running = f.number()
		case "finished":
			t.Finished = f.number()
		case "failed":
			t.Failed = f.number()
		case "canceled":
			t.Canceled = f.number()
		default:
			f.odd = true
		}
	})
}

func (f *fast) statement() (s job.Statement) {
	f.object(func(name string) {
		switch name {
		case "source":
			s.Source = f.string()
		case "subject":
			s.Subject = f.string()
		case "says":
			s.Says = f.string()
		case "at":
			s.At = job.Stamp(f.string())
		default:
			f.odd = true
		}
	})
	return s
}

// once notes a field by its bit.
func (f *fast) once(bit int) {
	f.odd = f.odd || f.seen>>bit&1 == 1
	f.seen |= 1 << bit
}

// accept takes one character if it comes next.
func (f *fast) accept(c byte) bool {
	if f.odd || f.at >= len(f.text) || f.text[f.at] != c {
		return false
	}
	f.at++
	return true
}

func (f *fast) want(c byte) {
	if !f.accept(c) {
		f.odd = true
	}
}

// object reads an object that is not empty; value is to read the value of each field.
func (f *fast) object(value func(name string)) {
	f.want('{')
	for !f.odd {
		name := f.string()
		f.want(':')
		value(name)
		if !f.accept(',') {
			break
		}
	}
	f.want('}')
}

// list reads a list that is not empty: EncodeAccount leaves empty ones out.
func (f *fast) list(item func()) {
	f.want('[')
	for !f.odd {
		item()
		if !f.accept(',') {
			break
		}
	}
	f.want(']')
}

// string reads a string without escapes.
func (f *fast) string() string {
	f.want('"')
	if f.odd {
		return ""
	}
	end := strings.IndexByte(f.text[f.at:], '"')
	if end < 0 {
		f.odd = true
		return ""
	}
	s := f.text[f.at : f.at+end]
	f.at += end + 1
	ascii := true
	for i := range len(s) {
		if c := s[i]; c == '\\' || c < ' ' {
			f.odd = true
		} else if c >= utf8.RuneSelf {
			ascii = false
		}
	}
	f.odd = f.odd || !ascii && !utf8.ValidString(s)
	return s
}

// bounded reads a string that package record would cut if it were longer.
func (f *fast) bounded() string {
	s := f.string()
	f.odd = f.odd || len(s) > job.NameLimit
	return s
}

// number reads a small number that is not negative.
func (f *fast) number() (n int) {
	start := f.at
	for f.at < len(f.text) && f.text[f.at] >= '0' && f.text[f.at] <= '9' {
		n = n*10 + int(f.text[f.at]-'0')
		f.at++
	}
	digits := f.at - start
	if digits == 0 || digits > 18 || digits > 1 && f.text[start] == '0' {
		f.odd = true
	}
	return n
}

func (f *fast) state() job.State { return word(f, states) }

// The words of each list, in the order of their values.
var (
	states      = wordsOf[job.State]()
	answers     = wordsOf[job.Answer]()
	certainties = wordsOf[job.Certainty]()
	reasons     = wordsOf[job.Reason]()
	roads       = wordsOf[job.Via]()
)

// vocabulary are the names of an enumeration's values, which count up from zero.
type vocabulary[T ~uint8] []string

// wordsOf lists the names of an enumeration of package job. A value that has no name is written with brackets.
func wordsOf[T interface {
	~uint8
	String() string
}]() (list vocabulary[T]) {
	for v := T(0); !strings.HasSuffix(v.String(), ")"); v++ {
		list = append(list, v.String())
	}
	return list
}

func word[T ~uint8](f *fast, list vocabulary[T]) T {
	s := f.string()
	for i, name := range list {
		if s == name {
			return T(i)
		}
	}
	f.odd = true
	return 0
}
