package settle

import (
	"flag"
	"os"
	"testing"
)

// TestMain bounds the random runs to what a run of all tests may take. For more: go test ./settle -rapid.checks=10000.
func TestMain(m *testing.M) {
	for name, value := range map[string]string{"rapid.checks": "60", "rapid.nofailfile": "true"} {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
	flag.Parse()
	os.Exit(m.Run())
}
