package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

var yesterday = time.Date(2026, 11, 23, 23, 59, 0, 0, time.UTC)

func finished(from, to int, at time.Time) (out []*apiv1.RequestRecord) {
	for i := from; i < to; i++ {
		out = append(out, &apiv1.RequestRecord{Id: fmt.Sprintf("req-%d", i), At: timestamppb.New(at), CompletionTokens: uint64(i)})
	}
	return out
}

// lines counts the lines of all usage files, by their request.
func lines(t *testing.T, dir string) map[string]int {
	t.Helper()
	out := map[string]int{}
	names, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			rec := &apiv1.RequestRecord{}
			if err := readUsage([]byte(line), rec); err != nil {
				t.Errorf("%s: %v: %q", name, err, line)
			}
			out[rec.Id]++
		}
	}
	return out
}

// once fails the test unless each of so many requests has one line.
func once(t *testing.T, dir string, n int) {
	t.Helper()
	got := lines(t, dir)
	for i := range n {
		if id := fmt.Sprintf("req-%d", i); got[id] != 1 {
			t.Errorf("%s has %d lines", id, got[id])
		}
	}
	if len(got) != n {
		t.Errorf("%d requests, not %d", len(got), n)
	}
}

// TestUsageSurvivesAFullDisk: what cannot be written is an error to the gateway, which delivers it again; then it is
// written, once, and no half of it stands in the file.
func TestUsageSurvivesAFullDisk(t *testing.T) {
	t.Parallel()
	r := newRecords(t.TempDir())
	if err := r.add(finished(0, 10, yesterday)); err != nil {
		t.Fatal(err)
	}
	full := &syscallWriter{left: 200} // a piece of a line still fits
	r.usage.write = full.write
	batch := append(finished(10, 20, yesterday), finished(20, 30, yesterday.Add(time.Hour))...)
	for range 3 {
		if err := r.add(batch); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("a full disk is %v", err)
		}
	}
	if _, err := r.find("req-15"); err != nil {
		t.Errorf("why: %v", err)
	}
	if text := r.trouble(); !strings.Contains(text, "20 finished requests") || !strings.Contains(text, "no space left") {
		t.Errorf("the status says %q", text)
	}
	full.left = 1 << 20
	if err := r.add(batch); err != nil {
		t.Fatal(err)
	}
	if r.trouble() != "" {
		t.Errorf("the status still says %q", r.trouble())
	}
	once(t, r.usage.dir, 30)
}

// syscallWriter writes as long as there is space.
type syscallWriter struct{ left int }

func (w *syscallWriter) write(f *os.File, b []byte) (int, error) {
	if len(b) <= w.left {
		w.left -= len(b)
		return f.Write(b)
	}
	n, err := f.Write(b[:w.left])
	return n, errors.Join(err, syscall.ENOSPC)
}

// TestUsageOnceAcrossRestarts: a gateway that did not hear that its records were taken delivers them to the next
// controller again.
func TestUsageOnceAcrossRestarts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for i := range 3 {
		r := newRecords(dir)
		if err := r.add(finished(0, 10*(i+1), yesterday)); err != nil {
			t.Fatal(err)
		}
	}
	once(t, dir, 30)
}

// TestUsageAfterAPowerCut: half a line at the end of a file was never acknowledged, and is made whole by the next
// delivery.
func TestUsageAfterAPowerCut(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := newRecords(dir).add(finished(0, 10, yesterday)); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, yesterday.Format(time.DateOnly)+".jsonl")
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, info.Size()-20); err != nil {
		t.Fatal(err)
	}
	if err := newRecords(dir).add(finished(0, 12, yesterday)); err != nil {
		t.Fatal(err)
	}
	once(t, dir, 12)
}

// TestAwaitRecord: a request is explained as soon as its gateway has told of it, and one that nobody tells of is not waited
// for long.
func TestAwaitRecord(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		r := newRecords(dir)
		begun := time.Now()
		if _, err := r.await(t.Context(), "req-1"); !errors.Is(err, errNotFound) || time.Since(begun) != arrival {
			t.Errorf("nobody tells of it: %v after %s", err, time.Since(begun))
		}
		later := func(d time.Duration, from, to int) {
			go func() {
				time.Sleep(d)
				if err := r.add(finished(from, to, yesterday)); err != nil {
					t.Error(err)
				}
			}()
		}
		later(time.Second, 0, 1)
		later(time.Second+time.Millisecond, 1, 2)
		begun = time.Now()
		if rec, err := r.await(t.Context(), "req-1"); err != nil || rec.Id != "req-1" || time.Since(begun) != time.Second+time.Millisecond {
			t.Errorf("told of later: %v, %v after %s", rec, err, time.Since(begun))
		}
		later(settling/2, 2, 3)
		if rec, err := r.await(t.Context(), ""); err != nil || rec.Id != "req-2" {
			t.Errorf("the latest: %v, %v", rec, err)
		}
	})
}
