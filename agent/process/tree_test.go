package process

import (
	"os"
	"syscall"
	"testing"
	"time"
)

// nest holds shell scripts that leave processes in all the places where a group signal does not reach. Each process
// says that it runs with a file named by its ID, and ignores SIGTERM.
var nest = map[string]struct {
	script string
	count  int
}{
	"child":              {`sh -c "$BE" sh $1 & ` + be, 2},
	"session of its own": {`setsid sh -c "$BE" sh $1 & ` + be, 2},
	"orphan":             {`(sh -c "$BE" sh $1 &) ; ` + be, 2},
	"daemon":             {`(setsid sh -c 'sh -c "$BE" sh $1 & exit' sh $1 &) ; ` + be, 2},
	"daemon of a daemon": {`(setsid sh -c '(setsid sh -c "$BE" sh $1 &) ; eval "$BE"' sh $1 &) ; ` + be, 3},
	"chain of 20":        {`N=20 sh -c "$CHAIN" sh $1`, 20},
	"20 daemons":         {`for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19; do (setsid sh -c "$BE" sh $1 &) ; done; ` + be, 20},
	"restarted worker":   {`trap '' TERM; : >$1/$$; while :; do BE="$BE" setsid sh -c "$BE" sh $1; done`, 2},
}

// be says that the shell runs and then stays for ever; chain does so after starting the next link in a session of its
// own, until N are there.
const (
	be    = `trap '' TERM; : >$1/$$; while :; do sleep 0.2; done`
	chain = `N=$((N-1)); [ $N -gt 0 ] && setsid sh -c "$CHAIN" sh $1 & ` + be
)

var nestEnv = []string{"BE=" + be, "CHAIN=" + chain}

func TestStopEndsTheWholeTree(t *testing.T) {
	t.Parallel()
	for name, test := range nest {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, dir := start(t, Spec{Env: nestEnv}, test.script)
			procs := pids(t, dir, test.count)
			tree, err := p.Tree()
			if err != nil {
				t.Fatal(err)
			}
			for _, q := range procs {
				if !holds(tree, q) {
					t.Errorf("%s is not in the tree", describe([]Proc{q}))
				}
			}
			if err := p.Stop(within(t), 20*time.Millisecond); err != nil {
				t.Fatal(err)
			}
			wantGone(t, append(procs, tree...))
		})
	}
}

func holds(procs []Proc, p Proc) bool {
	for _, q := range procs {
		if q.same(p) {
			return true
		}
	}
	return false
}

// hop ends at once after starting the next of its kind in a session of its own, up to 20,000 times.
const hop = `echo >>$1/hops; N=$((N-1)); [ $N -gt 0 ] && (N=$N setsid sh -c "$HOP" sh $1 &)`

