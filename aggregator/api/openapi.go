package api

import (
	"encoding"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"strings"

	"github.com/holdfast-dev/holdfast/job"
)

// object is a JSON object; encoding/json writes its keys sorted, so that the document is the same every time.
type object = map[string]any

// document makes the OpenAPI document out of the route table and the types of the answers.
func document(routes []*route, version string) ([]byte, error) {
	if version == "" {
		version = "unknown"
	}
	schemas := schemas{}
	paths := object{}
	for _, r := range routes {
		operation, err := schemas.operation(r)
		if err != nil {
			return nil, err
		}
		paths[r.pattern] = object{"get": operation}
	}
	data, err := json.MarshalIndent(object{
		"openapi": "3.1.0",
		"info": object{
			"title": "Holdfast", "version": version,
			"description": "What is the state of each Flink job, how do we know, and since when?",
		},
		"paths":      paths,
		"components": object{"schemas": schemas},
	}, "", " ")
	if err != nil {
		return nil, fmt.Errorf("write the OpenAPI document: %w", err)
	}
	return data, nil
}

// schemas are those of the named types, by name.
type schemas object

func (s schemas) operation(r *route) (object, error) {
	parameters := []object{}
	for _, name := range r.names {
		parameters = append(parameters, object{
			"name": name, "in": "path", "required": true, "schema": object{"type": "string"},
		})
	}
	for _, p := range r.parameters {
		parameters = append(parameters, p.document())
	}
	problem, err := s.of(reflect.TypeFor[Problem]())
	if err != nil {
		return nil, err
	}
	content := object{r.content: object{}}
	if r.answer != nil {
		schema, err := s.of(reflect.TypeOf(r.answer))
		if err != nil {
			return nil, err
		}
		content = object{jsonType: object{"schema": schema}}
	}
	if r.watched {
		event, err := s.of(reflect.TypeFor[Event]())
		if err != nil {
			return nil, err
		}
		for _, events := range []bool{false, true} {
			content[streamType(events)] = object{"schema": event}
		}
	}
	return object{
		"summary": r.summary, "parameters": parameters,
		"responses": object{
			"200":     object{"description": "The answer.", "content": content},
			"default": object{"description": "What was wrong, and what to do.", "content": object{problemType: object{"schema": problem}}},
		},
	}, nil
}

func (p *parameter) document() object {
	schema := object{"type": "string"}
	if p.words != nil {
		schema["enum"] = p.words
	}
	switch p.form {
	case manyWords:
		schema = object{"type": "array", "items": schema}
	case aNumber:
		schema = object{"type": "integer", "minimum": p.least, "maximum": p.most, "default": p.usual}
	case aSwitch:
		schema = object{"type": "boolean", "default": false}
	}
	return object{"name": p.name, "in": "query", "description": p.doc, "schema": schema}
}

// enumerations are the closed lists of words among the types of the answers.
var enumerations = map[reflect.Type][]string{
	reflect.TypeFor[job.State]():     words[job.State](),
	reflect.TypeFor[job.Answer]():    words[job.Answer](),
	reflect.TypeFor[job.Certainty](): words[job.Certainty](),
	reflect.TypeFor[job.Reason]():    words[job.Reason](),
	reflect.TypeFor[job.Via]():       words[job.Via](),
	reflect.TypeFor[job.Kind]():      words[job.Kind](),
	reflect.TypeFor[job.Condition](): words[job.Condition](),
	reflect.TypeFor[job.Reach]():     words[job.Reach](),
}

// of gives the schema of a type. That of a struct is kept under its name, and referred to.
func (s schemas) of(t reflect.Type) (object, error) {
	if list, ok := enumerations[t]; ok {
		return object{"type": "string", "enum": list}, nil
	}
	if t.Implements(reflect.TypeFor[encoding.TextMarshaler]()) {
		return nil, fmt.Errorf("the type %s writes itself as text and is no known enumeration", t)
	}
	switch t.Kind() {
	case reflect.String:
		return object{"type": "string"}, nil
	case reflect.Bool:
		return object{"type": "boolean"}, nil
	case reflect.Int, reflect.Int64:
		return object{"type": "integer"}, nil
	case reflect.Float64:
		return object{"type": "number"}, nil
	case reflect.Slice:
		items, err := s.of(t.Elem())
		return object{"type": "array", "items": items}, err
	case reflect.Pointer:
		schema, err := s.of(t.Elem())
		return object{"oneOf": []object{schema, {"type": "null"}}}, err
	case reflect.Struct:
		if _, known := s[t.Name()]; !known {
			s[t.Name()] = object{} // a type may contain itself
			schema, err := s.structure(t)
			if err != nil {
				return nil, err
			}
			s[t.Name()] = schema
		}
		return object{"$ref": "#/components/schemas/" + t.Name()}, nil
	}
	return nil, fmt.Errorf("there is no schema for the type %s", t)
}

func (s schemas) structure(t reflect.Type) (object, error) {
	properties, required := object{}, []string{}
	for i := range t.NumField() {
		field := t.Field(i)
		if !field.IsExported() {
			continue
		}
		name, rest, _ := strings.Cut(field.Tag.Get("json"), ",")
		optional := strings.Contains(rest, "omitempty")
		of := field.Type
		if optional && of.Kind() == reflect.Pointer {
			of = of.Elem() // left out, so never null
		}
		schema, err := s.of(of)
		if err != nil {
			return nil, fmt.Errorf("%s.%s: %w", t.Name(), field.Name, err)
		}
		schema = maps.Clone(schema)
		if doc := field.Tag.Get("doc"); doc != "" {
			schema["description"] = doc
		}
		if list := field.Tag.Get("enum"); list != "" {
			schema["enum"] = strings.Split(list, ",")
		}
		properties[name] = schema
		if !optional {
			required = append(required, name)
		}
	}
	return object{"type": "object", "properties": properties, "required": required}, nil
}
