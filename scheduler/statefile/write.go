package statefile

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
)

// ErrUnsure means that a write is visible but may not survive a crash of the machine: the folder could not be synced.
// Writing the same again settles it. Every other error of Write means that the old content is still there.
var ErrUnsure = errors.New("written, but it may not survive a crash")

// tempMark stands in the name of every file that is not finished.
const tempMark = ".tmp-"

// IsTemp tells whether a name (without its folder) is that of an unfinished file or folder of this package, which a
// crash left behind unless its writer is at work.
func IsTemp(name string) bool { return strings.Contains(name, tempMark) }

// TempName returns a new name beside name that IsTemp knows.
func TempName(name string) string { return name + tempMark + strings.ToLower(rand.Text()[:10]) }

// Write puts data at name, in place of what was there: temporary file, fsync, rename, fsync of the folder.
func Write(fsys FS, name string, data []byte) error {
	tmp, err := writeTemp(fsys, name, data)
	if err != nil {
		return err
	}
	if err := fsys.Rename(tmp, name); err != nil && !holds(fsys, name, data) {
		_ = fsys.Remove(tmp) // best effort: a sweep finds it
		return err
	}
	return syncName(fsys, name)
}

// WriteNew puts data at name and fails with fs.ErrExist where anything has that name already: of several writers, on
// several hosts, one wins. It uses link(2), which is atomic on NFS where O_EXCL once was not.
func WriteNew(fsys FS, name string, data []byte) error {
	tmp, err := writeTemp(fsys, name, data)
	if err != nil {
		return err
	}
	err = fsys.Link(tmp, name)
	// NFS repeats a request whose answer got lost and then reports EEXIST for its own success: what the file holds
	// decides. Data that two writers could share would make both of them winners, so it carries a nonce where that
	// matters.
	if err != nil && holds(fsys, name, data) {
		err = nil
	}
	_ = fsys.Remove(tmp) // best effort: a sweep finds it
	if err != nil {
		return err
	}
	return syncName(fsys, name)
}

func writeTemp(fsys FS, name string, data []byte) (tmp string, err error) {
	tmp = TempName(name)
	f, err := fsys.Create(tmp)
	if err != nil {
		return "", err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		_ = fsys.Remove(tmp) // best effort: a sweep finds it
		return "", fmt.Errorf("write %s: %w", tmp, err)
	}
	return tmp, nil
}

func holds(fsys FS, name string, data []byte) bool {
	got, err := fsys.Read(name, int64(len(data)))
	return err == nil && bytes.Equal(got, data)
}

func syncName(fsys FS, name string) error {
	if err := fsys.SyncDir(filepath.Dir(name)); err != nil {
		return fmt.Errorf("%s: %w: %w", name, ErrUnsure, err)
	}
	return nil
}

// MakeDir makes a folder whose parent exists, or leaves one that is there, and makes its name durable in both cases:
// who made it before may have crashed before he synced it.
func MakeDir(fsys FS, dir string) error {
	if err := fsys.Mkdir(dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncName(fsys, dir)
}
