package statefile_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/penstock/penstock/scheduler/statefile"
	"github.com/penstock/penstock/scheduler/statefile/crashfs"
)

// TestWriteIsWholeOrNot fails and crashes each step of a write: the old content or the new is there, nothing between.
func TestWriteIsWholeOrNot(t *testing.T) {
	t.Parallel()
	for step := 1; ; step++ {
		fsys := crashfs.New()
		if err := statefile.Write(fsys, "/f", []byte("old content")); err != nil {
			t.Fatal(err)
		}
		first := fsys.Steps()
		fsys.Before(func(s crashfs.Step) error {
			if s.N == first+step {
				return syscall.EIO
			}
			return nil
		})
		err := statefile.Write(fsys, "/f", []byte("new content"))
		fsys.Before(nil)
		if fsys.Steps() < first+step {
			break // this write had no such step
		}
		if err == nil || !errors.Is(err, syscall.EIO) {
			t.Fatalf("step %d: %v", step, err)
		}
		want := "old content"
		if errors.Is(err, statefile.ErrUnsure) {
			want = "new content"
		}
		if got := content(t, fsys); got != want {
			t.Errorf("step %d: %q after %v", step, got, err)
		}
		for luck := range 2 {
			got := content(t, fsys.Crashed(func() bool { return luck == 1 }))
			if got != "old content" && got != want {
				t.Errorf("step %d: %q after a crash", step, got)
			}
		}
		left, _ := fsys.List("/")
		if len(left) != 1 {
			t.Errorf("step %d: left behind: %v", step, left)
		}
	}
}

func content(t *testing.T, fsys statefile.FS) string {
	t.Helper()
	data, err := fsys.Read("/f", 100)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestWrittenSurvivesPowerCut(t *testing.T) {
	t.Parallel()
	fsys := crashfs.New()
	for _, write := range []func(statefile.FS, string, []byte) error{statefile.Write, statefile.WriteNew} {
		if err := write(fsys, "/f", []byte("content")); err != nil {
			t.Fatal(err)
		}
		fsys = fsys.Crashed(func() bool { return false })
		if got := content(t, fsys); got != "content" {
			t.Errorf("got %q", got)
		}
		if err := fsys.Remove("/f"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWriteNewHasOneWinner(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "f")
	var won atomic.Int32
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			switch err := statefile.WriteNew(statefile.OS{}, name, fmt.Append(nil, i)); {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, fs.ErrExist):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	left, err := os.ReadDir(filepath.Dir(name))
	if won.Load() != 1 || len(left) != 1 || err != nil {
		t.Errorf("%d winners, %d files, %v", won.Load(), len(left), err)
	}
}

// lostAnswer is a file server whose answers get lost: the call was done, and its repetition fails.
type lostAnswer struct{ statefile.OS }

func (f lostAnswer) Link(from, to string) error {
	if err := f.OS.Link(from, to); err != nil {
		return err
	}
	return &fs.PathError{Op: "link", Path: to, Err: fs.ErrExist}
}

func (f lostAnswer) Rename(from, to string) error {
	if err := f.OS.Rename(from, to); err != nil {
		return err
	}
	return &fs.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
}

func TestLostAnswers(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "f")
	if err := statefile.WriteNew(lostAnswer{}, name, []byte("first")); err != nil {
		t.Errorf("a link that was made: %v", err)
	}
	if err := statefile.WriteNew(lostAnswer{}, name, []byte("second")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a link that was not made: %v", err)
	}
	if err := statefile.Write(lostAnswer{}, name, []byte("third")); err != nil {
		t.Errorf("a rename that was made: %v", err)
	}
}

func TestTempNames(t *testing.T) {
	t.Parallel()
	a, b := statefile.TempName("/x/f"), statefile.TempName("/x/f")
	if a == b || !strings.HasPrefix(a, "/x/f") || !statefile.IsTemp(filepath.Base(a)) || statefile.IsTemp("f") {
		t.Errorf("got %s, %s", a, b)
	}
}

func TestMakeDir(t *testing.T) {
	t.Parallel()
	fsys := crashfs.New()
	if err := fsys.Mkdir("/d"); err != nil { // by a process that died here
		t.Fatal(err)
	}
	if err := statefile.MakeDir(fsys, "/d"); err != nil {
		t.Fatal(err)
	}
	if _, err := fsys.Crashed(func() bool { return false }).List("/d"); err != nil {
		t.Errorf("after a crash: %v", err)
	}
}

// TestOSAndCrashFSAgree runs the same calls on both file systems.
func TestOSAndCrashFSAgree(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	real, fake := calls(statefile.OS{}, dir), calls(crashfs.New(), "")
	for i := range real {
		if real[i] != fake[i] {
			t.Errorf("on a disk: %s; in memory: %s", real[i], fake[i])
		}
	}
}

func calls(fsys statefile.FS, dir string) (out []string) {
	note := func(what string, err error) {
		kind := "ok"
		for _, e := range []error{fs.ErrExist, fs.ErrNotExist} {
			if errors.Is(err, e) {
				kind = e.Error()
			}
		}
		if err != nil && kind == "ok" {
			kind = "error"
		}
		out = append(out, what+": "+kind)
	}
	write := func(f statefile.File, err error) error {
		if err != nil {
			return err
		}
		_, err = f.Write([]byte("abc"))
		return errors.Join(err, f.Sync(), f.Close())
	}
	note("create", write(fsys.Create(dir+"/a")))
	note("create again", write(fsys.Create(dir+"/a")))
	note("create in no folder", write(fsys.Create(dir+"/x/a")))
	note("append", write(fsys.Append(dir+"/a")))
	note("append anew", write(fsys.Append(dir+"/b")))
	note("overwrite", write(fsys.Overwrite(dir+"/a")))
	note("overwrite nothing", write(fsys.Overwrite(dir+"/c")))
	note("link", fsys.Link(dir+"/a", dir+"/c"))
	note("link again", fsys.Link(dir+"/b", dir+"/c"))
	note("link of nothing", fsys.Link(dir+"/x", dir+"/y"))
	note("rename over", fsys.Rename(dir+"/b", dir+"/a"))
	note("rename of nothing", fsys.Rename(dir+"/b", dir+"/a"))
	note("mkdir", fsys.Mkdir(dir+"/d"))
	note("mkdir again", fsys.Mkdir(dir+"/d"))
	note("remove", fsys.Remove(dir+"/c"))
	note("remove again", fsys.Remove(dir+"/c"))
	note("create below", write(fsys.Create(dir+"/d/a")))
	note("rename a folder", fsys.Rename(dir+"/d", dir+"/e"))
	note("sync a folder", fsys.SyncDir(dir+"/e"))
	note("sync nothing", fsys.SyncDir(dir+"/d"))
	note("remove all", fsys.RemoveAll(dir+"/e"))
	note("remove all of nothing", fsys.RemoveAll(dir+"/e"))
	for _, limit := range []int64{2, 3, 6} {
		data, err := fsys.Read(dir+"/a", limit)
		note(fmt.Sprintf("read %d: %q", limit, data), err)
	}
	names, err := fsys.List(dir + "/")
	note(fmt.Sprint("list ", names), err)
	_, err = fsys.List(dir + "/d")
	note("list nothing", err)
	return out
}
