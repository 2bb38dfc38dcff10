package ledger

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/statefile/crashfs"
)

// model says in the plainest way what a ledger should say.
type model struct {
	deployments map[string]*modelDeployment
	launches    map[cluster.LaunchID]*modelLaunch
	epochs      map[uint64]string // launch and run
}

type modelDeployment struct {
	revisions []string // content by number, from 1
	failed    map[int]bool
	current   int
	replicas  map[string]int
	scale     int // -1 = none
	stopped   bool
	removed   bool
}

type modelLaunch struct {
	deployment string
	phase      cluster.LaunchPhase
	run        string
	epoch      uint64
}

func (m *model) String() string {
	var lines []string
	for name, d := range m.deployments {
		if !d.removed {
			lines = append(lines, fmt.Sprintf("%s rev %d %s wanted %d previous %d", name, d.current, d.revisions[d.current-1], d.wanted(), d.previous()))
		}
	}
	for id, x := range m.launches {
		lines = append(lines, fmt.Sprintf("%s %s %s %s %d", id, x.deployment, x.phase, x.run, x.epoch))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func (d *modelDeployment) wanted() int {
	switch {
	case d.stopped:
		return 0
	case d.scale >= 0:
		return d.scale
	}
	return d.replicas[d.revisions[d.current-1]]
}

func (d *modelDeployment) previous() int {
	for n := d.current - 1; n > 0; n-- {
		if !d.failed[n] {
			return n
		}
	}
	return 0
}

// view is a ledger in the model's words.
func view(l *Ledger) string {
	var lines []string
	for _, d := range l.Deployments() {
		lines = append(lines, fmt.Sprintf("%s rev %d %s wanted %d previous %d", d.Name, d.Revision, content(d.Spec), d.Wanted(jobspecs.Mixed), d.Previous))
	}
	for _, x := range l.Launches() {
		lines = append(lines, fmt.Sprintf("%s %s %s %s %d", x.ID, x.Deployment, x.Phase, x.Run, x.Epoch))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func content(d jobspecs.Deployment) string {
	return fmt.Sprintf("%s*%d", d.Engine.Args[0], d.Roles[jobspecs.Mixed].Replicas)
}

// machine runs random calls against a ledger and the model.
type machine struct {
	fsys *crashfs.FS
	o    Options
	l    *Ledger
	m    model
	n    int
}

func TestAgainstModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		fsys := crashfs.New()
		o := testOptions(fsys)
		o.KeepRevisions = 1000
		x := &machine{fsys: fsys, o: o, m: model{map[string]*modelDeployment{}, map[cluster.LaunchID]*modelLaunch{}, map[uint64]string{}}}
		x.Reopen(t)
		t.Repeat(rapid.StateMachineActions(x))
	})
}

// Check compares after each call.
func (x *machine) Check(t *rapid.T) {
	if got, want := view(x.l), x.m.String(); got != want {
		t.Fatalf("the ledger says\n%s\nthe model\n%s", got, want)
	}
}

// Reopen starts a new controller: after a kill, after a power cut, or after a release.
func (x *machine) Reopen(t *rapid.T) {
	switch {
	case x.l == nil:
	case rapid.Bool().Draw(t, "release"):
		if err := x.l.Release(); err != nil {
			t.Fatal(err)
		}
	case rapid.Bool().Draw(t, "power"):
		x.fsys = x.fsys.Crashed(func() bool { return false })
		x.o.FS = x.fsys
	}
	l, err := Open("/", x.o)
	if err != nil {
		t.Fatal(err)
	}
	x.n++
	if _, err := l.Acquire(t.Context(), holder(fmt.Sprint(x.n))); err != nil {
		t.Fatal(err)
	}
	x.l = l
	// Deployments that were removed are forgotten once no launch speaks of them.
	for name, d := range x.m.deployments {
		if d.removed && !x.m.inUse(name) {
			delete(x.m.deployments, name)
		}
	}
}

func (m *model) inUse(deployment string) bool {
	for _, x := range m.launches {
		if x.deployment == deployment {
			return true
		}
	}
	return false
}

var names = rapid.SampledFrom([]string{"qwen", "tiny"})

func (x *machine) Apply(t *rapid.T) {
	name, arg, replicas := names.Draw(t, "name"), rapid.SampledFrom([]string{"a", "b"}).Draw(t, "arg"), rapid.IntRange(1, 2).Draw(t, "replicas")
	spec := deploymentFile(name, replicas, arg)
	rev, changed, err := x.l.Apply(spec, "")
	if err != nil {
		t.Fatal(err)
	}
	d := x.m.deployments[name]
	if d == nil {
		d = &modelDeployment{failed: map[int]bool{}, replicas: map[string]int{}, scale: -1}
		x.m.deployments[name] = d
	}
	want := d.removed || d.stopped || d.current == 0 || d.revisions[d.current-1] != content(spec)
	if d.removed || d.current == 0 || d.revisions[d.current-1] != content(spec) {
		if d.removed || d.current > 0 && d.replicas[d.revisions[d.current-1]] != replicas {
			d.scale = -1
		}
		d.revisions = append(d.revisions, content(spec))
		d.replicas[content(spec)] = replicas
		d.current = len(d.revisions)
	}
	if d.stopped {
		d.scale = -1
	}
	d.removed, d.stopped = false, false
	if changed != want || rev != d.current {
		t.Fatalf("revision %d, changed %v; want %d, %v", rev, changed, d.current, want)
	}
}

// there returns a deployment of the model, or checks that the ledger has none either.
func (x *machine) there(t *rapid.T, name string, err error) *modelDeployment {
	d := x.m.deployments[name]
	if d == nil || d.removed {
		if !errors.Is(err, ErrNotFound) {
			t.Fatalf("deployment %s: %v", name, err)
		}
		return nil
	}
	return d
}

func (x *machine) Scale(t *rapid.T) {
	name, n := names.Draw(t, "name"), rapid.IntRange(0, 9).Draw(t, "n")
	err := x.l.SetScale(name, jobspecs.Mixed, n)
	d := x.there(t, name, err)
	switch {
	case d == nil:
	case n > 8:
		if !errors.Is(err, ErrInvalid) {
			t.Fatal(err)
		}
	case err != nil:
		t.Fatal(err)
	case n == d.replicas[d.revisions[d.current-1]]:
		d.scale = -1
	default:
		d.scale = n
	}
}

func (x *machine) Stop(t *rapid.T) {
	name, stopped := names.Draw(t, "name"), rapid.Bool().Draw(t, "stopped")
	if d := x.there(t, name, x.l.SetStopped(name, stopped)); d != nil {
		if d.stopped && !stopped {
			d.scale = -1
		}
		d.stopped = stopped
	}
}

func (x *machine) Remove(t *rapid.T) {
	name := names.Draw(t, "name")
	if d := x.there(t, name, x.l.Remove(name)); d != nil {
		d.removed = true
	}
}

func (x *machine) Rollback(t *rapid.T) {
	name := names.Draw(t, "name")
	d := x.m.deployments[name]
	if d == nil || d.removed || d.previous() == 0 {
		t.Skip("nothing to roll back to")
	}
	good := d.previous()
	if err := x.l.Rollback(name, d.current, good, "test"); err != nil {
		t.Fatal(err)
	}
	if d.replicas[d.revisions[d.current-1]] != d.replicas[d.revisions[good-1]] {
		d.scale = -1
	}
	d.failed[d.current], d.current = true, good
}

func (x *machine) Put(t *rapid.T) {
	id, name := launchID(rapid.IntRange(0, 5).Draw(t, "launch")), names.Draw(t, "name")
	rev := 1
	if d := x.m.deployments[name]; d != nil {
		rev = d.current
	} else {
		t.Skip("launches come from deployments")
	}
	err := x.l.PutLaunch(launchOf(name, id, rev))
	if _, ok := x.m.launches[id]; ok {
		if !errors.Is(err, ErrExists) {
			t.Fatal(err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	x.m.launches[id] = &modelLaunch{deployment: name, phase: cluster.Intended}
}

func (x *machine) Phase(t *rapid.T) {
	id := launchID(rapid.IntRange(0, 5).Draw(t, "launch"))
	p := rapid.SampledFrom([]cluster.LaunchPhase{cluster.Intended, cluster.Submitted, cluster.Draining, cluster.Ended}).Draw(t, "phase")
	err := x.l.UpdateLaunch(id, toPhase(p))
	m, ok := x.m.launches[id]
	switch {
	case !ok:
		if !errors.Is(err, ErrNotFound) {
			t.Fatal(err)
		}
	case phaseRank(p) < phaseRank(m.phase):
		if !errors.Is(err, ErrInvalid) {
			t.Fatal(err)
		}
	case err != nil:
		t.Fatal(err)
	default:
		m.phase = p
	}
}

func (x *machine) Admit(t *rapid.T) {
	id, run := launchID(rapid.IntRange(0, 5).Draw(t, "launch")), rapid.SampledFrom([]string{"r1", "r2", "r3"}).Draw(t, "run")
	supersede := rapid.Bool().Draw(t, "supersede")
	epoch, err := x.l.Admit(id, run, supersede)
	m, ok := x.m.launches[id]
	want := error(nil)
	switch {
	case !ok:
		want = ErrNotFound
	case m.phase == cluster.Ended, m.phase == cluster.Draining && m.run != run:
		want = ErrLaunchOver
	case m.run != "" && m.run != run && !supersede:
		want = ErrOtherRun
	}
	if !errors.Is(err, want) {
		t.Fatalf("admit: %v, want %v", err, want)
	}
	if err != nil {
		return
	}
	who := fmt.Sprint(id, " ", run)
	switch {
	case m.run == run && epoch != m.epoch:
		t.Fatalf("the same run got epoch %d after %d", epoch, m.epoch)
	case m.run != run && x.m.epochs[epoch] != "":
		t.Fatalf("epoch %d is that of %s", epoch, x.m.epochs[epoch])
	case m.run != run && epoch <= m.epoch:
		t.Fatalf("epoch %d after %d", epoch, m.epoch)
	}
	m.run, m.epoch, x.m.epochs[epoch] = run, epoch, who
}
