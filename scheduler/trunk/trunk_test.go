package trunk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair connects two sides over loopback. Both end with the test.
func pair(t testing.TB) (dialed, accepted *Trunk) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	dialed, accepted = Dialed(a), Accepted(b)
	var both sync.WaitGroup
	both.Go(func() { _ = dialed.Run() })
	both.Go(func() { _ = accepted.Run() })
	t.Cleanup(func() {
		dialed.Close()
		accepted.Close()
		both.Wait()
	})
	return dialed, accepted
}

// streams opens one and gives both of its ends.
func streams(t testing.TB, dialed, accepted *Trunk) (a *Stream, b net.Conn) {
	t.Helper()
	a, err := dialed.Open()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Write([]byte("!")); err != nil {
		t.Fatal(err)
	}
	if b, err = accepted.Accept(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(b, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return a, b
}

// TestManyStreamsAtOnce: bytes of many streams, in pieces of all sizes, come whole and on their own streams.
func TestManyStreamsAtOnce(t *testing.T) {
	t.Parallel()
	dialed, accepted := pair(t)
	var all sync.WaitGroup
	defer all.Wait()
	go func() {
		for {
			c, err := accepted.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				_, _ = io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{c}, make([]byte, 7001)) // echo
			})
		}
	}()
	for i := range 200 {
		all.Go(func() {
			s, err := dialed.Open()
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			sent := bytes.Repeat(fmt.Appendf(nil, "stream %d ", i), 1+i*i)
			all.Go(func() {
				for rest := sent; len(rest) > 0; {
					n := min(len(rest), 1+i*13)
					if _, err := s.Write(rest[:n]); err != nil {
						t.Error(err)
						return
					}
					rest = rest[n:]
				}
			})
			got := make([]byte, len(sent))
			if _, err := io.ReadFull(s, got); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("stream %d: %v, not what was sent", i, err)
			}
		})
	}
}

// TestWhoDoesNotReadStopsOnlyHimself: a stream that nobody reads takes a window of bytes and then waits; others go on.
func TestWhoDoesNotReadStopsOnlyHimself(t *testing.T) {
	t.Parallel()
	dialed, accepted := pair(t)
	stuck, unread := streams(t, dialed, accepted)
	for left := window - 1; ; { // one byte made the stream known
		if err := stuck.SetWriteDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		n, err := stuck.Write(make([]byte, 2*window))
		if left -= n; !errors.Is(err, os.ErrDeadlineExceeded) || left < 0 {
			t.Fatalf("a stream that nobody reads took %d bytes beyond its window: %v", -left, err)
		}
		if left == 0 && n == 0 {
			break
		}
	}
	a, b := streams(t, dialed, accepted)
	go func() { _, _ = a.Write(make([]byte, 3*window)) }()
	if _, err := io.ReadFull(b, make([]byte, 3*window)); err != nil {
		t.Errorf("another stream: %v", err)
	}
	if err := stuck.SetWriteDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = stuck.Write(make([]byte, window+1)) }()
	if _, err := io.ReadFull(unread, make([]byte, 2*window)); err != nil {
		t.Errorf("when it is read at last: %v", err)
	}
}

