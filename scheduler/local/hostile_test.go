package local

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/scheduler/cluster"
)

func TestFoldersOfStrangers(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		root bool
		make func(path string) error
		want string
	}{
		{"symbolic link", false, func(p string) error { return os.Symlink(os.TempDir(), p) }, "it is a symbolic link"},
		{"open to others", false, func(p string) error { return errors.Join(os.Mkdir(p, 0o700), os.Chmod(p, 0o750)) }, "chmod 700"},
		{"of another user", true, func(p string) error { return errors.Join(os.Mkdir(p, 0o700), os.Chown(p, 65534, 65534)) }, "uid 65534"},
		{"a file", false, func(p string) error { return os.WriteFile(p, nil, 0o600) }, "something else"},
		{"below a folder for everybody", false, func(p string) error { return os.Chmod(filepath.Dir(p), 0o777) }, "chmod o-w"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.root && os.Geteuid() != 0 {
				t.Skip("needs root")
			}
			m := &machine{t: t, root: t.TempDir()}
			o := m.options()
			if err := tt.make(o.RuntimeDir); err != nil {
				t.Fatal(err)
			}
			_, err := New(o)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), m.root) {
				t.Errorf("New: %v, want an error with %q that names the folder", err, tt.want)
			}
		})
	}
}

// TestRuntimeDirTakenLater is a stranger who gets hold of the folder's name after the start.
func TestRuntimeDirTakenLater(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	if err := errors.Join(os.RemoveAll(m.o.RuntimeDir), os.Symlink(t.TempDir(), m.o.RuntimeDir)); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Submit(t.Context(), m.submission(script{})); !errors.Is(err, cluster.ErrRefused) || !strings.Contains(err.Error(), "symbolic link") {
		t.Errorf("Submit: %v", err)
	}
}

func TestLogsOfStrangers(t *testing.T) {
	t.Parallel()
	for name, plant := range map[string]func(path, victim string) error{
		"link": func(path, victim string) error { return os.Symlink(victim, path) },
		"pipe": func(path, _ string) error { return unix.Mkfifo(path, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			sub := m.submission(script{})
			victim := filepath.Join(m.root, "victim")
			err := errors.Join(os.WriteFile(victim, nil, 0o600), os.MkdirAll(sub.LogDir, 0o700),
				os.Chmod(filepath.Dir(sub.LogDir), 0o700), plant(filepath.Join(sub.LogDir, "agent-0.log"), victim))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := m.Submit(t.Context(), sub); !errors.Is(err, cluster.ErrRefused) {
				t.Errorf("Submit: %v", err)
			}
			m.onDisk(0, 0)
		})
	}
}

func TestTokensThatAreNoFileNames(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	for _, id := range []string{"", "../x", "a/b", "a.b", "A", "-a", strings.Repeat("a", 41), "a\n", "a\x00"} {
		sub := m.submission(script{})
		sub.Launch.ID = cluster.LaunchID(id)
		if _, err := m.Submit(t.Context(), sub); !errors.Is(err, cluster.ErrRefused) {
			t.Errorf("Submit of launch %q: %v", id, err)
		}
		if err := m.Stop(t.Context(), id, 0); err != nil {
			t.Errorf("Stop of %q: %v", id, err)
		}
	}
}

// TestStrangersProcess runs a process of another user that carries a job's mark: it is neither found nor touched.
func TestStrangersProcess(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	m := newMachine(t)
	id := m.mustSubmit(m.submission(script{Stubborn: true}))
	m.serving(id)
	stranger := exec.CommandContext(t.Context(), "/bin/sleep", "3600")
	sm := id.mark()
	sm.Rank = "0"
	stranger.Env = append(sm.environ(), envShim+"="+shimMark(id, 0))
	stranger.Dir = "/"
	stranger.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stranger.Process.Kill(); _ = stranger.Wait() }()
	procs, err := m.processes(id)
	if err != nil || slices.ContainsFunc(procs, func(p found) bool { return p.pid == stranger.Process.Pid }) {
		t.Errorf("found %+v (%v)", procs, err)
	}
	m.stopNow(id, 0)
	m.wantEnd(id, &cluster.Exit{Signal: 9}, "stopped")
	if err := stranger.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the stranger's process: %v", err)
	}
}

// TestRecycledNumber holds a process that was found, and its number names another one when the signal is sent.
func TestRecycledNumber(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	id := m.mustSubmit(m.submission(script{}))
	procs := m.serving(id)
	for i := range procs {
		procs[i].mark.Run = newRun() // what was found then was another run's
	}
	m.kill(procs)
	m.wantState(id, cluster.JobRunning, "")
	if err := send([]found{{pid: 1 << 22}}, unix.SIGKILL); err != nil {
		t.Errorf("a process that is gone: %v", err)
	}
}

// TestShimByHand starts a shim without what Submit hands down.
func TestShimByHand(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	id := m.mustSubmit(m.submission(script{}))
	m.serving(id)
	for _, dir := range []string{rankDir(m.dir(id), 0), m.root} {
		out, err := exec.CommandContext(context.WithoutCancel(t.Context()), os.Args[0], shimArg, dir).CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != exitBroken || len(out) == 0 {
			t.Errorf("shim of %s: %v: %s", dir, err, out)
		}
	}
	m.wantState(id, cluster.JobRunning, "")
}
