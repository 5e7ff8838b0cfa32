package flink

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

const (
	// window bounds the bytes of one JSON value that is held at once: a job of an overview, a stack trace.
	window = 1 << 20
	// maxDepth bounds how deep a value may be that is skipped; the decoder remembers each level.
	maxDepth = 200
)

// answer is a body that is read as a stream: it ends after limit bytes, and also when one value grows beyond the
// window, so that neither the length of an answer nor that of a value decides how much memory it costs.
type answer struct {
	body  io.Reader
	limit int64
	read  int64 // bytes given to the decoder
	mark  int64 // bytes that the decoder is done with
	err   error // what ended the body, if not its end
	dec   *json.Decoder
}

func newAnswer(body io.Reader, limit int64) *answer {
	a := &answer{body: body, limit: limit}
	a.dec = json.NewDecoder(a)
	a.dec.UseNumber() // a number in a field that is skipped may be of any size
	return a
}

// Read is for the decoder. It keeps the body's error: the decoder has io.ErrUnexpectedEOF both for a connection that
// broke, which is silence, and for JSON that ends too early in a whole body, which is nonsense.
func (a *answer) Read(p []byte) (int, error) {
	room := min(a.limit-a.read, window-(a.read-a.mark)) + 1
	if a.err == nil && room <= 0 {
		a.err = fmt.Errorf("%w: more than %d bytes, or a value of more than %d", errTooLong, a.limit, window)
	}
	if a.err != nil {
		return 0, a.err
	}
	n, err := a.body.Read(p[:min(int64(len(p)), room)])
	a.read += int64(n)
	if err != nil && err != io.EOF {
		a.err = err
	}
	return n, err
}

// broken says that the body ended with its connection, and not by what is in it.
func (a *answer) broken() bool { return a.err != nil && !errors.Is(a.err, errTooLong) }

func (a *answer) token() (json.Token, error) {
	t, err := a.dec.Token()
	a.mark = a.dec.InputOffset()
	return t, a.cut(err)
}

// decode reads one value. A *json.UnmarshalTypeError leaves the stream after that value.
func (a *answer) decode(v any) error {
	err := a.dec.Decode(v)
	a.mark = a.dec.InputOffset()
	return a.cut(err)
}

func (a *answer) cut(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return errors.New("the JSON ends too early")
	}
	return err
}

func (a *answer) open(want json.Delim) error {
	t, err := a.token()
	if err != nil {
		return err
	}
	if t != want {
		return fmt.Errorf("want %q, got %s", want.String(), describe(t))
	}
	return nil
}

// object reads an object; member must read the value of each key, or skip it.
func (a *answer) object(member func(key string) error) error {
	if err := a.open('{'); err != nil {
		return err
	}
	for a.dec.More() {
		t, err := a.token()
		if err != nil {
			return err
		}
		key, _ := t.(string) // the decoder has made sure of it
		if err := member(key); err != nil {
			return err
		}
	}
	_, err := a.token()
	return err
}

// array reads an array; element must read each value.
func (a *answer) array(element func() error) error {
	if err := a.open('['); err != nil {
		return err
	}
	for a.dec.More() {
		if err := element(); err != nil {
			return err
		}
	}
	_, err := a.token()
	return err
}

// skip passes over one value, whatever its size, without holding it.
func (a *answer) skip() error {
	for depth := 0; ; {
		t, err := a.token()
		if err != nil {
			return err
		}
		switch t {
		case json.Delim('{'), json.Delim('['):
			if depth++; depth > maxDepth {
				return fmt.Errorf("a value that is nested more than %d deep", maxDepth)
			}
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth == 0 {
			return nil
		}
	}
}

// end makes sure that nothing follows, which also lets the connection be used again.
func (a *answer) end() error {
	t, err := a.dec.Token()
	if err == io.EOF && a.err == nil {
		return nil
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("%s after the end of the answer", describe(t))
}

// readErrors reads Flink's error body. No errors at all are an error.
func readErrors(a *answer) ([]string, error) {
	var texts []string
	err := a.object(func(key string) error {
		if key != "errors" {
			return a.skip()
		}
		return a.decode(&texts)
	})
	if err == nil {
		err = a.end()
	}
	if err == nil && len(texts) == 0 {
		err = errors.New("no errors in an error answer")
	}
	return texts, err
}

func describe(t json.Token) string {
	switch t := t.(type) {
	case json.Delim:
		return fmt.Sprintf("%q", t.String())
	case string:
		return fmt.Sprintf("the string %q", clean(t, 64))
	case json.Number:
		return "the number " + clean(t.String(), 64)
	case nil:
		return "null"
	}
	return fmt.Sprint(t)
}
