package ledger

import (
	"errors"
	"slices"
	"testing"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

func mustGet(t *testing.T, l *Ledger, name string) Deployment {
	t.Helper()
	d, ok := l.Deployment(name)
	if !ok {
		t.Fatalf("deployment %s is not there", name)
	}
	return d
}

func TestApplyNumbersRevisions(t *testing.T) {
	t.Parallel()
	l, fsys := newHeld(t)
	for _, c := range []struct {
		arg     string
		rev     int
		changed bool
	}{
		{"one", 1, true},
		{"one", 1, false},
		{"two", 2, true},
		{"one", 3, true}, // the same content as an old revision is a new decision
		{"one", 3, false},
	} {
		rev, changed, err := l.Apply(deploymentFile("qwen", 2, c.arg), "f.yaml")
		if rev != c.rev || changed != c.changed || err != nil {
			t.Errorf("apply %s: revision %d, changed %v, %v; want %d, %v", c.arg, rev, changed, err, c.rev, c.changed)
		}
	}
	d := mustGet(t, l, "qwen")
	if d.Revision != 3 || d.Previous != 2 || d.Source != "f.yaml" || d.Hash != jobspecs.Hash(d.Spec) {
		t.Errorf("got %+v", d)
	}
	two, err := reopened(t, fsys).Revision("qwen", 2)
	if err != nil || jobspecs.Hash(two) != jobspecs.Hash(deploymentFile("qwen", 2, "two")) {
		t.Errorf("revision 2 is %v, %v", two, err)
	}
	_, err = l.Revision("qwen", 4)
	wantErr(t, "revision 4", err, ErrNotFound)
	_, err = l.Revision("nobody", 1)
	wantErr(t, "no deployment", err, ErrNotFound)
}

func TestRollback(t *testing.T) {
	t.Parallel()
	l, _ := newHeld(t)
	for _, arg := range []string{"one", "two", "three"} {
		mustApply(t, l, deploymentFile("qwen", 1, arg))
	}
	wantErr(t, "roll back what is not current", l.Rollback("qwen", 2, 1, "x"), ErrNotCurrent)
	wantErr(t, "roll back to nothing", l.Rollback("qwen", 3, 9, "x"), ErrNotFound)
	if err := l.Rollback("qwen", 3, 2, "never ready"); err != nil {
		t.Fatal(err)
	}
	d := mustGet(t, l, "qwen")
	if d.Revision != 2 || d.RolledBackFrom != 3 || d.RollbackReason != "never ready" || d.Previous != 1 {
		t.Errorf("got %+v", d)
	}
	if err := l.Rollback("qwen", 3, 2, "again"); err != nil {
		t.Errorf("the same roll-back again: %v", err)
	}
	// A failed revision is never rolled back to, and its content may be tried again.
	if rev := mustApply(t, l, deploymentFile("qwen", 1, "three")); rev != 4 {
		t.Errorf("revision %d", rev)
	}
	d = mustGet(t, l, "qwen")
	if d.Previous != 2 || d.RolledBackFrom != 0 {
		t.Errorf("after the next apply: %+v", d)
	}
}

func TestScale(t *testing.T) {
	t.Parallel()
	l, _ := newHeld(t)
	mustApply(t, l, deploymentFile("qwen", 2, "one"))
	wanted := func(what string, want int) {
		t.Helper()
		if got := mustGet(t, l, "qwen").Wanted(jobspecs.Mixed); got != want {
			t.Errorf("%s: wanted %d, want %d", what, got, want)
		}
	}
	wanted("at first", 2)
	for _, n := range []int{5, 0, 2} {
		if err := l.SetScale("qwen", jobspecs.Mixed, n); err != nil {
			t.Fatal(err)
		}
		wanted("scaled", n)
	}
	if len(mustGet(t, l, "qwen").Scale) != 0 {
		t.Error("the file's own number is an override")
	}
	wantErr(t, "above max", l.SetScale("qwen", jobspecs.Mixed, 9), ErrInvalid)
	wantErr(t, "negative", l.SetScale("qwen", jobspecs.Mixed, -1), ErrInvalid)
	wantErr(t, "no such role", l.SetScale("qwen", jobspecs.Decode, 1), ErrInvalid)
	wantErr(t, "no such deployment", l.SetScale("tiny", jobspecs.Mixed, 1), ErrNotFound)

	if err := l.SetScale("qwen", jobspecs.Mixed, 4); err != nil {
		t.Fatal(err)
	}
	mustApply(t, l, deploymentFile("qwen", 2, "two"))
	wanted("another revision with the same count", 4)
	mustApply(t, l, deploymentFile("qwen", 3, "two"))
	wanted("another revision with another count", 3)

	for _, file := range []jobspecs.Deployment{deploymentFile("qwen", 3, "two"), deploymentFile("qwen", 3, "three")} {
		if err := errors.Join(l.SetScale("qwen", jobspecs.Mixed, 1), l.SetStopped("qwen", true)); err != nil {
			t.Fatal(err)
		}
		mustApply(t, l, file)
		wanted("applied after a stop", 3)
	}
}

func TestStopAndRemove(t *testing.T) {
	t.Parallel()
	l, fsys := newHeld(t)
	mustApply(t, l, deploymentFile("qwen", 2, "one"))
	mustPut(t, l, launchOf("qwen", "l1", 1))
	if err := l.SetStopped("qwen", true); err != nil {
		t.Fatal(err)
	}
	if d := mustGet(t, l, "qwen"); d.Wanted(jobspecs.Mixed) != 0 || !d.Stopped {
		t.Errorf("stopped: %+v", d)
	}
	rev, changed, err := l.Apply(deploymentFile("qwen", 2, "one"), "")
	if rev != 1 || !changed || err != nil || mustGet(t, l, "qwen").Stopped {
		t.Errorf("applied after stop: revision %d, changed %v, %v", rev, changed, err)
	}
	if err := l.Remove("qwen"); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "remove twice", l.Remove("qwen"), ErrNotFound)
	if _, ok := l.Deployment("qwen"); ok || len(l.Deployments()) != 0 {
		t.Error("it is still there")
	}
	next := held(t, testOptions(fsys))
	if _, err := next.Revision("qwen", 1); err != nil {
		t.Errorf("the revision of a launch that lives: %v", err)
	}
	if rev := mustApply(t, next, deploymentFile("qwen", 2, "one")); rev != 2 {
		t.Errorf("revision %d: a number was given twice", rev)
	}
}

