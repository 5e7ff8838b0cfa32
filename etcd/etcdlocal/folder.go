package etcdlocal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/coreos/go-semver/semver"
	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
	"go.etcd.io/etcd/api/v3/version"
	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.uber.org/zap"
)

// lockFile is ours. etcd locks its database too, but waits for that lock without end.
const lockFile = "holdfast.lock"

// lockWait is how long a database may be locked by somebody who is just ending.
const lockWait = 300 * time.Millisecond

// claim makes the data folder, locks it for this server, and checks that etcd will be able to use what is in it.
func claim(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make data folder %s, or choose another: %w", dir, err)
	}
	lock, err := fileutil.TryLockFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	switch {
	case errors.Is(err, fileutil.ErrLocked):
		return nil, inUse(dir)
	case err != nil:
		return nil, advice(fmt.Errorf("lock data folder %s: %w", dir, err), dir, "")
	}
	if err := inspect(dir); err != nil {
		lock.Close()
		return nil, err
	}
	return func() { lock.Close() }, nil
}

func inUse(dir string) error {
	return fmt.Errorf("data folder %s is in use by another process: stop that one, or choose another folder", dir)
}

// inspect reads what etcd would read, without changing it. A folder without a database is a new one.
func inspect(dir string) (err error) {
	path := filepath.Join(dir, "member", "snap", "db")
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		if _, err := os.Stat(filepath.Join(dir, "member", "wal")); err == nil {
			return fmt.Errorf("data folder %s has a log but no database: restore it from a copy, or choose an empty folder", dir)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("data folder %s: %w", dir, err)
	}
	// bbolt trusts the pages that it maps into memory: on damaged ones it panics, or faults where the file ends too early.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if cause := recover(); cause != nil {
			err = damaged(dir, fmt.Errorf("%v", cause))
		}
	}()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: lockWait})
	switch {
	case errors.Is(err, bbolterrors.ErrTimeout):
		return inUse(dir)
	case errors.Is(err, os.ErrPermission):
		return advice(err, dir, "")
	case err != nil:
		return damaged(dir, err)
	}
	defer db.Close()
	if err := db.View(func(tx *bbolt.Tx) error {
		if tx.Size() > info.Size() {
			return damaged(dir, fmt.Errorf("%d bytes of a database of %d are there", info.Size(), tx.Size()))
		}
		return checkVersion(dir, tx)
	}); err != nil {
		return err
	}
	return checkLog(dir)
}

// checkLog reads the write-ahead log from the last snapshot in it, as etcd will. An end that is missing is no damage: that
// is what a crash leaves, and etcd cuts it off.
func checkLog(dir string) error {
	folder := filepath.Join(dir, "member", "wal")
	snapshots, err := wal.ValidSnapshotEntries(zap.NewNop(), folder)
	if err != nil {
		return damaged(dir, fmt.Errorf("write-ahead log: %w", err))
	}
	from := &walpb.Snapshot{}
	if len(snapshots) > 0 {
		from = snapshots[len(snapshots)-1]
	}
	if _, err := wal.Verify(zap.NewNop(), folder, from); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return damaged(dir, fmt.Errorf("write-ahead log: %w", err))
	}
	return nil
}

// checkVersion compares the version that the folder was last used with to ours. etcd refuses to go back a minor version.
func checkVersion(dir string, tx *bbolt.Tx) error {
	ours, err := semver.NewVersion(version.Version)
	if err != nil {
		return err
	}
	for _, at := range []struct{ bucket, key string }{{"cluster", "clusterVersion"}, {"meta", "storageVersion"}} {
		bucket := tx.Bucket([]byte(at.bucket))
		if bucket == nil {
			continue
		}
		theirs, err := semver.NewVersion(string(bucket.Get([]byte(at.key))))
		if err != nil { // not written yet
			continue
		}
		if theirs.Major > ours.Major || theirs.Major == ours.Major && theirs.Minor > ours.Minor {
			return fmt.Errorf("data folder %s was written by etcd %d.%d, which is newer than this one (%s): "+
				"use a newer release, or choose another folder", dir, theirs.Major, theirs.Minor, ours)
		}
	}
	return nil
}

// ErrDamaged says that etcd cannot use what is in the data folder.
var ErrDamaged = errors.New("is damaged")

func damaged(dir string, cause error) error {
	return fmt.Errorf("data folder %s %w: restore it from a copy, or choose an empty folder: %w", dir, ErrDamaged, cause)
}
