package local

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/statefile"
)

// begin does of a submit what start does first.
func (m *machine) begin(sub cluster.Submission) *starting {
	m.t.Helper()
	r := jobRecord{Launch: sub.Launch.ID, Run: newRun(), Placement: sub.Launch.Placement}
	r.ID = jobID(string(r.Launch) + "." + r.Run)
	m.subs.Store(r.ID, sub)
	s := &starting{c: m.Cluster, sub: sub, job: r, tmp: statefile.TempName(m.dir(r.ID))}
	if err := s.prepare(); err != nil {
		m.t.Fatal(err)
	}
	return s
}

func (m *machine) neverRan(id jobID) {
	m.t.Helper()
	if ready, _ := filepath.Glob(filepath.Join(m.root, "ready-*")); len(ready) > 0 {
		m.t.Errorf("agents of job %s have run: %v", id, ready)
	}
}

func TestControllerDiesBeforeTheShims(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	s := m.begin(m.submission(script{}, script{}))
	s.close()
	m.wantEnd(s.job.ID, nil, "without an exit status")
	m.neverRan(s.job.ID)
}

func TestControllerDiesBeforeTheGateOpens(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	s := m.begin(m.submission(script{}, script{}))
	if err := s.startShims(); err != nil {
		t.Fatal(err)
	}
	m.wantState(s.job.ID, cluster.JobRunning, "")
	s.close()
	m.wantEnd(s.job.ID, nil, neverStarted)
	m.neverRan(s.job.ID)
}

// TestControllerKilled kills a controller's whole process group: its job runs on and the next controller finds it.
func TestControllerKilled(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	controller := exec.CommandContext(t.Context(), os.Args[0], controllerArg, m.root)
	controller.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	controller.Stderr = os.Stderr
	out, err := controller.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := controller.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	if err := unix.Kill(-controller.Process.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = controller.Wait()
	id := jobID(strings.TrimSpace(line))
	if !jobIDs.MatchString(string(id)) {
		t.Fatalf("the controller said %q", line)
	}
	m.wantState(id, cluster.JobRunning, "")
	m.eventually("agent is set up", func() bool {
		ready, _ := filepath.Glob(filepath.Join(m.root, "ready-*"))
		return len(ready) == 1
	})
	m.stopNow(id, 1<<40)
	m.wantEnd(id, &cluster.Exit{}, "stopped: exited with code 0")
}

// controllerMain is the controller of TestControllerKilled.
func controllerMain(root string) int {
	m := &machine{t: &testing.T{}, root: root}
	m.Cluster = m.restart()
	fmt.Println(m.mustSubmit(m.submission(script{})))
	select {}
}

func TestProgramsMissing(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	t.Run("agent", func(t *testing.T) {
		command := m.o.AgentCommand
		defer func() { m.o.AgentCommand = command }()
		m.o.AgentCommand = func(cluster.Submission, int) []string { return []string{"/nowhere/penstock"} }
		id := m.mustSubmit(m.submission(script{}))
		m.wantEnd(id, &cluster.Exit{Code: exitCannotStart}, "could not be started: fork/exec /nowhere/penstock: no such file")
	})
	t.Run("shim of rank 1", func(t *testing.T) {
		shim, before := m.o.Shim, len(m.jobs())
		defer func() { m.o.Shim = shim }()
		m.o.Shim = func(dir string) []string {
			if filepath.Base(dir) == "rank-1" {
				return []string{"/nowhere/penstock"}
			}
			return shim(dir)
		}
		_, err := m.Submit(t.Context(), m.submission(script{}, script{}))
		if !errors.Is(err, cluster.ErrRefused) || !strings.Contains(err.Error(), "shim of rank 1") {
			t.Errorf("Submit: %v", err)
		}
		if after := len(m.jobs()); after != before {
			t.Errorf("%d jobs before, %d after", before, after)
		}
		m.eventually("the shim of rank 0 has ended", func() bool { m.reap(); return len(m.Cluster.shims) == 0 })
		m.neverRan("")
		m.onDisk(before, 0)
	})
}

// onDisk checks how many jobs have left folders, and how many locks are there.
func (m *machine) onDisk(jobs, locked int) {
	m.t.Helper()
	folders, _ := os.ReadDir(m.o.Dir)
	locks, _ := filepath.Glob(filepath.Join(m.o.RuntimeDir, "chat-*"))
	if len(folders) != jobs || len(locks) != locked {
		m.t.Errorf("folders %v and locks %v, want %d and %d", folders, locks, jobs, locked)
	}
}

// fullFS is a disk that gets full after so many new files.
type fullFS struct {
	statefile.OS
	left *int
}

func (f fullFS) Create(name string) (statefile.File, error) {
	if *f.left--; *f.left < 0 {
		return nil, &os.PathError{Op: "create", Path: name, Err: syscall.ENOSPC}
	}
	return f.OS.Create(name)
}

// TestDiskFull walks over all files that a submit writes: wherever the disk is full, nothing is started and nothing is left.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	for room := 0; ; room++ {
		left := room
		m.fs = fullFS{left: &left}
		sub := m.submission(script{Stubborn: true}, script{Stubborn: true})
		id, err := m.Submit(t.Context(), sub)
		if err == nil {
			m.subs.Store(jobID(id), sub)
			if room < 5 {
				t.Errorf("a submit wrote %d files only", room)
			}
			break
		}
		if !errors.Is(err, cluster.ErrRefused) || !strings.Contains(err.Error(), "no space left on device") {
			t.Fatalf("Submit: %v", err)
		}
		m.onDisk(0, 0)
	}
	// The disk is still full: the job can be stopped, and its exit status is kept.
	id := m.ids()[0]
	m.serving(id)
	m.stopNow(id, 0)
	m.wantEnd(id, &cluster.Exit{Signal: 9}, "rank 0 stopped: killed by signal 9")
}

func TestExitFitsIntoItsSpace(t *testing.T) {
	t.Parallel()
	left := 1
	fsys := fullFS{left: &left}
	dir := t.TempDir()
	if err := reserve(fsys, filepath.Join(dir, exitName)); err != nil {
		t.Fatal(err)
	}
	want := exitRecord{Exit: &cluster.Exit{Code: 3}, Reason: strings.Repeat("\x01", 10_000)}
	if err := writeExit(fsys, dir, want); err != nil {
		t.Fatal(err)
	}
	got, err := readOptional[exitRecord](fsys, filepath.Join(dir, exitName))
	if err != nil || *got.Exit != *want.Exit || len(got.Reason) < 100 {
		t.Errorf("read %+v (%v)", got, err)
	}
}
