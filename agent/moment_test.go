package agent

import "testing"

// TestMomentsOutlastClockSteps: what was last seen is told by the monotonic clock.
func TestMomentsOutlastClockSteps(t *testing.T) {
	t.Parallel()
	p, r := newPort(portOptions{}), &reporter{}
	if !p.lastAsked().IsZero() || !r.lastHeard().IsZero() {
		t.Error("seen before anything was")
	}
	p.asked.mark()
	r.heard.mark()
	for name, at := range map[string]bool{"request": p.lastAsked() == p.lastAsked().Round(0), "controller": r.lastHeard() == r.lastHeard().Round(0)} {
		if at {
			t.Errorf("%s: told by the wall clock alone", name)
		}
	}
}
