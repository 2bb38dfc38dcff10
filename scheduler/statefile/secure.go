package statefile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrInsecure means that somebody else could read or replace what is kept under a path. The message says what to do.
var ErrInsecure = errors.New("not safe from other users")

// SecureDir makes a folder (0700, with missing parents) or checks one that is there: a real folder, owned by this user, closed to
// everybody else, under parents that no stranger can change. It may be called by several processes at once.
func SecureDir(path string) error {
	abs, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("folder %s: %w", path, err)
	}
	if err := mkdirs(abs); err != nil {
		return err
	}
	info, err := os.Lstat(abs)
	if err != nil {
		return fmt.Errorf("folder %s: %w", abs, err)
	}
	if err := checkFolder(abs, info); err != nil {
		return err
	}
	return checkParents(filepath.Dir(abs))
}

// mkdirs is os.MkdirAll with mode 0700 whatever the umask allows less, and it does not follow a dangling link at the end.
func mkdirs(abs string) error {
	err := os.Mkdir(abs, 0o700)
	if errors.Is(err, fs.ErrNotExist) {
		if err := mkdirs(filepath.Dir(abs)); err != nil {
			return err
		}
		err = os.Mkdir(abs, 0o700)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make folder %s: %w", abs, err)
	}
	return nil
}

func checkFolder(path string, info fs.FileInfo) error {
	switch mode := info.Mode(); {
	case mode&fs.ModeSymlink != 0:
		return fmt.Errorf("folder %s: %w: it is a symbolic link; name the real folder", path, ErrInsecure)
	case !mode.IsDir():
		return fmt.Errorf("folder %s: there is something else with that name; move it away", path)
	case owner(info) != os.Geteuid():
		return fmt.Errorf("folder %s: %w: it belongs to uid %d, this process runs as uid %d; choose another folder, or chown it",
			path, ErrInsecure, owner(info), os.Geteuid())
	case mode.Perm()&0o077 != 0:
		return fmt.Errorf("folder %s: %w: mode %04o lets other users in; run: chmod 700 %s", path, ErrInsecure, mode.Perm(), path)
	}
	return nil
}

// checkParents refuses a parent in which everybody may rename what is below it. Links on the way are resolved first.
func checkParents(path string) error {
	dir, err := filepath.EvalSymlinks(path)
	if err != nil {
		return fmt.Errorf("folder %s: %w", path, err)
	}
	for {
		info, err := os.Stat(dir)
		if err != nil {
			return fmt.Errorf("folder %s: %w", dir, err)
		}
		if info.Mode().Perm()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0 {
			return fmt.Errorf("folder %s: %w: everybody may rename what is in it (mode %04o, no sticky bit); run: chmod o-w %s, or choose another place",
				dir, ErrInsecure, info.Mode().Perm(), dir)
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
		dir = filepath.Dir(dir)
	}
}

// ReadPrivate reads a file that holds a secret: a regular file of this user that nobody else can read, at most limit bytes.
// It follows no link at the end of the path.
func ReadPrivate(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("read %s: %w: it is a symbolic link; name the real file", path, ErrInsecure)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if owner(info) != os.Geteuid() {
		return nil, fmt.Errorf("read %s: %w: it belongs to uid %d, this process runs as uid %d", path, ErrInsecure, owner(info), os.Geteuid())
	}
	if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("read %s: %w: mode %04o lets other users read it; run: chmod 600 %s", path, ErrInsecure, info.Mode().Perm(), path)
	}
	return readAll(f, limit)
}

func owner(info fs.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}
