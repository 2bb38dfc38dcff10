package ledger

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/penstock/penstock/scheduler/statefile"
	"github.com/penstock/penstock/scheduler/statefile/crashfs"
)

// childMain makes the test binary a controller when a test has started it as one: LEDGER_CHILD=MODE, then arguments.
func childMain() {
	switch mode := os.Getenv("LEDGER_CHILD"); mode {
	case "":
	case "script":
		childScript()
	case "hold":
		childHold()
	}
}

// child starts the test binary again.
func child(t *testing.T, mode string, args ...string) (cmd *exec.Cmd, in io.Writer, out *bufio.Scanner) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	cmd = exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), "LEDGER_CHILD="+mode)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd, stdin, bufio.NewScanner(stdout)
}

// killer is the machine's file system, in which a process kills itself before a given step.
type killer struct {
	statefile.OS
	at, steps int
}

func (k *killer) step() {
	if k.steps++; k.steps == k.at {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

type killerFile struct {
	statefile.File
	k *killer
}

func (f killerFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p[:len(p)/2])
	if err != nil {
		return n, err
	}
	f.k.step()
	m, err := f.File.Write(p[len(p)/2:])
	return n + m, err
}

func (f killerFile) Sync() error {
	f.k.step()
	return f.File.Sync()
}

func (k *killer) opened(f statefile.File, err error) (statefile.File, error) {
	if err != nil {
		return nil, err
	}
	return killerFile{f, k}, nil
}

func (k *killer) Create(name string) (statefile.File, error) {
	k.step()
	return k.opened(k.OS.Create(name))
}

func (k *killer) Append(name string) (statefile.File, error) {
	k.step()
	return k.opened(k.OS.Append(name))
}

func (k *killer) Rename(from, to string) error {
	k.step()
	return k.OS.Rename(from, to)
}

func (k *killer) Link(from, to string) error {
	k.step()
	return k.OS.Link(from, to)
}

func (k *killer) Mkdir(dir string) error {
	k.step()
	return k.OS.Mkdir(dir)
}

func (k *killer) Remove(name string) error {
	k.step()
	return k.OS.Remove(name)
}

func (k *killer) RemoveAll(dir string) error {
	k.step()
	return k.OS.RemoveAll(dir)
}

func (k *killer) SyncDir(dir string) error {
	k.step()
	return k.OS.SyncDir(dir)
}

// childScript goes through the script, says "done N" after each call, and dies at a step. Arguments: folder, step.
func childScript() {
	at, _ := strconv.Atoi(os.Args[2])
	k := &killer{at: at}
	l, err := Open(os.Args[1], scriptOptions(Options{FS: k, Now: clock(), Alive: dead}))
	if err == nil {
		err = statefile.SecureDir(os.Args[1]) // Open does so on a statefile.OS alone
	}
	for i, op := range script() {
		if err == nil {
			err = op.do(context.Background(), l)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, op.name, err)
			os.Exit(1)
		}
		fmt.Println("done", i+1)
	}
	fmt.Println("steps", k.steps)
	os.Exit(0)
}

// runScript starts a child at the script and returns how many calls it has said to be done.
func runScript(t *testing.T, dir string, at int) (done, steps int) {
	t.Helper()
	cmd, _, out := child(t, "script", dir, strconv.Itoa(at))
	for out.Scan() {
		what, n, _ := strings.Cut(out.Text(), " ")
		switch what {
		case "done":
			done, _ = strconv.Atoi(n)
		case "steps":
			steps, _ = strconv.Atoi(n)
		}
	}
	if err := cmd.Wait(); at == 0 && err != nil {
		t.Fatal(err)
	}
	return done, steps
}

// TestKilledProcess kills real processes at many steps of the script, on a real folder.
func TestKilledProcess(t *testing.T) {
	t.Parallel()
	dumps := faultless(t, crashfs.New()).dumps
	_, steps := runScript(t, filepath.Join(t.TempDir(), "state"), 0)
	if steps < len(script()) {
		t.Fatalf("the script has %d steps", steps)
	}
	for at := 1; at <= steps; at += 4 {
		t.Run(fmt.Sprintf("step %d", at), func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "state")
			done, _ := runScript(t, dir, at)
			l, err := Open(dir, scriptOptions(Options{Now: clock(), Lease: time.Hour, Alive: dead}))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := l.Acquire(t.Context(), holder("next")); err != nil {
				t.Fatal(err)
			}
			if got := dump(l); !slices.Contains(dumps[done:min(done+2, len(dumps))], got) {
				t.Errorf("after %d answered calls the ledger says\n%s", done, got)
			}
		})
	}
}

