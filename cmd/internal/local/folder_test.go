package local

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFolderKeepsItsIdentity(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "folder")
	first, err := claim(path)
	if err != nil {
		t.Fatal(err)
	}
	if first.UID == "" {
		t.Error("no uid")
	}
	if _, err := claim(path); err == nil || !strings.Contains(err.Error(), "is in use by another 'holdfast local': stop that one, or choose another folder with --data") {
		t.Errorf("claimed twice: %v", err)
	}
	first.release()
	second, err := claim(path)
	if err != nil {
		t.Fatal(err)
	}
	defer second.release()
	if second.UID != first.UID {
		t.Errorf("uid %s became %s", first.UID, second.UID)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder has mode %v, %v: others can reach etcd", info.Mode(), err)
	}
}

// A folder that is refused stays as it is.
func TestFolderRefuses(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string
		at    string
		want  string
	}{
		{"somebody else's", map[string]string{"thesis.tex": "…"}, "", `is not one of Holdfast's (it has "thesis.tex", and no holdfast.json): choose an empty or a new one`},
		{"a newer version", map[string]string{identityFile: `{"v":2,"home":"there"}`}, "", "was written by a newer Holdfast (its form is 2, this program knows 1): use a newer release"},
		{"a damaged identity", map[string]string{identityFile: `{"v":1,"uid":`}, "", "holdfast.json is damaged: restore it"},
		{"an identity without uid", map[string]string{identityFile: `{"v":1}`}, "", "holdfast.json is damaged"},
		{"an empty identity", map[string]string{identityFile: ``}, "", "holdfast.json is damaged"},
		{"a file", map[string]string{"file": "text"}, "file", "this is a file, or lies below one: choose a folder with --data"},
		{"below a file", map[string]string{"file": "text"}, "file/below", "this is a file, or lies below one"},
	} {
		dir := t.TempDir()
		for name, text := range c.files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		f, err := claim(filepath.Join(dir, c.at))
		if err == nil {
			f.release()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if diff := cmp.Diff(c.files, read(t, dir)); diff != "" {
			t.Errorf("%s: the folder was changed: -before +after\n%s", c.name, diff)
		}
	}
}

// read gives the files of a folder, without the lock, which is empty.
func read(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if entry.Name() == lockFile {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[entry.Name()] = string(data)
	}
	return files
}

// What a start leaves that was cut off, and what a file system brings along, is no reason to refuse.
func TestFolderOfAnUnfinishedStart(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{lockFile, unfinished} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "lost+found"), 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := claim(dir)
	if err != nil {
		t.Fatal(err)
	}
	f.release()
}

// What etcd left before it ever served is of no use to it; what it left later is all there is.
func TestFolderInWhichEtcdNeverServed(t *testing.T) {
	dir := t.TempDir()
	leftover := filepath.Join(dir, etcdFolder, "member")
	there := func() bool {
		_, err := os.Stat(leftover)
		return err == nil
	}
	reclaim := func() *folder {
		t.Helper()
		f, err := claim(dir)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	f := reclaim()
	f.release()
	if err := os.MkdirAll(leftover, 0o700); err != nil {
		t.Fatal(err)
	}
	f = reclaim()
	if there() {
		t.Error("the leftover of a start that failed is still there")
	}
	if err := os.MkdirAll(leftover, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := f.begun(); err != nil {
		t.Fatal(err)
	}
	f.release()
	f = reclaim()
	f.release()
	if !there() {
		t.Error("data was removed")
	}
}

func TestSocketOfALongPath(t *testing.T) {
	short, long := folder{path: "/var/lib/x"}, folder{path: "/" + strings.Repeat("x", 100)}
	if got := short.socket(); got != "unix:///var/lib/x/etcd.sock" {
		t.Errorf("short path: %s", got)
	}
	if got := long.socket(); got != "127.0.0.1:0" {
		t.Errorf("long path: %s", got)
	}
}
