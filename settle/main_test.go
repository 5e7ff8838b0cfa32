package settle

import (
	"flag"
	"os"
	"testing"
)

// TestMain bounds the random runs to what a run of all tests may take, and makes them the same on each: what a change broke shows
// with that change. For others: go test ./settle -rapid.checks=10000 -rapid.seed=0.
func TestMain(m *testing.M) {
	for name, value := range map[string]string{"rapid.checks": "60", "rapid.nofailfile": "true", "rapid.seed": "1"} {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
	flag.Parse()
	os.Exit(m.Run())
}
