// Package trunk carries many connections between two processes over one, so that what many streams send at the same moment
// goes out in one write, one TLS record and one wake-up of the other side, and a new request needs no handshake. An engine
// sends a token for each of its streams at about the same time, so that this is more than half of what a token costs.
//
// What is carried are connections like any other (net.Conn): HTTP/1.1 is spoken over each of them as over a socket, with
// deadlines, cancelling by closing, and back-pressure of its own: whoever does not read stops his own stream, not the others,
// since a sender has credit for so many bytes of each stream.
//
// It knows nothing of TLS, roles or HTTP. Gateways dial (scheduler/upstream) and agents serve (agent), agreeing on Protocol
// by ALPN; peers that do not know it speak HTTP/1.1 on the connection itself.
package trunk

import (
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"time"
)

// Protocol is the name by which both sides agree on a trunk (ALPN).
const Protocol = "penstock-trunk/1"

// ReverseProtocol is the name (ALPN) of a trunk whose dialing side accepts the streams: where a gateway cannot dial an agent,
// the agent dials it, and is sent its requests over that connection.
const ReverseProtocol = "penstock-trunk-reverse/1"

const (
	window     = 256 << 10 // bytes of one stream that may be under way or unread
	maxOut     = 256 << 10 // bytes that wait to be written; streams beyond wait for their turn
	maxStreams = 16 << 10  // at a time; one more is closed at once
	// maxRefusals is how many bytes may wait to be written when one is closed so. Only who reads nothing gets there.
	maxRefusals = 4 << 20
	readSize    = 32 << 10
	keptBuffer  = 64 << 10 // of a stream that has been read
	// stall is how long the connection may take nothing; it is cut off after at least half of that.
	stall = 30 * time.Second
)

// ErrClosed is what Open and Accept return when the trunk was closed on this side.
var ErrClosed = fmt.Errorf("the trunk is closed: %w", net.ErrClosed)

// Trunk is one side. Nothing moves before Run. Safe for concurrent use.
type Trunk struct {
	conn   net.Conn
	dialed bool
	work   chan struct{} // there is something to write
	over   chan struct{} // closed when the trunk has failed

	mu      sync.Mutex
	err     error
	coming  []*Stream // opened by the peer and not accepted
	arrived sync.Cond // there is one
	streams map[uint32]*Stream
	last    uint32 // the youngest stream's number
	retired bool   // to be closed with its last stream
	idle    time.Time
	out     []byte    // frames to be written
	crowded []*Stream // wait until there is room in out
}

// Dialed makes the side that opens streams.
func Dialed(c net.Conn) *Trunk { return newTrunk(c, true) }

// Accepted makes the side that accepts them. It is a net.Listener.
func Accepted(c net.Conn) *Trunk { return newTrunk(c, false) }

func newTrunk(c net.Conn, dialed bool) *Trunk {
	t := &Trunk{
		conn: c, dialed: dialed, work: make(chan struct{}, 1), over: make(chan struct{}), streams: map[uint32]*Stream{}, idle: time.Now(),
	}
	t.arrived.L = &t.mu
	return t
}

// Run reads and writes until the connection ends or Close is called, and tells why it ended; nil after Close.
func (t *Trunk) Run() error {
	var writer sync.WaitGroup
	writer.Go(t.write)
	t.fail(t.read())
	writer.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	if errors.Is(t.err, ErrClosed) {
		return nil
	}
	return t.err
}

// fail ends the trunk and all of its streams.
func (t *Trunk) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		return
	}
	t.err = err
	close(t.over)
	_ = t.conn.Close()
	for _, s := range t.streams {
		s.changed.Broadcast()
	}
	t.arrived.Broadcast()
}

// Close cuts all streams.
func (t *Trunk) Close() error {
	t.fail(ErrClosed)
	return nil
}

// Retire closes the trunk with its last stream: now, if there is none.
func (t *Trunk) Retire() {
	t.mu.Lock()
	t.retired = true
	empty := len(t.streams) == 0
	t.mu.Unlock()
	if empty {
		t.fail(ErrClosed)
	}
}

// IdleFor is how long there has been no stream; 0 while there is one.
func (t *Trunk) IdleFor() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.streams) > 0 {
		return 0
	}
	return time.Since(t.idle)
}

