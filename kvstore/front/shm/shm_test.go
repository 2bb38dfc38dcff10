package shm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/front"
	"github.com/penstock/penstock/kvstore/mem"
)

const envSocket = "SHM_TEST_SOCKET"

func TestMain(m *testing.M) {
	if path := os.Getenv(envSocket); path != "" {
		if err := holdForever(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// us is a stand-in for the kernel's word.
func us(net.Conn) (int, error) { return os.Getuid(), nil }

func key(i int) kvstore.Key { return kvstore.Key{Name: kvstore.OpaqueName(fmt.Sprint(i))} }

func value(i int) []byte {
	b := make([]byte, 1+i*300)
	_, _ = rand.NewChaCha8([32]byte{byte(i)}).Read(b)
	return b
}

// open serves a store with blocks 0 to n-1 until the test ends.
func open(t *testing.T, n int, change func(*Options)) (s *mem.Store, path string) {
	t.Helper()
	s = mem.New(mem.Options{Bytes: 64 << 20, Shared: true, Poison: true})
	for i := range n {
		b, err := s.Alloc(len(value(i)))
		if err != nil {
			t.Fatal(err)
		}
		copy(b.Bytes(), value(i))
		if err := s.Put(t.Context(), key(i), b.Seal(), kvstore.Hint{}); err != nil {
			t.Fatal(err)
		}
		b.Release()
	}
	path = filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix(Network, &net.UnixAddr{Name: path, Net: Network})
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Store: s, First: s, Locate: locate(s), PeerUID: us, Counts: front.NewMetrics(nil).Door("shm"), Log: zerolog.Nop()}
	if change != nil {
		change(&o)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := New(o).Serve(ctx, l); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		serving.Wait()
		if err := s.Close(); err != nil { // also where leases are left
			t.Error(err)
		}
	})
	return s, path
}

func locate(s *mem.Store) func(*kvstore.Block) (uint32, *os.File, int64, int64, bool) {
	return func(b *kvstore.Block) (uint32, *os.File, int64, int64, bool) {
		p, ok := s.Locate(b)
		return p.Region, p.File, p.Bytes, p.Offset, ok
	}
}

func dial(t *testing.T, path string) *Client {
	t.Helper()
	c, err := Dial(t.Context(), path, us)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func keys(n int) (all []kvstore.Key) {
	for i := range n {
		all = append(all, key(i))
	}
	return all
}

func TestFetch(t *testing.T) {
	t.Parallel()
	_, path := open(t, 300, nil)
	c := dial(t, path)
	got := map[int]bool{}
	err := c.Fetch(t.Context(), keys(320), func(i int, b *kvstore.Block) error {
		got[i] = true
		if err := b.Check(); err != nil || !bytes.Equal(b.Bytes(), value(i)) {
			t.Errorf("block %d: %v", i, err)
		}
		return nil
	})
	if err != nil || len(got) != 300 {
		t.Errorf("%d blocks came, want 300 (%v)", len(got), err)
	}
	stop := errors.New("enough")
	if err := c.Fetch(t.Context(), keys(10), func(int, *kvstore.Block) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("each's error became %v", err)
	}
}

// TestNothingIsCopied: the bytes are the store's own, kept for as long as they are held, and a change of them is noticed.
func TestNothingIsCopied(t *testing.T) {
	t.Parallel()
	s, path := open(t, 4, nil)
	c := dial(t, path)
	var held *kvstore.Block
	if err := c.Fetch(t.Context(), keys(4)[3:], func(_ int, b *kvstore.Block) error { held = b.Retain(); return nil }); err != nil {
		t.Fatal(err)
	}
	own, err := s.Get(t.Context(), key(3))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), key(3)); err != nil {
		t.Fatal(err)
	}
	own.Bytes()[5] ^= 1
	if err := held.Check(); !errors.Is(err, kvstore.ErrCorrupt) {
		t.Errorf("what changes in the store does not change for the reader: %v", err)
	}
	own.Bytes()[5] ^= 1
	own.Release()
	if err := held.Check(); err != nil { // poison would show
		t.Errorf("deleted and released by the store, held by the reader: %v", err)
	}
	if s.Stats().Pinned == 0 {
		t.Error("the store does not know that it is held")
	}
	held.Release()
	eventually(t, "the lease is back", func() bool { return s.Stats().Pinned == 0 })
}

