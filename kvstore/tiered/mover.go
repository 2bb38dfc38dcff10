package tiered

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/penstock/penstock/kvstore"
)

// work does jobs until the context ends.
func (l *lane) work(ctx context.Context) {
	for ctx.Err() == nil {
		if pause := l.breaker.wait(time.Now()); pause > 0 {
			_ = sleep(ctx, pause)
			continue
		}
		if j := l.take(); j != nil {
			_, _ = l.do(ctx, j)
			continue
		}
		select {
		case <-l.wake:
		case <-ctx.Done():
		}
	}
}

// do does one job and ends it, or puts it back. The error is for who asked for it; the job's fate is settled. wrote: its
// block was not there before.
func (l *lane) do(ctx context.Context, j *job) (wrote bool, err error) {
	if err := l.writes.wait(ctx); err != nil {
		l.finish(j, j)
		return false, err
	}
	if !l.breaker.allow(time.Now()) {
		l.finish(j, j)
		return false, fmt.Errorf("tier %s is left alone after failures: %w", l.tier.Name, kvstore.ErrUnavailable)
	}
	within, cancel := context.WithTimeout(ctx, l.tier.Deadline)
	defer cancel()
	if j.block != nil {
		wrote, err = l.write(within, j)
	} else {
		err = l.takeAway(within, j)
	}
	err = l.judge(ctx, within, err)
	l.finish(j, l.after(ctx, j, err))
	return wrote, err
}

// takeAway deletes what is not what it should be.
func (l *lane) takeAway(ctx context.Context, j *job) error {
	if !j.purge {
		info, err := l.tier.Store.Has(ctx, j.key)
		if errors.Is(err, kvstore.ErrNotFound) || err == nil && info.Sum == j.sum {
			return nil
		} else if err != nil {
			return fmt.Errorf("look for older bytes of block %s: %w", j.key, err)
		}
	}
	if err := l.tier.Store.Delete(ctx, j.key); err != nil {
		return fmt.Errorf("delete block %s from %s: %w", j.key, l.tier.Name, err)
	}
	return nil
}

// write moves a block down, unless it is there: what was promoted and goes again is not written again.
func (l *lane) write(ctx context.Context, j *job) (wrote bool, err error) {
	if err := j.block.Check(); err != nil {
		return false, fmt.Errorf("block %s on its way to %s: %w", j.key, l.tier.Name, err)
	}
	info, err := l.tier.Store.Has(ctx, j.key)
	if err == nil && (j.hint.Known || info.Sum == j.sum) {
		l.there.Add(1)
		return false, nil
	} else if err != nil && !errors.Is(err, kvstore.ErrNotFound) {
		return false, fmt.Errorf("look for block %s in %s: %w", j.key, l.tier.Name, err)
	}
	l.writes.charge(time.Now(), int64(j.block.Len()))
	if err := l.tier.Store.Put(ctx, j.key, j.block, j.hint); err != nil {
		return false, fmt.Errorf("write block %s to %s: %w", j.key, l.tier.Name, err)
	}
	l.moved.Add(1)
	l.movedBytes.Add(int64(j.block.Len()))
	return true, nil
}

// judge tells the breaker how a call ended. within is the call's context, ctx its caller's. A tier that did not answer in
// time is unavailable.
func (l *lane) judge(ctx, within context.Context, err error) error {
	switch {
	case err == nil, errors.Is(err, kvstore.ErrNotFound), errors.Is(err, kvstore.ErrFull):
		if l.breaker.done(time.Now(), true) {
			l.log.Info().Str("tier", l.tier.Name).Msg("tier answers again")
		}
		return err
	case ctx.Err() != nil:
		l.breaker.neither()
		return ctx.Err()
	case within.Err() != nil:
		err = fmt.Errorf("tier %s did not answer within %v: %w", l.tier.Name, l.tier.Deadline, kvstore.ErrUnavailable)
	}
	if l.breaker.done(time.Now(), false) {
		l.log.Warn().Str("tier", l.tier.Name).Err(err).Msg("tier is left alone for a while")
	}
	return err
}

// after counts a job's failure, and says what is left to do: what was to be taken away must be, and a block that was not
// written may have been, or stand for older bytes that are there.
func (l *lane) after(ctx context.Context, j *job, err error) *job {
	switch {
	case err == nil:
		return nil
	case j.block == nil:
		return j
	case ctx.Err() != nil:
		return j // its mover went away; the next one, or Close, has it
	case errors.Is(err, kvstore.ErrCorrupt):
		l.corrupt.Add(1)
	case errors.Is(err, kvstore.ErrFull):
		l.full.Add(1)
	default:
		l.failed.Add(1)
	}
	if j.hint.Known {
		return nil
	}
	return &job{key: j.key, sum: j.sum}
}

// clear does what is to be done about a key now, or waits for who is at it.
func (l *lane) clear(ctx context.Context, k kvstore.Key) (wrote bool, err error) {
	for {
		j, busy := l.takeKey(k)
		switch {
		case j != nil:
			return l.do(ctx, j)
		case busy == nil:
			return false, nil
		}
		select {
		case <-busy:
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}
