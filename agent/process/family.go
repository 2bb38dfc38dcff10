package process

import (
	"errors"
	"fmt"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// family holds the trees that were started here and are not yet gone. Its lock is held while a tree is started, so that
// a child seen in /proc is either in here or an orphan.
type family struct {
	mu        sync.Mutex
	trees     map[int]*Process
	subreaper bool
	reaped    uint64 // orphans, in all
}

var kin = family{trees: map[int]*Process{}}

// leaders gives the IDs of the first processes of all trees.
func (f *family) leaders() map[int]bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.leadersLocked()
}

func (f *family) leadersLocked() map[int]bool {
	ids := make(map[int]bool, len(f.trees))
	for pid := range f.trees {
		ids[pid] = true
	}
	return ids
}

// alone tells whether p is the only tree, so that every orphan is its.
func (f *family) alone(p *Process) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.trees) == 1 && f.trees[p.pid] == p
}

// nonces gives those of all trees.
func (f *family) nonces() map[string]bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	set := make(map[string]bool, len(f.trees))
	for _, p := range f.trees {
		set[p.nonce] = true
	}
	return set
}

// bury takes the first process of a tree out of the process table and the tree out of the family, in one step: its ID
// may be another process's from now on.
func (f *family) bury(p *Process) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_ = p.cmd.Wait() // a bad exit is an error to os/exec; ProcessState has the facts
	if status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok {
		p.exit = exitOf(status)
	}
	delete(f.trees, p.pid)
}

// becomeSubreaper makes this process the one that its descendants' orphans come back to.
func (f *family) becomeSubreaper() error {
	if f.subreaper {
		return nil
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become the child subreaper: %w", err)
	}
	f.subreaper = true
	return nil
}

// reap takes ended orphans out of the process table and gives how many that were so far. It asks for them one by one,
// so that the children of os/exec and the first processes of trees stay for those who wait for them.
func (f *family) reap() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !zombieChild() {
		return f.reaped
	}
	all, err := scan()
	if err != nil {
		return f.reaped // looked at again soon; a zombie holds nothing but its ID
	}
	orphans := orphans(all, f.leadersLocked())
	for _, p := range all {
		if p.State != 'Z' || !orphans[p.PID] {
			continue
		}
		if pid, err := retry(func() (int, error) { return unix.Wait4(p.PID, nil, unix.WNOHANG, nil) }); err == nil && pid == p.PID {
			f.reaped++
		}
	}
	return f.reaped
}

// zombieChild tells cheaply whether any child has ended and was not waited for.
func zombieChild() bool {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	return err == nil && info.Signo != 0 || errors.Is(err, unix.EINTR)
}