func TestStopCatchesWhatForksAndEndsAllTheTime(t *testing.T) {
	t.Parallel()
	mark := newMark()
	p, dir := start(t, Spec{Env: []string{"HOP=" + hop, "N=20000"}, Mark: mark}, `eval "$HOP"; `+be)
	hops := func() int64 {
		info, err := os.Stat(dir + "/hops")
		if err != nil {
			return 0
		}
		return info.Size()
	}
	eventually(t, "it hops", func() bool { return hops() > 20 })
	if err := p.Stop(within(t), 0); err != nil {
		t.Fatal(err)
	}
	after := hops()
	if after >= 20000 {
		t.Fatal("it had come to its end by itself")
	}
	time.Sleep(20 * time.Millisecond)
	if now := hops(); now != after {
		t.Errorf("it has hopped on after Stop: %d, then %d", after, now)
	}
	if left, err := Find(Leftovers{Launch: mark.Launch}); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// Not parallel: what has no mark belongs to a tree for certain only while there is one tree.
func TestStopEndsOrphansWithoutAMark(t *testing.T) {
	p, dir := start(t, Spec{Env: nestEnv}, `(setsid env -i "$(command -v sh)" -c 'PATH=$2; `+be+`' sh $1 $PATH &) ; `+be)
	procs := pids(t, dir, 2)
	for _, q := range procs {
		if carries := p.carriedBy(q.PID); carries != (q.PID == p.PID()) {
			t.Fatalf("process %d carries the mark: %v, and the first process is %d", q.PID, carries, p.PID())
		}
	}
	if err := p.Stop(within(t), 0); err != nil {
		t.Fatal(err)
	}
	wantGone(t, procs)
}

// Not parallel, for the same reason. The agent's engine dies with it, but what the engine has started carries the mark of
// a tree that nobody tends any more.
func TestTreeInATreeEndsWithIt(t *testing.T) {
	mark, dir := newMark(), t.TempDir()
	p, _ := start(t, Spec{Argv: []string{os.Args[0]}, Mark: mark, Env: []string{envHelper + "=agent", "DIR=" + dir}}, "")
	procs := pids(t, dir, 3)
	bystander := sleeper(t, newMark().Environ(), &syscall.SysProcAttr{Setsid: true}) // looks like an orphan, but of another launch
	agent, err := readStat(p.PID())
	if err != nil {
		t.Fatal(err)
	}
	if err := strike(agent, syscall.SIGKILL, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Wait(within(t)); err != nil {
		t.Fatal(err)
	}
	wantGone(t, procs)
	if left, err := Find(Leftovers{Launch: mark.Launch}); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if !runs(bystander) {
		t.Error("a process of another launch was killed")
	}
}

func TestStopEndsWhatCarriesTheMarkElsewhere(t *testing.T) {
	t.Parallel()
	p, _ := start(t, Spec{}, `sleep 1000`)
	taken := sleeper(t, []string{EnvProcess + "=" + p.nonce}, nil) // as if another subreaper had taken it in
	other := sleeper(t, []string{EnvProcess + "=" + newNonce()}, nil)
	if err := p.Stop(within(t), 0); err != nil {
		t.Fatal(err)
	}
	wantGone(t, []Proc{taken})
	if !runs(other) {
		t.Error("a process of another tree was killed")
	}
}

func TestStopLeavesOtherTreesAlone(t *testing.T) {
	t.Parallel()
	spec := Spec{Env: nestEnv, Mark: newMark()}
	script := `(setsid sh -c "$BE" sh $1 &) ; ` + be
	ended, endedDir := start(t, spec, script)
	other, otherDir := start(t, spec, script)
	pids(t, endedDir, 2)
	rest := pids(t, otherDir, 2)
	if err := ended.Stop(within(t), 0); err != nil {
		t.Fatal(err)
	}
	for _, q := range rest {
		if !runs(q) {
			t.Errorf("%s of another tree was ended", describe([]Proc{q}))
		}
	}
	if err := other.Stop(within(t), 0); err != nil {
		t.Fatal(err)
	}
	wantGone(t, rest)
}

func TestOrphansAreReaped(t *testing.T) {
	t.Parallel()
	_, dir := start(t, Spec{}, `(setsid sh -c ': >$1/$$; while [ ! -e $1/go ]; do sleep 0.01; done' sh $1 &) ; sleep 1000`)
	orphan := pids(t, dir, 1)[0]
	eventually(t, "the orphan has come back to this process", func() bool {
		p, err := readStat(orphan.PID)
		return err == nil && p.PPID == os.Getpid()
	})
	if err := os.WriteFile(dir+"/go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the orphan is out of the process table", func() bool {
		p, err := readStat(orphan.PID)
		return err != nil || !p.same(orphan)
	})
}

func TestStrikeMissesARecycledID(t *testing.T) {
	t.Parallel()
	p, _ := start(t, Spec{}, `sleep 1000`)
	q, err := readStat(p.PID())
	if err != nil {
		t.Fatal(err)
	}
	earlier := q
	earlier.Start--
	if err := strike(earlier, syscall.SIGKILL, nil); err != nil {
		t.Error(err)
	}
	if err := strike(q, syscall.SIGKILL, func() bool { return false }); err != nil {
		t.Error(err)
	}
	if err := strike(q, syscall.SIGTERM, nil); err != nil {
		t.Error(err)
	}
	// Of two signals that wait, SIGKILL would be the first.
	if exit, err := p.Wait(within(t)); err != nil || exit.Signal != syscall.SIGTERM {
		t.Errorf("got %v, %v: a process was hit that only has the ID of the one that was meant", exit, err)
	}
	if err := strike(q, syscall.SIGKILL, nil); err != nil {
		t.Errorf("a process that is gone: %v", err)
	}
}

func TestQuiet(t *testing.T) {
	t.Parallel()
	type step struct {
		look   sight
		reaped uint64
	}
	for name, test := range map[string]struct {
		steps []step
		gone  bool // after the last; never before
	}{
		"one look":                  {[]step{{nothing, 5}}, false},
		"two looks":                 {[]step{{nothing, 5}, {nothing, 5}}, true},
		"the first reaps":           {[]step{{something, 5}, {nothing, 6}, {nothing, 6}}, true},
		"an orphan between":         {[]step{{nothing, 5}, {nothing, 6}}, false},
		"an orphan between, then 0": {[]step{{nothing, 5}, {nothing, 6}, {nothing, 6}}, true},
		"always another orphan":     {[]step{{nothing, 1}, {nothing, 2}, {nothing, 3}, {nothing, 4}}, false},
		"something between":         {[]step{{nothing, 5}, {something, 5}, {nothing, 5}}, false},
		"unclear between":           {[]step{{nothing, 5}, {unclear, 5}, {nothing, 5}}, false},
	} {
		var q quiet
		for i, s := range test.steps {
			if got, want := q.after(s.look, s.reaped, true), test.gone && i == len(test.steps)-1; got != want {
				t.Errorf("%s: after step %d: %v", name, i+1, got)
			}
		}
	}
}

func TestOtherTreesOrphansDoNotKeepATreeWaiting(t *testing.T) {
	t.Parallel()
	var alone, beside quiet
	for i := range uint64(enoughLooks) {
		if alone.after(nothing, i, true) {
			t.Fatalf("alone: gone after look %d, with orphans that end all the time", i+1)
		}
		if gone := beside.after(nothing, i, false); gone != (i+1 == enoughLooks) {
			t.Fatalf("beside another tree: gone after look %d: %v", i+1, gone)
		}
	}
	beside.after(something, 0, false)
	if beside.after(nothing, 1, false) {
		t.Error("gone at the first look after one that found something")
	}
}

func TestTreeByParentage(t *testing.T) {
	t.Parallel()
	p, dir := start(t, Spec{Env: nestEnv}, nest["session of its own"].script)
	procs := pids(t, dir, 2)
	tree, err := Tree(p.PID())
	if err != nil {
		t.Fatal(err)
	}
	if len(tree) < 2 || tree[0].PID != p.PID() || !holds(tree, procs[0]) || !holds(tree, procs[1]) {
		t.Errorf("tree %v does not begin with %d and hold %v", tree, p.PID(), procs)
	}
	if err := p.Stop(within(t), 0); err != nil {
		t.Fatal(err)
	}
	if tree, err := Tree(p.PID()); err != nil || len(tree) != 0 {
		t.Errorf("tree of a process that is gone: %v, %v", tree, err)
	}
}

func TestDescend(t *testing.T) {
	t.Parallel()
	all := []Proc{{PID: 5, PPID: 4}, {PID: 4, PPID: 3}, {PID: 3, PPID: 1}, {PID: 6, PPID: 3}, {PID: 7, PPID: 1}, {PID: 1, PPID: 0}}
	got := descend(all, func(p Proc) bool { return p.PID == 3 })
	want := []int{3, 4, 6, 5}
	if len(got) != len(want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	for i, pid := range want {
		if got[i].PID != pid {
			t.Errorf("place %d: %d, want %d", i, got[i].PID, pid)
		}
	}
}

func BenchmarkTree(b *testing.B) {
	for b.Loop() {
		if _, err := Tree(os.Getpid()); err != nil {
			b.Fatal(err)
		}
	}
}
