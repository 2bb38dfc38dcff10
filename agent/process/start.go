package process

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Start starts the first process of a tree: in a session and process group of its own, with nothing of this process's
// environment, and dying when this process dies. It returns when the program runs, or with the reason why it does not.
// The tree is tended until it is gone; Wait or Done tell when.
func Start(spec Spec) (*Process, error) {
	p, err := prepare(spec)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", nameOf(spec.Argv), err)
	}
	started := make(chan error, 1)
	go p.live(started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", nameOf(spec.Argv), err)
	}
	return p, nil
}

func nameOf(argv []string) string {
	if len(argv) == 0 {
		return "nothing"
	}
	return argv[0]
}

func prepare(spec Spec) (*Process, error) {
	if len(spec.Argv) == 0 || spec.Argv[0] == "" {
		return nil, errors.New("the command line is empty")
	}
	if err := spec.Mark.check(); err != nil {
		return nil, err
	}
	path, err := lookPath(spec.Argv[0], spec.Env)
	if err != nil {
		return nil, err
	}
	p := &Process{
		nonce:  newNonce(),
		launch: spec.Mark.Launch,
		grace:  spec.Grace,
		ended:  make(chan struct{}),
		gone:   make(chan struct{}),
		done:   make(chan struct{}),
		poke:   make(chan struct{}, 1),
	}
	p.cmd = &exec.Cmd{
		Path: path,
		Args: spec.Argv,
		Env:  append(append(append([]string{}, spec.Env...), spec.Mark.Environ()...), EnvProcess+"="+p.nonce),
		Dir:  spec.Dir,
		SysProcAttr: &syscall.SysProcAttr{
			Setsid:    true,
			Pdeathsig: syscall.SIGKILL,
		},
	}
	return p, p.connect(spec.Stdout, spec.Stderr)
}

// live runs the life of a tree from start to end. The kernel ties the parent-death signal to the thread that forked, so
// that this goroutine keeps its thread to itself until the first process is reaped; the thread ends with it.
func (p *Process) live(started chan<- error) {
	runtime.LockOSThread()
	if err := p.fork(); err != nil {
		p.disconnect()
		started <- err
		return
	}
	started <- nil
	p.copyOutput()
	go p.tend()

	p.awaitFirst()
	close(p.ended)
	<-p.gone
	p.disconnect()
	kin.bury(p)
	close(p.done)
}

// fork starts the first process, known to the family before anyone can take it for an orphan.
func (p *Process) fork() error {
	kin.mu.Lock()
	defer kin.mu.Unlock()
	if err := kin.becomeSubreaper(); err != nil {
		return err
	}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	p.pid = p.cmd.Process.Pid
	kin.trees[p.pid] = p
	return nil
}

// awaitFirst waits for the end of the first process and leaves it in the process table, so that its ID, which names
// the session and the group, stays taken while the rest of the tree is ended.
func (p *Process) awaitFirst() {
	for {
		err := unix.Waitid(unix.P_PID, p.pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return // nothing else reaps it, so there is no other error
		}
	}
}

// lookPath finds a program as a shell with env would. Relative folders of PATH are passed over: they name another
// program in every working directory.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	path := ""
	for _, entry := range env {
		if value, ok := strings.CutPrefix(entry, "PATH="); ok {
			path = value // the last one counts, as in os/exec
		}
	}
	for _, dir := range filepath.SplitList(path) {
		if candidate := filepath.Join(dir, name); filepath.IsAbs(dir) && executable(candidate) {
			return candidate, nil
		}
	}
	return "", fmt.Errorf("not found in PATH=%q of its environment: give an absolute path or set PATH in the deployment's env", path)
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && unix.Access(path, unix.X_OK) == nil
}
