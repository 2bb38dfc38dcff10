package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// helpers are other programs that the test binary plays when envHelper names one.
var helpers = map[string]func() error{
	"agent":   helpAgent,
	"sweeper": helpSweeper,
	"listen":  helpListen,
	"read":    helpRead,
	"hog":     helpHog,
	"dies":    helpDies,
	"threads": helpThreads,
}

const envHelper = "PROCESS_TEST_HELPER"

func init() { runtime.LockOSThread() } // for the one that ends its first thread

func TestMain(m *testing.M) {
	if name := os.Getenv(envHelper); name != "" {
		if err := helpers[name](); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// patience bounds every wait of the tests; none depends on how fast the machine is below it.
const patience = 30 * time.Second

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// newMark draws a mark that no other test and no other run of the tests has.
func newMark() Mark {
	return Mark{Launch: LaunchToken("test-" + newNonce()), Run: "run-" + newNonce(), Rank: "0"}
}

var path = "PATH=" + os.Getenv("PATH")

// start starts a shell script whose first positional parameter is a folder of its own, and ends it with the test.
func start(t *testing.T, spec Spec, script string) (*Process, string) {
	t.Helper()
	dir := t.TempDir()
	if spec.Argv == nil {
		spec.Argv = []string{"sh", "-c", script, "sh", dir}
	}
	if spec.Mark == (Mark{}) {
		spec.Mark = newMark()
	}
	spec.Env = append(spec.Env, path)
	p, err := Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(context.Background(), 0); err != nil {
			t.Error(err)
		}
	})
	return p, dir
}

// pids waits until a script has written that many files named by process IDs, and reads those processes.
func pids(t *testing.T, dir string, want int) []Proc {
	t.Helper()
	var procs []Proc
	eventually(t, fmt.Sprintf("%d processes have said that they run", want), func() bool {
		procs = nil
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			pid, err := strconv.Atoi(e.Name())
			if err != nil {
				continue
			}
			p, err := readStat(pid)
			if err != nil {
				t.Fatalf("process %d should run: %v", pid, err)
			}
			procs = append(procs, p)
		}
		return len(procs) == want
	})
	return procs
}

// runs tells whether that very process still runs.
func runs(p Proc) bool {
	now, err := readStat(p.PID)
	return err == nil && now.same(p) && !now.dead()
}

func wantGone(t *testing.T, procs []Proc) {
	t.Helper()
	for _, p := range procs {
		if runs(p) {
			t.Errorf("%s still runs", describe([]Proc{p}))
			_ = strike(p, syscall.SIGKILL, nil)
		}
	}
}

func TestExitTellsHowTheFirstProcessEnded(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		script, want string
		success      bool
	}{
		{"exit 0", "exit 0", true},
		{"exit 3", "exit 3", false},
		{"kill -KILL $$", "signal killed", false},
		{"kill -TERM $$", "signal terminated", false},
		{"(sleep 1000 &) ; exit 4", "exit 4", false},
	} {
		t.Run(test.script, func(t *testing.T) {
			t.Parallel()
			p, _ := start(t, Spec{}, test.script)
			exit, err := p.Wait(within(t))
			if err != nil {
				t.Fatal(err)
			}
			if exit.String() != test.want || exit.Success() != test.success {
				t.Errorf("got %q, success %v, want %q, %v", exit, exit.Success(), test.want, test.success)
			}
		})
	}
}

func TestEnvironmentIsWhatWasGivenAndTheMark(t *testing.T) {
	t.Setenv("PROCESS_TEST_SECRET", "must not be inherited")
	out := NewTail(100, 1000)
	p, _ := start(t, Spec{
		Argv: []string{"env"}, Stdout: out, Env: []string{"A=1"},
		Mark: Mark{Launch: "l", Run: "r", Rank: "2"},
	}, "")
	if _, err := p.Wait(within(t)); err != nil {
		t.Fatal(err)
	}
	want := []string{"A=1", path, "PENSTOCK_LAUNCH=l", "SPT_NOENV=1", "PENSTOCK_RUN=r", "PENSTOCK_RANK=2", "PENSTOCK_PROCESS=" + p.nonce}
	if got := out.Lines(); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("environment %q, want %q", got, want)
	}
}

func TestStartSaysWhyItCannot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "plain"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	mark := newMark()
	for name, test := range map[string]struct {
		spec Spec
		want string
	}{
		"no command":          {Spec{Mark: mark}, "start nothing: the command line is empty"},
		"no token":            {Spec{Argv: []string{"true"}}, "no launch token"},
		"NUL in mark":         {Spec{Argv: []string{"true"}, Mark: Mark{Launch: "a\x00b"}}, "NUL byte"},
		"not in PATH":         {Spec{Argv: []string{"plain"}, Mark: mark, Env: []string{"PATH=" + dir + ":."}}, `not found in PATH="` + dir},
		"no PATH":             {Spec{Argv: []string{"true"}, Mark: mark}, `not found in PATH=""`},
		"missing program":     {Spec{Argv: []string{dir + "/none"}, Mark: mark}, "no such file"},
		"program not allowed": {Spec{Argv: []string{dir + "/plain"}, Mark: mark}, "permission denied"},
		"missing folder":      {Spec{Argv: []string{"/bin/sh"}, Dir: dir + "/none", Mark: mark}, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.spec.Stdout = NewTail(1, 1) // a pipe that must not leak
			_, err := Start(test.spec)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q in it", err, test.want)
			}
		})
	}
}

