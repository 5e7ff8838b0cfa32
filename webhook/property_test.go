package webhook

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// realPods are the pods of the golden files.
func realPods(t testing.TB) []json.RawMessage {
	files, err := filepath.Glob("testdata/pods/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no pods: %v", err)
	}
	var all []json.RawMessage
	for _, file := range files {
		_, request := readCase(t, file)
		all = append(all, request.Pod)
	}
	return all
}

func generic(t testing.TB, raw []byte) any {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber() // numbers stay as they are written
	var value any
	if err := decoder.Decode(&value); err != nil {
		t.Fatalf("%v\n%s", err, raw)
	}
	return value
}

var oddText = rapid.SampledFrom([]string{
	"", "x", "é", "\u2028", "<&>", "\x00", "\\", "\"", "a/b~c", "日本", "\U0001f980", strings.Repeat("long ", 200), "$(reboot)",
	"`reboot`", "null", "-",
	"holdfast-agent", "holdfast-archive", "jobmanager", "flink-main-container", "false", "true", "8081", "/holdfast", "/holdfast/archive",
})

// oddValue is any JSON.
func oddValue(r *rapid.T, depth int) any {
	switch rapid.IntRange(0, 7).Draw(r, "kind") {
	case 0:
		return nil
	case 1:
		return json.Number(rapid.SampledFrom([]string{"0", "1", "-1", "1.50", "1e400", "12345678901234567890123"}).Draw(r, "number"))
	case 2:
		return rapid.Bool().Draw(r, "bool")
	case 3:
		return []any{}
	case 4:
		return map[string]any{}
	case 5:
		if depth > 0 {
			return map[string]any{oddText.Draw(r, "name"): oddValue(r, depth-1), "x": oddValue(r, depth-1)}
		}
	case 6:
		if depth > 0 {
			return []any{oddValue(r, depth-1), oddValue(r, depth-1)}
		}
	}
	return oddText.Draw(r, "text")
}

// places are all maps of a document.
func places(value any, found *[]map[string]any) {
	switch value := value.(type) {
	case map[string]any:
		*found = append(*found, value)
		for _, name := range slices.Sorted(maps.Keys(value)) {
			places(value[name], found)
		}
	case []any:
		for _, element := range value {
			places(element, found)
		}
	}
}

// distort changes a pod in a few places: fields that nobody knows, nulls, empty lists, missing parts, odd text.
func distort(r *rapid.T, pod any) {
	for range rapid.IntRange(0, 6).Draw(r, "changes") {
		var all []map[string]any
		places(pod, &all)
		place := all[rapid.IntRange(0, len(all)-1).Draw(r, "place")]
		names := slices.Sorted(maps.Keys(place))
		name := "unknown"
		if len(names) > 0 {
			name = names[rapid.IntRange(0, len(names)-1).Draw(r, "member")]
		}
		switch rapid.IntRange(0, 6).Draw(r, "change") {
		case 0:
			place["x-"+strconv.Itoa(len(place))] = oddValue(r, 2) // Kubernetes' next version may have it
		case 1:
			delete(place, name)
		case 2:
			place[name] = nil
		case 3:
			if _, is := place[name].([]any); is {
				place[name] = []any{}
			} else if _, is := place[name].(map[string]any); is {
				place[name] = map[string]any{}
			}
		case 4:
			if _, is := place[name].(string); is {
				place[name] = oddText.Draw(r, "text")
			}
		case 5:
			if list, is := place[name].([]any); is && len(list) > 1 {
				place[name] = append(slices.Clone(list[1:]), list[0])
			}
		case 6:
			place[name] = oddValue(r, 1) // most of these are no pods any more
		}
	}
}

// Whatever a pod is made of, the patch applies to it, changes nothing but what is documented, and is made once only.
func TestAnyPodKeepsWhatItHas(t *testing.T) {
	pods := realPods(t)
	injected := 0
	rapid.Check(t, func(r *rapid.T) {
		for range 10 {
			pod := generic(t, pods[rapid.IntRange(0, len(pods)-1).Draw(r, "pod")])
			distort(r, pod)
			raw, err := json.Marshal(pod)
			if err != nil {
				r.Fatal(err)
			}
			s := settings()
			s.NativeSidecars = rapid.Bool().Draw(r, "native")
			d := Decide(s, Request{Pod: raw})
			patched := checkDecision(t, s, Request{Pod: raw}, d)
			if !d.Inject {
				if string(patched) != string(raw) {
					r.Fatalf("%s, and yet the pod is another", d.Reason)
				}
				continue
			}
			injected++
			after := generic(t, patched)
			if err := undo(pod, after, d); err != nil {
				r.Fatalf("%v\n%s", err, raw)
			}
			if diff := cmp.Diff(pod, after); diff != "" {
				r.Fatalf("more than the agent has come (-before +after):\n%s\n%s", diff, raw)
			}
		}
		if t.Failed() {
			r.FailNow()
		}
	})
	if injected < 50 {
		t.Errorf("only %d of the pods were injected: the test tests little", injected)
	}
}

