package flink

import (
	"context"
	"net/http"
	"strings"

	"github.com/holdfast-dev/holdfast/job"
)

// AlreadyDone is the simple name of the exception with which Flink shows a job as FAILED that it refused to run because
// it had ended before, however it had ended (JobMasterServiceLeadershipRunner.java, jobAlreadyDone). Such a FAILED
// is not an ending: test a cause with strings.Contains.
const AlreadyDone = "JobAlreadyDoneException"

// Cause asks /jobs/ID/exceptions for the latest failure and gives its root: "class: message", with control characters
// replaced and at most job.CauseLimit bytes. The failure need not have ended the job: restarts leave theirs here too.
// "" means that Flink has none. If AlreadyDone is anywhere in the chain of causes, the result begins with that
// exception's class. Flink answers from a cache that is up to 3 s old, as in Detail.
func (c *Client) Cause(ctx context.Context, id string) (string, error) {
	if err := checkID(id); err != nil {
		return "", &failure{reach: job.NotAsked, err: err}
	}
	cause := ""
	err := c.ask(ctx, question{
		method: http.MethodGet, path: "/jobs/" + id + "/exceptions", query: "maxExceptions=1", id: id,
		read: func(a *answer) (err error) { cause, err = readCause(a); return err },
	})
	if err != nil {
		return "", err
	}
	return cause, nil
}

// readCause reads both layouts: exceptionHistory (JobExceptionsInfoWithHistory.java, all releases; the newest entry is
// the first) and root-exception, which 2.0 removed.
func readCause(a *answer) (string, error) {
	var newest, root string
	err := a.object(func(key string) error {
		switch key {
		case "root-exception":
			return a.decode(&root)
		case "exceptionHistory":
			return readHistory(a, &newest)
		}
		return a.skip()
	})
	if err != nil {
		return "", err
	}
	for _, stack := range []string{newest, root} {
		if done := alreadyDone(stack); done != "" {
			return done, nil
		}
	}
	// The root exception is why the job failed; the history's entry may be of a restart.
	for _, stack := range []string{root, newest} {
		if cause := rootCause(stack); cause != "" {
			return cause, nil
		}
	}
	return "", nil
}

func readHistory(a *answer, newest *string) error {
	return a.object(func(key string) error {
		if key != "entries" {
			return a.skip()
		}
		return a.array(func() error {
			if *newest != "" {
				return a.skip()
			}
			var entry struct {
				Name  string `json:"exceptionName"`
				Stack string `json:"stacktrace"`
			}
			err := a.decode(&entry)
			if *newest = entry.Stack; entry.Stack == "" {
				*newest = entry.Name
			}
			return err
		})
	})
}

// rootCause gives the last link of a Java stack trace's chain of causes. Causes of suppressed exceptions are indented and
// so not of the chain.
func rootCause(stack string) string {
	const by = "\nCaused by: "
	if i := strings.LastIndex(stack, by); i >= 0 && strings.TrimSpace(stack[i+len(by):]) != "" {
		stack = stack[i+len(by):]
	}
	return headline(stack)
}

// headline is what stands before the first frame, in one line.
func headline(stack string) string {
	var words []string
	size := 0
	for line := range strings.Lines(stack) {
		text := strings.TrimSpace(line)
		if frame(text) && len(words) > 0 {
			break
		}
		if text != "" {
			words = append(words, text)
			size += len(text)
		}
		if size > job.CauseLimit {
			break
		}
	}
	return clean(strings.Join(words, " "), job.CauseLimit)
}

// frame recognises the lines that follow an exception's message.
func frame(line string) bool {
	return strings.HasPrefix(line, "at ") || strings.HasPrefix(line, "... ") ||
		strings.HasPrefix(line, "Suppressed: ") || strings.HasPrefix(line, "Caused by: ")
}

// alreadyDone gives the headline that begins with AlreadyDone's full class name, or "".
func alreadyDone(stack string) string {
	for from := 0; ; {
		i := strings.Index(stack[from:], AlreadyDone)
		if i < 0 {
			return ""
		}
		start, end := from+i, from+i+len(AlreadyDone)
		from = end
		if start > 0 && identifier(stack[start-1]) || end < len(stack) && identifier(stack[end]) {
			continue // a part of another class's name
		}
		for start > 0 && (identifier(stack[start-1]) || stack[start-1] == '.') {
			start--
		}
		return headline(stack[start:])
	}
}

func identifier(b byte) bool {
	return b == '_' || b == '$' || b >= '0' && b <= '9' || b >= 'A' && b <= 'Z' || b >= 'a' && b <= 'z'
}
