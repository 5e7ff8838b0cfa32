package webhook

import (
	"encoding/json"
	"fmt"
	"strings"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
)

// Operation is one step of a JSON patch (RFC 6902): add, test or replace.
type Operation struct {
	Op    string          `json:"op"`
	Path  string          `json:"path"`
	Value json.RawMessage `json:"value"`
}

// Apply gives the document that a patch makes, or an error where a test of it fails. It is done by the library that the API server
// does it with.
func Apply(doc []byte, patch []Operation) ([]byte, error) {
	if len(patch) == 0 {
		return doc, nil
	}
	text, err := json.Marshal(patch)
	if err != nil {
		return nil, fmt.Errorf("write the patch: %w", err)
	}
	decoded, err := jsonpatch.DecodePatch(text)
	if err != nil {
		return nil, fmt.Errorf("read the patch: %w", err)
	}
	patched, err := decoded.Apply(doc)
	if err != nil {
		return nil, fmt.Errorf("apply the patch: %w", err)
	}
	return patched, nil
}

// pointer is the path to a member, each of whose names is escaped.
func pointer(names ...string) string {
	var path strings.Builder
	for _, name := range names {
		path.WriteByte('/')
		path.WriteString(escape.Replace(name))
	}
	return path.String()
}

var escape = strings.NewReplacer("~", "~0", "/", "~1")
