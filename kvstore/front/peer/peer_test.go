package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/front"
	"github.com/penstock/penstock/kvstore/mem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newStore(t *testing.T, bytes int64) *mem.Store {
	t.Helper()
	s := mem.New(mem.Options{Bytes: bytes, Poison: true})
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func key(i int) kvstore.Key { return kvstore.Key{Name: kvstore.OpaqueName(fmt.Sprint(i))} }

func value(i int) []byte {
	b := make([]byte, 1+i*3000)
	_, _ = rand.NewChaCha8([32]byte{byte(i)}).Read(b)
	return b
}

// fill puts the blocks of these numbers into a store.
func fill(t *testing.T, s *mem.Store, numbers ...int) {
	t.Helper()
	for _, i := range numbers {
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
}

// pair is a client with a store of its own, and the agent that it asks, behind a handler that may do harm.
func pair(t *testing.T, from, to *mem.Store, harm func(http.Handler) http.Handler) *Client {
	t.Helper()
	var h http.Handler = &Door{Store: from, Counts: front.NewMetrics(nil).Door("peer"), Stall: 10 * time.Second}
	if harm != nil {
		h = harm(h)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &Client{Alloc: to, Do: func(r *http.Request) (*http.Response, error) {
		r.URL.Host = srv.Listener.Addr().String()
		return transport.RoundTrip(r)
	}}
}

// fetched is what comes of the keys 0 to n-1, each checked.
func fetched(t *testing.T, c *Client, n int) (map[int]bool, error) {
	t.Helper()
	keys := make([]kvstore.Key, n)
	for i := range keys {
		keys[i] = key(i)
	}
	got := map[int]bool{}
	err := c.Fetch(t.Context(), keys, func(i int, b *kvstore.Block) error {
		if got[i] {
			t.Errorf("block %d came twice", i)
		}
		if !bytes.Equal(b.Bytes(), value(i)) {
			t.Errorf("block %d has wrong bytes", i)
		}
		got[i] = true
		return nil
	})
	return got, err
}

func TestFetch(t *testing.T) {
	from, to := newStore(t, 64<<20), newStore(t, 64<<20)
	for i := range 100 {
		if i%3 > 0 {
			fill(t, from, i)
		}
	}
	got, err := fetched(t, pair(t, from, to, nil), 100)
	if err != nil || len(got) != 66 || got[0] || !got[1] {
		t.Fatalf("%d came, %v", len(got), err)
	}
	if got, err := fetched(t, pair(t, from, to, nil), 0); err != nil || len(got) != 0 {
		t.Fatal(got, err)
	}
}

// TestBrokenConnections: what had come stays, what had not is asked for again.
func TestBrokenConnections(t *testing.T) {
	from, to := newStore(t, 64<<20), newStore(t, 64<<20)
	for i := range 40 {
		fill(t, from, i)
	}
	var broken atomic.Int32
	cut := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if broken.Add(1) <= 6 {
				w = &short{ResponseWriter: w, left: 200_000}
			}
			h.ServeHTTP(w, r)
		})
	}
	got, err := fetched(t, pair(t, from, to, cut), 40)
	if err != nil || len(got) != 40 {
		t.Fatalf("%d came, %v", len(got), err)
	}
	broken.Store(-1000)
	always := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(&short{ResponseWriter: w, left: 100}, r) })
	}
	if _, err := fetched(t, pair(t, from, to, always), 40); !errors.Is(err, errBroken) {
		t.Fatalf("an agent whose answers always break: %v", err)
	}
}

// short ends the connection after so many bytes.
type short struct {
	http.ResponseWriter
	left int
}

func (s *short) Unwrap() http.ResponseWriter { return s.ResponseWriter }

func (s *short) Write(b []byte) (int, error) {
	if s.left < len(b) {
		_, _ = s.ResponseWriter.Write(b[:s.left])
		_ = http.NewResponseController(s.ResponseWriter).Flush()
		return 0, io.ErrClosedPipe
	}
	s.left -= len(b)
	return s.ResponseWriter.Write(b)
}

