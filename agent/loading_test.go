package agent

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestTrackerLetsASlowLoadTakeItsTime(t *testing.T) {
	t.Parallel()
	const total = 140 << 30
	tr := NewTracker(noon, total, 15*time.Minute)
	var read uint64
	for at := time.Second; at <= 45*time.Minute; at += time.Second {
		read += total / (45 * 60)
		p, stalled := tr.Observe(noon.Add(at), read)
		if stalled {
			t.Fatalf("after %s: taken for stalled at %d bytes", at, read)
		}
		if at == 10*time.Minute {
			if mbps := p.GetBytesPerSecond() / 1e6; mbps < 55 || mbps > 56 {
				t.Errorf("rate %.1f MB/s, want 55.7", mbps)
			}
			if left := p.GetRemaining().AsDuration().Round(time.Minute); left != 35*time.Minute {
				t.Errorf("remaining %s, want 35m", left)
			}
		}
	}
}

func TestTrackerFindsAStall(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		reads   func(at time.Duration) uint64
		advance bool // a line of the log tells of progress at 14 minutes
		want    time.Duration
	}{
		"nothing at all":        {func(time.Duration) uint64 { return 0 }, false, 15 * time.Minute},
		"a trickle is no load":  {func(at time.Duration) uint64 { return uint64(at.Seconds()) * 64 }, false, 15 * time.Minute},
		"stops half way":        {func(at time.Duration) uint64 { return uint64(min(at, time.Minute)) }, false, 16 * time.Minute},
		"the log tells of more": {func(time.Duration) uint64 { return 0 }, true, 29 * time.Minute},
	}
	for name, test := range tests {
		tr := NewTracker(noon, 1<<40, 15*time.Minute)
		for at := time.Second; ; at += time.Second {
			if test.advance && at == 14*time.Minute {
				tr.Advance(noon.Add(at))
			}
			if _, stalled := tr.Observe(noon.Add(at), test.reads(at)); stalled {
				if at != test.want {
					t.Errorf("%s: stalled after %s, want %s", name, at, test.want)
				}
				break
			}
			if at > time.Hour {
				t.Fatalf("%s: never stalled", name)
			}
		}
	}
}

func TestTrackerWithoutATotal(t *testing.T) {
	t.Parallel()
	tr := NewTracker(noon, 0, time.Minute)
	p, _ := tr.Observe(noon.Add(time.Second), 5<<20)
	if p.GetBytesDone() != 5<<20 || p.GetBytesTotal() != 0 || p.GetRemaining() != nil {
		t.Errorf("%v: what is not known must be absent", p)
	}
}

// Property: whatever is read, done never exceeds total, the rate is never negative, and a stall needs its whole time.
func TestTrackerProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		total := rapid.Uint64Range(0, 1<<42).Draw(t, "total")
		stall := time.Duration(rapid.IntRange(1, 900).Draw(t, "stall")) * time.Second
		tr := NewTracker(noon, total, stall)
		now, advanced, mark := noon, noon, uint64(0)
		for range rapid.IntRange(1, 50).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 120).Draw(t, "dt")) * time.Second)
			bytes := rapid.Uint64Range(0, 1<<42).Draw(t, "bytes")
			mark = min(mark, bytes)
			if bytes >= mark+advanceBytes {
				mark, advanced = bytes, now
			}
			p, stalled := tr.Observe(now, bytes)
			if total > 0 && p.GetBytesDone() > total || p.GetBytesPerSecond() < 0 || p.GetRemaining().AsDuration() < 0 {
				t.Fatalf("%v of %d", p, total)
			}
			if stalled != (now.Sub(advanced) >= stall) {
				t.Fatalf("stalled=%v %s after the last progress, limit %s", stalled, now.Sub(advanced), stall)
			}
		}
	})
}
