package local

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/statefile"
)

// Files that a shim inherits, by number: its rank's lock, held, and the gate.
const (
	lockFD = 3
	gateFD = 4 // one byte to read for each shim: start. End of file: do not.
)

// starting is a job on its way from a Submission to running shims.
type starting struct {
	c     *Cluster
	sub   cluster.Submission
	job   jobRecord
	tmp   string // the folder until it is whole
	locks []*os.File
	logs  []*os.File
	gate  *os.File // write end
}

// prepare writes the folder under a temporary name, with the locks held: whoever sees the folder under its own name sees a
// job whose ranks are held by somebody or never will be.
func (s *starting) prepare() error {
	fsys := s.c.fs
	if err := fsys.Mkdir(s.tmp); err != nil {
		return fmt.Errorf("make the job's folder: %w", err)
	}
	for rank := range s.job.Placement {
		if err := s.prepareRank(rank); err != nil {
			return fmt.Errorf("rank %d: %w", rank, err)
		}
	}
	if err := errors.Join(
		reserve(fsys, filepath.Join(s.tmp, stopName)),
		writeRecord(fsys, filepath.Join(s.tmp, jobName), s.job),
	); err != nil {
		return fmt.Errorf("write the job's folder: %w", err)
	}
	if err := fsys.Rename(s.tmp, s.c.dir(s.job.ID)); err != nil {
		return fmt.Errorf("name the job's folder: %w", err)
	}
	return fsys.SyncDir(s.c.o.Dir)
}

func (s *starting) prepareRank(rank int) error {
	lock, err := newLock(s.c.lockPath(s.job.ID, rank))
	if err != nil {
		return err
	}
	s.locks = append(s.locks, lock)
	ino, err := inodeOf(lock)
	if err != nil {
		return err
	}
	s.job.Locks = append(s.job.Locks, ino)
	log, err := openLog(s.sub.LogDir, rank)
	if err != nil {
		return err
	}
	s.logs = append(s.logs, log)

	dir := rankDir(s.tmp, rank)
	if err := s.c.fs.Mkdir(dir); err != nil {
		return err
	}
	m := s.job.ID.mark()
	m.Rank = rankName(rank)
	r := rankRecord{
		Job: s.job.ID, Rank: rank, Mark: m,
		Argv:  s.c.o.AgentCommand(s.sub, rank),
		Env:   append(append(Environment(s.c.o.Environ), m.environ()...), EnvLock+"="+lock.Name()),
		Lock:  lock.Name(),
		Grace: defaultGrace(s.sub), EndsAt: s.job.EndsAt,
	}
	if !r.EndsAt.IsZero() {
		r.Env = append(r.Env, EnvEndsAt+"="+strconv.FormatInt(r.EndsAt.Unix(), 10))
	}
	return errors.Join(writeRecord(s.c.fs, filepath.Join(dir, rankFile), r), reserve(s.c.fs, filepath.Join(dir, exitName)))
}

// defaultGrace is what a rank gets when somebody other than Stop asks its shim to end.
func defaultGrace(sub cluster.Submission) duration {
	if drain := sub.Deployment.Serving.DrainTimeout; drain > 0 {
		return duration(time.Duration(drain) + 15*time.Second)
	}
	return duration(75 * time.Second)
}

// openLog opens the file that a rank's output goes to. What stands under its name must be an ordinary file of ours.
func openLog(dir string, rank int) (*os.File, error) {
	if dir == "" {
		return nil, errors.New("the submission names no folder for logs")
	}
	if err := statefile.SecureDir(dir); err != nil {
		return nil, fmt.Errorf("folder for logs: %w", err)
	}
	path := filepath.Join(dir, fmt.Sprintf("agent-%d.log", rank))
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("log %s is not a regular file", path)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// startShims starts all shims. They wait at the gate.
func (s *starting) startShims() error {
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close()
	s.gate = write
	for rank := range s.job.Placement {
		dir := rankDir(s.c.dir(s.job.ID), rank)
		argv := s.c.o.Shim(dir)
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Env = append(Environment(s.c.o.Environ), envShim+"="+shimMark(s.job.ID, rank))
		cmd.Dir = "/"
		cmd.Stdout, cmd.Stderr = s.logs[rank], s.logs[rank]
		cmd.ExtraFiles = []*os.File{s.locks[rank], read}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("start the shim of rank %d: %w", rank, err)
		}
		s.c.remember(cmd.Process)
	}
	return nil
}

func shimMark(id jobID, rank int) string { return string(id) + "/" + rankName(rank) }

// open lets the shims go. One that died meanwhile shows in Jobs, so that there is nothing to do about an error.
func (s *starting) open() { _, _ = s.gate.Write(make([]byte, len(s.job.Placement))) }

// close lets go of what only the start needs. The locks stay held by the shims.
func (s *starting) close() {
	for _, f := range append(append(s.locks, s.logs...), s.gate) {
		if f != nil {
			_ = f.Close()
		}
	}
}

// undo leaves nothing behind. Shims that stand at the gate find it shut and end.
func (s *starting) undo() {
	trash := s.tmp
	if tmp := statefile.TempName(s.c.dir(s.job.ID)); s.c.fs.Rename(s.c.dir(s.job.ID), tmp) == nil {
		trash = tmp
	}
	_ = s.c.fs.RemoveAll(trash) // what stays is found as an old temporary folder
	s.c.removeLocks(s.job.ID)
}

// remember keeps a child's number, so that reap finds it.
func (c *Cluster) remember(p *os.Process) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shims = append(c.shims, p.Pid)
	_ = p.Release() // the number stays ours until reap: an unreaped child's is never given out again
}

// reap takes ended shims out of the process table, without waiting for any.
func (c *Cluster) reap() {
	c.mu.Lock()
	defer c.mu.Unlock()
	var alive []int
	for _, pid := range c.shims {
		var status unix.WaitStatus
		if got, err := unix.Wait4(pid, &status, unix.WNOHANG, nil); got == 0 && err == nil || errors.Is(err, unix.EINTR) {
			alive = append(alive, pid)
		}
	}
	c.shims = alive
}
