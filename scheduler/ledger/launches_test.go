package ledger

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock/penstock/scheduler/cluster"
)

func TestLaunchLives(t *testing.T) {
	t.Parallel()
	l, fsys := newHeld(t)
	x := launchOf("qwen", "l1", 1)
	mustPut(t, l, x)
	wantErr(t, "put twice", l.PutLaunch(x), ErrExists)
	x.Placement[0].GPUs[0] = "changed by the caller"
	got, ok := l.Launch("l1")
	if !ok || got.Phase != cluster.Intended || got.CreatedAt.IsZero() || got.Placement[0].GPUs[0] != "gpu0" {
		t.Errorf("got %+v", got)
	}
	wantErr(t, "update of nothing", l.UpdateLaunch("l2", toPhase(cluster.Ended)), ErrNotFound)
	if err := l.UpdateLaunch("l1", func(x *cluster.Launch) error {
		x.Phase, x.Job, x.LastLines = cluster.Submitted, "job7", []string{"a", "b"}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	refusal := errors.New("no")
	wantErr(t, "refused", l.UpdateLaunch("l1", func(x *cluster.Launch) error {
		x.LastLines[0] = "scribbled"
		return refusal
	}), refusal)
	got, _ = l.Launch("l1")
	if got.LastLines[0] != "a" || got.Job != "job7" {
		t.Errorf("got %+v", got)
	}
	again, _ := reopened(t, fsys).Launch("l1")
	if diff := cmp.Diff(got, again); diff != "" {
		t.Errorf("on disk (-memory +disk):\n%s", diff)
	}
}

func TestUpdateIsRefused(t *testing.T) {
	t.Parallel()
	l, _ := newHeld(t)
	mustPut(t, l, launchOf("qwen", "l1", 1))
	if err := l.UpdateLaunch("l1", toPhase(cluster.Draining)); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*cluster.Launch){
		"back to an earlier phase": func(x *cluster.Launch) { x.Phase = cluster.Submitted },
		"no phase":                 func(x *cluster.Launch) { x.Phase = "resting" },
		"another deployment":       func(x *cluster.Launch) { x.Deployment = "tiny" },
		"another ID":               func(x *cluster.Launch) { x.ID = "l2" },
		"another revision":         func(x *cluster.Launch) { x.Revision = 2 },
		"a run":                    func(x *cluster.Launch) { x.Run = "run1" },
		"an epoch":                 func(x *cluster.Launch) { x.Epoch = 9 },
	} {
		wantErr(t, what, l.UpdateLaunch("l1", func(x *cluster.Launch) error {
			change(x)
			return nil
		}), ErrInvalid)
	}
}

func TestUnchangedIsNotWritten(t *testing.T) {
	t.Parallel()
	l, fsys := newHeld(t)
	mustApply(t, l, deploymentFile("qwen", 1, "x"))
	mustPut(t, l, launchOf("qwen", "l1", 1))
	before := fsys.Steps()
	if err := l.UpdateLaunch("l1", toPhase(cluster.Intended)); err != nil {
		t.Fatal(err)
	}
	mustApply(t, l, deploymentFile("qwen", 1, "x"))
	if err := l.SetStopped("qwen", false); err != nil {
		t.Fatal(err)
	}
	if got := fsys.Steps() - before; got != 0 {
		t.Errorf("%d steps for nothing", got)
	}
}

func TestEndedLaunchesAreForgotten(t *testing.T) {
	t.Parallel()
	o := testOptions(nil)
	now := time.Unix(1_700_000_000, 0).UTC()
	o.Now = func() time.Time { return now }
	o.KeepEnded, o.KeepEndedFor = 3, time.Hour
	l, fsys := newHeldWith(t, o)
	end := func(id cluster.LaunchID, deployment string) {
		t.Helper()
		mustPut(t, l, launchOf(deployment, id, 1))
		if _, err := l.Admit(id, "run", false); err != nil {
			t.Fatal(err)
		}
		if err := l.UpdateLaunch(id, func(x *cluster.Launch) error {
			x.Phase, x.EndedAt = cluster.Ended, now
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	mustPut(t, l, launchOf("qwen", "alive", 1))
	end("tiny1", "tiny")
	for i := range 5 {
		now = now.Add(time.Second)
		end(cluster.LaunchID(fmt.Sprintf("l%d", i)), "qwen")
	}
	if got := ids(l); got != "alive tiny1 l2 l3 l4" {
		t.Errorf("by count: %s", got)
	}
	now = now.Add(2 * time.Hour)
	end("last", "tiny")
	if got := ids(l); got != "alive last" {
		t.Errorf("by age: %s", got)
	}
	if got := ids(reopened(t, fsys)); got != "alive last" {
		t.Errorf("on disk: %s", got)
	}
	now = now.Add(2 * time.Hour)
	mustPut(t, l, launchOf("qwen", "never", 1))
	if err := l.UpdateLaunch("never", toPhase(cluster.Ended)); err != nil {
		t.Fatal(err)
	}
	if got := ids(l); got != "alive never" {
		t.Errorf("at last: %s", got)
	}
	// The highest epoch outlives the launches that had it.
	next := held(t, testOptions(fsys))
	if e, err := next.Admit("alive", "run", false); err != nil || e != 8 {
		t.Errorf("epoch %d after 7: %v", e, err)
	}
}

func ids(l *Ledger) (s string) {
	for i, x := range l.Launches() {
		if i > 0 {
			s += " "
		}
		s += string(x.ID)
	}
	return s
}

func TestAdmit(t *testing.T) {
	t.Parallel()
	l, fsys := newHeld(t)
	mustPut(t, l, launchOf("qwen", "l1", 1))
	mustPut(t, l, launchOf("qwen", "l2", 1))
	for _, c := range []struct {
		what      string
		launch    cluster.LaunchID
		run       string
		supersede bool
		epoch     uint64
		err       error
	}{
		{"first run", "l1", "a", false, 1, nil},
		{"same run again", "l1", "a", false, 1, nil},
		{"same run, superseding", "l1", "a", true, 1, nil},
		{"other run", "l1", "b", false, 0, ErrOtherRun},
		{"other launch", "l2", "a", false, 2, nil},
		{"superseding", "l1", "b", true, 3, nil},
		{"the one that was fenced", "l1", "a", false, 0, ErrOtherRun},
		{"no such launch", "l9", "a", false, 0, ErrNotFound},
		{"no run", "l1", "", true, 0, ErrInvalid},
	} {
		epoch, err := l.Admit(c.launch, c.run, c.supersede)
		if epoch != c.epoch || !errors.Is(err, c.err) {
			t.Errorf("%s: epoch %d, %v; want %d, %v", c.what, epoch, err, c.epoch, c.err)
		}
		if x, _ := reopened(t, fsys).Launch(c.launch); err == nil && (x.Epoch != epoch || x.Run != c.run || x.AdmittedAt.IsZero()) {
			t.Errorf("%s: on disk is run %q, epoch %d", c.what, x.Run, x.Epoch)
		}
	}
}

func TestAdmitWhenOver(t *testing.T) {
	t.Parallel()
	l, _ := newHeld(t)
	mustPut(t, l, launchOf("qwen", "l1", 1))
	if _, err := l.Admit("l1", "a", false); err != nil {
		t.Fatal(err)
	}
	admit := func(what, run string, want error) {
		t.Helper()
		_, err := l.Admit("l1", run, true)
		wantErr(t, what, err, want)
	}
	if err := l.UpdateLaunch("l1", toPhase(cluster.Draining)); err != nil {
		t.Fatal(err)
	}
	admit("draining, its own run", "a", nil)
	admit("draining, another run", "b", ErrLaunchOver)
	if err := l.UpdateLaunch("l1", toPhase(cluster.Ended)); err != nil {
		t.Fatal(err)
	}
	admit("ended, its own run", "a", ErrLaunchOver)
	admit("ended, another run", "b", ErrLaunchOver)
}

// TestAdmitTogether: all ranks of all launches come at once; every launch has one epoch, no two launches share one.
func TestAdmitTogether(t *testing.T) {
	t.Parallel()
	l, _ := newHeld(t)
	const launches, ranks = 16, 4
	for i := range launches {
		mustPut(t, l, launchOf("qwen", launchID(i), 1))
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	owner := map[uint64]cluster.LaunchID{}
	for i := range launches * ranks {
		wg.Go(func() {
			id := launchID(i % launches)
			epoch, err := l.Admit(id, "run-"+string(id), false)
			mu.Lock()
			defer mu.Unlock()
			if other, ok := owner[epoch]; err != nil || ok && other != id {
				t.Errorf("launch %s got epoch %d of launch %s, %v", id, epoch, other, err)
			}
			owner[epoch] = id
		})
	}
	wg.Wait()
	if len(owner) != launches {
		t.Errorf("%d epochs for %d launches", len(owner), launches)
	}
}

func launchID(i int) cluster.LaunchID { return cluster.LaunchID(fmt.Sprintf("l%d", i)) }
