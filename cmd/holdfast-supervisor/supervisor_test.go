package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// The test's own program is what is supervised, and the supervisor, too, where that must be a process of its own.
func TestMain(m *testing.M) {
	switch os.Getenv("SUPERVISOR_TEST") {
	case "supervisor":
		os.Setenv("SUPERVISOR_TEST", "agent")
		main()
	case "agent":
		agent(os.Args[1], os.Args[2])
	default:
		goleak.VerifyTestMain(m)
	}
}

// agent notes in a file that it began, and does what it is told.
func agent(file, what string) {
	note := func(text string) {
		f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err == nil {
			fmt.Fprintln(f, text)
			f.Close()
		}
	}
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	note(fmt.Sprint("pid ", os.Getpid(), " ", os.Getenv("GOMEMLIMIT")))
	switch what {
	case "ends":
		return
	case "fails":
		os.Exit(3)
	case "grows":
		var all [][]byte
		for range 64 {
			piece := bytes.Repeat([]byte{1}, 4<<20)
			all = append(all, piece)
			time.Sleep(20 * time.Millisecond)
		}
		note(fmt.Sprint("grew to ", len(all)))
	case "creeps": // by 100 MiB a second; memory that is not Go's, so that the race detector has no part in it
		for range 64 {
			if _, err := syscall.Mmap(-1, 0, 4<<20, syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE|syscall.MAP_POPULATE); err != nil {
				note(err.Error())
			}
			time.Sleep(40 * time.Millisecond)
		}
	}
	<-terminated
	note("said goodbye")
}

// supervised is a supervisor that works.
type supervised struct {
	t    *testing.T
	file string
	log  output
	stop context.CancelFunc
	done chan struct{}
}

func supervise(t *testing.T, what string, change func(*supervisor)) *supervised {
	t.Setenv("SUPERVISOR_TEST", "agent")
	ctx, stop := context.WithCancel(t.Context())
	r := &supervised{t: t, file: filepath.Join(t.TempDir(), "notes"), stop: stop, done: make(chan struct{})}
	s := &supervisor{
		command: []string{os.Args[0], r.file, what},
		backoff: backoff{least: 10 * time.Millisecond, most: 50 * time.Millisecond, healthy: time.Hour},
		look:    10 * time.Millisecond,
		log:     slog.New(slog.NewTextHandler(&r.log, nil)),
	}
	if change != nil {
		change(s)
	}
	go func() { s.run(ctx); close(r.done) }()
	t.Cleanup(func() { stop(); <-r.done })
	return r
}

func (r *supervised) notes() []string {
	text, _ := os.ReadFile(r.file)
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

// await waits until the program has noted so many lines.
func (r *supervised) await(lines int) []string {
	r.t.Helper()
	return await(r.t, r.notes, lines)
}

func await(t *testing.T, notes func() []string, lines int) []string {
	t.Helper()
	for begin := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		if all := notes(); len(all) >= lines && all[0] != "" {
			return all
		}
		if time.Since(begin) > 30*time.Second {
			t.Fatalf("want %d notes, have %q", lines, notes())
		}
	}
}

