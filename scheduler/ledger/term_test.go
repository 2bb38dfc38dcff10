package ledger

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/scheduler/statefile/crashfs"
)

// elsewhere is a process on another host: nobody here can tell whether it runs.
func elsewhere(Holder) (alive, known bool) { return false, false }

func elsewhereOptions(fsys *crashfs.FS) Options { return Options{FS: fsys, Alive: elsewhere} }

// beating lets a holder go on until the test is over.
func beating(t *testing.T, l *Ledger) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

func TestHeldElsewhere(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fsys := crashfs.New()
		first := opened(t, elsewhereOptions(fsys))
		if _, err := first.Acquire(t.Context(), holder("one")); err != nil {
			t.Fatal(err)
		}
		stop := beating(t, first)
		start := time.Now()
		_, err := opened(t, elsewhereOptions(fsys)).Acquire(t.Context(), holder("two"))
		held, ok := errors.AsType[*HeldError](err)
		if !ok || held.Term != 1 || held.Holder.Nonce != "one" {
			t.Fatalf("got %v", err)
		}
		for _, part := range []string{"login1", "pid 7", "since 2023-11-14", "stop it"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q does not say %q", err, part)
			}
		}
		if waited := time.Since(start); waited > 15*time.Second {
			t.Errorf("it took %s to tell", waited)
		}
		stop()
	})
}

func TestTakeOver(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		alive func(Holder) (bool, bool)
		do    func(t *testing.T, first *Ledger)
		wait  time.Duration
	}{
		{"silent elsewhere", elsewhere, nil, 15 * time.Second},
		{"silent, but its process runs here", func(Holder) (bool, bool) { return true, true }, nil, 15 * time.Second},
		{"its process is gone from here", dead, nil, 0},
		{"released", elsewhere, func(t *testing.T, first *Ledger) {
			if err := first.Release(); err != nil {
				t.Fatal(err)
			}
		}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				fsys := crashfs.New()
				first := opened(t, elsewhereOptions(fsys))
				if _, err := first.Acquire(t.Context(), holder("one")); err != nil {
					t.Fatal(err)
				}
				mustApply(t, first, deploymentFile("qwen", 1, "x"))
				if c.do != nil {
					c.do(t, first)
				}
				start := time.Now()
				second := opened(t, Options{FS: fsys, Alive: c.alive})
				if term, err := second.Acquire(t.Context(), holder("two")); term != 2 || err != nil {
					t.Fatalf("term %d, %v", term, err)
				}
				if waited := time.Since(start); waited != c.wait {
					t.Errorf("waited %s, want %s", waited, c.wait)
				}
				if got := second.Deployments(); len(got) != 1 {
					t.Errorf("the second controller has %d deployments", len(got))
				}
			})
		})
	}
}

// TestReleasedWhileWatched: the watcher need not wait for the lease.
func TestReleasedWhileWatched(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fsys := crashfs.New()
		first := opened(t, elsewhereOptions(fsys))
		if _, err := first.Acquire(t.Context(), holder("one")); err != nil {
			t.Fatal(err)
		}
		released := time.AfterFunc(2*time.Second, func() { _ = first.Release() })
		defer released.Stop()
		start := time.Now()
		if _, err := opened(t, elsewhereOptions(fsys)).Acquire(t.Context(), holder("two")); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(start); waited > 5*time.Second {
			t.Errorf("waited %s", waited)
		}
	})
}

func TestLostTermEndsRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fsys := crashfs.New()
		first := held(t, elsewhereOptions(fsys))
		done := make(chan error, 1)
		go func() { done <- first.Run(t.Context()) }()
		second := opened(t, testOptions(fsys))
		if _, err := second.Acquire(t.Context(), holder("two")); err != nil {
			t.Fatal(err)
		}
		wantErr(t, "Run", <-done, ErrTermLost)
		wantErr(t, "CheckTerm", first.CheckTerm(), ErrTermLost)
		_, _, err := first.Apply(deploymentFile("qwen", 1, "x"), "")
		wantErr(t, "Apply", err, ErrTermLost)
		wantErr(t, "Release", first.Release(), ErrTermLost)
		if err := second.CheckTerm(); err != nil {
			t.Error(err)
		}
	})
}

