package ledger

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

// What a cluster was told outlives the controller; what somebody else has told it becomes what is wanted.
func TestTold(t *testing.T) {
	t.Parallel()
	l, fsys := newHeld(t)
	mustApply(t, l, deploymentFile("d", 2, "one"))
	reopen := func() *Ledger { return held(t, testOptions(fsys)) }
	told := cluster.Told{Revision: 1, N: 2, Version: 7, Asked: true, AskedRevision: 1, AskedN: 5}
	if err := l.NoteTold("d", jobspecs.Mixed, told); err != nil {
		t.Fatal(err)
	}
	if err := l.NoteTold("gone", jobspecs.Mixed, told); !errors.Is(err, ErrNotFound) {
		t.Errorf("of a deployment that is not there: %v", err)
	}
	l = reopen()
	d, _ := l.Deployment("d")
	if diff := cmp.Diff(told, d.Told[jobspecs.Mixed]); diff != "" {
		t.Error(diff)
	}
	followed := cluster.Told{Revision: 1, N: 9, Version: 8}
	if err := l.Follow("d", jobspecs.Mixed, followed); err != nil {
		t.Fatal(err)
	}
	if err := l.Follow("d", jobspecs.Decode, followed); !errors.Is(err, ErrInvalid) {
		t.Errorf("of a role that it does not have: %v", err)
	}
	l = reopen()
	if d, _ = l.Deployment("d"); d.Wanted(jobspecs.Mixed) != 9 || d.Told[jobspecs.Mixed] != followed {
		t.Errorf("wanted %d, told %+v", d.Wanted(jobspecs.Mixed), d.Told)
	}
	back := cluster.Told{Revision: 1, N: 2, Version: 9}
	if err := l.Follow("d", jobspecs.Mixed, back); err != nil {
		t.Fatal(err)
	}
	if d, _ = l.Deployment("d"); len(d.Scale) != 0 || d.Wanted(jobspecs.Mixed) != 2 {
		t.Errorf("the file's own count is an override: %v", d.Scale)
	}
}

func TestToldExplains(t *testing.T) {
	t.Parallel()
	told := cluster.Told{Revision: 1, N: 2, Asked: true, AskedRevision: 2, AskedN: 5}
	for held, want := range map[cluster.RoleCount]bool{
		{Revision: 1, N: 2}: true, {Revision: 2, N: 5}: true, {Revision: 1, N: 5}: false, {Revision: 2, N: 2}: false, {Revision: 1, N: 3}: false,
	} {
		if got := told.Explains(held); got != want {
			t.Errorf("%+v: %v", held, got)
		}
	}
	told.Asked = false
	if told.Explains(cluster.RoleCount{Revision: 2, N: 5}) {
		t.Error("what was never asked explains a count")
	}
}
