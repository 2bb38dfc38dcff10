package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// rotate makes a writer whose Run is for the test to call.
func rotate(t interface {
	Fatal(...any)
	Helper()
}, opts RotatingOptions,
) *Rotating {
	t.Helper()
	r, err := NewRotating(opts)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// ended is a context with which Run writes what is queued and returns.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// say queues text and lets it be written.
func say(r *Rotating, text string) {
	_, _ = r.Write([]byte(text))
	_ = r.Run(ended())
}

func content(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return "none"
	}
	return string(b)
}

// helpDies plays a program whose log is put aside before it panics.
func helpDies() error {
	r, err := NewRotating(RotatingOptions{Path: os.Getenv("LOG"), MaxBytes: 20, Keep: 1, Also: []int{1, 2}})
	if err != nil {
		return err
	}
	say(r, "an old line of text\n")
	say(r, "a new line\n")
	fmt.Println("to standard output")
	panic("to standard error")
}

func TestRotatingTakesStandardErrorAlong(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p, _ := start(t, Spec{Argv: os.Args[:1], Env: []string{envHelper + "=dies", "LOG=" + path}, Stdout: f, Stderr: f}, "")
	if exit, err := p.Wait(within(t)); err != nil || exit.Code != 2 {
		t.Errorf("ended with %v, %v, want the exit code of a panic", exit, err)
	}
	if got := content(path); !strings.HasPrefix(got, "a new line\nto standard output\npanic: to standard error") {
		t.Errorf("the newest file holds %q", got)
	}
	if got := content(path + ".1"); got != "an old line of text\n" {
		t.Errorf("the older file holds %q", got)
	}
}

func TestRotatingPutsFullFilesAside(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		keep int
		in   []string
		want []string // Path, Path.1, Path.2
	}{
		"one file":          {2, []string{"123\n", "456\n"}, []string{"123\n456\n", "none", "none"}},
		"full file":         {2, []string{"1234567\n", "a\n"}, []string{"a\n", "1234567\n", "none"}},
		"whole lines":       {2, []string{"123\n4567\n8\n"}, []string{"4567\n8\n", "123\n", "none"}},
		"old ones fall":     {1, []string{"1234567\n", "2234567\n", "3234567\n"}, []string{"3234567\n", "2234567\n", "none"}},
		"none is kept":      {0, []string{"1234567\n", "2234567\n"}, []string{"2234567\n", "none", "none"}},
		"line as two files": {2, []string{"abcdefghijkl\n"}, []string{"ijkl\n", "abcdefgh", "none"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "log")
			r := rotate(t, RotatingOptions{Path: path, MaxBytes: 8, Keep: test.keep})
			for _, text := range test.in {
				say(r, text)
			}
			for i, name := range []string{path, path + ".1", path + ".2"} {
				if got := content(name); got != test.want[i] {
					t.Errorf("%s holds %q, want %q", filepath.Base(name), got, test.want[i])
				}
			}
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
		})
	}
}

func TestRotatingFillsAHoleFirst(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	for _, old := range []string{".2", ".3"} {
		if err := os.WriteFile(path+old, []byte(old), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := rotate(t, RotatingOptions{Path: path, MaxBytes: 2, Keep: 3})
	say(r, "a\nb\n")
	if got := content(path) + content(path+".1") + content(path+".2") + content(path+".3"); got != "b\na\n.2.3" {
		t.Errorf("got %q", got)
	}
}

func TestRotatingLosesNothingAndKeepsItsSize(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		sub, err := os.MkdirTemp(dir, "")
		if err != nil {
			rt.Fatal(err)
		}
		path := filepath.Join(sub, "log")
		limit := rapid.Int64Range(1, 40).Draw(rt, "limit")
		r := rotate(rt, RotatingOptions{Path: path, MaxBytes: limit, Keep: 1000})
		var want strings.Builder
		for _, text := range rapid.SliceOf(rapid.StringMatching(`[a-z\n]{0,30}`)).Draw(rt, "texts") {
			want.WriteString(text)
			say(r, text)
		}
		var got string
		for i := range 1001 {
			name := path
			if i > 0 {
				name = fmt.Sprintf("%s.%d", path, i)
			}
			b, err := os.ReadFile(name)
			if err != nil {
				break
			}
			if int64(len(b)) > limit {
				rt.Errorf("%d bytes in a file, want at most %d", len(b), limit)
			}
			got = string(b) + got
		}
		if got != want.String() || r.Lost() != 0 {
			rt.Errorf("got %q, want %q, lost %d", got, want.String(), r.Lost())
		}
	})
}

// fullDisk is a log file on a disk of which the test decides how much room it has.
type fullDisk struct {
	bytes.Buffer
	room int
}

func (d *fullDisk) Write(b []byte) (int, error) {
	n := min(len(b), d.room)
	d.room -= n
	d.Buffer.Write(b[:n])
	if n < len(b) {
		return n, syscall.ENOSPC
	}
	return n, nil
}