// TestRemovedIsForgotten: once no launch speaks of it, nothing is left.
func TestRemovedIsForgotten(t *testing.T) {
	t.Parallel()
	l, fsys := newHeld(t)
	mustApply(t, l, deploymentFile("qwen", 2, "one"))
	if err := l.Remove("qwen"); err != nil {
		t.Fatal(err)
	}
	next := held(t, testOptions(fsys))
	_, err := next.Revision("qwen", 1)
	wantErr(t, "its revision", err, ErrNotFound)
	names, err := fsys.List("/intent/2/deployments")
	if err != nil || len(names) != 0 {
		t.Errorf("left: %v, %v", names, err)
	}
}

func TestOldRevisionsGo(t *testing.T) {
	t.Parallel()
	o := testOptions(nil)
	o.KeepRevisions = 3
	l, fsys := newHeldWith(t, o)
	mustApply(t, l, deploymentFile("qwen", 1, "r1"))
	mustPut(t, l, launchOf("qwen", "l1", 1))
	for _, arg := range []string{"r2", "r3", "r4", "r5"} {
		mustApply(t, l, deploymentFile("qwen", 1, arg))
	}
	names, err := fsys.List("/intent/1/deployments/qwen")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"revision-1.yaml", "revision-4.yaml", "revision-5.yaml", stateFile}
	if !slices.Equal(names, want) { // 1 runs, 4 is the one before
		t.Errorf("files %v, want %v", names, want)
	}
	checkMemory(t, "in the end", l, fsys)
}

func TestNamesCannotLeaveTheFolder(t *testing.T) {
	t.Parallel()
	l, _ := newHeld(t)
	d := deploymentFile("qwen", 1, "x")
	for _, name := range []string{"", ".", "..", "../x", "a/b", "A", "x.json", "a\x00b", "0123456789012345678901234567890123456789x"} {
		d.Name = name
		_, _, err := l.Apply(d, "")
		wantErr(t, "apply "+name, err, ErrInvalid)
		wantErr(t, "put "+name, l.PutLaunch(launchOf("qwen", cluster.LaunchID(name), 1)), ErrInvalid)
		wantErr(t, "put of "+name, l.PutLaunch(launchOf(name, "l1", 1)), ErrInvalid)
	}
}
