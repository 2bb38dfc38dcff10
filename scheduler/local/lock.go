package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A rank's lock is a file in RuntimeDir. Who lives holds it shared; who wants to write "it has ended" in a dead rank's
// name must get it exclusively. The kernel frees it at the death of the last holder, whatever the death.

func (c *Cluster) lockPath(id jobID, rank int) string {
	return filepath.Join(c.o.RuntimeDir, fmt.Sprintf("%s.%d.lock", id, rank))
}

// removeLocks removes the lock files of a job that has ended.
func (c *Cluster) removeLocks(id jobID) {
	names, _ := filepath.Glob(filepath.Join(c.o.RuntimeDir, string(id)+".*.lock")) // fails for a bad pattern only
	for _, name := range names {
		_ = os.Remove(name) // an empty file; it does no harm where it stays
	}
}

// newLock makes a lock file and holds it shared.
func newLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock(f, unix.LOCK_SH|unix.LOCK_NB); err != nil {
		_ = f.Close()
		_ = os.Remove(path)
		return nil, fmt.Errorf("lock %s: %w; is it on a file system of this machine?", path, err)
	}
	return f, nil
}

// HoldLock holds a rank's lock until the file is closed or the process has died, however it dies. An agent calls it with
// the value of EnvLock as the first thing it does. It waits for a few seconds where somebody is just looking.
func HoldLock(path string) (*os.File, error) {
	f, err := openLock(path)
	if err != nil {
		return nil, fmt.Errorf("hold the lock of this rank: %w", err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		err := flock(f, unix.LOCK_SH|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(end) {
			_ = f.Close()
			return nil, fmt.Errorf("hold the lock of this rank %s: %w", path, err)
		}
	}
}

// openLock opens a lock file that exists, without waiting for anything.
func openLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// lockState is what a look at a lock file tells.
type lockState string

const (
	lockHeld lockState = "held" // somebody of the rank lives
	lockFree lockState = "free" // nobody who would hold it lives; the look holds it now
	lockGone lockState = "gone" // the file is not there or is another one: it tells nothing
)

// lookAtLock tries to get a lock exclusively. The caller closes f, which is nil unless the lock is free.
func lookAtLock(path string, want inode) (state lockState, f *os.File, err error) {
	f, err = openLock(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return lockGone, nil, nil
	case err != nil:
		return "", nil, err
	}
	if got, err := inodeOf(f); err != nil || want != (inode{}) && got != want {
		_ = f.Close()
		return lockGone, nil, err
	}
	switch err := flock(f, unix.LOCK_EX|unix.LOCK_NB); {
	case err == nil:
		return lockFree, f, nil
	case errors.Is(err, unix.EWOULDBLOCK):
		_ = f.Close()
		return lockHeld, nil, nil
	default:
		_ = f.Close()
		return "", nil, fmt.Errorf("lock %s: %w", path, err)
	}
}

// inode tells a file from another one that got its name later.
type inode struct {
	Dev uint64 `json:"dev"`
	Ino uint64 `json:"ino"`
}

func inodeOf(f *os.File) (inode, error) {
	info, err := f.Stat()
	if err != nil {
		return inode{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return inode{}, fmt.Errorf("%s: the system tells no inode", f.Name())
	}
	return inode{Dev: st.Dev, Ino: st.Ino}, nil
}

func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
