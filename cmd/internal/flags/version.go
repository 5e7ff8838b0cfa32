package flags

import (
	"os"
	"runtime/debug"
)

// ImageVersion is the variable in which the image says its version. The programs in it are built without one: a program whose
// code did not change is then the same file in the next release, and nodes need not fetch it again.
const ImageVersion = Prefix + "IMAGE_VERSION"

// Version is the program's version: what the linker was given, else what the image says, else what the module's version was when
// it was built by "go install".
func Version(linked string) string {
	if linked != "" {
		return linked
	}
	if image := os.Getenv(ImageVersion); image != "" {
		return image
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "dev"
}
