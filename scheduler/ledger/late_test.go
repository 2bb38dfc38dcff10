package ledger

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/statefile/crashfs"
)

// TestPausedControllerDamagesNothing lets a controller fall asleep before every single step that it makes, lets another
// one take its term over and write, and wakes it up. It may answer a call only if the new one has read its effect;
// every later call says that the term is lost; and what the new one has written and read stays as it is.
func TestPausedControllerDamagesNothing(t *testing.T) {
	t.Parallel()
	all := script()
	t.Run("first term", func(t *testing.T) { pausedAnywhere(t, nil, all[:14]) })
	t.Run("second term", func(t *testing.T) { pausedAnywhere(t, all[:15], all[15:22]) })
}

func pausedAnywhere(t *testing.T, before, ops []op) {
	fsys, old := startedWith(t, before)
	first := fsys.Steps() + 1
	dumps := []string{dump(old)}
	for _, op := range ops {
		if err := op.do(t.Context(), old); err != nil {
			t.Fatal(err)
		}
		dumps = append(dumps, dump(old))
	}
	last := fsys.Steps()
	t.Logf("%d steps", last-first+1)
	for step := first; step <= last; step++ {
		pausedAt(t, step, before, ops, dumps)
	}
}

func startedWith(t *testing.T, before []op) (*crashfs.FS, *Ledger) {
	t.Helper()
	fsys := crashfs.New()
	l := opened(t, scriptOptions(testOptions(fsys)))
	for _, op := range before {
		if err := op.do(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	return fsys, l
}

func pausedAt(t *testing.T, step int, before, ops []op, dumps []string) {
	t.Helper()
	fsys, old := startedWith(t, before)
	var next *Ledger
	var found string // by the new controller
	fsys.Before(func(s crashfs.Step) error {
		if s.N != step {
			return nil
		}
		fsys.Before(nil)
		next = opened(t, scriptOptions(testOptions(fsys)))
		if _, err := next.Acquire(t.Context(), holder("next")); err != nil {
			t.Fatalf("step %d: take over: %v", step, err)
		}
		found = dump(next)
		mustApply(t, next, deploymentFile("other", 1, "x"))
		mustPut(t, next, launchOf("other", "other1", 1))
		_, err := next.Admit("other1", "run", false)
		return err
	})
	for i, op := range ops {
		what := fmt.Sprintf("step %d, %s", step, op.name)
		asleep := next == nil
		err := op.do(t.Context(), old)
		switch {
		case next == nil && err != nil:
			t.Fatalf("%s: %v", what, err)
		case next == nil:
		case old.Term() > next.Term():
			wantErr(t, what+": the one that was overtaken", next.CheckTerm(), ErrTermLost)
			return
		case !asleep && !errors.Is(err, ErrTermLost) && !errors.Is(err, ErrNoTerm):
			t.Fatalf("%s: a call long after the term was lost says %v", what, err)
		case asleep && err == nil && found != dumps[i+1]:
			t.Fatalf("%s: answered, but the new controller has not read it:\n%s", what, found)
		case asleep && found != dumps[i] && found != dumps[i+1]:
			t.Fatalf("%s: the new controller has found half of it (-before +found):\n%s", what, cmp.Diff(dumps[i], found))
		}
	}
	if next == nil {
		t.Fatalf("step %d was not reached", step)
	}
	checkMemory(t, fmt.Sprintf("step %d: the new controller", step), next, fsys)
	if err := next.CheckTerm(); err != nil {
		t.Fatalf("step %d: the new controller: %v", step, err)
	}
	epochs := map[uint64]cluster.LaunchID{}
	for _, x := range next.Launches() {
		if other, ok := epochs[x.Epoch]; ok && x.Epoch > 0 {
			t.Fatalf("step %d: launches %s and %s have one epoch", step, x.ID, other)
		}
		epochs[x.Epoch] = x.ID
	}
}
