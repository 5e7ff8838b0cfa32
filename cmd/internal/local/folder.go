package local

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
)

// What lies in a data folder.
const (
	identityFile = "holdfast.json"
	lockFile     = "holdfast.lock"
	etcdFolder   = "etcd"
	socketFile   = "etcd.sock"
	unfinished   = identityFile + ".new"
)

// folderVersion is the version of a data folder's form. A newer one is refused, so that an old program spoils nothing.
const folderVersion = 1

// socketLimit is the longest path that a socket may have on every system (sun_path has 104 bytes on some).
const socketLimit = 100

// identity is the file that says whose a data folder is.
type identity struct {
	V int `json:"v"`
	// UID tells this folder's data from any other's: it is the uid of the site.
	UID string `json:"uid"`
	// New: etcd has never served from this folder. What it left here, on a full disk for example, it could not use again.
	New bool `json:"new,omitempty"`
}

// folder is a data folder that is this process's alone.
type folder struct {
	path string
	identity
	lock *fileutil.LockedFile
}

// claim makes the folder if there is none, and makes sure that it is ours to use. In a folder that it refuses it leaves no more than the
// lock, an empty file.
func claim(path string) (*folder, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("data folder %s: %w", path, err)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, advice(path, err)
	}
	if err := ours(path); err != nil {
		return nil, err
	}
	f := &folder{path: path}
	f.lock, err = fileutil.TryLockFile(filepath.Join(path, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	switch {
	case errors.Is(err, fileutil.ErrLocked):
		return nil, fmt.Errorf("data folder %s is in use by another 'holdfast local': stop that one, or choose another folder with --data", path)
	case err != nil:
		return nil, advice(path, err)
	}
	if err := f.identify(); err != nil {
		f.release()
		return nil, err
	}
	return f, nil
}

// ours refuses a folder of somebody else.
func ours(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return advice(path, err)
	}
	for _, entry := range entries {
		if entry.Name() == identityFile {
			return nil
		}
	}
	// A start that was cut off leaves no more than these; a new disk has a folder of its own.
	for _, entry := range entries {
		if !slices.Contains([]string{lockFile, unfinished, "lost+found"}, entry.Name()) {
			return fmt.Errorf("folder %s is not one of Holdfast's (it has %q, and no %s): choose an empty or a new one with --data",
				path, entry.Name(), identityFile)
		}
	}
	return nil
}

// identify reads whose the folder is, or makes it ours.
func (f *folder) identify() error {
	path := filepath.Join(f.path, identityFile)
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		f.identity = identity{V: folderVersion, UID: rand.Text(), New: true}
		return f.save()
	case err != nil:
		return advice(f.path, err)
	}
	var id identity
	if err := json.Unmarshal(data, &id); err != nil || id.V < 1 || id.V <= folderVersion && id.UID == "" {
		return fmt.Errorf("%s is damaged: restore it from a copy, or choose another folder with --data", path)
	}
	if id.V > folderVersion {
		return fmt.Errorf("data folder %s was written by a newer Holdfast (its form is %d, this program knows %d): use a newer release, or choose another folder with --data",
			f.path, id.V, folderVersion)
	}
	f.identity = id
	if f.New {
		if err := os.RemoveAll(f.etcd()); err != nil {
			return advice(f.path, err)
		}
	}
	return nil
}

// begun notes that etcd serves from the folder.
func (f *folder) begun() error {
	if !f.New {
		return nil
	}
	f.New = false
	return f.save()
}

// save writes the identity: completely, or not at all.
func (f *folder) save() error {
	data, err := json.Marshal(f.identity)
	if err != nil {
		return err
	}
	temporary := filepath.Join(f.path, unfinished)
	err = write(temporary, append(data, '\n'))
	if err == nil {
		err = os.Rename(temporary, filepath.Join(f.path, identityFile))
	}
	if err != nil {
		// If it stays, the next start takes it for what it is.
		_ = os.Remove(temporary)
		return advice(f.path, err)
	}
	return nil
}

func write(path string, data []byte) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	return errors.Join(err, file.Sync(), file.Close())
}

// etcd is where etcd's data lies.
func (f *folder) etcd() string { return filepath.Join(f.path, etcdFolder) }

// socket is where etcd listens: in the folder, which nobody else may enter; or, where that path is too long for a socket,
// on a free port of the loopback.
func (f *folder) socket() string {
	path := filepath.Join(f.path, socketFile)
	if len(path) > socketLimit {
		return "127.0.0.1:0"
	}
	return "unix://" + path
}

func (f *folder) release() { f.lock.Close() }

// advice says what to do about a folder that the system refuses.
func advice(path string, err error) error {
	switch {
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, os.ErrExist):
		return fmt.Errorf("data folder %s: this is a file, or lies below one: choose a folder with --data: %w", path, err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("data folder %s: the disk is full: make room (200 MB), or choose another folder with --data: %w", path, err)
	case errors.Is(err, os.ErrPermission), errors.Is(err, syscall.EROFS):
		return fmt.Errorf("data folder %s: this user may not write there: change its owner, or choose another folder with --data: %w", path, err)
	}
	return fmt.Errorf("data folder %s: %w: choose another folder with --data", path, err)
}