func pid(t *testing.T, note string) int {
	t.Helper()
	fields := strings.Fields(note)
	if len(fields) < 2 || fields[0] != "pid" {
		t.Fatalf("a note is %q", note)
	}
	n, err := strconv.Atoi(fields[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// However the program ends, it is started anew, and the log says how it ended.
func TestEndsAreNotTheEnd(t *testing.T) {
	for what, want := range map[string]string{"ends": "by itself, with code 0", "fails": "exit status 3"} {
		r := supervise(t, what, nil)
		r.await(4)
		r.stop()
		<-r.done
		if !strings.Contains(r.log.String(), want) {
			t.Errorf("%s: the log has no %q: %s", what, want, &r.log)
		}
	}
	r := supervise(t, "waits", nil)
	for n := 1; n <= 3; n++ {
		if err := syscall.Kill(pid(t, r.await(n)[n-1]), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	r.await(4)
	if !strings.Contains(r.log.String(), "signal: killed") {
		t.Errorf("the log is %s", &r.log)
	}
}

func TestProgramThatCannotStart(t *testing.T) {
	r := supervise(t, "", func(s *supervisor) { s.command = []string{"/does/not/exist"} })
	for begin := time.Now(); strings.Count(r.log.String(), "no such file") < 3; time.Sleep(time.Millisecond) {
		if time.Since(begin) > 30*time.Second {
			t.Fatalf("the log is %s", &r.log)
		}
	}
}

// The program hears of the end, and the supervisor waits for it.
func TestEnd(t *testing.T) {
	r := supervise(t, "waits", nil)
	r.await(1)
	r.stop()
	<-r.done
	if notes := r.notes(); len(notes) != 2 || notes[1] != "said goodbye" {
		t.Errorf("the program noted %q", notes)
	}
}

func TestProgramThatTakesTooMuch(t *testing.T) {
	r := supervise(t, "grows", func(s *supervisor) { s.limit = 128 << 20 })
	for _, note := range r.await(2) {
		if strings.HasPrefix(note, "grew") {
			t.Fatal("it was let grow")
		}
		if want := strconv.Itoa(72 << 20); !strings.HasSuffix(note, " "+want) {
			t.Errorf("its note is %q, want a GOMEMLIMIT of %s", note, want)
		}
	}
	if !strings.Contains(r.log.String(), "killed: it took") || !strings.Contains(r.log.String(), "the container may take 131072 KiB") {
		t.Errorf("the log is %s", &r.log)
	}
	if !strings.Contains(r.log.String(), "level=ERROR") || !strings.Contains(r.log.String(), `error="killed: it took`) {
		t.Errorf("the log is %s", &r.log)
	}
	free := supervise(t, "grows", nil) // no limit
	if notes := free.await(2); strings.TrimSpace(notes[0]) != fmt.Sprint("pid ", pid(t, notes[0])) || notes[1] != "grew to 64" {
		t.Errorf("without a limit the notes are %q", notes)
	}
}

// As it is in a container: SIGTERM ends both, and nothing of the program outlives a supervisor that is killed.
func TestProcess(t *testing.T) {
	start := func() (*exec.Cmd, int) {
		file := filepath.Join(t.TempDir(), "notes")
		cmd := exec.Command(os.Args[0], os.Args[0], file, "waits")
		cmd.Env = append(os.Environ(), "SUPERVISOR_TEST=supervisor")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		notes := await(t, func() []string {
			text, _ := os.ReadFile(file)
			return strings.Split(strings.TrimSpace(string(text)), "\n")
		}, 1)
		return cmd, pid(t, notes[0])
	}
	cmd, _ := start()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v, want code 0", err)
	}
	cmd, program := start()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	for begin := time.Now(); running(program); time.Sleep(5 * time.Millisecond) {
		if time.Since(begin) > 10*time.Second {
			syscall.Kill(program, syscall.SIGKILL)
			t.Fatal("the program outlives its supervisor")
		}
	}
}

// running says whether a process is there, and is no zombie that waits for its new parent.
func running(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, state, _ := strings.Cut(string(text), ") ")
	return err == nil && !strings.HasPrefix(state, "Z")
}

func TestBackoff(t *testing.T) {
	b := backoff{least: time.Second, most: 5 * time.Minute, healthy: 10 * time.Minute}
	between := func(least, most time.Duration, ran time.Duration) {
		t.Helper()
		if d := b.after(ran); d < least || d > most {
			t.Errorf("the pause is %s, want %s to %s", d, least, most)
		}
	}
	between(time.Second/2, time.Second, 0)
	between(time.Second, 2*time.Second, 0)
	between(2*time.Second, 4*time.Second, time.Minute)
	for range 20 {
		b.after(0)
	}
	between(150*time.Second, 300*time.Second, 0)
	between(time.Second/2, time.Second, 10*time.Minute)
	between(time.Second, 2*time.Second, 0)
}

// However fast a program grows, up to all it may take in the time between two looks at a small one, it is seen before the kernel kills.
func TestGrowthIsSeenBeforeTheLimit(t *testing.T) {
	s := &supervisor{look: time.Second, limit: 64 << 20}
	for _, at := range []uint64{0, 1 << 20, 7 << 20, 20 << 20, 40 << 20, 47 << 20} {
		for rate := 64 << 10; rate <= int(s.most()); rate += 64 << 10 { // bytes a second
			taken := at
			for taken <= s.most() {
				wait := s.next(taken)
				if wait < s.look/20 {
					t.Fatalf("at %d KiB the next look is in %s: looking is all it does", taken>>10, wait)
				}
				taken += uint64(float64(rate) * wait.Seconds())
			}
			if taken >= s.limit {
				t.Fatalf("from %d KiB on, growth of %d KiB a second is seen at %d KiB", at>>10, rate>>10, taken>>10)
			}
		}
	}
	// Looking costs little: seldom while there is room, and never without a pause.
	for taken, want := range map[uint64]time.Duration{
		0: time.Second, 12 << 20: 750 * time.Millisecond, 24 << 20: 500 * time.Millisecond, 36 << 20: 250 * time.Millisecond,
		48 << 20: 50 * time.Millisecond, 1 << 40: 50 * time.Millisecond,
	} {
		if got := s.next(taken); got != want {
			t.Errorf("at %d KiB the next look is in %s, want %s", taken>>10, got, want)
		}
	}
	if got := (&supervisor{look: time.Second}).next(1 << 40); got != time.Second {
		t.Errorf("without a limit the next look is in %s", got)
	}
}

// So it is with a real program: looks at the pace of the first one would see it at 120 MiB, and then beyond the container's 192 MiB.
func TestProgramThatCreepsIsKilledInTime(t *testing.T) {
	r := supervise(t, "creeps", func(s *supervisor) { s.limit, s.look = 192<<20, 1200*time.Millisecond })
	r.await(2) // the second is another life's
	_, text, killed := strings.Cut(r.log.String(), "killed: it took ")
	var kib int
	if _, err := fmt.Sscanf(text, "%d KiB", &kib); err != nil || !killed {
		t.Fatalf("the log is %s", &r.log)
	}
	if kib <= 144<<10 || kib >= 192<<10 {
		t.Errorf("killed when it had %d KiB, want more than three quarters of the container's %d KiB, and less than all", kib, 192<<10)
	}
}

// Who calls it wrongly is told how; who asks is answered.
func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args                []string
		code                int
		printed, complained string
	}{
		{nil, 2, "", "no program is given\n\nUsage: holdfast-supervisor PROGRAM"},
		{[]string{""}, 2, "", "no program is given\n\nUsage: holdfast-supervisor PROGRAM"},
		{[]string{"--help"}, 0, "Usage: holdfast-supervisor PROGRAM", ""},
		{[]string{"-h", "x"}, 0, "Usage: holdfast-supervisor PROGRAM", ""},
	} {
		var out, errs bytes.Buffer
		cmd := exec.Command(os.Args[0], c.args...)
		cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), "SUPERVISOR_TEST=supervisor"), &out, &errs
		_ = cmd.Run() // its code says it
		if cmd.ProcessState.ExitCode() != c.code ||
			!strings.Contains(out.String(), c.printed) || !strings.Contains(errs.String(), c.complained) ||
			(c.printed == "") != (out.Len() == 0) || (c.complained == "") != (errs.Len() == 0) {
			t.Errorf("%q: code %d, printed %q, complained %q", c.args, cmd.ProcessState.ExitCode(), out.String(), errs.String())
		}
	}
}

