package webhook

import (
	"flag"
	"os"
	"testing"
)

// TestMain makes the random runs the same each time: what a change broke shows with that change. For others: go test ./webhook
// -rapid.checks=10000 -rapid.seed=0.
func TestMain(m *testing.M) {
	for name, value := range map[string]string{"rapid.checks": "30", "rapid.nofailfile": "true", "rapid.seed": "1"} {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}