func TestClose(t *testing.T) {
	t.Parallel()
	dialed, accepted := pair(t)
	for name, tc := range map[string]struct {
		do   func(a *Stream, b net.Conn) error
		want error
	}{
		"what was written comes before the end": {func(a *Stream, b net.Conn) error {
			_, _ = a.Write([]byte("last words"))
			a.Close()
			got, err := io.ReadAll(b)
			if string(got) != "last words" {
				return fmt.Errorf("got %q", got)
			}
			return err
		}, nil},
		"writing to who has closed": {func(a *Stream, b net.Conn) error {
			b.Close()
			if _, err := a.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				return err
			}
			_, err := a.Write([]byte("x"))
			if err == nil {
				return errors.New("was taken")
			}
			return nil
		}, nil},
		"who waits is woken": {func(a *Stream, _ net.Conn) error {
			time.AfterFunc(time.Millisecond, func() { a.Close() })
			_, err := a.Read(make([]byte, 1))
			return err
		}, net.ErrClosed},
		"a deadline that has passed": {func(a *Stream, _ net.Conn) error {
			_ = a.SetDeadline(time.Unix(1, 0))
			_, err := a.Read(make([]byte, 1))
			if _, werr := a.Write([]byte("x")); !errors.Is(werr, os.ErrDeadlineExceeded) {
				return werr
			}
			return err
		}, os.ErrDeadlineExceeded},
		"a deadline that comes": {func(a *Stream, _ net.Conn) error {
			_ = a.SetReadDeadline(time.Now().Add(time.Millisecond))
			_, err := a.Read(make([]byte, 1))
			return err
		}, os.ErrDeadlineExceeded},
		"a deadline for who waits already": {func(a *Stream, _ net.Conn) error {
			time.AfterFunc(time.Millisecond, func() { _ = a.SetReadDeadline(time.Unix(1, 0)) })
			_, err := a.Read(make([]byte, 1))
			return err
		}, os.ErrDeadlineExceeded},
		"a deadline that was taken back": {func(a *Stream, b net.Conn) error {
			_ = a.SetReadDeadline(time.Unix(1, 0))
			_ = a.SetReadDeadline(time.Time{})
			time.AfterFunc(time.Millisecond, func() { b.Close() })
			_, err := a.Read(make([]byte, 1))
			return err
		}, io.EOF},
	} {
		a, b := streams(t, dialed, accepted)
		if err := tc.do(a, b); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
		a.Close()
		b.Close()
	}
	if d := dialed.IdleFor(); d == 0 || !dialed.Alive() {
		t.Errorf("after the last stream the trunk is idle for %s", d)
	}
}

func TestTheEndOfATrunkEndsItsStreams(t *testing.T) {
	t.Parallel()
	dialed, accepted := pair(t)
	a, b := streams(t, dialed, accepted)
	if _, err := a.Write([]byte("read me")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(b, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	dialed.Close()
	if got, err := io.ReadAll(b); string(got) != " me" || err == nil {
		t.Errorf("the peer's stream: %q, %v", got, err)
	}
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, ErrClosed) {
		t.Errorf("a stream of a closed trunk: %v", err)
	}
	if _, err := dialed.Open(); !errors.Is(err, ErrClosed) {
		t.Errorf("a new stream: %v", err)
	}
	if _, err := accepted.Accept(); err == nil {
		t.Error("the peer accepts more")
	}
}

func TestRetire(t *testing.T) {
	t.Parallel()
	dialed, accepted := pair(t)
	a, b := streams(t, dialed, accepted)
	dialed.Retire()
	if _, err := dialed.Open(); !errors.Is(err, ErrClosed) || dialed.Alive() {
		t.Errorf("a new stream of a retired trunk: %v", err)
	}
	if _, err := b.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(a, make([]byte, 1)); err != nil {
		t.Errorf("an open stream of a retired trunk: %v", err)
	}
	a.Close()
	if _, err := accepted.Accept(); err == nil {
		t.Error("it did not close with its last stream")
	}
}

// TestHTTP: what is carried is good enough for a server and a client of net/http, with cancelling.
func TestHTTP(t *testing.T) {
	t.Parallel()
	dialed, accepted := pair(t)
	cancelled := make(chan struct{})
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			<-r.Context().Done()
			close(cancelled)
			return
		}
		b, _ := io.ReadAll(r.Body)
		_, _ = w.Write(b)
	})}
	var served sync.WaitGroup
	served.Go(func() { _ = srv.Serve(accepted) })
	defer served.Wait()
	defer srv.Close()
	body := strings.Repeat("long ", 200_000)
	for range 2 { // two requests on one stream would do as well
		s, err := dialed.Open()
		if err != nil {
			t.Fatal(err)
		}
		c := http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return s, nil }}}
		resp, err := c.Post("http://x/echo", "text/plain", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(resp.Body); err != nil || string(got) != body {
			t.Errorf("%d bytes of %d: %v", len(got), len(body), err)
		}
		c.CloseIdleConnections()
	}
	s, err := dialed.Open()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(s, "GET /wait HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	s.Close()
	<-cancelled
}

