package local

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/scheduler/cluster"
)

// The test binary is also the shim and the agent of the jobs that the tests submit: by arguments, as jobs inherit next to
// nothing of the environment.
const (
	shimArg  = "run-as-shim"
	agentArg = "run-as-agent"
	childArg = "run-as-child"

	controllerArg = "run-as-controller"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 {
		switch os.Args[1] {
		case shimArg:
			ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
			code := RunJob(ctx, os.Args[2], startTree, zerolog.New(os.Stderr))
			stop()
			os.Exit(code)
		case agentArg:
			os.Exit(agentMain(os.Args[2]))
		case controllerArg:
			os.Exit(controllerMain(os.Args[2]))
		case childArg:
			hog(os.Args[2])
			time.Sleep(time.Hour)
		}
	}
	goleak.VerifyTestMain(m)
}

// script is what a test's agent does.
type script struct {
	Exit     *cluster.Exit `json:"exit,omitempty"`     // ends like this at once
	Stubborn bool          `json:"stubborn,omitempty"` // ignores SIGTERM
	Escape   bool          `json:"escape,omitempty"`   // leaves a child behind in a session of its own
	Hog      string        `json:"hog,omitempty"`      // the child takes much memory, and writes its number here
	NoLock   bool          `json:"noLock,omitempty"`   // does not hold its rank's lock
	Ready    string        `json:"ready"`              // where it writes its environment once it is set up
}

// hogBytes takes the kernel long enough to give back that looks at the process table fall into that time.
const hogBytes = 256 << 20

// hog takes much memory and says so in a file; nothing where that has no name.
func hog(file string) {
	if file == "" {
		return
	}
	memory, err := unix.Mmap(-1, 0, hogBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		panic(err)
	}
	_ = unix.Madvise(memory, unix.MADV_NOHUGEPAGE) // small pages take longest
	for i := 0; i < len(memory); i += os.Getpagesize() {
		memory[i] = 1
	}
	if err := os.WriteFile(file, []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		panic(err)
	}
}

func agentMain(arg string) int {
	var s script
	if err := json.Unmarshal([]byte(arg), &s); err != nil {
		panic(err)
	}
	if !s.NoLock {
		lock, err := HoldLock(os.Getenv(EnvLock))
		if err != nil {
			panic(err)
		}
		defer lock.Close()
	}
	if s.Escape {
		child := exec.Command(os.Args[0], childArg, s.Hog)
		child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := child.Start(); err != nil {
			panic(err)
		}
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, unix.SIGTERM)
	if err := os.WriteFile(s.Ready, []byte(strings.Join(os.Environ(), "\n")), 0o600); err != nil {
		panic(err)
	}
	switch {
	case s.Exit == nil:
		for range term {
			if !s.Stubborn {
				return 0
			}
		}
	case s.Exit.Signal != 0:
		_ = unix.Kill(os.Getpid(), unix.Signal(s.Exit.Signal))
		select {}
	}
	return s.Exit.Code
}

// tree is the least that a shim needs: one process in a session of its own, and its process group.
type tree struct {
	pid  int
	done chan struct{}
	exit cluster.Exit
}

func startTree(s Spec) (Tree, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, err
	}
	cmd := exec.Command(s.Argv[0], s.Argv[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = s.Env, s.Stdout, s.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	t := &tree{pid: cmd.Process.Pid, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		status := cmd.ProcessState.Sys().(syscall.WaitStatus)
		t.exit = cluster.Exit{Code: status.ExitStatus()}
		if status.Signaled() {
			t.exit = cluster.Exit{Signal: int(status.Signal())}
		}
		close(t.done)
	}()
	return t, nil
}

func (t *tree) Wait(ctx context.Context) (cluster.Exit, error) {
	select {
	case <-t.done:
		return t.exit, nil
	case <-ctx.Done():
		return cluster.Exit{}, ctx.Err()
	}
}

func (t *tree) Stop(ctx context.Context, grace time.Duration) error {
	_ = unix.Kill(-t.pid, unix.SIGTERM)
	select {
	case <-t.done:
		return nil
	case <-time.After(grace):
		_ = unix.Kill(-t.pid, unix.SIGKILL)
	case <-ctx.Done():
	}
	_, err := t.Wait(ctx)
	return err
}
