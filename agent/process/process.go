// Package process starts, watches and surely ends a process tree: an engine with all that it forks, double forks,
// daemonises and forgets.
//
// Three nets, each for what the one before misses. The first process of a tree leads its own session and dies with
// this one (parent-death signal). This process is the child subreaper of all that it started, so that an orphan comes
// back to it instead of escaping to init. Every process of a tree carries a Mark in its environment, so that what
// outlives a killed agent is found and ended by Sweep at the next start.
//
// The package knows no engine, no deployment and no cluster; it reads no environment and writes no log. The agent calls
// it. Being a subreaper is a property of the whole operating system process, and so is the package's only state: which
// trees were started and are not yet gone. Other code in the same process may run programs with os/exec, as long as it
// does not give them a session of their own (SysProcAttr.Setsid): a child in another session that is not the first of a
// tree is taken for an orphan, reaped when it ends, and ended with the last tree unless it carries the token of another
// launch.
package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// Spec says what to start.
type Spec struct {
	Argv []string // Argv[0] is looked up in the PATH of Env unless it holds a slash
	Env  []string // complete: nothing is inherited; the mark is added to it
	Dir  string   // working directory; empty: this process's own

	// Stdout and Stderr get the output; nil discards it. An *os.File is handed over as it is. Any other writer is fed
	// by a goroutine, which goes on reading when the writer fails, so that a full disk never stops an engine.
	Stdout, Stderr io.Writer

	Mark  Mark
	Grace time.Duration // what the rest of the tree gets to end by itself after its first process has ended
}

// Process is a process tree, named by its first process. Its methods are safe for concurrent use.
type Process struct {
	pid    int
	nonce  string // value of EnvProcess in every process of the tree, except for trees inside it
	launch LaunchToken
	grace  time.Duration
	cmd    *exec.Cmd
	pipes  []*pipe

	ended chan struct{} // closed when the first process has ended
	gone  chan struct{} // closed when the rest of the tree has ended too
	done  chan struct{} // closed when everything is reaped; exit may be read from then on
	poke  chan struct{} // says that deadline has changed
	exit  Exit

	looking sync.Mutex   // held while the process table is looked at
	known   map[int]Proc // what the last look found alive

	mu       sync.Mutex
	deadline time.Time // when the tree is killed; zero: not asked to end
	left     []Proc    // what the last look at an ending tree found
	trouble  error     // why the last look or signal failed
}

// PID is the ID of the first process, which is also the ID of its session and process group. It is not used for
// another process before Done is closed.
func (p *Process) PID() int { return p.pid }

// Ended is closed when the first process has ended. The rest of the tree is then being ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Done is closed when no process of the tree is left.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits until no process of the tree is left and returns how its first process ended. When ctx ends first, the
// tree lives on and the error says so.
func (p *Process) Wait(ctx context.Context) (Exit, error) {
	if err := p.await(ctx); err != nil {
		return Exit{}, fmt.Errorf("wait for process %d: %w", p.pid, err)
	}
	return p.exit, nil
}

// Stop ends the whole tree: SIGTERM to the process group, then, when grace has passed, SIGKILL to every process of the
// tree, wherever it has gone, until none is left. A shorter grace than that of a Stop under way replaces it. When ctx
// ends first, the error names what is still alive, and the tree is still being ended. Stopping an ended tree is no
// error.
func (p *Process) Stop(ctx context.Context, grace time.Duration) error {
	p.endBy(time.Now().Add(grace))
	if err := p.await(ctx); err != nil {
		left, trouble := p.Tree()
		p.mu.Lock()
		defer p.mu.Unlock()
		return fmt.Errorf("stop process %d: still alive: %s: %w", p.pid, describe(left), errors.Join(err, p.trouble, trouble))
	}
	return nil
}

// await waits for Done, which counts more than an ended context.
func (p *Process) await(ctx context.Context) error {
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
	}
	select {
	case <-p.done:
		return nil
	default:
		return ctx.Err()
	}
}

// endBy lets the tree be killed at t, or earlier where that was asked for before.
func (p *Process) endBy(t time.Time) {
	p.mu.Lock()
	if p.deadline.IsZero() || t.Before(p.deadline) {
		p.deadline = t
	}
	p.mu.Unlock()
	select {
	case p.poke <- struct{}{}:
	default:
	}
}

// Exit is how a process ended. The zero value is success.
type Exit struct {
	Code   int            // exit code; 0 where a signal ended it
	Signal syscall.Signal // 0 where it ended by itself
}

// Success tells whether the process ended by itself with code 0.
func (e Exit) Success() bool { return e == Exit{} }

func (e Exit) String() string {
	if e.Signal != 0 {
		return "signal " + e.Signal.String()
	}
	return fmt.Sprintf("exit %d", e.Code)
}

// exitOf reads how a reaped process ended.
func exitOf(s syscall.WaitStatus) Exit {
	if s.Signaled() {
		return Exit{Signal: s.Signal()}
	}
	return Exit{Code: s.ExitStatus()}
}
