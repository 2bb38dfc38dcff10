package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// RotatingOptions say where and how much a Rotating writes.
type RotatingOptions struct {
	Path     string // the newest file; older ones are Path.1, Path.2, ...
	MaxBytes int64  // size at which a file is put aside
	Keep     int    // how many older files are kept
	Queue    int    // bytes that may wait for a slow disk; 0: 1 MiB

	// Also are file descriptors of this process that are to lead to the newest file as well: standard error, which gets
	// what does not pass through the writer, such as the stack of a panic.
	Also []int
}

// What all logs of an installation take at most: each has its newest file and LogsKept older ones.
const (
	LogBytes = 32 << 20
	LogsKept = 3
)

// Rotating is a writer into a log file of limited size. Write never waits for the disk and never fails: what does not
// fit into the queue, or cannot be written because the disk is full or gone, is dropped and counted, and the log says
// so as soon as it can be written again. Write and Lost are safe for concurrent use; Run is for one goroutine.
type Rotating struct {
	opts RotatingOptions
	open func(path string) (io.WriteCloser, int64, error)
	wake chan struct{}

	mu     sync.Mutex
	queued []byte
	lost   uint64 // bytes, in all
	cause  error  // why the last of them were lost

	// Of Run alone:
	file    io.WriteCloser
	size    int64
	torn    bool   // the file ends in the middle of a line
	told    uint64 // lost bytes that the log speaks of already
	writing []byte
}

const defaultQueue = 1 << 20

var errQueueFull = errors.New("the disk is too slow")

// NewRotating opens nothing yet: Run does.
func NewRotating(opts RotatingOptions) (*Rotating, error) {
	if opts.Path == "" || opts.MaxBytes <= 0 || opts.Keep < 0 || opts.Queue < 0 {
		return nil, fmt.Errorf("rotating log: need a path, MaxBytes > 0, Keep >= 0 and Queue >= 0 (got %+v)", opts)
	}
	if opts.Queue == 0 {
		opts.Queue = defaultQueue
	}
	return &Rotating{opts: opts, open: openLog, wake: make(chan struct{}, 1)}, nil
}

// Write puts p into the queue for Run.
func (r *Rotating) Write(p []byte) (int, error) {
	r.mu.Lock()
	if len(r.queued)+len(p) > r.opts.Queue {
		r.lost += uint64(len(p))
		r.cause = errQueueFull
	} else {
		r.queued = append(r.queued, p...)
	}
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
	return len(p), nil
}

// Lost gives how many bytes were dropped so far.
func (r *Rotating) Lost() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lost
}

// Run writes what is queued until ctx ends, then what is still queued, and closes the file. It returns nil.
func (r *Rotating) Run(ctx context.Context) error {
	defer r.close()
	for {
		select {
		case <-r.wake:
			r.flush()
		case <-ctx.Done():
			r.flush()
			return nil
		}
	}
}

// flush writes all that is queued, or drops what is left of it where it cannot.
func (r *Rotating) flush() {
	r.mu.Lock()
	r.queued, r.writing = r.writing[:0], r.queued
	r.mu.Unlock()
	for rest := r.writing; len(rest) > 0; {
		if err := r.tell(); err != nil {
			r.drop(len(rest), err)
			return
		}
		n, err := r.put(rest)
		rest = rest[n:]
		if err != nil {
			r.drop(len(rest), err)
			return
		}
	}
}

// tell writes a line about what was lost since the last such line.
func (r *Rotating) tell() error {
	r.mu.Lock()
	lost, cause := r.lost, r.cause
	r.mu.Unlock()
	if lost == r.told {
		return nil
	}
	line := fmt.Sprintf("[penstock: %d bytes of output lost: %v]\n", lost-r.told, cause)
	if r.torn {
		line = "\n" + line
	}
	for rest := []byte(line); len(rest) > 0; {
		n, err := r.put(rest)
		if err != nil {
			return err
		}
		rest = rest[n:]
	}
	r.told = lost
	return nil
}

// put writes the beginning of b, as much as the present file takes, and tells how much that was. After an error the
// file is closed, to be opened anew for the next piece.
func (r *Rotating) put(b []byte) (int, error) {
	if err := r.ready(b); err != nil {
		return 0, err
	}
	n, err := r.file.Write(b[:r.room(b)])
	r.size += int64(n)
	if n > 0 {
		r.torn = b[n-1] != '\n'
	}
	if err != nil {
		r.close()
	}
	return n, err
}

// ready opens the file where it is not, and puts it aside where the first line of b would make it too long.
func (r *Rotating) ready(b []byte) error {
	if r.file == nil {
		if err := r.reopen(); err != nil {
			return err
		}
	}
	line := bytes.IndexByte(b, '\n') + 1
	if line == 0 {
		line = len(b)
	}
	if r.size == 0 || r.size+int64(line) <= r.opts.MaxBytes {
		return nil
	}
	r.close()
	if err := r.shift(); err != nil {
		return err
	}
	return r.reopen()
}

// reopen opens the newest file, and leads the other descriptors there.
func (r *Rotating) reopen() error {
	file, size, err := r.open(r.opts.Path)
	if err != nil {
		return err
	}
	r.file, r.size = file, size
	if f, ok := file.(*os.File); ok {
		for _, fd := range r.opts.Also {
			if err := unix.Dup3(int(f.Fd()), fd, 0); err != nil {
				return os.NewSyscallError("dup3", err)
			}
		}
	}
	return nil
}

// room is how much of b goes into the present file: all of it, else whole lines, else what fits of a line that is
// longer than a file.
func (r *Rotating) room(b []byte) int {
	left := max(0, r.opts.MaxBytes-r.size)
	if int64(len(b)) <= left {
		return len(b)
	}
	if whole := bytes.LastIndexByte(b[:left], '\n') + 1; whole > 0 {
		return whole
	}
	return int(left)
}

// shift moves the files one place down. The last one falls off; a hole takes up what is above it.
func (r *Rotating) shift() error {
	name := func(i int) string {
		if i == 0 {
			return r.opts.Path
		}
		return r.opts.Path + "." + strconv.Itoa(i)
	}
	end := 0
	for end < r.opts.Keep && exists(name(end)) {
		end++
	}
	if exists(name(end)) {
		if err := os.Remove(name(end)); err != nil {
			return err
		}
	}
	for i := end; i > 0; i-- {
		if err := os.Rename(name(i-1), name(i)); err != nil {
			return err
		}
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func (r *Rotating) drop(n int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lost += uint64(n)
	r.cause = err
}

func (r *Rotating) close() {
	if r.file != nil {
		_ = r.file.Close()
		r.file = nil
	}
}

// openLog opens a log file for appending: private, and only if it is a plain file of ours at that very place.
func openLog(path string) (io.WriteCloser, int64, error) {
	const flags = os.O_WRONLY | os.O_APPEND | os.O_CREATE | unix.O_NOFOLLOW | unix.O_NONBLOCK
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return nil, 0, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		_ = f.Close()
		return nil, 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || int(st.Uid) != os.Geteuid() {
		_ = f.Close()
		return nil, 0, fmt.Errorf("open %s: not a plain file of this user: someone else has put it there", path)
	}
	return f, st.Size, nil
}