// TestFrames: what was written as frames is read as the same frames, however it is cut.
func TestFrames(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var wire []byte
		var want []frame
		for range rapid.IntRange(0, 20).Draw(t, "frames") {
			f := frame{kind: rapid.SampledFrom([]kind{opens, data, credits, closes}).Draw(t, "kind"), stream: rapid.Uint32().Draw(t, "stream")}
			switch f.kind {
			case data:
				f.payload = rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(t, "payload")
				wire = append(appendHead(wire, data, f.stream, len(f.payload)), f.payload...)
			case credits:
				wire = appendCredit(wire, f.stream, 77)
				f.payload = []byte{0, 0, 0, 77}
			default:
				wire = appendHead(wire, f.kind, f.stream, 0)
			}
			want = append(want, f)
		}
		var buf []byte
		for len(wire) > 0 || len(buf) > 0 {
			n := rapid.IntRange(0, len(wire)).Draw(t, "piece")
			if n == 0 && len(wire) > 0 {
				n = 1
			}
			buf, wire = append(buf, wire[:n]...), wire[n:]
			f, rest, ok, err := next(buf)
			switch {
			case err != nil:
				t.Fatal(err)
			case !ok && len(wire) == 0:
				t.Fatalf("%d bytes are left", len(buf))
			case ok && (f.kind != want[0].kind || f.stream != want[0].stream || !bytes.Equal(f.payload, want[0].payload)):
				t.Fatalf("got %v, want %v", f, want[0])
			case ok:
				buf, want = bytes.Clone(rest), want[1:]
			}
		}
		if len(want) > 0 {
			t.Fatalf("%d frames were lost", len(want))
		}
	})
}

// FuzzPeer: no peer makes a trunk panic or hang, or hold more than a window of a stream.
func FuzzPeer(f *testing.F) {
	f.Add(appendHead(nil, opens, 1, 0))
	f.Add(append(appendHead(appendHead(nil, opens, 7, 0), data, 7, 3), "abc"...))
	f.Add(appendCredit(appendHead(nil, opens, 1, 0), 1, 1<<31))
	f.Add(appendHead(appendHead(nil, opens, 2, 0), closes, 2, 0))
	f.Add([]byte{2, 0, 0, 0, 1, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, dialed := range []bool{true, false} {
			us, them := net.Pipe()
			tr := newTrunk(us, dialed)
			if dialed {
				if _, err := tr.Open(); err != nil {
					t.Fatal(err)
				}
			}
			done := make(chan struct{})
			go func() {
				_ = tr.Run()
				close(done)
			}()
			go func() { _, _ = io.Copy(io.Discard, them) }()
			_, _ = them.Write(b)
			them.Close()
			<-done
			for _, s := range tr.streams {
				if len(s.in) > window || s.credit > window {
					t.Errorf("stream %d: %d bytes, credit %d", s.id, len(s.in), s.credit)
				}
			}
		}
	})
}

// TestFloodOfStreams: a peer that opens streams without end and reads nothing is cut off before that costs memory.
func TestFloodOfStreams(t *testing.T) {
	here, there := net.Pipe()
	defer there.Close()
	side := Accepted(here)
	ended := make(chan error, 1)
	go func() { ended <- side.Run() }()
	var b []byte
	for id := range uint32(maxStreams + 3*maxRefusals/headSize) {
		b = appendHead(b, opens, id+1, 0)
	}
	_, _ = there.Write(b)
	side.mu.Lock()
	n := len(side.out)
	side.mu.Unlock()
	if n > maxRefusals {
		t.Errorf("%d bytes wait for the peer", n)
	}
	_ = there.Close()
	if err := <-ended; !errors.Is(err, errFrame) {
		t.Error(err)
	}
}

// TestAlwaysBehind: a reader that never catches up costs its window and not all that was ever sent.
func TestAlwaysBehind(t *testing.T) {
	side := Accepted(nil)
	s := side.stream(1)
	piece, buf := make([]byte, maxData), make([]byte, maxData)
	side.mu.Lock()
	defer side.mu.Unlock()
	for i := range 1000 {
		if err := s.frame(frame{kind: data, stream: 1, payload: piece}); err != nil {
			t.Fatal(err)
		}
		if i > 2 {
			s.consume(buf)
		}
	}
	if n := cap(s.in); n > 4*window {
		t.Errorf("%d bytes are held for %d that are unread", n, len(s.in)-s.r)
	}
}
