package node

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const cgroupRoot = "/sys/fs/cgroup"

// hierarchy is a mounted hierarchy of cgroups: one for each controller or two in version 1, one for all in version 2.
type hierarchy struct {
	dir         string
	unified     bool     // version 2
	controllers []string // of version 1
}

// mounted gives the hierarchies that this machine has mounted.
func mounted() ([]hierarchy, error) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return readHierarchies(file)
}

func readHierarchies(mountinfo io.Reader) (all []hierarchy, err error) {
	lines := bufio.NewScanner(mountinfo)
	for lines.Scan() {
		// proc_pid_mountinfo(5): "... ROOT DIR OPTIONS [...] - TYPE SOURCE SUPER-OPTIONS"
		before, after, found := strings.Cut(lines.Text(), " - ")
		mount, kind := strings.Fields(before), strings.Fields(after)
		if !found || len(mount) < 5 || len(kind) < 3 || !strings.HasPrefix(mount[4], cgroupRoot) {
			continue
		}
		switch kind[0] {
		case "cgroup":
			all = append(all, hierarchy{dir: mount[4], controllers: strings.Split(kind[2], ",")})
		case "cgroup2":
			all = append(all, hierarchy{dir: mount[4], unified: true})
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no cgroups are mounted below %s", cgroupRoot)
	}
	return all, nil
}

// ruling gives those that have the controllers: where both versions are mounted, version 1, and the other counts nothing.
func ruling(all []hierarchy) []hierarchy {
	var v1 []hierarchy
	for _, h := range all {
		if !h.unified {
			v1 = append(v1, h)
		}
	}
	if v1 == nil {
		return all
	}
	return v1
}

// tracker is the hierarchy whose cgroups tell which processes are a node's.
func tracker() (hierarchy, error) {
	all, err := mounted()
	if err != nil {
		return hierarchy{}, err
	}
	all = ruling(all)
	for _, wanted := range []string{"pids", "freezer", "name=systemd"} {
		for _, h := range all {
			if h.unified || slices.Contains(h.controllers, wanted) {
				return h, nil
			}
		}
	}
	return hierarchy{}, errors.New("no hierarchy of cgroups can tell which processes are ours: neither pids nor freezer is mounted")
}

// The programs of the node are in this cgroup below the node's, and its pods beside it: in version 2 a cgroup with children has no
// processes of its own.
const programsCgroup = "programs"

// makeCgroups makes the node's cgroups. The kubelet wants its root to be there in every hierarchy.
func makeCgroups(name string) error {
	all, err := mounted()
	if err != nil {
		return err
	}
	for _, h := range ruling(all) {
		dir := filepath.Join(h.dir, name)
		if err := os.MkdirAll(filepath.Join(dir, programsCgroup), 0o755); err != nil {
			return err
		}
		for _, dir := range []string{dir, filepath.Join(dir, programsCgroup)} {
			if slices.Contains(h.controllers, "cpuset") {
				// Empty at first, and nobody can be in it before it is filled.
				if err := inherit(dir, "cpuset.cpus", "cpuset.mems"); err != nil {
					return err
				}
			}
		}
		if h.unified {
			if err := enableControllers(h.dir, dir); err != nil {
				return err
			}
		}
	}
	return nil
}

func inherit(dir string, files ...string) error {
	for _, file := range files {
		text, err := os.ReadFile(filepath.Join(filepath.Dir(dir), file))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, file), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// enableControllers hands what the root has down to the node's cgroup and to its children.
func enableControllers(dirs ...string) error {
	text, err := os.ReadFile(filepath.Join(dirs[0], "cgroup.controllers"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		for _, controller := range strings.Fields(string(text)) {
			if !slices.Contains([]string{"cpu", "cpuset", "io", "memory", "pids", "hugetlb"}, controller) {
				continue
			}
			if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0o644); err != nil {
				return fmt.Errorf("hand the controller %s down to the cgroups below %s: %w", controller, dir, err)
			}
		}
	}
	return nil
}

// joinCgroup puts a process among the node's programs. Its children will be there too, wherever else they go.
func joinCgroup(name string, pid int) error {
	h, err := tracker()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(h.dir, name, programsCgroup, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644)
}

// cgroupPids gives the processes of the node: its programs and all that runs in pods.
func cgroupPids(name string) (pids []int, err error) {
	h, err := tracker()
	if err != nil {
		return nil, err
	}
	err = walkCgroups(filepath.Join(h.dir, name), func(dir string) error {
		text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		for field := range strings.FieldsSeq(string(text)) {
			// 0 is a process that we cannot see: not ours.
			if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return err
	})
	return pids, err
}

// removeCgroups removes the node's cgroups. They must be empty. runc makes some where nothing is counted, too.
func removeCgroups(name string) error {
	all, err := mounted()
	if err != nil {
		return err
	}
	for _, h := range all {
		var dirs []string
		err := walkCgroups(filepath.Join(h.dir, name), func(dir string) error {
			dirs = append(dirs, dir)
			return nil
		})
		if err != nil {
			return err
		}
		for _, dir := range slices.Backward(dirs) {
			if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// walkCgroups visits a cgroup and then those below it. That one goes away meanwhile is no error.
func walkCgroups(root string, visit func(dir string) error) error {
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			err = visit(path)
		}
		// A cgroup that is removed while it is read answers ENODEV.
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNoDevice) {
			return nil
		}
		return err
	})
	return err
}
