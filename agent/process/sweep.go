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
	found, _, err := find(l)
	return found, err
}

// find tells also how many processes may be among them and do not show it for now.
func find(l Leftovers) (found []Killed, doubtful int, err error) {
	if l.Launch == "" {
		return nil, 0, errors.New("find leftovers: no launch token")
	}
	all, err := scan()
	if err != nil {
		return nil, 0, err
	}
	safe, own := untouchable(all), kin.nonces()
	for _, p := range all {
		if safe[p.PID] || p.dead() || !owned(p.PID) {
			continue
		}
		switch who := identify(p.PID); {
		case who.veiled:
			doubtful++
		case l.match(who.Mark) && !own[who.nonce]:
			found = append(found, Killed{Proc: p, Mark: who.Mark})
		}
	}
	return found, doubtful, nil
}

// owned tells whether a process is of our user. The kernel gives the entry of a process that has changed its rights to
// root.
func owned(pid int) bool {
	var st unix.Stat_t
	return unix.Stat(fmt.Sprintf("/proc/%d", pid), &st) == nil && int(st.Uid) == os.Geteuid()
}

// doubt is how long a sweep waits for processes that do not show whose they are: other jobs of the user on this node
// may hang on their way in or out, and are none of ours.
const doubt = 2 * time.Second

// Sweep kills what an earlier run has left on this node and waits until it is gone, with its memory and its hold on the
// GPUs. It never touches a process that lacks the mark or belongs to another user, nor this one or its ancestors. Call
// it after the run was admitted: it ends an older run of the launch, and must not end a newer one. What it has killed
// is returned also where an error, the end of ctx for one, has kept it from finishing.
func Sweep(ctx context.Context, l Leftovers) ([]Killed, error) {
	var killed []Killed
	pace := pace{longest: time.Second}
	for empty, begun := 0, time.Now(); ; {
		found, doubtful, err := find(l)
		if err != nil {
			return killed, err
		}
		var trouble error
		for _, k := range found {
			trouble = errors.Join(trouble, strike(k.Proc, unix.SIGKILL, func() bool { return l.still(k.PID) }))
			killed = add(killed, k)
		}
		left := dying(killed)
		switch {
		case len(found) > 0 || len(left) > 0 || doubtful > 0 && time.Since(begun) < doubt:
			empty = 0
		case empty == 1:
			return killed, nil
		default:
			empty++ // a process that forks and ends may escape one look
		}
		select {
		case <-pace.next(time.Time{}):
		case <-ctx.Done():
			return killed, fmt.Errorf("sweep launch %s: still alive: %s: %w", l.Launch, describe(left), errors.Join(ctx.Err(), trouble))
		}
	}
}

// still tells whether a process is one that l describes, in the moment before it is killed.
func (l Leftovers) still(pid int) bool {
	who := identify(pid)
	return owned(pid) && l.match(who.Mark) && !kin.nonces()[who.nonce]
}

// dying gives those that were killed and are not gone yet.
func dying(killed []Killed) (left []Proc) {
	for _, k := range killed {
		if now, err := readStat(k.PID); err == nil && now.same(k.Proc) && !now.dead() {
			left = append(left, now)
		}
	}
	return left
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
