package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// fileSystem is what a store asks of its folder. Names have no slash. Errors are those of package os. Tests have one in
// memory that loses what was never synced, and that fails, fills up and hangs when told.
type fileSystem interface {
	// Lock takes the folder for this process until release is called or the process ends, however it ends.
	Lock() (release func() error, err error)
	// Create makes a new file of mode 0600 and fails with fs.ErrExist where the name is taken.
	Create(name string) (file, error)
	Open(name string) (file, error)
	List() ([]string, error)
	Remove(name string) error
	// Sync makes the names in the folder durable.
	Sync() error
	// Direct says whether files go past the page cache, so that offsets, lengths and memory must be aligned to page.
	Direct() bool
	Close() error
}

// file is an open file. Reads and writes are whole or an error: io.ErrUnexpectedEOF where the file ends before.
type file interface {
	WriteAt(p []byte, at int64) error
	// ReadAt fills one buffer after the other from bytes that lie in a row.
	ReadAt(at int64, into ...[]byte) error
	Size() (int64, error)
	// Allocated is how many bytes of the medium the file takes.
	Allocated() (int64, error)
	// Reserve takes room on the medium without changing the content. File systems that cannot do it do nothing.
	Reserve(size int64) error
	Truncate(size int64) error
	Sync() error
	Close() error
}

// folder is a folder of this machine. It is held open, so that a folder which is renamed, removed or made anew under the
// same path is never mistaken for it.
type folder struct {
	root   *os.Root
	direct bool
}

var _ fileSystem = (*folder)(nil)

const lockName = "LOCK"

// openFolder opens a folder that exists. direct asks for I/O past the page cache, which is tried out.
func openFolder(dir string, direct bool) (*folder, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	d := &folder{root: root}
	d.direct = direct && d.canDirect()
	return d, nil
}

// canDirect tries on a file of its own whether the file system takes O_DIRECT.
func (d *folder) canDirect() bool {
	const name = "probe.tmp"
	_ = d.root.Remove(name) // of a process that was killed here
	f, err := d.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW|unix.O_DIRECT, 0o600)
	if err != nil {
		return d.canReadDirect()
	}
	buf := aligned(page)
	_, err = f.WriteAt(buf, 0)
	if err == nil {
		_, err = f.ReadAt(buf, 0)
	}
	return errors.Join(err, f.Close(), d.root.Remove(name)) == nil
}

// canReadDirect is for folders that cannot be written.
func (d *folder) canReadDirect() bool {
	names, _ := d.List()
	for _, name := range names {
		if f, err := d.root.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_DIRECT, 0); err == nil {
			_, err = f.ReadAt(aligned(page), 0)
			return errors.Join(err, f.Close()) == nil
		}
	}
	return false
}

// Lock implements fileSystem with flock(2), which ends with the process. It is for folders of this node alone.
func (d *folder) Lock() (func() error, error) {
	f, err := d.root.OpenFile(lockName, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if errors.Is(err, unix.EROFS) {
		f, err = d.root.OpenFile(lockName, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	}
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder := make([]byte, 20)
		n, _ := f.ReadAt(holder, 0)
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w (process %s)", ErrInUse, strings.TrimSpace(string(holder[:n])))
		}
		return nil, fmt.Errorf("lock: %w; the folder must be on a disk of this node", err)
	}
	_ = f.Truncate(0)
	_, _ = f.WriteAt(strconv.AppendInt(nil, int64(os.Getpid()), 10), 0) // for people only
	return f.Close, nil
}

// ErrInUse means that another process has the folder.
var ErrInUse = errors.New("in use by another process; give each process a folder of its own")

// Create implements fileSystem.
func (d *folder) Create(name string) (file, error) {
	return d.open(name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
}

// Open implements fileSystem. On a read-only medium the file can be read only.
func (d *folder) Open(name string) (file, error) {
	f, err := d.open(name, os.O_RDWR)
	if errors.Is(err, unix.EROFS) || errors.Is(err, fs.ErrPermission) {
		return d.open(name, os.O_RDONLY)
	}
	return f, err
}

func (d *folder) open(name string, flags int) (file, error) {
	if d.direct {
		flags |= unix.O_DIRECT
	}
	f, err := d.root.OpenFile(name, flags|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	return &osFile{f: f}, nil
}

// List implements fileSystem.
func (d *folder) List() ([]string, error) {
	f, err := d.root.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// Remove implements fileSystem.
func (d *folder) Remove(name string) error { return d.root.Remove(name) }

// Sync implements fileSystem. File systems that cannot sync a folder keep its names durable by themselves.
func (d *folder) Sync() error {
	f, err := d.root.Open(".")
	if err != nil {
		return err
	}
	err = f.Sync()
	if errors.Is(err, unix.EINVAL) {
		err = nil
	}
	return errors.Join(err, f.Close())
}

// Direct implements fileSystem.
func (d *folder) Direct() bool { return d.direct }

// Close implements fileSystem.
func (d *folder) Close() error { return d.root.Close() }

// osFile is a file of this machine.
type osFile struct{ f *os.File }

// WriteAt implements file.
func (o *osFile) WriteAt(p []byte, at int64) error {
	_, err := o.f.WriteAt(p, at)
	return err
}

// ReadAt implements file with preadv(2).
func (o *osFile) ReadAt(at int64, into ...[]byte) error {
	into = slices.DeleteFunc(slices.Clone(into), func(b []byte) bool { return len(b) == 0 })
	for cached := false; len(into) > 0; {
		n, err := unix.Preadv(int(o.f.Fd()), into, at)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EINVAL) && !cached && o.throughCache():
			cached = true
			continue
		case err != nil:
			return &fs.PathError{Op: "preadv", Path: o.f.Name(), Err: err}
		case n == 0:
			return io.ErrUnexpectedEOF
		}
		at += int64(n)
		short := n%page != 0 // only the end of a file or a signal ends a read there
		for len(into) > 0 && n >= len(into[0]) {
			n -= len(into[0])
			into = into[1:]
		}
		if len(into) > 0 {
			if into[0] = into[0][n:]; short {
				return io.ErrUnexpectedEOF
			}
		}
	}
	return nil
}

// throughCache has a file whose records are not aligned read through the page cache from now on: it was written where that
// could not be passed by, such as another file system. Another reader may have seen to it already, which is as good.
func (o *osFile) throughCache() bool {
	flags, err := unix.FcntlInt(o.f.Fd(), unix.F_GETFL, 0)
	if err == nil && flags&unix.O_DIRECT != 0 {
		_, err = unix.FcntlInt(o.f.Fd(), unix.F_SETFL, flags&^unix.O_DIRECT)
	}
	return err == nil
}

// Size implements file.
func (o *osFile) Size() (int64, error) {
	info, err := o.f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Allocated implements file.
func (o *osFile) Allocated() (int64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(o.f.Fd()), &st); err != nil {
		return 0, err
	}
	return st.Blocks * 512, nil
}

// Reserve implements file.
func (o *osFile) Reserve(size int64) error {
	err := unix.Fallocate(int(o.f.Fd()), 0, 0, size)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return nil
	}
	return err
}

// Truncate implements file.
func (o *osFile) Truncate(size int64) error { return o.f.Truncate(size) }

// Sync implements file.
func (o *osFile) Sync() error { return unix.Fdatasync(int(o.f.Fd())) }

// Close implements file.
func (o *osFile) Close() error { return o.f.Close() }
