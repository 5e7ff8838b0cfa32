package flags

import "runtime/debug"

// Version is the program's version: what the linker was given, or what the module's version was when it was built by
// "go install".
func Version(linked string) string {
	if linked != "" {
		return linked
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "dev"
}
