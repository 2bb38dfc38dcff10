package statefile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrInsecure means that somebody else could read or replace what is kept under a path. The message says what to do.
var ErrInsecure = errors.New("not safe from other users")

// SecureDir makes a folder (0700, with missing parents) or checks one that is there: a real folder, owned by this user,
// closed to everybody else, under parents that no stranger can change and reached by no link of a stranger's. It may be
// called by several processes at once.
func SecureDir(path string) error {
	abs, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("folder %s: %w", path, err)
	}
	if err := checkWay(filepath.Dir(abs)); err != nil { // before anything is made at the other end of a link
		return err
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
	return checkWay(filepath.Dir(abs))
}

// mkdirs is os.MkdirAll with mode 0700 whatever the umask allows less, and it does not follow a dangling link at the
// end.
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
		return fmt.Errorf("folder %s: %w: it is a symbolic link of uid %d's; name the real folder, or choose another one", path, ErrInsecure, owner(info))
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

// nobody is whom things belong to whose owner has no name here: in a user namespace, such as that of a container
// started without root, all that is the host's root's.
const nobody = 65534

func trusted(uid int) bool { return uid == 0 || uid == os.Geteuid() || uid == nobody }

const maxLinks = 40 // as the kernel has it

// checkWay walks down to a folder, through links, as far as the way exists. It refuses a folder in which a stranger may
// move what the way goes on with, and a link that a stranger may have planted in a folder that is open to everybody.
// (The kernel refuses to follow such links only where fs.protected_symlinks is set.)
func checkWay(path string) error {
	at, rest, links := "/", parts(path), 0
	for {
		open, err := checkPassage(at)
		if err != nil || len(rest) == 0 {
			return err
		}
		next := filepath.Join(at, rest[0]) // ".." comes out of links only, and at has no link in it
		rest = rest[1:]
		info, err := os.Lstat(next)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return fmt.Errorf("folder %s: %w", path, err)
		case info.IsDir():
			at = next
			continue
		case info.Mode()&fs.ModeSymlink == 0:
			return fmt.Errorf("folder %s: %s is no folder; move it away", path, next)
		case open && !trusted(owner(info)):
			return fmt.Errorf("folder %s: %w: %s is a symbolic link of uid %d's in a folder that is open to everybody; choose another place",
				path, ErrInsecure, next, owner(info))
		}
		target, err := os.Readlink(next)
		if links++; err == nil && links > maxLinks {
			err = unix.ELOOP
		}
		if err != nil {
			return fmt.Errorf("folder %s: follow the link %s: %w", path, next, err)
		}
		if filepath.IsAbs(target) {
			at = "/"
		}
		rest = append(parts(target), rest...)
	}
}

func parts(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}

// checkPassage refuses a folder in which everybody, or a stranger in what looks like /tmp, may rename what is in it,
// and tells whether it is open to everybody. A project's folder that belongs to somebody else passes: who works in it
// trusts him.
func checkPassage(dir string) (open bool, err error) {
	info, err := os.Stat(dir)
	if err != nil {
		return false, fmt.Errorf("folder %s: %w", dir, err)
	}
	open = info.Mode().Perm()&0o002 != 0
	switch {
	case open && info.Mode()&fs.ModeSticky == 0:
		return open, fmt.Errorf("folder %s: %w: everybody may rename what is in it (mode %04o, no sticky bit); run: chmod o-w %s, or choose another place",
			dir, ErrInsecure, info.Mode().Perm(), dir)
	case open && !trusted(owner(info)):
		return open, fmt.Errorf("folder %s: %w: everybody may put things into it, and uid %d, whose it is, may rename them; choose another place",
			dir, ErrInsecure, owner(info))
	}
	return open, nil
}

// ReadPrivate reads a file that holds a secret: a regular file of this user that nobody else can read, at most limit
// bytes. It follows no link at the end of the path.
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