// childHold holds a term. It says "held N" or what is wrong, then "lost" once it knows; it takes the lines "apply" and
// "release".
func childHold() {
	l, err := Open(os.Args[1], Options{Lease: time.Second})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	h, _ := ThisProcess(time.Now())
	term, err := l.Acquire(context.Background(), h)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("held", term)
	ctx, cancel := context.WithCancel(context.Background())
	beating := make(chan error, 1)
	go func() { beating <- l.Run(ctx) }()
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		switch in.Text() {
		case "apply":
			_, _, err := l.Apply(deploymentFile("late", 1, "x"), "")
			fmt.Println("apply lost:", errors.Is(err, ErrTermLost), err)
		case "release":
			cancel()
			<-beating
			fmt.Println("released", l.Release())
		}
	}
	cancel()
	os.Exit(0)
}

func holding(t *testing.T, dir string) (cmd *exec.Cmd, in io.Writer, out *bufio.Scanner) {
	t.Helper()
	cmd, in, out = child(t, "hold", dir)
	if !out.Scan() || !strings.HasPrefix(out.Text(), "held ") {
		t.Fatalf("the child says %q", out.Text())
	}
	return cmd, in, out
}

func acquire(t *testing.T, dir string, lease time.Duration) (*Ledger, error) {
	t.Helper()
	l, err := Open(dir, Options{Lease: lease})
	if err != nil {
		t.Fatal(err)
	}
	h, err := ThisProcess(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	_, err = l.Acquire(t.Context(), h)
	return l, err
}

// Leases in these tests are so long that waiting for one would fail the test, but where the lease is what is tested.
const noWait = time.Hour

func TestTwoControllersOnOneFolder(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	cmd, in, out := holding(t, dir)
	_, err := acquire(t, dir, 20*time.Second)
	held, ok := errors.AsType[*HeldError](err)
	if !ok || held.Holder.PID != cmd.Process.Pid || held.Term != 1 {
		t.Fatalf("the second controller says %v", err)
	}
	fmt.Fprintln(in, "release")
	if !out.Scan() || out.Text() != "released <nil>" {
		t.Fatalf("the child says %q", out.Text())
	}
	l, err := acquire(t, dir, noWait)
	if err != nil || l.Term() != 2 {
		t.Fatalf("after the release: term %d, %v", l.Term(), err)
	}
}

func TestKilledHolderIsReplacedAtOnce(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	cmd, _, _ := holding(t, dir)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, known := alive(Holder{}); known {
		t.Error("an empty holder is known")
	}
	waitState(t, cmd.Process.Pid, "Z")
	l, err := acquire(t, dir, noWait) // the child is a zombie: it is not waited for yet
	if err != nil || l.Term() != 2 {
		t.Fatalf("after the kill: term %d, %v", l.Term(), err)
	}
}

func TestStoppedHolderLosesItsTerm(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	cmd, in, out := holding(t, dir)
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	waitState(t, cmd.Process.Pid, "T")
	l, err := acquire(t, dir, 200*time.Millisecond)
	if err != nil || l.Term() != 2 {
		t.Fatalf("beside a stopped holder: term %d, %v", l.Term(), err)
	}
	mustApply(t, l, deploymentFile("qwen", 1, "x"))
	before := dump(l)
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(in, "apply")
	if !out.Scan() || !strings.HasPrefix(out.Text(), "apply lost: true") {
		t.Fatalf("the child that was stopped says %q", out.Text())
	}
	again, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if dump(again) != before {
		t.Errorf("the stopped controller has changed the ledger to\n%s", dump(again))
	}
}

// waitState waits until the kernel has a process in a state.
func waitState(t *testing.T, pid int, state string) {
	t.Helper()
	for range 3000 {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		if strings.HasPrefix(rest, state) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("process %d is not in state %s", pid, state)
}
