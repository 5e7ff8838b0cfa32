package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-dev/holdfast/job"
	"github.com/holdfast-dev/holdfast/record"
)

// validator checks JSON values against the schemas of an OpenAPI document, as far as this one uses them.
type validator struct{ schemas map[string]any }

func (v validator) check(path string, schema map[string]any, value any) error {
	if ref, ok := schema["$ref"].(string); ok {
		named, ok := v.schemas[strings.TrimPrefix(ref, "#/components/schemas/")].(map[string]any)
		if !ok {
			return fmt.Errorf("%s: there is no schema %s", path, ref)
		}
		return v.check(path, named, value)
	}
	if options, ok := schema["oneOf"].([]any); ok {
		fits := 0
		for _, option := range options {
			if v.check(path, option.(map[string]any), value) == nil {
				fits++
			}
		}
		if fits != 1 {
			return fmt.Errorf("%s: %v fits %d of %v", path, value, fits, options)
		}
		return nil
	}
	if list, ok := schema["enum"].([]any); ok && !slices.Contains(list, value) {
		return fmt.Errorf("%s: %v is none of %v", path, value, list)
	}
	switch schema["type"] {
	case "object":
		return v.checkObject(path, schema, value)
	case "array":
		list, ok := value.([]any)
		if !ok {
			return fmt.Errorf("%s: %v is no list", path, value)
		}
		for i, item := range list {
			if err := v.check(fmt.Sprintf("%s[%d]", path, i), schema["items"].(map[string]any), item); err != nil {
				return err
			}
		}
		return nil
	case "string":
		_, ok := value.(string)
		return fits(path, ok, value)
	case "boolean":
		_, ok := value.(bool)
		return fits(path, ok, value)
	case "number":
		_, ok := value.(json.Number)
		return fits(path, ok, value)
	case "integer":
		n, ok := value.(json.Number)
		return fits(path, ok && !strings.ContainsAny(n.String(), ".e"), value)
	case "null":
		return fits(path, value == nil, value)
	}
	return fmt.Errorf("%s: the schema has no type: %v", path, schema)
}

func (v validator) checkObject(path string, schema map[string]any, value any) error {
	fields, ok := value.(map[string]any)
	if !ok {
		return fmt.Errorf("%s: %v is no object", path, value)
	}
	properties := schema["properties"].(map[string]any)
	for _, name := range schema["required"].([]any) {
		if _, ok := fields[name.(string)]; !ok {
			return fmt.Errorf("%s: %s is missing", path, name)
		}
	}
	for name, field := range fields {
		property, ok := properties[name].(map[string]any)
		if !ok {
			return fmt.Errorf("%s: %s is not in the schema", path, name)
		}
		if err := v.check(path+"."+name, property, field); err != nil {
			return err
		}
	}
	return nil
}

func fits(path string, ok bool, value any) error {
	if !ok {
		return fmt.Errorf("%s: %v has another type", path, value)
	}
	return nil
}

func parsed(t *testing.T, data []byte) any {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var value any
	if err := d.Decode(&value); err != nil {
		t.Fatalf("%v in %s", err, data)
	}
	return value
}

// field goes down into nested objects.
func field(t *testing.T, value any, names ...string) map[string]any {
	t.Helper()
	for _, name := range names {
		next, ok := value.(map[string]any)[name]
		if !ok {
			t.Fatalf("there is no %s in %v", name, value)
		}
		value = next
	}
	return value.(map[string]any)
}

