package webhook

import "testing"

// A decision is a small part of what the API server waits for.
func BenchmarkDecide(b *testing.B) {
	_, request := readCase(b, "testdata/pods/native-application-2.3.yaml")
	s := settings()
	b.ReportAllocs()
	for b.Loop() {
		if d := Decide(s, request); !d.Inject {
			b.Fatal(d.Message)
		}
	}
}
