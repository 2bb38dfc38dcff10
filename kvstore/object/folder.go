package object

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/scheduler/statefile"
)

// folder is a bucket in a folder of a parallel file system: Lustre, GPFS, NFS. It uses neither locks nor mmap, so that
// several nodes may share it.
type folder struct{ dir string }

var _ bucket = (*folder)(nil)

const temporary = "tmp"

// openFolder makes the folder, or checks that it is this user's alone.
func openFolder(dir string) (*folder, error) {
	if err := statefile.SecureDir(dir); err != nil {
		return nil, err
	}
	return &folder{dir}, nil
}

// String implements bucket.
func (f *folder) String() string { return "file://" + f.dir }

func (f *folder) path(name string) string { return filepath.Join(f.dir, filepath.FromSlash(name)) }

// Put implements bucket: a file beside, synced, then a second name or a new one, both of which are atomic.
func (f *folder) Put(ctx context.Context, name string, data []byte, ifAbsent bool) error {
	to := f.path(name)
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	tmp := f.path(temporary + "/" + rand.Text())
	if err := os.MkdirAll(filepath.Dir(tmp), 0o700); err != nil {
		return err
	}
	if err := writeFile(tmp, data); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := ctx.Err(); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if !ifAbsent {
		return os.Rename(tmp, to)
	}
	err := os.Link(tmp, to)
	if errors.Is(err, fs.ErrExist) {
		err = errExists
	}
	return errors.Join(err, os.Remove(tmp))
}

func writeFile(name string, data []byte) error {
	w, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	return errors.Join(err, w.Sync(), w.Close())
}

// Get implements bucket.
func (f *folder) Get(_ context.Context, name string, at, n int64) (io.ReadCloser, error) {
	r, err := os.OpenFile(f.path(name), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNoObject
	}
	if err != nil {
		return nil, err
	}
	whence := io.SeekStart
	if at < 0 {
		whence = io.SeekEnd
	}
	if _, err := r.Seek(at, whence); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	if n < 0 {
		return r, nil
	}
	return limited{io.LimitReader(r, n), r}, nil
}

type limited struct {
	io.Reader
	io.Closer
}

// Stat implements bucket.
func (f *folder) Stat(_ context.Context, name string) (stat, error) {
	info, err := os.Lstat(f.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return stat{}, errNoObject
	}
	if err != nil {
		return stat{}, err
	}
	return stat{info.Size(), info.ModTime()}, nil
}

// List implements bucket.
func (f *folder) List(ctx context.Context, prefix string, each func(string, stat) error) error {
	return filepath.WalkDir(f.path(prefix), func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile, or never made
		}
		if err != nil || !d.Type().IsRegular() {
			return errors.Join(err, ctx.Err())
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		name := path.Clean(filepath.ToSlash(strings.TrimPrefix(p, f.dir+string(filepath.Separator))))
		return errors.Join(each(name, stat{info.Size(), info.ModTime()}), ctx.Err())
	})
}

// Delete implements bucket.
func (f *folder) Delete(_ context.Context, name string) error {
	err := os.Remove(f.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Touch implements bucket.
func (f *folder) Touch(_ context.Context, name string) error {
	now := time.Now()
	err := os.Chtimes(f.path(name), now, now)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("touch %s: %w", name, errNoObject)
	}
	return err
}
