package disk

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/scheduler/statefile"
)

// TestFullDisk: on a disk that others fill, the store makes room with what it has, and refuses where it has nothing.
func TestFullDisk(t *testing.T) {
	m := newMemFS(true)
	m.room = 600 << 10
	s := openMem(t, Options{Dir: "memory", Budget: 8 << 20, SegmentBytes: 128 << 10}, m)
	defer mustClose(t, s)
	for i := range 60 {
		mustPut(t, s, key(i, 0), 1, 20_000)
		mustGet(t, s, key(i, 0), 1, 20_000)
	}
	waitUntil(t, s.quiet)
	m.mu.Lock()
	m.room = 1 // others take what is freed
	m.mu.Unlock()
	var err error
	for i := range 60 {
		if err = put(t.Context(), s, key(100+i, 0), make([]byte, 20_000), kvstore.Hint{}); err != nil {
			break
		}
	}
	if !errors.Is(err, kvstore.ErrFull) {
		t.Errorf("no room at all: %v", err)
	}
	m.mu.Lock()
	m.room = 0
	m.mu.Unlock()
	mustPut(t, s, key(1, 0), 2, 20_000)
	mustGet(t, s, key(1, 0), 2, 20_000)
}

// TestReadOnlyDisk: what is there is read, nothing is lost, what is put is refused at once and taken when the disk is well.
func TestReadOnlyDisk(t *testing.T) {
	m := newMemFS(true)
	o := Options{Dir: "memory", Budget: 2 << 20, Retry: time.Hour}
	s := openMem(t, o, m)
	for i := range 60 {
		mustPut(t, s, key(i, 0), 1, 20_000)
	}
	mustClose(t, s)
	readOnly := func(op, _ string) error {
		if op == "read" || op == "open" || op == "list" {
			return nil
		}
		return unix.EROFS
	}
	m.setBefore(readOnly)
	s = openMem(t, o, m)
	n := s.Stats().Blocks
	for i := range 5 {
		if err := put(t.Context(), s, key(100+i, 0), make([]byte, 20_000), kvstore.Hint{}); !errors.Is(err, kvstore.ErrUnavailable) {
			t.Fatalf("put on a read-only disk: %v", err)
		}
	}
	st := s.Stats()
	if st.Blocks != n || n == 0 || st.Drops != 5 || st.Errors != 1 {
		t.Errorf("%d blocks of %d are left; %d drops, %d errors", st.Blocks, n, st.Drops, st.Errors)
	}
	mustGet(t, s, key(59, 0), 1, 20_000)
	m.setBefore(nil)
	past := time.Now()
	s.writes.closed.Store(&past)
	mustPut(t, s, key(100, 0), 1, 20_000)
	mustGet(t, s, key(100, 0), 1, 20_000)
	mustClose(t, s)
}

// TestBrokenDisk: errors of reading are misses and are counted; the block is found again when the disk is well.
func TestBrokenDisk(t *testing.T) {
	m := newMemFS(false)
	s := openMem(t, Options{Dir: "memory", Budget: 2 << 20}, m)
	defer mustClose(t, s)
	mustPut(t, s, key(1, 0), 1, 5000)
	m.setBefore(func(op, _ string) error {
		if op == "read" {
			return syscall.EIO
		}
		return nil
	})
	_, err := s.Get(t.Context(), key(1, 0))
	if !errors.Is(err, kvstore.ErrUnavailable) || !errors.Is(err, syscall.EIO) {
		t.Errorf("get: %v", err)
	}
	err = s.GetMany(t.Context(), []kvstore.Key{key(1, 0), key(2, 0)}, func(int, *kvstore.Block) error { return nil })
	if !errors.Is(err, kvstore.ErrUnavailable) {
		t.Errorf("get many: %v", err)
	}
	if st := s.Stats(); st.Errors != 2 || st.Corrupt != 0 {
		t.Errorf("%d errors, %d corrupt", st.Errors, st.Corrupt)
	}
	m.setBefore(nil)
	mustGet(t, s, key(1, 0), 1, 5000)
}

// TestRemovedFolder: a folder that somebody removes takes its blocks with it, and is made anew.
func TestRemovedFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kv")
	s := mustOpen(t, Options{Dir: dir, Budget: 2 << 20, Retry: 1})
	defer mustClose(t, s)
	for i := range 10 {
		mustPut(t, s, key(i, 0), 1, 20_000)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	var err error
	for i := range 200 {
		if err = put(t.Context(), s, key(100+i, 0), content(key(100+i, 0), 1, 20_000), kvstore.Hint{}); err != nil {
			t.Fatal(err)
		}
	}
	mustGet(t, s, key(299, 0), 1, 20_000)
	if get(t, s, key(1, 0)) != nil {
		t.Error("a block of the removed folder is still there")
	}
	if _, err := os.Stat(filepath.Join(dir, lockName)); err != nil {
		t.Error("the new folder has no lock:", err)
	}
}

