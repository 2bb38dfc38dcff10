package object

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/kvstore"
)

// gate lets packs into a bucket in the order that a test wants: each waits until it is told what becomes of it.
type gate struct {
	bucket
	mu      sync.Mutex
	waiting []chan error
}

func (g *gate) Put(ctx context.Context, name string, data []byte, ifAbsent bool) error {
	if strings.HasPrefix(name, "p/") {
		c := make(chan error, 1)
		g.mu.Lock()
		g.waiting = append(g.waiting, c)
		g.mu.Unlock()
		select {
		case err := <-c:
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return g.bucket.Put(ctx, name, data, ifAbsent)
}

// twoOnTheirWay returns a store that is sending two packs, the first with an older block of key 1 and the second with a newer
// one, and what tells each of them how it ends.
func twoOnTheirWay(t *testing.T) (s *Store, end [2]func(error)) {
	t.Helper()
	g := &gate{bucket: testFolder(t)}
	s = openOnTest(t, Options{PackBytes: 64 << 10}, g)
	for i := range 2 {
		put(t, s, key(1, 0), data(100+i, 1000))
		put(t, s, key(2+i, 0), data(i, 64<<10)) // fills it
		synctest.Wait()
		if len(g.waiting) != i+1 {
			t.Fatalf("%d packs are on their way, not %d", len(g.waiting), i+1)
		}
		end[i] = func(err error) { g.waiting[i] <- err; synctest.Wait() }
	}
	return s, end
}

func wantVersion(t *testing.T, s *Store, when string, want []byte) {
	t.Helper()
	if got := get(t, s, key(1, 0)); !bytes.Equal(got, want) {
		t.Errorf("%s: %v..., not %v...", when, got[:min(3, len(got))], want[:min(3, len(want))])
	}
}

// TestPacksArriveInAnyOrder: the newer of two packs arrives first, and no reader gets what is in the other any more. Once it
// is deleted none comes back, neither now nor for the next store.
func TestPacksArriveInAnyOrder(t *testing.T) {
	for _, order := range [][2]int{{0, 1}, {1, 0}} {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, end := twoOnTheirWay(t)
				newest := data(101, 1000)
				wantVersion(t, s, "both are on their way", newest)
				for _, i := range order {
					end[i](nil)
					wantVersion(t, s, fmt.Sprintf("pack %d has arrived", i), newest)
				}
				next := openOnTest(t, Options{}, s.bucket)
				wantVersion(t, next, "the next store", newest)
				if err := next.Delete(t.Context(), key(1, 0)); err != nil {
					t.Fatal(err)
				}
				wantVersion(t, next, "deleted", nil)
				wantVersion(t, openOnTest(t, Options{}, s.bucket), "deleted, and the store after", nil)
				if err := s.Refresh(t.Context()); err != nil {
					t.Fatal(err)
				}
				wantVersion(t, s, "deleted by another", nil)
				closeAll(t, s)
			})
		})
	}
}

// TestLostPackTakesOlderWithIt: who was told that a block was put gets that one or none, where its pack is lost.
func TestLostPackTakesOlderWithIt(t *testing.T) {
	for _, order := range [][2]int{{0, 1}, {1, 0}} {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, end := twoOnTheirWay(t)
				for _, i := range order {
					end[i]([]error{nil, errRefused}[i])
				}
				wantVersion(t, s, "the newer was lost", nil)
				if d := s.Stats().Drops; d != 2 {
					t.Errorf("%d drops, not 2", d)
				}
				wantVersion(t, openOnTest(t, Options{}, s.bucket), "the next store", nil)
				closeAll(t, s)
			})
		})
	}
}

// TestDeletedOnItsWay: a block that is deleted while its pack is sent does not come back by a look at the bucket that finds the
// pack before its sender knows that it has arrived.
func TestDeletedOnItsWay(t *testing.T) {
	p := &patient{bucket: testFolder(t)}
	s := openOnTest(t, Options{}, p)
	arrived, goOn := make(chan struct{}), make(chan struct{})
	s.bucket = &late{bucket: p, arrived: arrived, goOn: goOn}
	put(t, s, key(1, 0), data(1, 1000))
	put(t, s, key(2, 0), data(2, 1000))
	sent := make(chan error)
	go func() { sent <- s.Sync(context.Background()) }()
	<-arrived
	if err := s.Delete(t.Context(), key(1, 0)); err != nil {
		t.Fatal(err)
	}
	if err := s.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantVersion(t, s, "before its sender knows", nil)
	close(goOn)
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	wantVersion(t, s, "after", nil)
	if !bytes.Equal(get(t, s, key(2, 0)), data(2, 1000)) {
		t.Error("the pack's other block is not there")
	}
	if d := s.Detail(); d.Packs != 1 || d.Packed != 1 {
		t.Errorf("known: %+v, not one block in one pack", d)
	}
	closeAll(t, s)
}

// late is a bucket whose answer to a pack that has arrived is late.
type late struct {
	bucket
	arrived, goOn chan struct{}
}

func (l *late) Put(ctx context.Context, name string, data []byte, ifAbsent bool) error {
	err := l.bucket.Put(ctx, name, data, ifAbsent)
	if strings.HasPrefix(name, "p/") {
		close(l.arrived)
		<-l.goOn
	}
	return err
}

// TestClockAhead: a block that a writer put whose clock is ahead does not hide one that is put after it.
func TestClockAhead(t *testing.T) {
	f := testFolder(t)
	ahead := openOnTest(t, Options{}, f)
	ahead.latest = time.Now().Add(time.Hour).UnixNano()
	put(t, ahead, key(1, 0), data(1, 1000))
	closeAll(t, ahead)
	s := openOnTest(t, Options{}, f)
	wantVersion(t, s, "before", data(1, 1000))
	put(t, s, key(1, 0), data(2, 1000))
	wantVersion(t, s, "while it waits", data(2, 1000))
	mustSync(t, s)
	wantVersion(t, s, "in its pack", data(2, 1000))
	wantVersion(t, openOnTest(t, Options{}, f), "the next store", data(2, 1000))
	closeAll(t, s)
}

func closeAll(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Close(t.Context()); err != nil && !errors.Is(err, kvstore.ErrUnavailable) {
		t.Error(err)
	}
}
