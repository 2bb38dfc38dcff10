package resp

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/storetest"
)

// FuzzConnection: whatever a client sends, the door ends the connection or answers, and no block is lost.
func FuzzConnection(f *testing.F) {
	for _, s := range []string{
		command("SET", "k", "v") + command("GET", "k"), "PING\r\n", "*0\r\n\r\n", command("HELLO", "3"), command("MGET", "a", "b"),
		"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nab", command("SET", "m@2@1@aa@halfmetadata", "x"), "*2\r\n$4\r\nAUTH\r\n$2\r\npw\r\n",
	} {
		f.Add([]byte(s), true)
		f.Add([]byte(s), false)
	}
	f.Fuzz(func(t *testing.T, in []byte, known bool) {
		s := storetest.NewShelf(0)
		o := Options{Store: s, Alloc: s, Log: zerolog.Nop(), Login: login, MaxValue: 1 << 20, Stall: time.Second, LoginWithin: time.Second}
		if known {
			o.Anonymous = new(kvstore.Space)
		}
		here, there := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			newConn(New(o), there).serve(t.Context())
		}()
		go func() {
			_, _ = here.Write(in)
			time.Sleep(time.Millisecond)
			_ = here.Close()
		}()
		_, _ = io.Copy(io.Discard, here)
		<-done
		if stored := s.Stats().Blocks; s.Live() != stored {
			t.Errorf("%d blocks are out, %d are stored", s.Live(), stored)
		}
	})
}