// TestRemovedFile: so does a file.
func TestRemovedFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kv")
	s := mustOpen(t, Options{Dir: dir, Budget: 2 << 20})
	s.limit.max = -1 // nothing stays open
	defer mustClose(t, s)
	for i := range 30 {
		mustPut(t, s, key(i, 0), 1, 20_000)
	}
	waitUntil(t, s.quiet)
	p, _ := s.lookup(key(0, 0))
	if err := os.Remove(filepath.Join(dir, segmentName(p.segment))); err != nil {
		t.Fatal(err)
	}
	if get(t, s, key(0, 0)) != nil {
		t.Error("it is still there")
	}
	if _, err := s.Has(t.Context(), key(1, 0)); !errors.Is(err, kvstore.ErrNotFound) {
		t.Errorf("a block of the same file: %v", err)
	}
	mustGet(t, s, key(29, 0), 1, 20_000)
}

// TestFolderOfOthers: a folder that is another user's, open to others, a link or a file is refused, and left as it is.
func TestFolderOfOthers(t *testing.T) {
	base := t.TempDir()
	open := func(dir string) error {
		s, err := Open(t.Context(), Options{Dir: dir, Budget: 1 << 20})
		if err == nil {
			mustClose(t, s)
		}
		return err
	}
	wide, link, file := filepath.Join(base, "wide"), filepath.Join(base, "link"), filepath.Join(base, "file")
	for _, err := range []error{
		os.Mkdir(wide, 0o700), os.Chmod(wide, 0o755), os.Symlink(wide, link), os.WriteFile(file, nil, 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{wide, link} {
		if err := open(dir); !errors.Is(err, statefile.ErrInsecure) {
			t.Errorf("%s: %v", dir, err)
		}
	}
	if err := open(file); err == nil {
		t.Error("a file was taken for a folder")
	}
	if os.Getuid() != 0 {
		t.Log("not root: a folder of another user is left out")
		return
	}
	theirs := filepath.Join(base, "theirs")
	if err := errors.Join(os.Mkdir(theirs, 0o700), os.Chown(theirs, 12345, 12345)); err != nil {
		t.Fatal(err)
	}
	if err := open(theirs); !errors.Is(err, statefile.ErrInsecure) {
		t.Errorf("another user's folder: %v", err)
	}
	if names, _ := os.ReadDir(theirs); len(names) != 0 {
		t.Errorf("%d files were left in another user's folder", len(names))
	}
}

// TestOneProcess: a second store in the folder is refused, in this process and beside another one, until that one is dead.
func TestOneProcess(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kv")
	s := mustOpen(t, Options{Dir: dir, Budget: 1 << 20})
	if _, err := Open(t.Context(), Options{Dir: dir, Budget: 1 << 20}); !errors.Is(err, ErrInUse) {
		t.Errorf("a second store: %v", err)
	}
	mustClose(t, s)
	holder := startChild(t, dir, "0")
	if _, err := Open(t.Context(), Options{Dir: dir, Budget: 1 << 20}); !errors.Is(err, ErrInUse) {
		t.Errorf("beside another process: %v", err)
	}
	holder.kill()
	holder.wait()
	mustClose(t, mustOpen(t, Options{Dir: dir, Budget: 1 << 20}))
}

func TestNoOptions(t *testing.T) {
	for name, o := range map[string]Options{
		"no folder": {Budget: 1 << 20}, "small": {Dir: "d", Budget: 1}, "segment": {Dir: "d", Budget: 1 << 20, SegmentBytes: -1},
		"share": {Dir: "d", Budget: 1 << 20, CopyShare: 1},
	} {
		if _, err := Open(t.Context(), o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestClosed: a closed store has nothing and takes nothing.
func TestClosed(t *testing.T) {
	s := openMem(t, Options{Dir: "memory", Budget: 1 << 20}, newMemFS(false))
	mustPut(t, s, key(1, 0), 1, 100)
	mustClose(t, s)
	mustClose(t, s)
	if _, err := s.Get(t.Context(), key(1, 0)); !errors.Is(err, kvstore.ErrUnavailable) {
		t.Errorf("get: %v", err)
	}
	if err := put(t.Context(), s, key(1, 0), nil, kvstore.Hint{}); !errors.Is(err, kvstore.ErrUnavailable) {
		t.Errorf("put: %v", err)
	}
}

// TestRun makes durable what was written without being asked.
func TestRun(t *testing.T) {
	m := newMemFS(false)
	s := openMem(t, Options{Dir: "memory", Budget: 1 << 20, SyncEvery: time.Millisecond}, m)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	mustPut(t, s, key(1, 0), 1, 100)
	waitUntil(t, func() bool {
		after := openMem(t, Options{Dir: "memory", Budget: 1 << 20}, m.crashed(func() bool { return false }))
		defer mustClose(t, after)
		_, err := after.Has(t.Context(), key(1, 0))
		return err == nil
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	mustClose(t, s)
}