func (d *fullDisk) Close() error { return nil }

func TestRotatingOutlivesAFullDisk(t *testing.T) {
	t.Parallel()
	disk := &fullDisk{room: 10}
	r := rotate(t, RotatingOptions{Path: "unused", MaxBytes: 1 << 20})
	r.open = func(string) (io.WriteCloser, int64, error) { return disk, int64(disk.Len()), nil }
	say(r, "before\n")
	say(r, "in between\n") // 3 bytes fit
	say(r, "lost\n")
	if got := r.Lost(); got != 8+5 {
		t.Errorf("%d bytes lost, want 13", got)
	}
	disk.room = 1 << 20
	say(r, "after\n")
	say(r, "later\n")
	want := "before\nin \n[penstock: 13 bytes of output lost: no space left on device]\nafter\nlater\n"
	if got := disk.String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestRotatingOnARealFullDisk(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	r := rotate(t, RotatingOptions{Path: path, MaxBytes: 1 << 20})
	full := true
	r.open = func(string) (io.WriteCloser, int64, error) {
		if full {
			f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
			return f, 0, err
		}
		return openLog(path)
	}
	out := `i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); done; exit 9`
	p, _ := start(t, Spec{Stdout: r}, out)
	running, stop := context.WithCancel(t.Context())
	written := make(chan struct{})
	go func() { defer close(written); _ = r.Run(running) }()
	if exit, err := p.Wait(within(t)); err != nil || exit.Code != 9 {
		t.Errorf("the program did not get to its end: %v, %v", exit, err)
	}
	stop()
	<-written
	if r.Lost() == 0 {
		t.Error("nothing counted as lost")
	}
	full = false
	say(r, "room again\n")
	want := fmt.Sprintf("[penstock: %d bytes of output lost: write /dev/full: no space left on device]\nroom again\n", r.Lost())
	if got := content(path); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// stuckDisk hangs in its first write until it is let go.
type stuckDisk struct {
	fullDisk
	once    sync.Once
	release chan struct{}
}

func (d *stuckDisk) Write(b []byte) (int, error) {
	d.once.Do(func() { <-d.release })
	return d.fullDisk.Write(b)
}

func TestRotatingNeverWaitsForTheDisk(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		disk := &stuckDisk{fullDisk: fullDisk{room: 1 << 20}, release: make(chan struct{})}
		r := rotate(t, RotatingOptions{Path: "unused", MaxBytes: 1 << 20, Queue: 10})
		r.open = func(string) (io.WriteCloser, int64, error) { return disk, 0, nil }
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		_, _ = r.Write([]byte("first\n"))
		synctest.Wait()                      // the disk hangs
		_, _ = r.Write([]byte("second\n"))   // waits in the queue
		_, _ = r.Write([]byte("too much\n")) // does not fit
		_, _ = r.Write([]byte("3\n"))        // fits
		close(disk.release)
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		want := "first\n[penstock: 9 bytes of output lost: the disk is too slow]\nsecond\n3\n"
		if got := disk.String(); got != want || r.Lost() != 9 {
			t.Errorf("got %q, lost %d, want %q", got, r.Lost(), want)
		}
	})
}

func TestRotatingRefusesForeignFiles(t *testing.T) {
	t.Parallel()
	for name, plant := range map[string]func(path string) error{
		"link":   func(path string) error { return os.Symlink(path+"-elsewhere", path) },
		"pipe":   func(path string) error { return unix.Mkfifo(path, 0o600) },
		"folder": func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "log")
			if err := plant(path); err != nil {
				t.Fatal(err)
			}
			r := rotate(t, RotatingOptions{Path: path, MaxBytes: 100})
			say(r, "secret\n")
			if r.Lost() != 7 {
				t.Errorf("%d bytes lost, want all 7", r.Lost())
			}
			if got := content(path + "-elsewhere"); got != "none" {
				t.Errorf("wrote %q through the link", got)
			}
		})
	}
}

func TestRotatingDropsWhenItCannotRotate(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	if err := errors.Join(os.Mkdir(path+".1", 0o700), os.WriteFile(path+".1/x", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	r := rotate(t, RotatingOptions{Path: path, MaxBytes: 4, Keep: 1})
	say(r, "abc\ndef\n")
	if got := content(path); got != "abc\n" || r.Lost() != 4 {
		t.Errorf("got %q, lost %d: the file must not grow over its size", got, r.Lost())
	}
}

func TestNewRotatingRefuses(t *testing.T) {
	t.Parallel()
	for _, opts := range []RotatingOptions{{MaxBytes: 1}, {Path: "p"}, {Path: "p", MaxBytes: 1, Keep: -1}, {Path: "p", MaxBytes: 1, Queue: -1}} {
		if _, err := NewRotating(opts); err == nil {
			t.Errorf("%+v was accepted", opts)
		}
	}
}
