package webhook

import (
	"fmt"

	"k8s.io/apimachinery/pkg/util/version"
)

// HasNativeSidecars says whether a version of Kubernetes, such as v1.34.2 or 1.28, has native sidecars without being asked for them: 1.29
// and newer do (KEP-753, beta).
func HasNativeSidecars(text string) (bool, error) {
	v, err := version.ParseGeneric(text)
	if err != nil {
		return false, fmt.Errorf("%.40q is not a version of Kubernetes such as 1.34: %w", text, err)
	}
	return v.AtLeast(version.MajorMinor(1, 29)), nil
}
