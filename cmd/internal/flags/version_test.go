package flags

import "testing"

func TestVersion(t *testing.T) {
	t.Setenv(ImageVersion, "v9")
	if got := Version("v1"); got != "v1" {
		t.Errorf("linked: %s", got)
	}
	if got := Version(""); got != "v9" {
		t.Errorf("in an image: %s", got)
	}
	t.Setenv(ImageVersion, "")
	if got := Version(""); got == "" || got == "v9" {
		t.Errorf("in neither: %q", got)
	}
}
