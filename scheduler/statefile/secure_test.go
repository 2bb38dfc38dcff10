package statefile

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const (
	stranger = 65534 // nobody
	intruder = 4242  // somebody
)

// asRoot skips what only root can set up.
func asRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can give files to another user")
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// privateDir is a folder of a known mode.
func privateDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o700))
	return dir
}

func TestSecureDirMakes(t *testing.T) {
	dir := filepath.Join(privateDir(t), "a", "b")
	old := syscall.Umask(0)
	err := SecureDir(dir)
	syscall.Umask(old)
	must(t, err)
	for _, d := range []string{dir, filepath.Dir(dir)} {
		info, err := os.Stat(d)
		must(t, err)
		if info.Mode().Perm() != 0o700 {
			t.Errorf("%s has mode %o", d, info.Mode().Perm())
		}
	}
	must(t, SecureDir(dir))
}

func TestSecureDirRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		root  bool
		setup func(t *testing.T, dir string)
		says  string
	}{
		{"group may read", false, func(t *testing.T, dir string) { must(t, os.Chmod(dir, 0o740)) }, "chmod 700 "},
		{"all may enter", false, func(t *testing.T, dir string) { must(t, os.Chmod(dir, 0o701)) }, "mode 0701 lets other users in"},
		{"a file", false, func(t *testing.T, dir string) { must(t, os.Remove(dir), os.WriteFile(dir, nil, 0o600)) }, "something else"},
		{"a link", false, func(t *testing.T, dir string) {
			must(t, os.Rename(dir, dir+"2"), os.Symlink(dir+"2", dir))
		}, "symbolic link"},
		{"a dangling link", false, func(t *testing.T, dir string) {
			must(t, os.Remove(dir), os.Symlink(dir+"2", dir))
		}, "symbolic link"},
		{"of another user", true, func(t *testing.T, dir string) { must(t, os.Chown(dir, stranger, stranger)) }, "belongs to uid 65534"},
		{"below a folder of everybody", false, func(t *testing.T, dir string) { must(t, os.Chmod(filepath.Dir(dir), 0o777)) }, "no sticky bit"},
		{"below a linked folder of everybody", false, func(t *testing.T, dir string) {
			up := filepath.Dir(dir)
			must(t, os.Mkdir(up+"/open", 0o700), os.Mkdir(up+"/open/state", 0o700), os.Chmod(up+"/open", 0o777))
			must(t, os.Remove(dir), os.Remove(up+"/link"), os.Symlink(up+"/open", up+"/link"))
		}, "no sticky bit"},
		{"below a folder as /tmp of another user", true, func(t *testing.T, dir string) {
			must(t, os.Chown(filepath.Dir(dir), intruder, intruder), os.Chmod(filepath.Dir(dir), os.ModeSticky|0o777))
		}, "uid 4242, whose it is"},
		{"below a link of another user in a folder as /tmp", true, func(t *testing.T, dir string) {
			up := filepath.Dir(dir)
			must(t, os.Remove(dir), os.Remove(up+"/link"), os.Mkdir(up+"/real", 0o700), os.Symlink("real", up+"/link"))
			must(t, os.Lchown(up+"/link", intruder, intruder), os.Chmod(up, os.ModeSticky|0o777))
		}, "symbolic link of uid 4242's"},
		{"below a link to itself", false, func(t *testing.T, dir string) {
			up := filepath.Dir(dir)
			must(t, os.Remove(dir), os.Remove(up+"/link"), os.Symlink("link", up+"/link"))
		}, "too many levels"},
		{"below a file", false, func(t *testing.T, dir string) {
			up := filepath.Dir(dir)
			must(t, os.Remove(dir), os.Remove(up+"/link"), os.WriteFile(up+"/link", nil, 0o600))
		}, "move it away"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.root {
				asRoot(t)
			}
			up := privateDir(t)
			dir := filepath.Join(up, "state")
			must(t, os.Mkdir(dir, 0o700), os.Mkdir(up+"/link", 0o700))
			c.setup(t, dir)
			if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) {
				dir = filepath.Join(up, "link", "state")
			}
			err := SecureDir(dir)
			if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), up) {
				t.Errorf("got %v, wanted it to say %q and where", err, c.says)
			}
		})
	}
}

// TestSecureDirMakesNothingBehindALink: the check comes before the first folder is made.
func TestSecureDirMakesNothingBehindALink(t *testing.T) {
	t.Parallel()
	asRoot(t)
	up := privateDir(t)
	must(t, os.Mkdir(up+"/home", 0o700), os.Symlink(up+"/home", up+"/link"), os.Lchown(up+"/link", intruder, intruder))
	must(t, os.Chmod(up, os.ModeSticky|0o777))
	if err := SecureDir(filepath.Join(up, "link", "a", "b")); !errors.Is(err, ErrInsecure) {
		t.Errorf("got %v", err)
	}
	if entries, err := os.ReadDir(up + "/home"); err != nil || len(entries) > 0 {
		t.Errorf("made behind the link: %v, %v", entries, err)
	}
}

func TestSecureDirAllows(t *testing.T) {
	t.Parallel()
	up := privateDir(t)
	must(t, os.Chmod(up, os.ModeSticky|0o777)) // as /tmp
	must(t, SecureDir(filepath.Join(up, "state")))
	must(t, os.Mkdir(up+"/home", 0o755), os.Symlink(up+"/home", up+"/user")) // as /home on many clusters
	must(t, SecureDir(filepath.Join(up, "user", "state")))
	must(t, os.Mkdir(up+"/home/deep", 0o755), os.Symlink("../../user", up+"/home/deep/back")) // relative, through another link
	must(t, SecureDir(filepath.Join(up, "user", "deep", "back", "state")))
}

func TestReadPrivate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		root  bool
		setup func(t *testing.T, file string)
		says  string // empty = it is read
	}{
		{"0600", false, func(*testing.T, string) {}, ""},
		{"0400", false, func(t *testing.T, f string) { must(t, os.Chmod(f, 0o400)) }, ""},
		{"group may read", false, func(t *testing.T, f string) { must(t, os.Chmod(f, 0o640)) }, "chmod 600 "},
		{"all may write", false, func(t *testing.T, f string) { must(t, os.Chmod(f, 0o602)) }, "chmod 600 "},
		{"of another user", true, func(t *testing.T, f string) { must(t, os.Chown(f, stranger, stranger)) }, "belongs to uid 65534"},
		{"a link", false, func(t *testing.T, f string) { must(t, os.Rename(f, f+"2"), os.Symlink(f+"2", f)) }, "symbolic link"},
		{"a folder", false, func(t *testing.T, f string) { must(t, os.Remove(f), os.Mkdir(f, 0o700)) }, "not a regular file"},
		{"a pipe", false, func(t *testing.T, f string) { must(t, os.Remove(f), syscall.Mkfifo(f, 0o600)) }, "not a regular file"},
		{"too long", false, func(t *testing.T, f string) { must(t, os.WriteFile(f, make([]byte, 101), 0o600)) }, "longer than 100"},
		{"missing", false, func(t *testing.T, f string) { must(t, os.Remove(f)) }, "no such file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.root {
				asRoot(t)
			}
			file := filepath.Join(privateDir(t), "secret")
			must(t, os.WriteFile(file, []byte("content"), 0o600))
			c.setup(t, file)
			data, err := ReadPrivate(file, 100)
			switch {
			case c.says == "" && (err != nil || string(data) != "content"):
				t.Errorf("got %q, %v", data, err)
			case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), file)):
				t.Errorf("got %q, %v; wanted it to say %q", data, err, c.says)
			}
		})
	}
}