func TestMemoryLimit(t *testing.T) {
	for _, c := range []struct {
		file, text string
		want       uint64
	}{
		{"memory.max", "67108864\n", 64 << 20},
		{"memory.max", "max\n", 0},
		{"memory.max", "much\n", 0},
		{"memory.max", "", 0},
		{"memory.max", "-1\n", 0},
		{"memory.max", "0\n", 0}, // all is forbidden, and the kernel has killed already
		{"memory.max", "18446744073709551615\n", 0},
		{"memory.max", "99999999999999999999\n", 0},
		{"memory/memory.limit_in_bytes", "67108864\n", 64 << 20},
		{"memory/memory.limit_in_bytes", "9223372036854771712\n", 0},
		{"nothing", "1", 0},
	} {
		dir := t.TempDir()
		file := filepath.Join(dir, c.file)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := memoryLimit(dir); got != c.want {
			t.Errorf("%s is %q: %d, want %d", c.file, c.text, got, c.want)
		}
	}
}

func TestAnonymous(t *testing.T) {
	page := uint64(os.Getpagesize())
	if got, err := anonymous([]byte("4000 300 100 5 0 60 0\n")); err != nil || got != 200*page {
		t.Errorf("%d, %v, want %d", got, err, 200*page)
	}
	for _, text := range []string{"", "1", "1 2", "a b c", "10 2 3 0 0 0 0", "1 -2 3"} {
		if got, err := anonymous([]byte(text)); err == nil || strings.Contains(err.Error(), "%!") {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
	if _, err := memoryOf(os.Getpid()); err != nil {
		t.Error(err)
	}
	if _, err := memoryOf(1 << 30); err == nil {
		t.Error("there is no such process")
	}
}

type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}
