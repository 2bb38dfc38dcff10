package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/scheduler/identity"
)

// runDir is a folder of its own for the sockets and files of one run. It is held by a lock (flock) on the folder itself
// for as long as its agent lives, so that others can tell what an agent that was killed has left.
type runDir struct {
	path string
	held *os.File
}

// claimPatience is how long another agent may hold our folder: one that tidies up lets go at once.
const claimPatience = 5 * time.Second

// claimDir makes the folder of this run, empty: short, since sockets lie in it, and the same for a run that starts again
// after its agent was killed. It also removes what agents that were killed have left beside it.
func claimDir(o Options) (*runDir, error) {
	sum := sha256.Sum256([]byte(o.Join.Launch + "\x00" + o.Run + "\x00" + strconv.Itoa(o.Rank)))
	name := hex.EncodeToString(sum[:5])
	for begun := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		path, err := identity.SocketDir(o.RuntimeDir, name)
		var held *os.File
		if err == nil {
			held, err = hold(path)
		}
		switch {
		case err == nil:
			d := &runDir{path, held}
			d.tidy()
			return d, d.empty()
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, os.ErrNotExist):
			return nil, err
		case time.Since(begun) > claimPatience:
			return nil, fmt.Errorf("another agent of this run is alive and holds its folder: %w", err)
		}
	}
}

// hold locks a folder, if nobody else does (EWOULDBLOCK) and it is still there under its name (ErrNotExist).
func hold(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, &os.PathError{Op: "flock", Path: path, Err: err}
	}
	ours, err := f.Stat()
	now, nowErr := os.Lstat(path)
	if err = errors.Join(err, nowErr); err == nil && !os.SameFile(ours, now) {
		err = &os.PathError{Op: "hold", Path: path, Err: os.ErrNotExist}
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// tidy removes the folders that nobody holds, as best it can.
func (d *runDir) tidy() {
	base := filepath.Dir(d.path)
	entries, _ := os.ReadDir(base)
	for _, e := range entries {
		path := filepath.Join(base, e.Name())
		if path == d.path || !e.IsDir() {
			continue
		}
		if held, err := hold(path); err == nil {
			_ = os.RemoveAll(path)
			_ = held.Close()
		}
	}
}

func (d *runDir) empty() error {
	entries, err := os.ReadDir(d.path)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(d.path, e.Name())))
	}
	return err
}

// remove takes the folder away and lets go of it.
func (d *runDir) remove() error {
	return errors.Join(os.RemoveAll(d.path), d.held.Close())
}
