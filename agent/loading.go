package agent

import (
	"math"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

const (
	// advanceBytes is the least that counts as progress. Less is read by a process that only waits: timers, pipes, our
	// own health checks.
	advanceBytes = 1 << 20
	// smoothing is the time constant of the shown rate.
	smoothing = 10 * time.Second
)

// Tracker follows one start of an engine while it loads. Loading fails for lack of progress, never for age. It reads no
// clock and is used by one goroutine.
type Tracker struct {
	total    uint64 // bytes of weights; 0 = unknown
	stall    time.Duration
	seen     uint64    // bytes at the last Observe
	seenAt   time.Time // of the last Observe
	marked   uint64    // bytes when progress was last found
	advanced time.Time // when progress was last found
	rate     float64   // bytes a second, smoothed; too small by the factor weight as long as little time has passed
	weight   float64   // 0..1
}

// NewTracker begins at now. total is the size of the weights in bytes, 0 where it is not known. Without progress for stall,
// Observe reports a stall.
func NewTracker(now time.Time, total uint64, stall time.Duration) *Tracker {
	return &Tracker{total: total, stall: stall, seenAt: now, advanced: now}
}

// Observe takes the bytes read since the start. They may go back (a process of the tree ended): then nothing was read.
func (t *Tracker) Observe(now time.Time, bytes uint64) (*apiv1.Progress, bool) {
	t.smooth(now, bytes)
	t.marked = min(t.marked, bytes)
	if bytes-t.marked >= advanceBytes {
		t.marked = bytes
		t.advanced = now
	}
	t.seen, t.seenAt = bytes, now
	return t.progress(), now.Sub(t.advanced) >= t.stall
}

// Advance records progress that no bytes show, such as a line that counts compiled graphs.
func (t *Tracker) Advance(now time.Time) { t.advanced = now }

func (t *Tracker) smooth(now time.Time, bytes uint64) {
	passed := now.Sub(t.seenAt).Seconds()
	if passed <= 0 {
		return
	}
	var current float64
	if bytes > t.seen {
		current = float64(bytes-t.seen) / passed
	}
	share := 1 - math.Exp(-passed/smoothing.Seconds())
	t.rate += (current - t.rate) * share
	t.weight += (1 - t.weight) * share
}

func (t *Tracker) progress() *apiv1.Progress {
	p := &apiv1.Progress{
		BytesDone:  t.seen,
		BytesTotal: t.total,
		AdvancedAt: timestamppb.New(t.advanced),
	}
	if t.total > 0 {
		p.BytesDone = min(t.seen, t.total) // several processes may read the same file
	}
	if t.seen < advanceBytes {
		return p // what a program reads of itself says nothing of weights
	}
	rate := 0.0
	if t.weight > 0 {
		rate = t.rate / t.weight
	}
	p.BytesPerSecond = math.Round(rate)
	if t.total == 0 {
		return p
	}
	if left := t.total - p.BytesDone; left > 0 && rate >= 1 {
		p.Remaining = durationpb.New(time.Duration(min(float64(left)/rate, 1e6) * float64(time.Second)))
	}
	return p
}
