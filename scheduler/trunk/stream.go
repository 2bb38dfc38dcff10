package trunk

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Stream is one carried connection. Reads and writes may go on side by side; all methods are safe for concurrent use.
type Stream struct {
	t  *Trunk
	id uint32

	// The trunk's lock guards what follows.
	changed sync.Cond
	in      []byte // come and not yet read, from r on
	r       int
	eaten   int  // read, and not yet told to the peer
	credit  int  // bytes that may be sent
	ended   bool // the peer sends nothing more
	closed  bool // by us

	reading, writing deadline
}

// deadline is one direction's. Its timer is set when somebody waits, and not for every new time: it may ring too early.
type deadline struct {
	at    time.Time // zero = none
	timer *time.Timer
	rings time.Time // zero = it is not set
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

// buffers hold what has come and was not yet read.
var buffers = sync.Pool{New: func() any { return new(make([]byte, 0, 4<<10)) }}

// frame takes a frame from the peer. The caller holds the lock.
func (s *Stream) frame(f frame) error {
	switch f.kind {
	case data:
		if len(s.in)-s.r+s.eaten+len(f.payload) > window {
			return fmt.Errorf("%w: more data than stream %d had credit for", errFrame, s.id)
		}
		if s.in == nil {
			s.in = (*buffers.Get().(*[]byte))[:0]
		}
		if s.r > len(s.in)/2 { // what has been read goes, also where the reader never catches up
			s.in = s.in[:copy(s.in, s.in[s.r:])]
			s.r = 0
		}
		s.in = append(s.in, f.payload...)
	case credits:
		n := int(binary.BigEndian.Uint32(f.payload))
		if n <= 0 || s.credit+n > window {
			return fmt.Errorf("%w: credit of %d bytes", errFrame, n)
		}
		s.credit += n
	case closes:
		s.ended = true
	}
	s.changed.Broadcast()
	return nil
}

// Read implements net.Conn. What came before the trunk ended can still be read.
func (s *Stream) Read(p []byte) (int, error) {
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	for {
		switch {
		case s.closed:
			return 0, net.ErrClosed
		case s.reading.passed():
			return 0, os.ErrDeadlineExceeded
		case s.r < len(s.in):
			return s.consume(p), nil
		case s.ended:
			return 0, io.EOF
		case s.t.err != nil:
			return 0, s.t.err
		case len(p) == 0:
			return 0, nil
		}
		s.wait(&s.reading)
	}
}

// wait waits until something has changed, or the deadline has come. The caller holds the lock, and looks again.
func (s *Stream) wait(d *deadline) {
	if !d.at.IsZero() && (d.rings.IsZero() || d.rings.After(d.at)) {
		d.rings = d.at
		if left := time.Until(d.at); d.timer == nil {
			d.timer = time.AfterFunc(left, func() { s.ring(d) })
		} else {
			d.timer.Reset(left)
		}
	}
	s.changed.Wait()
}

func (s *Stream) ring(d *deadline) {
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	d.rings = time.Time{}
	s.changed.Broadcast()
}

// consume copies what is there, and gives the peer new credit when half of it is used up.
func (s *Stream) consume(p []byte) int {
	n := copy(p, s.in[s.r:])
	s.r += n
	s.eaten += n
	if s.r == len(s.in) {
		s.r, s.in = 0, s.in[:0]
		if cap(s.in) > keptBuffer {
			s.in = nil
		}
	}
	if s.eaten >= window/2 && !s.ended {
		s.t.out = appendCredit(s.t.out, s.id, s.eaten)
		s.eaten = 0
		s.t.kick()
	}
	return n
}

// Write implements net.Conn. It returns when the trunk has taken p, which is before the peer has it.
func (s *Stream) Write(p []byte) (n int, err error) {
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	for len(p) > 0 {
		full := len(s.t.out) >= maxOut
		switch {
		case s.closed:
			return n, net.ErrClosed
		case s.t.err != nil:
			return n, s.t.err
		case s.ended:
			return n, syscall.EPIPE
		case s.writing.passed():
			return n, os.ErrDeadlineExceeded
		case full || s.credit == 0:
			s.t.kick()
			if full && !slices.Contains(s.t.crowded, s) {
				s.t.crowded = append(s.t.crowded, s)
			}
			s.wait(&s.writing)
			continue
		}
		piece := min(len(p), s.credit, maxData)
		s.t.out = append(appendHead(s.t.out, data, s.id, piece), p[:piece]...)
		s.credit -= piece
		n, p = n+piece, p[piece:]
	}
	s.t.kick()
	return n, nil
}

// Close ends the stream in both directions, and with it whoever waits in Read or Write. The peer still gets what was
// written, unless the trunk was retired and this is its last stream.
func (s *Stream) Close() error {
	t := s.t
	t.mu.Lock()
	if s.closed {
		t.mu.Unlock()
		return net.ErrClosed
	}
	s.closed = true
	if s.in != nil && cap(s.in) <= keptBuffer {
		buffers.Put(new(s.in))
	}
	s.in = nil
	s.stopTimers()
	s.changed.Broadcast()
	last := t.forget(s)
	if t.err == nil {
		t.out = appendHead(t.out, closes, s.id, 0)
		t.kick()
	}
	t.mu.Unlock()
	if last {
		t.fail(ErrClosed)
	}
	return nil
}

func (s *Stream) stopTimers() {
	for _, d := range []*deadline{&s.reading, &s.writing} {
		if d.timer != nil {
			d.timer.Stop()
		}
	}
}

// LocalAddr implements net.Conn.
func (s *Stream) LocalAddr() net.Addr { return s.t.conn.LocalAddr() }

// RemoteAddr implements net.Conn.
func (s *Stream) RemoteAddr() net.Addr { return s.t.conn.RemoteAddr() }

// SetDeadline implements net.Conn.
func (s *Stream) SetDeadline(at time.Time) error {
	_ = s.SetReadDeadline(at)
	return s.SetWriteDeadline(at)
}

// SetReadDeadline implements net.Conn.
func (s *Stream) SetReadDeadline(at time.Time) error { return s.set(&s.reading, at) }

// SetWriteDeadline implements net.Conn.
func (s *Stream) SetWriteDeadline(at time.Time) error { return s.set(&s.writing, at) }

func (s *Stream) set(d *deadline, at time.Time) error {
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	d.at = at
	s.changed.Broadcast() // who waits looks at it
	return nil
}
