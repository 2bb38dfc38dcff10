package local

import (
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// rankView is how one rank is: ended, alive, or (err) nobody can tell.
type rankView struct {
	ended *exitRecord
	alive bool
	odd   string // what is odd about a living one
	err   error
}

func (r rankView) note() string {
	switch {
	case r.err != nil:
		return "cannot be told: " + r.err.Error()
	case r.ended != nil:
		return r.ended.Reason
	}
	return r.odd
}

// lookAtRank finds out how a rank is: its exit status says that it has ended, its lock that it lives. Where neither does,
// it died without a word, and that is written down.
func (c *Cluster) lookAtRank(id jobID, rank int, want inode) rankView {
	dir := rankDir(c.dir(id), rank)
	if r := c.lookForExit(dir); r.ended != nil || r.err != nil {
		return r
	}
	state, lock, err := lookAtLock(c.lockPath(id, rank), want)
	switch {
	case err != nil:
		return rankView{err: err}
	case state == lockHeld:
		return rankView{alive: true}
	case lock != nil: // while we have it, nobody else decides about this rank
		defer lock.Close()
	}
	if r := c.lookForExit(dir); r.ended != nil || r.err != nil {
		return r // it ended between the two looks
	}
	m := id.mark()
	m.Rank = rankName(rank)
	left, veiled, err := search(m, blink)
	if len(left) == 0 && !veiled && err == nil { // what forks and ends may escape one look
		left, veiled, err = search(m, blink)
	}
	switch {
	case err != nil:
		return rankView{err: err}
	case state == lockGone:
		return c.lookWithoutLock(id, rank, left, veiled)
	case len(left) > 0:
		return c.killLeftovers(id, rank, left)
	case veiled && c.doubts(shimMark(id, rank)):
		return rankView{alive: true, odd: leftSomething}
	}
	return c.buryRank(id, rank)
}

const leftSomething = "has died; whether it left something behind does not show yet"

// dying is how long a rank without a living process is not buried while some process of this user shows nothing of whose it
// is: an engine of it may be giving back much memory, and its GPU only after that.
const dying = 10 * time.Second

// doubts tells whether a rank's end is to be waited for.
func (c *Cluster) doubts(rank string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	since, ok := c.doubted[rank]
	if !ok {
		since = time.Now()
		c.doubted[rank] = since
	}
	return time.Since(since) < dying
}

func (c *Cluster) lookForExit(dir string) rankView {
	ended, err := readOptional[exitRecord](c.fs, filepath.Join(dir, exitName))
	return rankView{ended: ended, err: err}
}

// lookWithoutLock decides by the rank's processes alone: its lock file has been removed, by hand or by a cleaner.
func (c *Cluster) lookWithoutLock(id jobID, rank int, left []found, veiled bool) rankView {
	shim, err := find(mark{shim: shimMark(id, rank)})
	switch {
	case err != nil:
		return rankView{err: err}
	case len(shim)+len(left) > 0:
		return rankView{alive: true, odd: "runs, but its lock file is gone from " + c.o.RuntimeDir}
	case veiled && c.doubts(shimMark(id, rank)):
		return rankView{alive: true, odd: leftSomething}
	}
	return c.buryRank(id, rank)
}

// killLeftovers ends what a rank has left whose shim and agent are both dead. It does not wait: the next look sees.
func (c *Cluster) killLeftovers(id jobID, rank int, left []found) rankView {
	err := send(left, unix.SIGKILL)
	c.o.Log.Warn().Err(err).Str("job", string(id)).Int("rank", rank).Int("processes", len(left)).Msg("leftovers of a dead rank killed")
	return rankView{alive: true, odd: "has died; what it left behind is being killed"}
}

// buryRank writes down that a rank has ended and nobody knows how.
func (c *Cluster) buryRank(id jobID, rank int) rankView {
	r := exitRecord{
		Reason:  "ended without an exit status: its shim was killed too, or the machine went down",
		EndedAt: time.Now().UTC(),
	}
	c.mu.Lock()
	delete(c.doubted, shimMark(id, rank))
	c.mu.Unlock()
	dir := rankDir(c.dir(id), rank)
	if err := writeExit(c.fs, dir, r); err != nil {
		if now := c.lookForExit(dir); now.ended != nil || os.IsNotExist(err) {
			return rankView{ended: &r}
		}
		c.o.Log.Warn().Err(err).Str("job", string(id)).Int("rank", rank).Msg("end of a rank not written down")
	}
	return rankView{ended: &r}
}
