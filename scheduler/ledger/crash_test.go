package ledger

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock/penstock/scheduler/statefile/crashfs"
)

var errKilled = errors.New("the process is dead")

// history is a run of the script without a fault: what the ledger said after each call, and the steps that it took.
type history struct {
	dumps []string // dumps[0] is empty
	steps int
}

func faultless(t *testing.T, fsys *crashfs.FS) history {
	l := opened(t, scriptOptions(testOptions(fsys)))
	h := history{dumps: []string{dump(l)}}
	for _, op := range script() {
		if err := op.do(t.Context(), l); err != nil {
			t.Fatalf("%s: %v", op.name, err)
		}
		h.dumps = append(h.dumps, dump(l))
	}
	h.steps = fsys.Steps()
	return h
}

// TestCrashAtEveryStep stops the controller at every single step of a long script and starts another one on what is
// left: every call that was answered is there, the one that was under way is there whole or not at all, and nothing
// else.
func TestCrashAtEveryStep(t *testing.T) {
	t.Parallel()
	h := faultless(t, crashfs.New())
	t.Logf("%d calls, %d steps", len(script()), h.steps)
	for step := 1; step <= h.steps; step++ {
		fsys := crashfs.New()
		done, epochs, term := untilKilled(t, fsys, step)
		left := map[string]*crashfs.FS{
			"killed":         fsys.Killed(),
			"power lost":     fsys.Crashed(func() bool { return false }),
			"power lost (a)": fsys.Crashed(coin(uint64(step))),
			"power lost (b)": fsys.Crashed(coin(uint64(step) + 1<<32)),
		}
		for how, rest := range left {
			checkLeft(t, fmt.Sprintf("step %d, %s", step, how), rest, h.dumps[done:min(done+2, len(h.dumps))], epochs, term)
		}
	}
}

func coin(seed uint64) func() bool {
	r := rand.New(rand.NewPCG(seed, 1))
	return func() bool { return r.IntN(2) == 0 }
}

// untilKilled runs the script until the given step. It returns how many calls were answered, the epochs that were, and
// the term.
func untilKilled(t *testing.T, fsys *crashfs.FS, step int) (done int, epochs map[string]uint64, term uint64) {
	fsys.Before(func(s crashfs.Step) error {
		if s.N >= step {
			return errKilled
		}
		return nil
	})
	defer fsys.Before(nil)
	l := opened(t, scriptOptions(testOptions(fsys)))
	epochs = map[string]uint64{}
	for i, op := range script() {
		if err := op.do(t.Context(), l); err != nil {
			return i, epochs, term
		}
		term = max(term, l.Term())
		for _, x := range l.Launches() {
			if x.Run != "" {
				epochs[string(x.ID)+" "+x.Run] = x.Epoch
			}
		}
	}
	return len(script()), epochs, term
}

// checkLeft starts a controller on what is left of a crash.
func checkLeft(t *testing.T, what string, fsys *crashfs.FS, allowed []string, epochs map[string]uint64, term uint64) {
	t.Helper()
	l := opened(t, scriptOptions(testOptions(fsys)))
	got, err := l.Acquire(t.Context(), holder("next"))
	if err != nil || got <= term {
		t.Fatalf("%s: term %d after %d: %v", what, got, term, err)
	}
	if got := dump(l); !slices.Contains(allowed, got) {
		t.Fatalf("%s: some answered call is not there (-want +got):\n%s", what, cmp.Diff(allowed[0], got))
	}
	if len(l.Problems()) > 0 {
		t.Fatalf("%s: files cannot be read: %v", what, l.Problems())
	}
	checkAdmissions(t, what, l, epochs)
	if _, _, err := l.Apply(deploymentFile("new", 1, "one"), ""); err != nil {
		t.Fatalf("%s: it cannot be written to: %v", what, err)
	}
}

// checkAdmissions: an answered admission holds, and no epoch is given twice.
func checkAdmissions(t *testing.T, what string, l *Ledger, epochs map[string]uint64) {
	t.Helper()
	var highest uint64
	for _, e := range epochs {
		highest = max(highest, e)
	}
	for _, x := range l.Launches() {
		if e, ok := epochs[string(x.ID)+" "+x.Run]; ok && e != x.Epoch {
			t.Fatalf("%s: run %s of launch %s has epoch %d, was told %d", what, x.Run, x.ID, x.Epoch, e)
		}
	}
	mustPut(t, l, launchOf("qwen", "fresh", 1))
	if e, err := l.Admit("fresh", "run", false); err != nil || e <= highest {
		t.Fatalf("%s: a new run got epoch %d after %d: %v", what, e, highest, err)
	}
}

// TestFaultAtEveryStep makes every single step fail once, as a full disk or a server that is away does, while the
// controller lives on: the failed call has said so, memory and disk agree, and the same call works afterwards.
func TestFaultAtEveryStep(t *testing.T) {
	t.Parallel()
	h := faultless(t, crashfs.New())
	for step := 1; step <= h.steps; step++ {
		fsys := crashfs.New()
		fsys.Before(func(s crashfs.Step) error {
			if s.N == step {
				return syscall.ENOSPC
			}
			return nil
		})
		l := opened(t, scriptOptions(testOptions(fsys)))
		for i, op := range script() {
			what := fmt.Sprintf("step %d, %s", step, op.name)
			err := op.do(t.Context(), l)
			if err != nil && !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("%s: %v", what, err)
			}
			if err == nil {
				continue
			}
			checkMemory(t, what, l, fsys)
			if again := op.do(t.Context(), l); again != nil && !doneBefore(again) {
				t.Fatalf("%s: again: %v", what, again)
			}
			rest := held(t, scriptOptions(testOptions(fsys.Crashed(func() bool { return false }))))
			if diff := cmp.Diff(withoutTimes(h.dumps[i+1]), withoutTimes(dump(rest))); diff != "" {
				t.Fatalf("%s: after it was done again and the power was lost (-want +got):\n%s", what, diff)
			}
		}
		checkMemory(t, fmt.Sprintf("step %d, at the end", step), l, fsys)
	}
}

// doneBefore: a call that reported ErrUnsure was done, and some calls cannot be done twice.
func doneBefore(err error) bool {
	return errors.Is(err, ErrExists) || errors.Is(err, ErrNotCurrent) || errors.Is(err, ErrNotFound) || errors.Is(err, ErrNoTerm)
}

var timesInDump = regexp.MustCompile(`"\d{4}-\d\d-\d\dT[^"]*"`)

// withoutTimes: a call that was made again was made later.
func withoutTimes(dump string) string { return timesInDump.ReplaceAllString(dump, "T") }

func checkMemory(t *testing.T, what string, l *Ledger, fsys *crashfs.FS) {
	t.Helper()
	if mem, disk := dump(l), dump(reopened(t, fsys)); mem != disk {
		t.Fatalf("%s: memory and disk differ (-memory +disk):\n%s", what, cmp.Diff(mem, disk))
	}
}
