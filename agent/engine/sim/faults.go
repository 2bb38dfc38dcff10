package sim

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// ExitError says that the engine ends as a process with Code. Only the caller of Run can end a process.
type ExitError struct {
	Code   int
	Reason string // the last line to print
}

// Error is the reason.
func (e *ExitError) Error() string { return e.Reason }

// faults are the failures that are switched on, and how far they are. Reading them costs little: they are read in every
// step and request, and changed hardly ever.
type faults struct {
	mu     sync.Mutex
	now    atomic.Pointer[faultSet]
	draws  atomic.Uint64 // refusals drawn
	change chan struct{} // replaced and closed on every change
}

// faultSet is one immutable state of the failures.
type faultSet struct {
	failures map[FailureKind]Failure
	hangAt   int64 // generated tokens after which nothing is generated
	dieAt    int64
}

func newFaults(initial []Failure) *faults {
	f := &faults{change: make(chan struct{})}
	f.now.Store(&faultSet{failures: map[FailureKind]Failure{}})
	f.set(initial, nil, 0)
	return f
}

// set switches failures on and kinds off. generated is the count of tokens from which "after N" counts.
func (f *faults) set(on []Failure, off []FailureKind, generated int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.now.Load()
	next := faultSet{failures: map[FailureKind]Failure{}, hangAt: old.hangAt, dieAt: old.dieAt}
	for k, v := range old.failures {
		if !slices.Contains(off, k) {
			next.failures[k] = v
		}
	}
	for _, v := range on {
		next.failures[v.Kind] = v
		switch v.Kind {
		case HangAfter:
			next.hangAt = generated + int64(v.number(0))
		case DieAfter:
			next.dieAt = generated + int64(v.number(0))
		}
	}
	f.now.Store(&next)
	close(f.change)
	f.change = make(chan struct{})
}

// changed is closed at the next change.
func (f *faults) changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.change
}

// list is what is switched on, as ParseFailure reads it.
func (f *faults) list() []string {
	out := []string{}
	for _, v := range f.now.Load().failures {
		out = append(out, v.String())
	}
	slices.Sort(out)
	return out
}

func (f *faults) get(k FailureKind) (Failure, bool) {
	v, ok := f.now.Load().failures[k]
	return v, ok
}

// has reports whether a kind is switched on.
func (f *faults) has(k FailureKind) bool {
	_, ok := f.get(k)
	return ok
}

// stuck reports whether nothing more is to be generated.
func (f *faults) stuck(generated int64) bool {
	return f.has(HangAfter) && generated >= f.now.Load().hangAt
}

// slowdown is the factor on the time of steps.
func (f *faults) slowdown() float64 {
	if v, ok := f.get(Slow); ok {
		return v.number(0)
	}
	return 1
}

// death is how the engine dies now, or nil.
func (f *faults) death(generated int64) *ExitError {
	if v, ok := f.get(Exit); ok {
		return &ExitError{int(v.number(0)), "simulated failure: exit"}
	}
	if v, ok := f.get(DieAfter); ok && generated >= f.now.Load().dieAt {
		return &ExitError{int(v.number(1)), fmt.Sprintf("simulated failure: died after %d tokens", generated)}
	}
	return nil
}

// refuses draws whether the next request is refused.
func (f *faults) refuses() bool {
	v, ok := f.get(Refuse)
	if !ok {
		return false
	}
	n := f.draws.Add(1)
	return float64(mix(uint64(v.number(1)), n)>>11)/(1<<53) < v.number(0)
}

// hangs reports whether a request is never answered.
func (f *faults) hangs(inference bool) bool {
	v, ok := f.get(Hang)
	return ok && (inference || v.args[0] == allRequests)
}

// damage is how the nth block that is stored is spoiled; 0 is not.
func (f *faults) damage(nth int) uint64 {
	if v, ok := f.get(WrongKV); ok && (nth+1)%int(v.number(0)) == 0 {
		return mix(uint64(nth), 'd')
	}
	return 0
}