func TestBothStreamsKeepTheirOrderInOneWriter(t *testing.T) {
	t.Parallel()
	out := NewTail(10, 100)
	p, dir := start(t, Spec{Stdout: out, Stderr: out, Dir: "/"}, `pwd; echo two >&2; echo three; printf four >&2`)
	if _, err := p.Wait(within(t)); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(out.Lines(), " "); got != "/ two three four" {
		t.Errorf("got %q (own folder %s)", got, dir)
	}
}

func TestOutputGoesToFilesDirectly(t *testing.T) {
	t.Parallel()
	f, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p, _ := start(t, Spec{Stdout: f}, `echo to the file; echo to nowhere >&2`)
	if _, err := p.Wait(within(t)); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(f.Name()); err != nil || string(got) != "to the file\n" {
		t.Errorf("got %q, %v", got, err)
	}
}

type brokenWriter struct{ _ func() } // also of a type that cannot be compared

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("broken") }

func TestFailingWriterDoesNotStopTheProgram(t *testing.T) {
	t.Parallel()
	p, _ := start(t, Spec{Stdout: brokenWriter{}, Stderr: brokenWriter{}}, `head -c 1000000 /dev/zero && exit 5`)
	if exit, err := p.Wait(within(t)); err != nil || exit.Code != 5 {
		t.Errorf("got %v, %v, want exit 5", exit, err)
	}
}

func TestStopLetsTheProgramFinish(t *testing.T) {
	t.Parallel()
	out := NewTail(10, 100)
	p, dir := start(t, Spec{Stdout: out}, `trap 'echo bye; exit 0' TERM; : >$1/$$; while :; do sleep 0.01; done`)
	pids(t, dir, 1)
	if err := p.Stop(within(t), patience); err != nil {
		t.Fatal(err)
	}
	if exit, err := p.Wait(within(t)); err != nil || !exit.Success() {
		t.Errorf("got %v, %v, want exit 0", exit, err)
	}
	if got := out.Lines(); len(got) != 1 || got[0] != "bye" {
		t.Errorf("last output %q, want bye", got)
	}
	if err := p.Stop(within(t), 0); err != nil {
		t.Errorf("second stop: %v", err)
	}
}

// stubborn ignores SIGTERM, and so does what it starts.
const stubborn = `trap '' TERM; : >$1/$$; while :; do sleep 0.05; done`

func TestStopKillsAfterGrace(t *testing.T) {
	t.Parallel()
	p, dir := start(t, Spec{}, stubborn)
	procs := pids(t, dir, 1)
	if err := p.Stop(within(t), 50*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if exit, _ := p.Wait(within(t)); exit.Signal != syscall.SIGKILL {
		t.Errorf("got %v, want killed", exit)
	}
	wantGone(t, procs)
}

func TestShorterGraceReplacesLonger(t *testing.T) {
	t.Parallel()
	p, dir := start(t, Spec{}, stubborn)
	pids(t, dir, 1)
	soon, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := p.Stop(soon, time.Hour)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "still alive: "+strconv.Itoa(p.PID())+" (sh, state") {
		t.Errorf("got %v, want who is still alive", err)
	}
	if _, err := p.Wait(soon); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wait: %v", err)
	}
	if err := p.Stop(within(t), 0); err != nil {
		t.Error(err)
	}
}

func TestRestEndsAfterTheFirstProcess(t *testing.T) {
	t.Parallel()
	p, dir := start(t, Spec{Grace: 50 * time.Millisecond}, `(`+stubborn+`) & while [ ! -e $1/go ]; do sleep 0.01; done; exit 6`)
	rest := pids(t, dir, 1) // $$ is the first process in a subshell too
	tree, err := p.Tree()
	if err != nil || len(tree) < 2 {
		t.Fatalf("tree %v, %v, want at least two", tree, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Ended():
	case <-within(t).Done():
		t.Fatal("the first process has not ended")
	}
	if exit, err := p.Wait(within(t)); err != nil || exit.Code != 6 {
		t.Errorf("got %v, %v, want exit 6", exit, err)
	}
	wantGone(t, append(tree, rest...))
}

func TestTreeOutlivesTheThreadOfItsCaller(t *testing.T) {
	t.Parallel()
	var p *Process
	var dir string
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		p, dir = start(t, Spec{}, `: >$1/$$; while :; do sleep 0.01; done`)
	}()
	<-ended
	procs := pids(t, dir, 1)
	time.Sleep(50 * time.Millisecond) // the signal, if it is sent, comes at once
	if !runs(procs[0]) {
		exit, _ := p.Wait(within(t))
		t.Errorf("ended with the caller's thread: %v", exit)
	}
}

func TestExecChildrenKeepTheirExitCodes(t *testing.T) {
	t.Parallel()
	// Orphans end all the time; none of os/exec's children may be reaped in their stead.
	p, dir := start(t, Spec{}, `: >$1/$$; while :; do (setsid sleep 0.01 &) ; done`)
	pids(t, dir, 1)
	for range 50 {
		err := exec.Command("sh", "-c", "exit 7").Run()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 7 {
			t.Fatalf("got %v, want exit 7", err)
		}
		kin.reap()
	}
	if err := p.Stop(within(t), 0); err != nil {
		t.Fatal(err)
	}
}
