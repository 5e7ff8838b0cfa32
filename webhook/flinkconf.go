package webhook

import (
	"regexp"
	"strings"
)

// A line of Flink's configuration: indentation, a key that may be quoted, and a value after a space.
var configLine = regexp.MustCompile(`^([\t-\r ]*)["']?([A-Za-z0-9_.-]+)["']?[\t-\r ]*:([\t-\r ]+(.*))?$`)

// What YAML can do and a reading line by line cannot: flow mappings, explicit keys, merge keys, and quoted keys with escapes.
var beyondLines = regexp.MustCompile(`^[\t-\r ]*(\{|\? |<<|"[^"]*\\)`)

// config is what is set in one of Flink's configuration files, flat (flink-conf.yaml, and config.yaml as Flink itself writes it for
// native clusters up to 1.20) or nested.
type config struct {
	values map[string]string // by their full names
	// odd are the names below which something stands that was not understood; "" is the whole file.
	odd []string
}

// readConfig reads Flink's configuration line by line, as inPod does: the two must come to the same result.
func readConfig(text string) config {
	c := config{values: map[string]string{}}
	type level struct {
		indent int
		prefix string
	}
	var levels []level
	for line := range strings.SplitSeq(text, "\n") {
		line = strings.TrimPrefix(line, "\ufeff")
		if beyondLines.MatchString(line) {
			c.odd = append(c.odd, "")
		}
		parts := configLine.FindStringSubmatch(line)
		if parts == nil {
			continue
		}
		indent, key, value := len(parts[1]), parts[2], parts[4]
		for len(levels) > 0 && levels[len(levels)-1].indent >= indent {
			levels = levels[:len(levels)-1]
		}
		name := key
		if len(levels) > 0 {
			name = levels[len(levels)-1].prefix + key
		}
		levels = append(levels, level{indent, name + "."})
		// Flat files know no nesting: there an indented key is a full name.
		c.values[key] = plainValue(value)
		c.values[name] = c.values[key]
		if value != "" && value[0] != '#' {
			c.odd = append(c.odd, name)
		}
	}
	return c
}

// plainValue is a value without its comment and its quotes.
func plainValue(text string) string {
	text = strings.TrimSpace(text)
	if strings.HasPrefix(text, "#") {
		return ""
	}
	text, _, _ = strings.Cut(text, " #")
	if text = strings.TrimSpace(text); len(text) >= 2 && (text[0] == '"' || text[0] == '\'') && text[len(text)-1] == text[0] {
		text = text[1 : len(text)-1]
	}
	return text
}

// sets says whether a key is set, or may be. It is said rather too often than not often enough: nothing of the user's is overridden.
func (c config) sets(key string) bool {
	if _, set := c.values[key]; set {
		return true
	}
	for _, name := range c.odd {
		if name == "" || strings.HasPrefix(key, name+".") {
			return true
		}
	}
	return false
}
