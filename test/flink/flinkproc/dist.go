package flinkproc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/holdfast-dev/holdfast/test/machine"
)

// The versions that are tested by default: the last line of Flink 1 and the newest of Flink 2, because REST, archives
// and high availability differ between the two.
const (
	Flink1 = "1.20.1"
	Flink2 = "2.3.0"
)

// Versions are the versions of Flink to test with: Flink1 and Flink2, or what HOLDFAST_FLINK_VERSIONS lists, separated
// by commas.
func Versions() []string {
	var versions []string
	for version := range strings.SplitSeq(os.Getenv("HOLDFAST_FLINK_VERSIONS"), ",") {
		if version = strings.TrimSpace(version); version != "" {
			versions = append(versions, version)
		}
	}
	if versions == nil {
		return []string{Flink1, Flink2}
	}
	return versions
}

// Dist is one version of Flink, ready to run.
type Dist struct {
	Version string
	// Java is the java command.
	Java string
	// Lib is the folder with Flink's jars.
	Lib string
	// JobJar holds ControlledJob, compiled against this version.
	JobJar string
}

// Distribution gives one version of Flink. The first call for a version downloads and compiles, which takes a minute
// or several and about 1.5 GB of disk for a while; what it keeps (130 to 210 MB) lies in CacheDir, and later calls
// only look there. Any number of processes may call it at once; one works and the others wait. A call that is
// interrupted leaves nothing that a later one would trust.
//
// It needs Java 11 or newer with javac, and pip. As root on Debian and its like it installs what is missing;
// elsewhere the error says what to install. Progress, which may be nil, gets lines for people.
func Distribution(ctx context.Context, version string, progress io.Writer) (*Dist, error) {
	if err := checkVersion(version); err != nil {
		return nil, err
	}
	dist, err := distribution(ctx, version, machine.NewTeller(progress, "Flink "+version+": "))
	if err != nil {
		return nil, fmt.Errorf("get Flink %s: %w", version, err)
	}
	return dist, nil
}

func distribution(ctx context.Context, version string, tell machine.Teller) (*Dist, error) {
	cache, err := CacheDir()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	unlock, err := machine.Lock(ctx, filepath.Join(cache, version+".lock"), "getting it", tell)
	if err != nil {
		return nil, err
	}
	defer unlock()

	java, err := findJava(ctx, tell)
	if err != nil {
		return nil, err
	}
	home := filepath.Join(cache, version)
	lib := filepath.Join(home, "lib")
	if _, err := os.Stat(lib); errors.Is(err, fs.ErrNotExist) {
		err = download(ctx, version, home, tell)
		if err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	jar, err := compileJob(ctx, java, lib, home, tell)
	if err != nil {
		return nil, err
	}
	return &Dist{Version: version, Java: java, Lib: lib, JobJar: jar}, nil
}

// CacheDir is where Flink's jars are kept, a folder for each version: HOLDFAST_FLINK_CACHE if it is set, else
// holdfast/flink in the user's cache folder.
func CacheDir() (string, error) {
	if dir := os.Getenv("HOLDFAST_FLINK_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a folder to keep Flink in (HOLDFAST_FLINK_CACHE names one): %w", err)
	}
	return filepath.Join(dir, "holdfast", "flink"), nil
}

var versionPattern = regexp.MustCompile(`^([0-9]+)\.([0-9]+)\.[0-9]+$`)

// checkVersion refuses what cannot work, before anything is downloaded: config.yaml came with Flink 1.19.
func checkVersion(version string) error {
	match := versionPattern.FindStringSubmatch(version)
	if match == nil {
		return fmt.Errorf("%q is not a version of Flink: one looks like %s", version, Flink1)
	}
	major, _ := strconv.Atoi(match[1])
	minor, _ := strconv.Atoi(match[2])
	if major < 1 || major == 1 && minor < 19 {
		return fmt.Errorf("version %s of Flink is older than 1.19, the first that reads config.yaml", version)
	}
	return nil
}
