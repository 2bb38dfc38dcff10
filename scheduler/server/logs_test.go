package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// sent collects lines. Safe for concurrent use.
type sent struct {
	mu    sync.Mutex
	lines []string
}

func (s *sent) take(l logLine) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, fmt.Sprintf("%s.%d|%s", l.replica, l.rank, l.text))
	return nil
}

// new returns what has come since the last call.
func (s *sent) new() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := strings.Join(s.lines, "\n")
	s.lines = nil
	return text
}

func write(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.WriteString(text)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

func fixedFiles(list ...logFile) func() []logFile { return func() []logFile { return list } }

func TestReadLogs(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", maxLogLine) // two bytes each
	for _, c := range []struct {
		name, text string
		tail       int
		want       []string
	}{
		{"all", "a\nb\nc\n", 0, []string{"a", "b", "c"}},
		{"last two", "a\nb\nc\n", 2, []string{"b", "c"}},
		{"more than there are", "a\nb\n", 9, []string{"a", "b"}},
		{"empty file", "", 3, nil},
		{"no end", "a\nb", 1, []string{"b"}},
		{"empty lines", "\n\na\n\n", 2, []string{"a", ""}},
		{"progress bar", "10%\r20%\r\n30%\r", 0, []string{"10%\r20%", "30%"}},
		{"no UTF-8", "a\xff\xfeb\n", 0, []string{"a\uFFFDb"}},
		{"long line, no character cut", "x" + long + "\n", 0, []string{"x" + long[:maxLogLine-2], long[maxLogLine-2 : 2*maxLogLine-2], "é"}},
		{"as long as may be", long[:maxLogLine] + "\nb\n", 0, []string{long[:maxLogLine], "b"}},
	} {
		path := filepath.Join(t.TempDir(), "engine-0.log")
		write(t, path, c.text)
		var got []string
		err := readLogs(t.Context(), fixedFiles(logFile{path: path}), c.tail, false, func(l logLine) error {
			got = append(got, l.text)
			return nil
		})
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %.200q, %v", c.name, got, err)
		}
	}
}

// TestReadSeveralLogs: one file after the other, each whole, and one that is not there is left out.
func TestReadSeveralLogs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	write(t, a, "1\n2")
	write(t, b, "3\n")
	var s sent
	files := fixedFiles(logFile{a, "mixed/0", 0}, logFile{filepath.Join(dir, "absent"), "mixed/0", 1}, logFile{b, "mixed/1", 0})
	if err := readLogs(t.Context(), files, 0, false, s.take); err != nil {
		t.Fatal(err)
	}
	if got := s.new(); got != "mixed/0.0|1\nmixed/0.0|2\nmixed/1.0|3" {
		t.Error(got)
	}
	if err := readLogs(t.Context(), files, 0, false, func(logLine) error { return errors.New("gone") }); err == nil {
		t.Error("an error of the receiver is lost")
	}
	if err := readLogs(t.Context(), fixedFiles(logFile{path: dir}), 0, false, s.take); err == nil {
		t.Error("a folder can be read")
	}
}

// TestFollowLogs: new lines, a line that grows, a rotation, a file that appears later, a replica that comes and one that is
// replaced, in fake time.
func TestFollowLogs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		list := []logFile{{path("a"), "a", 0}, {path("late"), "late", 0}}
		files := func() []logFile { mu.Lock(); defer mu.Unlock(); return list }
		name := func(l ...logFile) { mu.Lock(); defer mu.Unlock(); list = l }
		var s sent
		write(t, path("a"), "1\n2\n3\n")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- readLogs(ctx, files, 1, true, s.take) }()
		step := func(what, want string) {
			t.Helper()
			synctest.Wait()
			time.Sleep(logPoll)
			synctest.Wait()
			if got := s.new(); got != want {
				t.Errorf("%s: got %q, want %q", what, got, want)
			}
		}
		step("the last line", "a.0|3")
		write(t, path("a"), "4\n5")
		step("a line without its end is not shown", "a.0|4")
		write(t, path("a"), "5\n6\n")
		step("until it has one", "a.0|55\na.0|6")

		write(t, path("a"), "before\n")
		if err := os.Rename(path("a"), path("a.1")); err != nil {
			t.Fatal(err)
		}
		write(t, path("a.1"), "late\n")
		write(t, path("a"), "after\n")
		step("a rotation", "a.0|before\na.0|late\na.0|after")

		write(t, path("late"), "x\ny\n")
		step("a file that appears is shown from its start", "late.0|x\nlate.0|y")
		write(t, path("b"), "m\nn\n")
		name(logFile{path("a"), "a", 0}, logFile{path("b"), "b", 0})
		write(t, path("late"), "z\nlast")
		step("a new replica from its start; a replaced one to its end", "b.0|m\nb.0|n\nlate.0|z\nlate.0|last")
		name(logFile{path("a"), "a", 0}, logFile{path("late"), "late", 0})
		step("what was read to its end is not read again", "")

		write(t, path("a"), "half")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if got := s.new(); got != "" && got != "a.0|half" {
			t.Errorf("at the end: %q", got)
		}
	})
}

