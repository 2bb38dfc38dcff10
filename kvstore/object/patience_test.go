package object

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/kvstore"
)

var errReset = errors.New("connection reset")

func never(int) {}

// asks counts requests and answers each as the test says, by its number.
func asks(p *patience, hedge bool, answer func(ctx context.Context, n int64) (int, error)) (call func(context.Context) (int, error), sent *atomic.Int64) {
	sent = new(atomic.Int64)
	return func(ctx context.Context) (int, error) {
		return ask(ctx, p, p.reads, 0, hedge, func(ctx context.Context) (int, error) { return answer(ctx, sent.Add(1)) }, never)
	}, sent
}

func TestAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		call, sent := asks(newPatience(4, time.Second, time.Second), false, func(_ context.Context, n int64) (int, error) {
			if n < 3 {
				return 0, errReset
			}
			return 7, nil
		})
		if v, err := call(t.Context()); v != 7 || err != nil || sent.Load() != 3 {
			t.Errorf("%d, %v after %d requests", v, err, sent.Load())
		}
	})
}

// TestNotAskedAgain: what will not change, and what the caller has no time for.
func TestNotAskedAgain(t *testing.T) {
	for name, c := range map[string]struct {
		err, want error
		sent      int64
	}{
		"no object": {errNoObject, errNoObject, 1}, "exists": {errExists, errExists, 1},
		"refused": {errRefused, kvstore.ErrUnavailable, 1}, "no key": {errKey, kvstore.ErrUnavailable, 1},
		"memory":  {errMemory, kvstore.ErrUnavailable, 1},
		"corrupt": {kvstore.Corrupt(errReset), kvstore.ErrCorrupt, 2}, "reset": {errReset, kvstore.ErrUnavailable, 3},
	} {
		synctest.Test(t, func(t *testing.T) {
			call, sent := asks(newPatience(4, time.Second, time.Second), false, func(context.Context, int64) (int, error) { return 0, c.err })
			if _, err := call(t.Context()); !errors.Is(err, c.want) || sent.Load() != c.sent {
				t.Errorf("%s: %v after %d requests, want %v after %d", name, err, sent.Load(), c.want, c.sent)
			}
		})
	}
}

// TestRetriesHaveABudget: when all fails, there are not three times as many requests for long.
func TestRetriesHaveABudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPatience(4, time.Second, time.Second)
		good, _ := asks(p, false, func(context.Context, int64) (int, error) { return 1, nil })
		bad, sent := asks(p, false, func(context.Context, int64) (int, error) { return 0, errReset })
		const calls = 200
		for range calls {
			_, _ = bad(t.Context())
			_, _ = good(t.Context()) // the circuit stays closed
		}
		if n := sent.Load(); n > calls+mostTokens+calls/5 {
			t.Errorf("%d requests for %d calls", n, calls)
		}
	})
}

// TestHangs: a bucket that never answers costs the timeout at first, nothing at all when the circuit is open, and is tried
// again by one request at a time, more and more seldom. When it answers, it is used again.
func TestHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPatience(4, time.Second, time.Second)
		var well atomic.Bool
		call, sent := asks(p, false, func(ctx context.Context, _ int64) (int, error) {
			if well.Load() {
				return 1, nil
			}
			<-ctx.Done()
			return 0, ctx.Err()
		})
		begun := time.Now()
		for range 100 {
			_, _ = call(t.Context())
		}
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("100 calls to a dead bucket took %v", took)
		}
		if !p.closed() {
			t.Fatal("the circuit is not open")
		}
		before := sent.Load()
		for range 600 {
			time.Sleep(time.Second)
			go func() { _, _ = call(t.Context()) }()
		}
		synctest.Wait()
		if n := sent.Load() - before; n < 5 || n > 80 {
			t.Errorf("%d requests to a dead bucket in ten minutes", n)
		}
		well.Store(true)
		time.Sleep(2 * longestWait)
		if v, err := call(t.Context()); v != 1 || err != nil {
			t.Errorf("after it is well: %d, %v", v, err)
		}
		if v, err := call(t.Context()); v != 1 || err != nil || p.closed() {
			t.Errorf("and again: %d, %v", v, err)
		}
	})
}

// TestOwnTroubles, no memory, no key, a damaged block, say nothing of the bucket.
func TestOwnTroubles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPatience(4, time.Second, time.Second)
		for _, err := range []error{errMemory, errKey, errNoObject, kvstore.Corrupt(errReset)} {
			call, _ := asks(p, false, func(context.Context, int64) (int, error) { return 0, err })
			for range 2 * failures {
				_, _ = call(t.Context())
			}
			if p.closed() {
				t.Fatalf("%v opened the circuit", err)
			}
		}
	})
}

// TestImpatientCallers: their deadlines say nothing of the bucket.
func TestImpatientCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPatience(4, time.Second, time.Second)
		call, _ := asks(p, false, func(ctx context.Context, _ int64) (int, error) { <-ctx.Done(); return 0, ctx.Err() })
		for range 50 {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			if _, err := call(ctx); !errors.Is(err, context.DeadlineExceeded) || kvstore.IsMiss(err) {
				t.Fatal(err)
			}
			cancel()
		}
		if p.closed() {
			t.Error("the circuit is open")
		}
	})
}

// TestLateReadsAreSentTwice, and the first good answer counts; the other one goes to lost.
func TestLateReadsAreSentTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPatience(4, 10*time.Second, time.Second)
		lost := make(chan int, 1)
		var sent atomic.Int64
		v, err := ask(t.Context(), p, p.reads, 0, true, func(context.Context) (int, error) {
			n := sent.Add(1)
			if n == 1 {
				time.Sleep(5 * time.Second) // and does not look at its context, as a file system
			}
			return int(n), nil
		}, func(v int) { lost <- v })
		if v != 2 || err != nil || p.hedged != 1 {
			t.Errorf("%d, %v, %d sent twice", v, err, p.hedged)
		}
		if got := <-lost; got != 1 {
			t.Errorf("%d was lost", got)
		}
		p.running.Wait()
	})
}

// TestSlots bound what is under way, and a call that waits for one ends with its context.
func TestSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPatience(1, time.Hour, time.Second)
		goOn := make(chan struct{})
		call, sent := asks(p, false, func(context.Context, int64) (int, error) { <-goOn; return 1, nil })
		go func() { _, _ = call(t.Context()) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := call(ctx); !errors.Is(err, context.DeadlineExceeded) || sent.Load() != 1 {
			t.Errorf("%v, %d requests", err, sent.Load())
		}
		close(goOn)
		p.running.Wait()
	})
}
