package tiered

import (
	"context"
	"sync"
	"time"
)

// pace keeps to a number of bytes per second. Who has moved bytes is charged, and the next one waits until they are paid
// for: sizes need not be known before.
type pace struct {
	rate int64 // bytes per second; 0 = no bound

	mu   sync.Mutex
	free time.Time // from when on the next may go
}

// charge notes bytes that were or are about to be moved.
func (p *pace) charge(now time.Time, n int64) {
	if p.rate == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.free.Before(now) {
		p.free = now
	}
	p.free = p.free.Add(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
}

// wait returns when the bytes so far are paid for.
func (p *pace) wait(ctx context.Context) error {
	if p.rate == 0 {
		return nil
	}
	p.mu.Lock()
	d := time.Until(p.free)
	p.mu.Unlock()
	if d <= 0 {
		return nil
	}
	return sleep(ctx, d)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
