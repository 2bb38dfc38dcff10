package tiered

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/penstock/penstock/kvstore"
)

// ranked is a tier that can say what it holds, the most valuable first and a chain's beginning before its end.
type ranked interface {
	Ranked(each func(k kvstore.Key, b *kvstore.Block, h kvstore.Hint) bool)
}

// lister is a tier that can say what it holds without reading it, the newest first.
type lister interface {
	List(ctx context.Context, each func(kvstore.Key, kvstore.Info) error) error
}

// Flushed is what a flush has done.
type Flushed struct {
	Blocks, Bytes int64 // written
	There         int64 // blocks that the tier had already
	Failed        int64 // blocks that it did not take
	Left          bool  // the deadline came before the end
}

// Flush writes to the last tier what it does not have, until all is there or the context ends: first what is queued for
// it, then what the tiers above it hold, the most valuable first, each chain from its beginning, so that whatever is
// written can be used. progress is called after each block, from several goroutines; it may be nil. Where the last tier is
// dead, the one above it is written to. An error says that nothing could be written to at all.
func (s *Store) Flush(ctx context.Context, progress func(Flushed)) (Flushed, error) {
	return s.flush(ctx, false, progress)
}

// FlushAll is Flush and then also what the tiers between the first and the last hold and the last does not: what it was too
// slow for, or was dead for. That asks the last tier for each of their blocks, so that it is nothing for the end of a job.
func (s *Store) FlushAll(ctx context.Context, progress func(Flushed)) (Flushed, error) {
	return s.flush(ctx, true, progress)
}

func (s *Store) flush(ctx context.Context, all bool, progress func(Flushed)) (Flushed, error) {
	target := len(s.lanes) - 1
	for target >= 0 && s.lanes[target].breaker.open() {
		target--
	}
	if target < 0 {
		return Flushed{}, fmt.Errorf("flush: no tier below the first answers: %w", kvstore.ErrUnavailable)
	}
	f := flush{store: s, lane: s.lanes[target], progress: progress, places: make(chan struct{}, s.lanes[target].tier.Workers)}
	f.queued(ctx)
	for _, l := range s.lanes[:target] {
		l.eachWaiting(func(j *job) { f.block(ctx, l.has, j.key, j.block, j.hint) })
	}
	f.tier(ctx, s.first, s.first.Has)
	for _, l := range s.lanes[:target] {
		f.tier(ctx, l.tier.Store, l.has)
	}
	f.queued(ctx) // what was forgotten above meanwhile
	if all {
		for _, l := range s.lanes[:target] {
			f.listed(ctx, l)
		}
	}
	f.wg.Wait()
	f.done.Left = f.done.Left || ctx.Err() != nil
	return f.done, nil
}

type flush struct {
	store    *Store
	lane     *lane
	progress func(Flushed)
	places   chan struct{} // one for each block that is being written
	wg       sync.WaitGroup

	mu   sync.Mutex
	done Flushed
}

// queued does the jobs that wait.
func (f *flush) queued(ctx context.Context) {
	for ctx.Err() == nil && !f.lane.breaker.open() {
		j := f.lane.take()
		if j == nil {
			return
		}
		f.begin(func() {
			size := jobSize(j)
			wrote, err := f.lane.do(ctx, j)
			f.count(err, size, wrote)
		})
	}
}

func jobSize(j *job) int64 {
	if j.block == nil {
		return 0
	}
	return int64(j.block.Len())
}

// hasFunc is kvstore.Store.Has of the tier that a block comes from.
type hasFunc func(context.Context, kvstore.Key) (kvstore.Info, error)

// tier writes what a store above holds.
func (f *flush) tier(ctx context.Context, from kvstore.Store, has hasFunc) {
	r, ok := from.(ranked)
	if !ok {
		return
	}
	r.Ranked(func(k kvstore.Key, b *kvstore.Block, h kvstore.Hint) bool { return f.block(ctx, has, k, b, h) })
}

// listed writes what a tier in the middle holds, and reads of that only what is missing below.
func (f *flush) listed(ctx context.Context, from *lane) {
	l, ok := from.tier.Store.(lister)
	if !ok {
		return
	}
	_ = l.List(ctx, func(k kvstore.Key, there kvstore.Info) error {
		if ctx.Err() != nil || f.lane.breaker.open() {
			return errStop
		}
		f.begin(func() { f.missing(ctx, from, k, there) })
		return nil
	})
}

var errStop = errors.New("stop")

func (f *flush) missing(ctx context.Context, from *lane, k kvstore.Key, there kvstore.Info) {
	if below, err := f.lane.has(ctx, k); err == nil && below.Sum == there.Sum {
		f.count(nil, 0, false)
		return
	}
	b, err := from.get(ctx, k)
	if err != nil {
		return // gone meanwhile, or in doubt
	}
	defer b.Release()
	if f.queue(ctx, from.has, k, b, kvstore.Hint{}) {
		wrote, err := f.lane.clear(ctx, k)
		f.count(err, int64(b.Len()), wrote)
	}
}

// block writes one block, unless it is time to stop.
func (f *flush) block(ctx context.Context, has hasFunc, k kvstore.Key, b *kvstore.Block, h kvstore.Hint) (goOn bool) {
	if ctx.Err() != nil || f.lane.breaker.open() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.done.Left = true
		return false
	}
	b.Retain()
	f.begin(func() {
		defer b.Release()
		if !f.queue(ctx, has, k, b, h) {
			return
		}
		wrote, err := f.lane.clear(ctx, k)
		f.count(err, int64(b.Len()), wrote)
	})
	return true
}

// begin starts one write when a place is free: writes begin in the order of value.
func (f *flush) begin(write func()) {
	f.places <- struct{}{}
	f.wg.Go(func() {
		defer func() { <-f.places }()
		write()
	})
}

func (f *flush) count(err error, bytes int64, wrote bool) {
	f.mu.Lock()
	switch {
	case err != nil:
		f.done.Failed++
	case wrote:
		f.done.Blocks++
		f.done.Bytes += bytes
	default:
		f.done.There++
	}
	now := f.done
	f.mu.Unlock()
	if f.progress != nil {
		f.progress(now)
	}
}

// queue makes a block a job of the lane's, beyond the bound of its queue, unless it is not its key's block any more.
func (f *flush) queue(ctx context.Context, has hasFunc, k kvstore.Key, b *kvstore.Block, h kvstore.Hint) bool {
	st := f.store.stripeOf(k)
	st.mu.Lock()
	defer st.mu.Unlock()
	if now, err := has(ctx, k); err != nil || now.Sum != b.Sum() {
		return false
	}
	f.lane.insist(k, b, h)
	return true
}

// insist queues a block whatever waits already.
func (l *lane) insist(k kvstore.Key, b *kvstore.Block, h kvstore.Hint) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if newest := l.newest(k); !l.closed && (newest == nil || newest.block == nil) {
		l.bytes += int64(b.Len())
		l.set(&job{key: k, block: b.Retain(), hint: h, sum: b.Sum()})
	}
}
