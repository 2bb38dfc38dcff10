package local

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestLock(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	look := func(want lockState, ino inode) {
		t.Helper()
		state, f, err := lookAtLock(path, ino)
		if f != nil {
			defer f.Close()
		}
		if state != want || err != nil || (f != nil) != (want == lockFree) {
			t.Errorf("lock is %s (%v), want %s", state, err, want)
		}
	}
	look(lockGone, inode{})
	first, err := newLock(path)
	if err != nil {
		t.Fatal(err)
	}
	ino, err := inodeOf(first)
	if err != nil {
		t.Fatal(err)
	}
	second, err := HoldLock(path)
	if err != nil {
		t.Fatal(err)
	}
	look(lockHeld, ino)
	first.Close()
	look(lockHeld, ino)
	second.Close()
	look(lockFree, ino)
	look(lockGone, inode{Dev: ino.Dev, Ino: ino.Ino + 1})
	if _, err := newLock(path); err == nil {
		t.Error("a lock was made twice")
	}
}

func TestHoldLockWaitsForALook(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, looking, err := lookAtLock(path, inode{})
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(50*time.Millisecond, func() { _ = looking.Close() })
	f, err := HoldLock(path)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}

func TestHoldLockOfNothing(t *testing.T) {
	t.Parallel()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(os.Args[0], link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"", filepath.Join(t.TempDir(), "missing"), link, t.TempDir()} {
		if f, err := HoldLock(path); err == nil {
			f.Close()
			t.Errorf("HoldLock(%q) holds something", path)
		}
	}
}
