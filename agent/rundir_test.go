package agent

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

func claimed(t *testing.T, base, run string) *runDir {
	t.Helper()
	o := Options{RuntimeDir: base, Run: run}
	o.Join.Launch = "d-mixed-0-abcdefgh"
	d, err := claimDir(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.path, "e1.sock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return d
}

func there(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, os.ErrNotExist)
}

// TestRunDirsOfKilledAgents: an agent that starts removes what others have left that were killed, and nothing of those that
// live.
func TestRunDirsOfKilledAgents(t *testing.T) {
	t.Parallel()
	base := filepath.Join(shortDir(t), "a")
	alive, killed := claimed(t, base, "r1"), claimed(t, base, "r2")
	if err := killed.held.Close(); err != nil { // as the kernel does
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(base, "a file of somebody's"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d := claimed(t, base, "r3")
	if there(killed.path) || !there(filepath.Join(alive.path, "e1.sock")) || !there(filepath.Join(d.path, "e1.sock")) || !there(filepath.Join(base, "a file of somebody's")) {
		t.Errorf("killed %v, alive %v, own %v", there(killed.path), there(alive.path), there(d.path))
	}
	if err := d.remove(); err != nil || there(d.path) {
		t.Errorf("it is left: %v", err)
	}
}

// TestRunDirOfTheSameRun: the next agent of a run gets its folder, empty.
func TestRunDirOfTheSameRun(t *testing.T) {
	t.Parallel()
	base := filepath.Join(shortDir(t), "a")
	first := claimed(t, base, "r1")
	_ = first.held.Close()
	o := Options{RuntimeDir: base, Run: "r1"}
	o.Join.Launch = "d-mixed-0-abcdefgh"
	again, err := claimDir(o)
	if err != nil || again.path != first.path || there(filepath.Join(again.path, "e1.sock")) {
		t.Errorf("%+v, %v, after %s", again, err, first.path)
	}
}

// TestRunDirsAtOnce: many agents that start at once, and tidy up behind others, all keep their folders.
func TestRunDirsAtOnce(t *testing.T) {
	t.Parallel()
	base := filepath.Join(shortDir(t), "a")
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			for range 20 {
				o := Options{RuntimeDir: base, Run: string(rune('a' + i))}
				d, err := claimDir(o)
				if err != nil {
					t.Error(err)
					return
				}
				file := filepath.Join(d.path, "x")
				if err := os.WriteFile(file, nil, 0o600); err != nil || !there(file) {
					t.Errorf("its folder is gone: %v", err)
				}
				if i%2 == 0 {
					_ = d.held.Close() // killed
				} else if err := d.remove(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}