// TestHurtBytes: a block that arrives with other bytes is never seen.
func TestHurtBytes(t *testing.T) {
	from, to := newStore(t, 64<<20), newStore(t, 64<<20)
	for i := range 10 {
		fill(t, from, i)
	}
	var hurt atomic.Bool
	flip := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if hurt.CompareAndSwap(false, true) {
				w = flipping{w}
			}
			h.ServeHTTP(w, r)
		})
	}
	if got, err := fetched(t, pair(t, from, to, flip), 10); err != nil || len(got) != 10 {
		t.Fatalf("%d came, %v", len(got), err)
	}
}

type flipping struct{ http.ResponseWriter }

func (f flipping) Unwrap() http.ResponseWriter { return f.ResponseWriter }

func (f flipping) Write(b []byte) (int, error) {
	if len(b) > recordHead {
		b = bytes.Clone(b)
		b[len(b)/2] ^= 1
	}
	return f.ResponseWriter.Write(b)
}

// TestNoRoom: without memory blocks are misses.
func TestNoRoom(t *testing.T) {
	from, to := newStore(t, 64<<20), newStore(t, 1<<20)
	c := pair(t, from, to, nil)
	fill(t, from, 1, 2, 400) // the last has more than a megabyte
	keys := []kvstore.Key{key(1), key(400), key(2)}
	n := 0
	if err := c.Fetch(t.Context(), keys, func(int, *kvstore.Block) error { n++; return nil }); err != nil || n != 2 {
		t.Fatal(n, err)
	}
}

func TestStops(t *testing.T) {
	from, to := newStore(t, 64<<20), newStore(t, 64<<20)
	for i := range 20 {
		fill(t, from, i)
	}
	c := pair(t, from, to, nil)
	keys := make([]kvstore.Key, 20)
	for i := range keys {
		keys[i] = key(i)
	}
	enough := errors.New("enough")
	if err := c.Fetch(t.Context(), keys, func(int, *kvstore.Block) error { return enough }); !errors.Is(err, enough) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Fetch(ctx, keys, func(int, *kvstore.Block) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestOddAgents: whatever the other side answers, it is an error and no block.
func TestOddAgents(t *testing.T) {
	to := newStore(t, 64<<20)
	head := func(r record) string { b := r.bytes(); return string(b[:]) }
	for name, answer := range map[string]string{
		"another key":  head(record{5, 0, 1}) + "x",
		"too large":    head(record{0, 0, 1 << 40}),
		"twice":        head(record{0, kvstore.Checksum([]byte("x")), 1}) + "x" + head(record{0, kvstore.Checksum([]byte("x")), 1}) + "x",
		"wrong number": head(record{theEnd, 3, 0}),
	} {
		c := &Client{Alloc: to, Do: func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {ContentType}}, Body: io.NopCloser(strings.NewReader(answer))}, nil
		}}
		if err := c.Fetch(t.Context(), []kvstore.Key{key(1)}, func(int, *kvstore.Block) error { return nil }); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v", name, err)
		}
	}
	d := &Door{Store: to, Counts: front.NewMetrics(nil).Door("peer"), Stall: time.Second}
	for body, code := range map[string]int{"short": 400, strings.Repeat("k", (MaxKeys+1)*kvstore.KeySize): 400} {
		r := httptest.NewRequest(http.MethodPost, Path, strings.NewReader(body))
		r.Header.Set("Content-Type", ContentType)
		w := httptest.NewRecorder()
		if d.ServeHTTP(w, r); w.Code != code {
			t.Errorf("%.10s: %d", body, w.Code)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	one := record{0, kvstore.Checksum([]byte("x")), 1}.bytes()
	end := record{theEnd, 1, 0}.bytes()
	f.Add(append(append(one[:], 'x'), end[:]...))
	f.Fuzz(func(t *testing.T, answer []byte) {
		s := mem.New(mem.Options{Bytes: 1 << 20})
		c := &Client{Alloc: s, Streams: 1, Do: func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {ContentType}}, Body: io.NopCloser(bytes.NewReader(answer))}, nil
		}}
		_ = c.Fetch(t.Context(), []kvstore.Key{key(1), key(2)}, func(_ int, b *kvstore.Block) error {
			if b.Sum() != kvstore.Checksum(b.Bytes()) {
				t.Error("a block that is not checked")
			}
			return nil
		})
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}
