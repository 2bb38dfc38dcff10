package resp

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"github.com/rs/zerolog"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/mem"
)

// TestWrongBytesNeverArrive: a value whose bytes have changed in memory is a miss where it is small, and breaks the connection
// before its end where it is checked on its way; the store counts it and forgets it.
func TestWrongBytesNeverArrive(t *testing.T) {
	t.Parallel()
	for which, c := range map[string]struct{ size, at int }{
		"tiny": {100, 50}, "one chunk": {chunkSize, 7}, "first chunk": {1 << 20, 3}, "last chunk": {1 << 20, 1<<20 - 1}, "odd end": {chunkSize + 1, chunkSize},
	} {
		t.Run(which, func(t *testing.T) {
			t.Parallel()
			s := mem.New(mem.Options{Bytes: 16 << 20})
			space := kvstore.Space{1}
			b, err := s.Alloc(c.size)
			if err != nil {
				t.Fatal(err)
			}
			copy(b.Bytes(), bytes.Repeat([]byte("kv"), c.size/2+1))
			key, _ := name(space, []byte("k"))
			if err := s.Put(t.Context(), key, b.Seal(), kvstore.Hint{}); err != nil {
				t.Fatal(err)
			}
			b.Bytes()[c.at] ^= 1
			defer b.Release()
			conn := serveStore(t, s, space)
			if _, err := io.WriteString(conn, command("GET", "k")); err != nil {
				t.Fatal(err)
			}
			if c.size <= chunkSize {
				say(t, conn, "", "$-1\r\n")
			} else if n, err := io.Copy(io.Discard, conn); err != nil || n >= int64(c.size)+int64(len(fmt.Sprintf("$%d\r\n", c.size))) {
				t.Errorf("%d bytes came of an answer with %d (%v)", n, c.size, err)
			}
			if got := s.Stats(); got.Corrupt != 1 || got.Blocks != 0 {
				t.Errorf("%d blocks, %d corrupt", got.Blocks, got.Corrupt)
			}
		})
	}
}

// serveStore opens a door to a store and a connection to it.
func serveStore(t *testing.T, s *mem.Store, space kvstore.Space) net.Conn {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() { _ = New(Options{Store: s, Alloc: s, Anonymous: &space, Log: zerolog.Nop()}).Serve(ctx, l) })
	t.Cleanup(func() {
		cancel()
		serving.Wait()
	})
	return dial(t, l.Addr().String())
}
