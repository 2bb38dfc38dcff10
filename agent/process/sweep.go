package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Leftovers says which processes of a launch are looked for, among those of this process's user. An empty field
// matches everything, but the launch token must be given.
type Leftovers struct {
	Launch    LaunchToken
	Run       string // only of this run
	ExceptRun string // of every run but this one
	Rank      string // only of this rank; the agent itself and the job script around it carry none
}

func (l Leftovers) match(m Mark) bool {
	return m.Launch == l.Launch &&
		(l.Run == "" || m.Run == l.Run) &&
		(l.ExceptRun == "" || m.Run != l.ExceptRun) &&
		(l.Rank == "" || m.Rank == l.Rank)
}

// Killed is a process that Sweep has killed.
type Killed struct {
	Proc
	Mark Mark
}

// Find gives the living processes that l describes: those of this process's user that carry the mark in their
// environment. This process, its ancestors and the trees that it has started itself are never among them. What does not
// show its environment is not found.
func Find(l Leftovers) ([]Killed, error) {
	if l.Launch == "" {
		return nil, errors.New("find leftovers: no launch token")
	}
	all, err := scan()
	if err != nil {
		return nil, err
	}
	safe, own := untouchable(all), kin.nonces()
	var found []Killed
	for _, p := range all {
		if safe[p.PID] || p.dead() {
			continue
		}
		if mark, ok := marked(p.PID, l, own); ok {
			found = append(found, Killed{Proc: p, Mark: mark})
		}
	}
	return found, nil
}

// marked tells whether a process is of our user, carries what l asks for and is of no tree in own.
func marked(pid int, l Leftovers, own map[string]bool) (Mark, bool) {
	if !owned(pid) {
		return Mark{}, false
	}
	mark, nonce := identify(pid)
	return mark, l.match(mark) && !own[nonce]
}

// owned tells whether a process is of our user. The kernel gives the entry of a process that has changed its rights to
// root.
func owned(pid int) bool {
	var st unix.Stat_t
	return unix.Stat(fmt.Sprintf("/proc/%d", pid), &st) == nil && int(st.Uid) == os.Geteuid()
}

// execGap is between the two looks that must find nothing: for a moment, a process that becomes another program shows no
// environment.
const execGap = 5 * time.Millisecond

// Sweep kills what an earlier run has left on this node and waits until it is gone, with its memory and its hold on the
// GPUs. It never touches a process that lacks the mark or belongs to another user, nor this one or its ancestors. Call
// it after the run was admitted: it ends an older run of the launch, and must not end a newer one. What it has killed
// is returned also where an error, the end of ctx for one, has kept it from finishing.
func Sweep(ctx context.Context, l Leftovers) ([]Killed, error) {
	var killed []Killed
	pace := pace{longest: time.Second}
	for empty := 0; empty < 2; {
		found, err := Find(l)
		if err != nil {
			return killed, err
		}
		if len(found) == 0 {
			if empty++; empty < 2 {
				time.Sleep(execGap)
			}
			continue
		}
		empty = 0
		var trouble error
		for _, k := range found {
			err := strike(k.Proc, unix.SIGKILL, func() bool {
				_, still := marked(k.PID, l, kin.nonces())
				return still
			})
			trouble = errors.Join(trouble, err)
			killed = add(killed, k)
		}
		select {
		case <-pace.next(time.Time{}):
		case <-ctx.Done():
			return killed, fmt.Errorf("sweep launch %s: still alive: %s: %w", l.Launch, describe(procsOf(found)), errors.Join(ctx.Err(), trouble))
		}
	}
	return killed, nil
}

// add appends k unless it is there already.
func add(killed []Killed, k Killed) []Killed {
	for _, seen := range killed {
		if seen.same(k.Proc) {
			return killed
		}
	}
	return append(killed, k)
}

func procsOf(killed []Killed) []Proc {
	procs := make([]Proc, len(killed))
	for i, k := range killed {
		procs[i] = k.Proc
	}
	return procs
}
