package testbed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// mark is in the environment of all agents, and so of what they start.
const mark = "NOMAD_BED_PROCESS="

// start starts an agent; it outlives this process.
func (b *Bed) start(a *Agent) error {
	out, err := os.OpenFile(filepath.Join(b.Dir, a.Name, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(b.Options.Binary, "agent", "-config", b.config(*a))
	cmd.Stdout, cmd.Stderr, cmd.Dir = out, out, b.Dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + b.Dir, mark + b.Dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", a.Name, err)
	}
	a.PID = cmd.Process.Pid
	a.StartsAt, _ = startTime(a.PID)
	go func() { _ = cmd.Wait() }() // reaps it; whoever ends it watches for that
	return b.save()
}

// startTime is when a process was started, in the kernel's ticks, or an error where there is none.
func startTime(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text[bytes.LastIndexByte(text, ')'):]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 20 || fields[0] == "Z" {
		return 0, os.ErrNotExist
	}
	return strconv.ParseInt(fields[19], 10, 64)
}

// signal sends a signal to an agent, if that process is still it.
func (a Agent) signal(sig syscall.Signal) error {
	if at, err := startTime(a.PID); err != nil || at != a.StartsAt {
		return nil
	}
	return syscall.Kill(a.PID, sig)
}

func (a Agent) alive() bool {
	at, err := startTime(a.PID)
	return err == nil && at == a.StartsAt
}

// end kills an agent and waits until it is gone. Its tasks live on.
func (a Agent) end() error {
	err := a.signal(syscall.SIGKILL)
	for range 500 {
		if !a.alive() {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return errors.Join(err, fmt.Errorf("%s is not gone after SIGKILL", a.Name))
}

// KillClient kills a client's agent with SIGKILL, by name. Its tasks live on.
func (b *Bed) KillClient(name string) error {
	a, err := b.agent(name)
	if err != nil {
		return err
	}
	return a.end()
}

// StartClient starts a client again that was killed.
func (b *Bed) StartClient(name string) error {
	a, err := b.agent(name)
	if err != nil {
		return err
	}
	return b.start(a)
}

// RestartServer kills the server and starts it again on the same state.
func (b *Bed) RestartServer(ctx context.Context) error {
	if err := b.StopServer(); err != nil {
		return err
	}
	if err := b.StartServer(); err != nil {
		return err
	}
	c, err := b.Client()
	if err != nil {
		return err
	}
	defer c.Close()
	return until(ctx, "a leader", func() error {
		leader, err := c.Status().Leader()
		if err == nil && leader == "" {
			err = errors.New("none yet")
		}
		return err
	})
}

func (b *Bed) agent(name string) (*Agent, error) {
	for i := range b.Clients {
		if b.Clients[i].Name == name {
			return &b.Clients[i], nil
		}
	}
	return nil, fmt.Errorf("the bed has no client %s", name)
}

// Down ends everything and removes the folder: the agents, what they have started, and their mounts.
func (b *Bed) Down() error {
	var errs []error
	for _, a := range append(b.Clients, b.Server) {
		if a.PID > 0 {
			errs = append(errs, a.end())
		}
	}
	for range 100 {
		left := b.processes()
		if len(left) == 0 {
			break
		}
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(20 * time.Millisecond)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	errs = append(errs, err)
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 1 && strings.HasPrefix(fields[1], b.Dir+"/") {
			errs = append(errs, syscall.Unmount(fields[1], syscall.MNT_DETACH))
		}
	}
	return errors.Join(append(errs, os.RemoveAll(b.Dir))...)
}

// processes are those that an agent of the bed has started: by the mark, or by a folder of the bed that they are in.
func (b *Bed) processes() (pids []int) {
	names, _ := filepath.Glob("/proc/[0-9]*")
	for _, name := range names {
		pid, err := strconv.Atoi(filepath.Base(name))
		if err != nil || pid == os.Getpid() {
			continue
		}
		env, _ := os.ReadFile(filepath.Join(name, "environ"))
		root, _ := os.Readlink(filepath.Join(name, "root"))
		if bytes.Contains(append([]byte{0}, env...), []byte("\x00"+mark+b.Dir+"\x00")) || strings.HasPrefix(root, b.Dir+"/") {
			pids = append(pids, pid)
		}
	}
	return pids
}

const logTail = 2000

// lastWords is the end of each agent's log, as an error.
func (b *Bed) lastWords() error {
	var errs []error
	for _, a := range append([]Agent{b.Server}, b.Clients...) {
		text, err := os.ReadFile(filepath.Join(b.Dir, a.Name, "log"))
		if err == nil {
			errs = append(errs, fmt.Errorf("--- %s\n%s", a.Name, text[max(0, len(text)-logTail):]))
		}
	}
	return errors.Join(errs...)
}

// StopServer kills the server; StartServer starts it again on the same state.
func (b *Bed) StopServer() error { return b.Server.end() }

// StartServer is the opposite of StopServer. It does not wait for a leader.
func (b *Bed) StartServer() error { return b.start(&b.Server) }

// FreezeServer stops the server's process, so that it answers nothing, or has it go on.
func (b *Bed) FreezeServer(on bool) error {
	sig := syscall.SIGCONT
	if on {
		sig = syscall.SIGSTOP
	}
	return b.Server.signal(sig)
}
