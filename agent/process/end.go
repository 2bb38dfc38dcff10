package process

import (
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tendEvery is how often ended orphans are looked for while a tree runs. It costs one system call when there are none.
const tendEvery = time.Second

// tend reaps orphans while the tree runs and ends all of it when its first process has ended or Stop asks for it.
func (p *Process) tend() {
	defer close(p.gone)
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			kin.reap()
		case <-p.ended:
			p.endBy(time.Now().Add(p.grace))
			p.end()
			return
		case <-p.poke:
			p.end()
			return
		}
	}
}

// end asks the group to end, waits until the tree has done so or the deadline has come, and then kills what is left.
func (p *Process) end() {
	if time.Until(p.until()) > 0 {
		// The ID is ours until the first process is reaped, so that no stranger's group is hit.
		p.note(ignoreGone(unix.Kill(-p.pid, unix.SIGTERM)))
	}
	pace := pace{longest: 250 * time.Millisecond}
	for time.Until(p.until()) > 0 && p.look(p.Tree) != nothing {
		select {
		case <-pace.next(p.until()):
		case <-p.poke:
		}
	}
	p.kill()
}

// kill sends SIGKILL until nothing is left.
func (p *Process) kill() {
	p.note(ignoreGone(unix.Kill(-p.pid, unix.SIGKILL))) // the group in one step, whatever it forks
	pace, last := pace{longest: time.Second}, Proc{}
	for quiet := (quiet{}); ; {
		sight := p.look(func() ([]Proc, error) { return p.alive(scan) })
		if quiet.after(sight, kin.reap(), kin.alone(p)) {
			return
		}
		switch sight {
		case nothing:
			continue
		case something:
			p.signalAll(unix.SIGKILL)
			if now := p.found()[0]; !now.same(last) { // others than before: on its heels
				if last.PID != 0 {
					p.chase()
				}
				last, pace.wait = now, 0
			}
		}
		<-pace.next(time.Time{})
	}
}

// chase strikes the youngest processes of the tree without a pause for as long as there are any, but not for ever. What
// forks and ends all the time is gone before a look at the whole process table of a busy node has come to it: only a look
// at the few IDs that were given out last is as fast as it is.
func (p *Process) chase() {
	for range 200 {
		if p.look(func() ([]Proc, error) { return p.alive(youngest) }) != something {
			return
		}
		p.signalAll(unix.SIGKILL)
	}
}

// quiet tells when a tree is gone: when two looks in a row have found nothing and no orphan has ended between them. A
// process that forks and ends all the time is there at every moment, but each time under another ID, so that a look
// may miss it. The dead that it leaves behind come to this process as their reaper and give it away. Where other trees
// live beside, those dead may be theirs, and would keep an ended tree waiting for as long as they come: then it is the
// number of looks that counts.
type quiet struct {
	looks, since int // that have found nothing, in a row: in all, and since the last orphan has ended
	reaped       uint64
}

// enoughLooks is how many looks do not all miss what forks and ends all the time.
const enoughLooks = 50

// after takes in a look, how many orphans were reaped until after it, and whether there is no other tree.
func (q *quiet) after(look sight, reaped uint64, alone bool) (gone bool) {
	switch {
	case look != nothing:
		q.looks, q.since = 0, 0
	case reaped != q.reaped:
		q.looks, q.since = q.looks+1, 1
	default:
		q.looks, q.since = q.looks+1, q.since+1
	}
	q.reaped = reaped
	return q.since >= 2 || !alone && q.looks >= enoughLooks
}

func (p *Process) signalAll(sig syscall.Signal) {
	for _, q := range p.found() {
		p.note(strike(q, sig, nil))
	}
}

// What a look at an ending tree tells.
type sight int

const (
	unclear sight = iota // the process table could not be read: not the same as nothing
	nothing
	something
)

// look notes which processes of the tree are alive, as find finds them.
func (p *Process) look(find func() ([]Proc, error)) sight {
	alive, err := find()
	if err != nil {
		p.note(err)
		return unclear
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = alive
	if len(alive) == 0 {
		p.trouble = nil
		return nothing
	}
	return something
}

func (p *Process) found() []Proc {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.left
}

// note keeps the reason why something did not work for the error of Stop.
func (p *Process) note(err error) {
	if err != nil {
		p.mu.Lock()
		p.trouble = err
		p.mu.Unlock()
	}
}

func (p *Process) until() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.deadline
}

// strike signals q, and no other process that has got its ID since. The handle, a pidfd where the kernel has them, is
// opened before the process is looked at again, so that what is looked at is what is hit. still, if given, must also
// hold then. A process that is gone is no error.
func strike(q Proc, sig syscall.Signal, still func() bool) error {
	handle, err := os.FindProcess(q.PID)
	if err != nil {
		return err
	}
	defer func() { _ = handle.Release() }()
	now, err := readStat(q.PID)
	if err != nil || !now.same(q) || still != nil && !still() {
		return ignoreGone(err)
	}
	return ignoreGone(handle.Signal(sig))
}

func ignoreGone(err error) error {
	if errors.Is(err, errGone) || errors.Is(err, os.ErrProcessDone) || errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// pace spaces out looks at the process table: close together first, as most trees end at once, then rarely, as the
// rest hangs in the kernel.
type pace struct{ wait, longest time.Duration }

// next ticks when it is time to look again, at the latest at the given time unless that is zero.
func (p *pace) next(until time.Time) <-chan time.Time {
	p.wait = min(max(p.wait*3/2, 2*time.Millisecond), p.longest)
	wait := p.wait
	if !until.IsZero() {
		wait = min(wait, time.Until(until))
	}
	return time.After(wait)
}