// TestFollowLosesNothing: whatever is written, in whatever pieces and with whatever rotations between, comes out whole and
// in order.
func TestFollowLosesNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp("", "psl")
		if err != nil {
			rt.Fatal(err)
		}
		defer os.RemoveAll(dir)
		path := filepath.Join(dir, "log")
		pieces := rapid.SliceOfN(rapid.StringMatching(`[ab\n]{0,8}`), 0, 20).Draw(rt, "pieces")
		rotate := rapid.SliceOfN(rapid.Bool(), len(pieces), len(pieces)).Draw(rt, "rotate")
		var got []string
		r := logReader{open: map[string]*tailer{}, over: map[string]bool{}, send: func(l logLine) error { got = append(got, l.text); return nil }}
		defer r.close()
		file := []logFile{{path: path}}
		for i, p := range pieces {
			write(t, path, p)
			if rapid.Bool().Draw(rt, "read") || rotate[i] { // two rotations between two reads would lose a file
				if err := r.round(file, 0, false); err != nil {
					rt.Fatal(err)
				}
			}
			if rotate[i] {
				if err := os.Rename(path, path+".1"); err != nil && !os.IsNotExist(err) {
					rt.Fatal(err)
				}
			}
		}
		if err := errors.Join(r.round(file, 0, false), r.flush()); err != nil {
			rt.Fatal(err)
		}
		want := strings.Split(strings.Join(pieces, ""), "\n")
		if want[len(want)-1] == "" {
			want = want[:len(want)-1]
		}
		if !slices.Equal(got, want) {
			rt.Fatalf("got %q, want %q", got, want)
		}
	})
}

// FuzzLogBytes: any bytes, with any tail, become valid text of bounded pieces that holds everything there was.
func FuzzLogBytes(f *testing.F) {
	f.Add([]byte("a\nb\n"), 0)
	f.Add([]byte("\xff\xfe\r\n\r"), 1)
	f.Add(append(bytes.Repeat([]byte("\xe2\x82\xac"), maxLogLine), '\n'), 1)
	f.Fuzz(func(t *testing.T, text []byte, tail int) {
		if len(text) > 4*maxLogLine {
			return
		}
		path := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		var got []string
		err := readLogs(t.Context(), fixedFiles(logFile{path: path}), max(0, tail%64), false, func(l logLine) error {
			if !utf8.ValidString(l.text) || len(l.text) > 3*maxLogLine || strings.Contains(l.text, "\n") {
				t.Fatalf("piece of %d bytes: %.100q", len(l.text), l.text)
			}
			got = append(got, l.text)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
		if n := max(0, tail%64); n > 0 && n < len(lines) {
			lines = lines[len(lines)-n:]
		}
		known := func(s string) string { // what can be compared: a cut between bad bytes may double their sign
			return strings.NewReplacer("\uFFFD", "", "\r", "").Replace(strings.ToValidUTF8(s, "\uFFFD"))
		}
		if want := known(strings.Join(lines, "")); known(strings.Join(got, "")) != want {
			t.Fatalf("got %.200q, want %.200q", got, want)
		}
	})
}