// What the document says of the answers holds for the answers.
func TestTheDocumentDescribesTheAnswers(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Sources = func() []Source { return []Source{{Name: "kubernetes"}} } })
	document := parsed(t, w.get("/openapi.json").body)
	v := validator{field(t, document, "components", "schemas")}
	answers := func(pattern, code, content string, body []byte) {
		t.Helper()
		schema := field(t, document, "paths", pattern, "get", "responses", code, "content", content, "schema")
		if err := v.check(pattern, schema, parsed(t, body)); err != nil {
			t.Errorf("%v\nin %s", err, body)
		}
	}
	const one = "/api/v1/jobs/{site}/{namespace}/{cluster}/{jobID}"
	w.history.page.Transitions = []job.Transition{
		{Sequence: 1, State: job.Running, Over: job.No, At: at},
		{Sequence: 2, Kind: job.Fold, State: job.Unknown, Possible: job.AllStates, Folded: job.StatesOf(job.Running), Count: 3, Since: at, Cause: "c", Correction: true},
	}
	for _, round := range []func(){
		func() { w.put("orders") },
		func() {
			w.put("orders", func(v *job.Verdict) {
				v.State, v.Possible, v.Via, v.Reason = job.Unknown, job.AllStates, job.ViaNone, job.Vanished
				v.Tasks = job.Tasks{Total: 1, Running: 2, Finished: 3, Failed: 4, Canceled: 5}
				v.Evidence = nil
			})
			w.freeze(record.SiteCondition{Frozen: true, Source: "etcd", Why: "w", Since: at})
			w.later(2 * testHold)
		},
	} {
		round()
		answers(one, "200", jsonType, w.get(ordersPath).body)
		answers(one+"/history", "200", jsonType, w.get(ordersPath+"/history").body)
		answers("/api/v1/jobs", "200", jsonType, w.get("/api/v1/jobs").body)
		w.putCluster("orders", crashing())
		answers("/api/v1/clusters", "200", jsonType, w.get("/api/v1/clusters").body)
		answers("/api/v1/clusters/{site}/{namespace}/{cluster}", "200", jsonType, w.get(clusterPath).body)
		answers("/api/v1/status", "200", jsonType, w.get("/api/v1/status").body)
		answers("/readyz", "200", jsonType, w.get("/readyz?verbose").body)
	}
	answers("/api/v1/jobs", "default", problemType, w.get("/api/v1/jobs?stat=x").body)
	answers("/api/v1/clusters", "default", problemType, w.get("/api/v1/clusters?condition=x").body)
	answers("/readyz", "default", problemType, emptyWorld(t).get("/readyz?verbose").body)

	c := w.watch("", "")
	c.until("1.13.held")
	w.put("orders")
	w.remove("orders")
	for _, content := range []string{"application/x-ndjson", "text/event-stream"} {
		answers("/api/v1/jobs", "200", content, c.lines.Bytes())
	}
	for range 4 {
		c.next()
		answers(one, "200", "application/x-ndjson", c.lines.Bytes())
	}
	answers("/api/v1/jobs", "200", "application/x-ndjson", appendJSON(nil, Event{Type: "gone", Problem: versionGone("x")}))
}

// Every route and every parameter is in the document, and every list of words in it is the one of package job.
func TestTheDocumentIsComplete(t *testing.T) {
	w := newWorld(t)
	document := parsed(t, w.get("/openapi.json").body)
	paths := field(t, document, "paths")
	if len(paths) != len(w.server.routes) {
		t.Errorf("%d paths for %d routes", len(paths), len(w.server.routes))
	}
	for _, r := range w.server.routes {
		operation := field(t, paths, r.pattern, "get")
		want := strings.Count(r.pattern, "{") + len(r.parameters)
		if got := len(operation["parameters"].([]any)); got != want {
			t.Errorf("%s has %d parameters in the document, want %d", r.pattern, got, want)
		}
	}
	reasons := field(t, document, "components", "schemas", "Job", "properties", "reason")["enum"].([]any)
	if len(reasons) != len(job.Reasons()) {
		t.Errorf("%d reasons in the document, %d in package job", len(reasons), len(job.Reasons()))
	}
	states := field(t, document, "components", "schemas", "Job", "properties", "state")["enum"].([]any)
	if len(states) != 1+job.AllStates.Len() {
		t.Errorf("states %v", states)
	}
	conditions := field(t, document, "components", "schemas", "Cluster", "properties", "condition")["enum"].([]any)
	if len(conditions) != len(job.Conditions()) {
		t.Errorf("conditions %v", conditions)
	}
}
