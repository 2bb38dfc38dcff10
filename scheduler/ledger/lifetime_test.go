package ledger

import (
	"testing"
	"time"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

func TestLifetimes(t *testing.T) {
	t.Parallel()
	o := testOptions(nil)
	now := time.Unix(1_700_000_000, 0).UTC()
	o.Now = func() time.Time { return now }
	l, fsys := newHeldWith(t, o)
	spec := deploymentFile("qwen", 1, "x")
	spec.Lifetime.KeepAlive = jobspecs.Duration(time.Hour)
	mustApply(t, l, spec)
	began := func(what string, want time.Time) {
		t.Helper()
		d := mustGet(t, l, "qwen")
		if !d.Since.Equal(want) || d.Stopped || d.StopReason != "" {
			t.Errorf("%s: %+v, want a lifetime since %v", what, d, want)
		}
	}
	began("applied", now)
	now = now.Add(time.Minute)
	if _, changed, err := l.Apply(spec, "f"); changed || err != nil {
		t.Errorf("applied again: changed %v, %v", changed, err)
	}
	began("applied again", now)
	if err := l.Retire("qwen", "its time is over"); err != nil {
		t.Fatal(err)
	}
	if d, _ := reopened(t, fsys).Deployment("qwen"); !d.Stopped || d.StopReason != "its time is over" {
		t.Errorf("retired: %+v", d)
	}
	now = now.Add(time.Minute)
	if _, changed, err := l.Apply(spec, "f"); !changed || err != nil {
		t.Errorf("applied after its end: changed %v, %v", changed, err)
	}
	began("revived", now)
	now = now.Add(time.Minute)
	for _, stopped := range []bool{true, false} {
		if err := l.SetStopped("qwen", stopped); err != nil {
			t.Fatal(err)
		}
	}
	began("stopped and started by a person", now)
	wantErr(t, "retire nobody", l.Retire("nobody", "x"), ErrNotFound)
}

// GPU time is kept when launches are forgotten, by this controller or by the next.
func TestGPUTimeOutlivesLaunches(t *testing.T) {
	t.Parallel()
	o := testOptions(nil)
	now := time.Unix(1_700_000_000, 0).UTC()
	o.Now = func() time.Time { return now }
	o.KeepEnded, o.KeepEndedFor = 1, time.Hour
	l, fsys := newHeldWith(t, o)
	spec := deploymentFile("qwen", 1, "x")
	r := spec.Roles[jobspecs.Mixed]
	r.GPUs.Count, r.Parallel.Tensor, spec.Lifetime.GPUHours = 2, 2, 100
	spec.Roles[jobspecs.Mixed] = r
	mustApply(t, l, spec)
	live := func(id cluster.LaunchID, d time.Duration) {
		t.Helper()
		x := launchOf("qwen", id, 1)
		x.Role, x.StartedAt = jobspecs.Mixed, now
		mustPut(t, l, x)
		now = now.Add(d)
		if err := l.UpdateLaunch(id, toPhase(cluster.Ended)); err != nil {
			t.Fatal(err)
		}
	}
	live("l1", 10*time.Minute)
	if got := mustGet(t, l, "qwen").GPUTime; got != 0 {
		t.Errorf("%s of a launch that is remembered", got)
	}
	live("l2", 20*time.Minute)
	nodes := time.Duration(max(1, launchOf("qwen", "l1", 1).Nodes))
	if got, want := mustGet(t, l, "qwen").GPUTime, 20*time.Minute*nodes; got != want {
		t.Errorf("%s after l1 was forgotten, want %s", got, want)
	}
	now = now.Add(2 * time.Hour) // l2 is too old to be remembered by the next controller
	o.FS = fsys
	l = held(t, o)
	if _, ok := l.Launch("l2"); !ok {
		t.Fatal("l2 was forgotten before it was counted")
	}
	live("l3", time.Minute)
	if got, want := mustGet(t, l, "qwen").GPUTime, 60*time.Minute*nodes; got != want {
		t.Errorf("%s in the next term, want %s", got, want)
	}
}
