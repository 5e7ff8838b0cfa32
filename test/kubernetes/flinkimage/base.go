package flinkimage

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/holdfast-dev/holdfast/test/machine"
)

// The Debian below Flink: the release that has Java 17, which every version of Flink runs with, whatever the machine itself is.
const (
	debian = "bookworm"
	mirror = "http://deb.debian.org/debian"
)

// debianOptions make it small and quickly. gettext-base has envsubst, for the entry point; Java's package wants a folder for its
// manual, if not the manual.
var debianOptions = []string{
	"--mode=root", "--variant=minbase",
	"--include=openjdk-17-jre-headless,ca-certificates,gettext-base",
	"--dpkgopt=force-unsafe-io",
	"--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-include=/usr/share/man/man1",
	"--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
	fmt.Sprintf(`--customize-hook=chroot "$1" useradd --uid %d --home-dir %s --no-create-home --shell /bin/bash flink`, User, home),
}

func baseDigest() string {
	sum := sha256.Sum256(fmt.Append(nil, debian, mirror, debianOptions))
	return hex.EncodeToString(sum[:6])
}

// makeBase makes the layer that all versions share, once, and gives its path. The caller holds the lock.
func makeBase(ctx context.Context, cache string, tell machine.Teller) (string, error) {
	layer := filepath.Join(cache, "debian-"+baseDigest()+".tar")
	if _, err := os.Stat(layer); !errors.Is(err, fs.ErrNotExist) {
		return layer, err
	}
	if os.Geteuid() != 0 {
		return "", errors.New("making a Debian needs root")
	}
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		if err := machine.Install(ctx, tell, "mmdebstrap", "debian-archive-keyring"); err != nil {
			return "", fmt.Errorf("mmdebstrap is needed: %w", err)
		}
	}
	tell.Sayf("making a Debian with Java, which takes a minute")
	begin := time.Now()
	scratch, err := os.MkdirTemp(cache, "debian-*.partial")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(scratch)
	partial := filepath.Join(scratch, "debian.tar")
	// Its tree lies in TMPDIR, and is another user's to search.
	if err := os.Chmod(scratch, 0o755); err != nil {
		return "", err
	}
	if _, err := machine.Run(ctx, []string{"TMPDIR=" + scratch}, "mmdebstrap", append(debianOptions, debian, partial, mirror)...); err != nil {
		return "", err
	}
	tell.Sayf("Debian made in %.0f s", time.Since(begin).Seconds())
	return layer, os.Rename(partial, layer)
}
