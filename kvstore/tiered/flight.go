package tiered

import (
	"context"
	"errors"
	"sync"

	"github.com/penstock/penstock/kvstore"
)

// flights are reads from below that are going on. Who asks for a key that somebody is reading waits for that read. If its
// reader goes away, one of those who wait reads instead.
type flights struct {
	mu   sync.Mutex
	open map[kvstore.Key]*flight
}

type flight struct {
	done    chan struct{}
	waiting int
	block   *kvstore.Block // a reference for each that waits
	again   bool           // nothing was found out for those that wait
	err     error
}

// claim returns the key's flight; lead: the caller is to read and must finish it.
func (f *flights) claim(k kvstore.Key) (fl *flight, lead bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl := f.open[k]; fl != nil {
		fl.waiting++
		return fl, false
	}
	fl = &flight{done: make(chan struct{})}
	f.open[k] = fl
	return fl, true
}

// finish tells all that wait. The block stays the caller's. stale: the key was changed meanwhile, so that what was read may
// be too old for who came later.
func (f *flights) finish(k kvstore.Key, fl *flight, b *kvstore.Block, err error, stale bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.open, k)
	fl.again = stale || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
	if !fl.again {
		fl.block, fl.err = b, err
	}
	for range fl.waiting {
		if fl.block != nil {
			fl.block.Retain()
		}
	}
	close(fl.done)
}

// wait returns the flight's block or error; again: its reader went away, or its key was changed, and the caller is to
// begin anew.
func (f *flights) wait(ctx context.Context, fl *flight) (b *kvstore.Block, again bool, err error) {
	select {
	case <-fl.done:
		return fl.block, fl.again, fl.err
	case <-ctx.Done():
		f.leave(fl)
		return nil, false, ctx.Err()
	}
}

// leave gives the caller's part in a flight up.
func (f *flights) leave(fl *flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-fl.done:
		if fl.block != nil {
			fl.block.Release()
		}
	default:
		fl.waiting--
	}
}