// TestLostTermIsToldWithoutAWrite: an answer that needs no write is an answer all the same.
func TestLostTermIsToldWithoutAWrite(t *testing.T) {
	t.Parallel()
	for name, call := range map[string]func(*Ledger) error{
		"admit the same run":     func(l *Ledger) error { _, err := l.Admit("l1", "run", false); return err },
		"apply the same content": func(l *Ledger) error { _, _, err := l.Apply(deploymentFile("qwen", 1, "x"), ""); return err },
		"stay unstopped":         func(l *Ledger) error { return l.SetStopped("qwen", false) },
		"change nothing":         func(l *Ledger) error { return l.UpdateLaunch("l1", toPhase("intended")) },
	} {
		old, fsys := newHeld(t)
		mustApply(t, old, deploymentFile("qwen", 1, "x"))
		mustPut(t, old, launchOf("qwen", "l1", 1))
		if _, err := old.Admit("l1", "run", false); err != nil {
			t.Fatal(err)
		}
		if err := call(old); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		held(t, testOptions(fsys))
		wantErr(t, name, call(old), ErrTermLost)
	}
}

// TestSlowStartKeepsTheTerm: a file server that needs minutes for all records must not cost the term.
func TestSlowStartKeepsTheTerm(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fsys := crashfs.New()
		first := held(t, testOptions(fsys))
		mustApply(t, first, deploymentFile("qwen", 1, "x"))
		fsys.Before(func(s crashfs.Step) error {
			if s.Op == "link" && strings.Contains(s.Path, deploymentsDir) {
				time.Sleep(5 * time.Minute)
			}
			return nil
		})
		slow := opened(t, testOptions(fsys))
		done := make(chan error, 1)
		go func() {
			_, err := slow.Acquire(t.Context(), holder("slow"))
			done <- err
		}()
		time.Sleep(time.Minute)
		_, err := opened(t, elsewhereOptions(fsys)).Acquire(t.Context(), holder("other"))
		if _, ok := errors.AsType[*HeldError](err); !ok {
			t.Errorf("beside a slow start: %v", err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestRaceForTheTerm: many processes find the holder dead at the same time; nobody shares a term.
func TestRaceForTheTerm(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fsys := crashfs.New()
		if _, err := opened(t, elsewhereOptions(fsys)).Acquire(t.Context(), holder("gone")); err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var wg sync.WaitGroup
		terms := map[uint64]int{}
		stops := make(chan func(), 8)
		for i := range 8 {
			wg.Go(func() {
				l := opened(t, elsewhereOptions(fsys))
				term, err := l.Acquire(t.Context(), holder(fmt.Sprint("racer", i)))
				if _, ok := errors.AsType[*HeldError](err); ok {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				stops <- beating(t, l)
				mu.Lock()
				defer mu.Unlock()
				terms[term]++
			})
		}
		wg.Wait()
		close(stops)
		for stop := range stops {
			stop()
		}
		if len(terms) != 1 || terms[2] != 1 {
			t.Errorf("winners by term: %v", terms)
		}
	})
}

func TestAcquireIsCancelled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fsys := crashfs.New()
		held(t, elsewhereOptions(fsys))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := opened(t, elsewhereOptions(fsys)).Acquire(ctx, holder("two"))
		wantErr(t, "Acquire", err, context.DeadlineExceeded)
	})
}

func TestWritingNeedsATerm(t *testing.T) {
	t.Parallel()
	l := opened(t, testOptions(crashfs.New()))
	_, _, err := l.Apply(deploymentFile("qwen", 1, "x"), "")
	wantErr(t, "Apply", err, ErrNoTerm)
	wantErr(t, "PutLaunch", l.PutLaunch(launchOf("qwen", "l1", 1)), ErrNoTerm)
	wantErr(t, "UpdateLaunch", l.UpdateLaunch("l1", toPhase("ended")), ErrNoTerm)
	_, err = l.Admit("l1", "run", false)
	wantErr(t, "Admit", err, ErrNoTerm)
	wantErr(t, "SetStopped", l.SetStopped("qwen", true), ErrNoTerm)
	wantErr(t, "Run", l.Run(t.Context()), ErrNoTerm)
	wantErr(t, "CheckTerm", l.CheckTerm(), ErrNoTerm)
	wantErr(t, "Release", l.Release(), ErrNoTerm)
}

// TestTermsAreCounted: old terms' files go, their numbers never come back, even when somebody empties the folder.
func TestTermsAreCounted(t *testing.T) {
	t.Parallel()
	fsys := crashfs.New()
	for i := range 30 {
		if l := held(t, testOptions(fsys)); l.Term() != uint64(i+1) {
			t.Fatalf("term %d after %d", l.Term(), i)
		}
		fsys.Before(nil)
	}
	names, err := fsys.List("/" + termsDir)
	if err != nil || len(names) != 2*keepTerms {
		t.Errorf("%d files of terms: %v", len(names), names)
	}
	if err := fsys.RemoveAll("/" + termsDir); err != nil {
		t.Fatal(err)
	}
	if l := held(t, testOptions(fsys)); l.Term() != 31 {
		t.Errorf("term %d after all its files were removed", l.Term())
	}
}