// TestLeasesAreBounded: a client that holds what it may gets no more until it gives something back.
func TestLeasesAreBounded(t *testing.T) {
	t.Parallel()
	size := int64(len(value(9)))
	_, path := open(t, 10, func(o *Options) { o.MaxLeased = size + 10 })
	c := dial(t, path)
	var held *kvstore.Block
	count := func() (n int) {
		if err := c.Fetch(t.Context(), []kvstore.Key{key(9)}, func(_ int, b *kvstore.Block) error {
			n++
			if held == nil {
				held = b.Retain()
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if a, b := count(), count(); a != 1 || b != 0 {
		t.Errorf("%d and then %d blocks came, want 1 and 0", a, b)
	}
	held.Release()
	if n := count(); n != 1 { // packets of one connection keep their order
		t.Error("what was given back can't be leased again")
	}
}

// TestMoreThanMayBeHeld: blocks that together are more than a client may hold come one after the other.
func TestMoreThanMayBeHeld(t *testing.T) {
	t.Parallel()
	_, path := open(t, 100, func(o *Options) { o.MaxLeased = int64(len(value(99))) * 3 })
	n := 0
	if err := dial(t, path).Fetch(t.Context(), keys(110), func(int, *kvstore.Block) error { n++; return nil }); err != nil || n != 100 {
		t.Errorf("%d of 100 blocks came (%v)", n, err)
	}
}

// TestKilledClientKeepsNothing: the leases of a process end with it.
func TestKilledClientKeepsNothing(t *testing.T) {
	t.Parallel()
	s, path := open(t, 8, nil)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env, cmd.Stderr = append(os.Environ(), envSocket+"="+path), os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the child holds blocks", func() bool { return s.Stats().Pinned > 0 })
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	eventually(t, "its leases are back", func() bool { return s.Stats().Pinned == 0 })
}

// holdForever is a client that leases blocks and keeps them.
func holdForever(path string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := Dial(ctx, path, us)
	if err != nil {
		return err
	}
	if err := c.Fetch(ctx, keys(8), func(_ int, b *kvstore.Block) error { b.Retain(); return nil }); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

func TestStrangers(t *testing.T) {
	t.Parallel()
	stranger := func(net.Conn) (int, error) { return os.Getuid() + 1, nil }
	_, path := open(t, 1, func(o *Options) { o.PeerUID = stranger })
	c := dial(t, path)
	if err := c.Fetch(t.Context(), keys(1), func(int, *kvstore.Block) error { t.Error("a stranger got a block"); return nil }); err == nil {
		t.Error("a stranger was answered")
	}
	_, path = open(t, 1, nil)
	if c, err := Dial(t.Context(), path, stranger); err == nil {
		_ = c.Close()
		t.Error("a stranger's door was believed")
	}
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	hang := make(chan struct{})
	s, path := open(t, 1, func(o *Options) { o.Store, o.First = slow{o.Store, hang}, nil })
	defer close(hang)
	c := dial(t, path)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if err := c.Fetch(ctx, keys(1), func(int, *kvstore.Block) error { return nil }); err == nil {
		t.Error("an answer that never came was none of a fault")
	}
	_ = s
}

// slow is a store that answers once it is let.
type slow struct {
	kvstore.Store
	let chan struct{}
}

func (s slow) GetMany(ctx context.Context, keys []kvstore.Key, each func(int, *kvstore.Block) error) error {
	select {
	case <-s.let:
	case <-ctx.Done():
	}
	return s.Store.GetMany(ctx, keys, each)
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// FuzzAnswer: whatever an answer says, places lie within what they say of their region.
func FuzzAnswer(f *testing.F) {
	f.Add(append([]byte{1, 0, 0, 0}, place{0, 1, 2, 3, 4, 5, 4096}.append(nil)...), 1)
	f.Add([]byte{0, 0, 0, 0}, 3)
	f.Add([]byte{255, 255, 255, 255}, 128)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		if n < 0 || n > maxKeys {
			return
		}
		places, err := readPlaces(b, n)
		if err != nil {
			return
		}
		for _, p := range places {
			if int(p.index) >= n || p.offset+p.size > p.bytes || p.offset+p.size < p.offset {
				t.Fatalf("%+v", p)
			}
		}
	})
}

// FuzzRequest: what is understood says the same when it is written again.
func FuzzRequest(f *testing.F) {
	f.Add(request{op: opAsk, keys: keys(2)}.bytes())
	f.Add(request{op: opRelease, leases: []uint32{1, 2}}.bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		if q, err := readRequest(b); err == nil && !bytes.Equal(q.bytes(), b) {
			t.Fatalf("%x became %x", b, q.bytes())
		}
	})
}