// Open begins a stream. It costs no round trip: the peer learns of it with the first bytes.
func (t *Trunk) Open() (*Stream, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.err != nil:
		return nil, t.err
	case t.retired || !t.dialed || t.last == 1<<32-1:
		return nil, ErrClosed
	}
	t.last++
	s := t.stream(t.last)
	t.out = appendHead(t.out, opens, s.id, 0) // goes out with the first data
	return s, nil
}

// Alive reports whether streams can be opened.
func (t *Trunk) Alive() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err == nil && !t.retired
}

// Accept returns the next stream that the peer has opened.
func (t *Trunk) Accept() (net.Conn, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.coming) == 0 {
		if t.err != nil {
			return nil, t.err
		}
		t.arrived.Wait()
	}
	s := t.coming[0]
	t.coming = t.coming[1:]
	return s, nil
}

// Addr implements net.Listener.
func (t *Trunk) Addr() net.Addr { return t.conn.LocalAddr() }

// stream adds one. The caller holds the lock.
func (t *Trunk) stream(id uint32) *Stream {
	s := &Stream{t: t, id: id, credit: window}
	s.changed.L = &t.mu
	t.streams[id] = s
	return s
}

// forget takes a stream out. The caller holds the lock.
func (t *Trunk) forget(s *Stream) (last bool) {
	delete(t.streams, s.id)
	if len(t.streams) > 0 {
		return false
	}
	t.idle = time.Now()
	return t.retired
}

// kick has the writer look for frames.
func (t *Trunk) kick() {
	select {
	case t.work <- struct{}{}:
	default:
	}
}

// write sends what is there, again and again.
func (t *Trunk) write() {
	var spare []byte
	var till time.Time
	for {
		select {
		case <-t.work:
		case <-t.over:
			return
		}
		runtime.Gosched() // streams that are about to write come along
		t.mu.Lock()
		b := t.out
		t.out = spare[:0]
		for _, s := range t.crowded {
			s.changed.Broadcast()
		}
		t.crowded = t.crowded[:0]
		t.mu.Unlock()
		if now := time.Now(); till.Sub(now) < stall/2 {
			till = now.Add(stall)
			_ = t.conn.SetWriteDeadline(till)
		}
		if _, err := t.conn.Write(b); err != nil {
			t.fail(fmt.Errorf("write to the trunk: %w", err))
			return
		}
		spare = b
	}
}

// read takes frames until the connection ends.
func (t *Trunk) read() error {
	buf := make([]byte, readSize)
	n := 0
	for {
		more, err := t.conn.Read(buf[n:])
		n += more
		rest, ferr := t.take(buf[:n])
		n = copy(buf, rest)
		switch {
		case ferr != nil:
			return ferr
		case errors.Is(err, io.EOF):
			return fmt.Errorf("the peer closed the trunk: %w", io.ErrUnexpectedEOF)
		case err != nil:
			return fmt.Errorf("read from the trunk: %w", err)
		}
	}
}

// take handles all whole frames of b.
func (t *Trunk) take(b []byte) (rest []byte, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		f, rest, ok, err := next(b)
		if err != nil || !ok {
			return rest, err
		}
		if err := t.frame(f); err != nil {
			return rest, err
		}
		b = rest
	}
}

// frame handles one. The caller holds the lock.
func (t *Trunk) frame(f frame) error {
	if f.kind == opens {
		return t.opened(f.stream)
	}
	s := t.streams[f.stream]
	if s == nil {
		if f.stream == 0 || f.stream > t.last {
			return fmt.Errorf("%w: stream %d was never opened", errFrame, f.stream)
		}
		return nil // we have closed it, which the peer did not know yet
	}
	return s.frame(f)
}

// opened takes a stream that the peer begins.
func (t *Trunk) opened(id uint32) error {
	if t.dialed || id <= t.last {
		return fmt.Errorf("%w: stream %d cannot be opened", errFrame, id)
	}
	t.last = id
	if len(t.streams) >= maxStreams {
		if len(t.out)+headSize > maxRefusals {
			return fmt.Errorf("%w: stream %d, and it does not read how many there may be", errFrame, id)
		}
		t.out = appendHead(t.out, closes, id, 0)
		t.kick()
		return nil
	}
	t.coming = append(t.coming, t.stream(id))
	t.arrived.Signal()
	return nil
}