// undo takes out of a pod what is documented to come with the agent, and says what of that is missing.
func undo(before, after any, d Decision) error {
	at := func(value any, path ...string) any {
		for _, name := range path {
			switch of := value.(type) {
			case map[string]any:
				value = of[name]
			case []any:
				i, err := strconv.Atoi(name)
				if err != nil || i >= len(of) {
					return nil
				}
				value = of[i]
			default:
				return nil
			}
		}
		return value
	}
	// keep puts back a member of before, or its absence.
	keep := func(name string, path ...string) {
		was, is := at(before, path...), at(after, path...).(map[string]any)
		if value, had := was.(map[string]any)[name]; had {
			is[name] = value
		} else {
			delete(is, name)
		}
	}
	// cut takes one element out of a list, which must be an agent's.
	cut := func(first bool, name, list string, path ...string) error {
		holder := at(after, path...).(map[string]any)
		elements, _ := holder[list].([]any)
		if len(elements) == 0 {
			return fmt.Errorf("nothing came into %s", list)
		}
		i := len(elements) - 1
		if first {
			i = 0
		}
		if at(elements[i], "name") != name {
			return fmt.Errorf("there is no %s at its place in %s", name, list)
		}
		if holder[list] = slices.Delete(elements, i, i+1); len(elements) == 1 {
			// An empty list, a null and nothing are the same to Kubernetes; here it must be what it was.
			keep(list, path...)
		}
		return nil
	}
	if at(after, "metadata", "labels", LabelInjected) != "true" {
		return errors.New("the label is missing")
	}
	status, _ := at(after, "metadata", "annotations", AnnotationStatus).(string)
	var told Status
	if err := json.Unmarshal([]byte(status), &told); err != nil || told.Mode != d.Mode || told.Container != d.Container {
		return fmt.Errorf("the status is %q: %v", status, err)
	}
	for _, list := range []string{"labels", "annotations"} {
		if old, had := at(before, "metadata", list).(map[string]any); had {
			for _, name := range []string{LabelInjected, AnnotationStatus, annotationDefaultContainer, annotationEvictable} {
				if name == annotationDefaultContainer && old[name] != nil && at(after, "metadata", list, name) != old[name] {
					return errors.New("the default container was changed")
				}
				keep(name, "metadata", list)
			}
			_ = old
		} else {
			keep(list, "metadata")
		}
	}
	if d.Mode == Native {
		if err := cut(true, ContainerName, "initContainers", "spec"); err != nil {
			return err
		}
	} else if err := cut(false, ContainerName, "containers", "spec"); err != nil {
		return err
	}
	if !d.Archive.Inject {
		return nil
	}
	if err := cut(false, ArchiveVolume, "volumes", "spec"); err != nil {
		return err
	}
	containers := at(before, "spec", "containers").([]any)
	main := slices.IndexFunc(containers, func(c any) bool {
		name, _ := at(c, "name").(string) // one that has none is chosen where it is the only one
		return name == d.Container
	})
	path := []string{"spec", "containers", strconv.Itoa(main)}
	if err := cut(false, ArchiveVolume, "volumeMounts", path...); err != nil {
		return err
	}
	args := at(after, append(path, "args")...).([]any)
	for i, arg := range args {
		switch text, _ := arg.(string); {
		case text == archiveOption:
			at(after, path...).(map[string]any)["args"] = slices.Delete(args, i, i+1)
			return nil
		case strings.Contains(text, inPod):
			args[i] = strings.Replace(text, " "+inPod, "", 1)
			return nil
		}
	}
	return errors.New("no argument names the archive folder")
}

// What is no pod, and no JSON, is left alone too.
func TestAnythingIsDecided(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		raw, err := json.Marshal(oddValue(r, 4))
		if err != nil {
			return
		}
		if rapid.Bool().Draw(r, "broken") {
			raw = raw[:rapid.IntRange(0, len(raw)).Draw(r, "end")]
		}
		checkDecision(t, settings(), Request{Pod: raw}, Decide(settings(), Request{Pod: raw}))
	})
}

func FuzzDecide(f *testing.F) {
	for _, pod := range realPods(f) {
		f.Add([]byte(pod), true)
	}
	for _, text := range []string{
		"", "null", "[]", "{}", "0", `"x"`, "{", `{"spec":null,"metadata":null}`, `{"spec":{"containers":[null]}}`, `[{"kind":"Pod"}]`,
		`{"metadata":{"name":"a","labels":{"a":"b"}},"metadata":{"name":"b"},"spec":{"containers":[{"name":"jobmanager"}]}}`,
		`{"metadata":{"name":"a"},"spec":{"containers":[{"name":"jobmanager"}],"containers":[]}}`,
		`{"metadata":{"name":"\u0061"},"spec":{"containers":[{"name":"j\u006fbmanager"}]}}`,
		`{"metadata":{"name":"a"},"spec":{"containers":[{"name":"jobmanager",` +
			`"args":["bash","-c","kubernetes-jobmanager.sh kubernetes-application <\u003c \/"]}]}}`,
		`{"Metadata":{"Name":"a"},"SPEC":{"containers":[{"name":"jobmanager"}]}}`,
		strings.Repeat("[", 20_000), `{"spec":{"containers":` + strings.Repeat(`[{"x":`, 3000),
	} {
		f.Add([]byte(text), false)
	}
	f.Fuzz(func(t *testing.T, raw []byte, native bool) {
		s := settings()
		s.NativeSidecars = native
		d := Decide(s, Request{Pod: raw})
		if len(raw) == 0 || !json.Valid(raw) {
			if d.Inject {
				t.Fatalf("%q is injected", raw)
			}
			return
		}
		checkDecision(t, s, Request{Pod: raw}, d)
		ConfigMapNeeded(s, raw)
	})
}
