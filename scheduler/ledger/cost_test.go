package ledger

import (
	"fmt"
	"testing"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/statefile"
)

// TestSyncsPerCall pins what each call costs on a slow disk: how often it waits for one.
func TestSyncsPerCall(t *testing.T) {
	t.Parallel()
	l, fsys := newHeld(t)
	for _, c := range []struct {
		what string
		want int
		do   func() error
	}{
		{"first revision of a deployment", 5, func() error { _, _, err := l.Apply(deploymentFile("qwen", 1, "one"), ""); return err }},
		{"next revision", 4, func() error { _, _, err := l.Apply(deploymentFile("qwen", 1, "two"), ""); return err }},
		{"the same again", 0, func() error { _, _, err := l.Apply(deploymentFile("qwen", 1, "two"), ""); return err }},
		{"scale", 2, func() error { return l.SetScale("qwen", jobspecs.Mixed, 3) }},
		{"roll back", 2, func() error { return l.Rollback("qwen", 2, 1, "x") }},
		{"launch", 2, func() error { return l.PutLaunch(launchOf("qwen", "l1", 1)) }},
		{"admit", 2, func() error { _, err := l.Admit("l1", "run", false); return err }},
		{"admit again", 0, func() error { _, err := l.Admit("l1", "run", false); return err }},
		{"launch ends", 2, func() error { return l.UpdateLaunch("l1", toPhase(cluster.Ended)) }},
		{"event", 0, func() error { say(l, 1); return nil }},
		{"check of the term", 0, l.CheckTerm},
		{"heartbeat", 1, func() error { return l.nextBeat(1) }},
		{"release", 1, l.Release},
	} {
		before := fsys.Syncs()
		if err := c.do(); err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		if got := fsys.Syncs() - before; got != c.want {
			t.Errorf("%s: %d syncs, want %d", c.what, got, c.want)
		}
	}
}

// lazyDisk never waits for the disk.
type lazyDisk struct{ statefile.OS }

type lazyFile struct{ statefile.File }

func (lazyFile) Sync() error          { return nil }
func (lazyDisk) SyncDir(string) error { return nil }

func (d lazyDisk) Create(name string) (statefile.File, error) {
	f, err := d.OS.Create(name)
	return lazyFile{f}, err
}

// filledDisk is a real folder with so many launches.
func filledDisk(b *testing.B, launches int, fsys statefile.FS) (*Ledger, string) {
	b.Helper()
	dir := b.TempDir() + "/state"
	if err := statefile.SecureDir(dir); err != nil {
		b.Fatal(err)
	}
	l, err := Open(dir, Options{Alive: dead, FS: fsys})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := l.Acquire(b.Context(), holder("bench")); err != nil {
		b.Fatal(err)
	}
	mustApply(b, l, deploymentFile("qwen", 1, "one"))
	for i := range launches {
		mustPut(b, l, launchOf("qwen", launchID(i), 1))
	}
	return l, dir
}

func BenchmarkPutLaunch(b *testing.B) {
	l, _ := filledDisk(b, 0, statefile.OS{})
	for i := 0; b.Loop(); i++ {
		mustPut(b, l, launchOf("qwen", launchID(i), 1))
	}
}

func BenchmarkCheckTerm(b *testing.B) {
	l, _ := filledDisk(b, 0, statefile.OS{})
	for b.Loop() {
		if err := l.CheckTerm(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkAcquire takes over a folder with so many launches.
func BenchmarkAcquire(b *testing.B) {
	for _, n := range []int{100, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			_, dir := filledDisk(b, n, lazyDisk{})
			for i := 0; b.Loop(); i++ {
				l, err := Open(dir, Options{Alive: dead})
				if err != nil {
					b.Fatal(err)
				}
				if _, err := l.Acquire(b.Context(), holder(fmt.Sprint(i))); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkLaunches(b *testing.B) {
	l, _ := newHeld(b)
	for i := range 10000 {
		mustPut(b, l, launchOf("qwen", launchID(i), 1))
	}
	b.ReportAllocs()
	for b.Loop() {
		if len(l.Launches()) != 10000 {
			b.Fatal("launches are missing")
		}
	}
}
