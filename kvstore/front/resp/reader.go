package resp

import (
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/penstock/penstock/kvstore/front"
)

// The bounds of what is read before anything is believed. A connector's key has a few hundred bytes.
const (
	maxArgs      = 1 << 12
	maxKey       = 16 << 10
	maxKeys      = 4 << 20 // bytes of all arguments of a command, but SET's value
	maxStranger  = 1 << 10 // an argument of somebody who has not logged in
	maxInline    = 64 << 10
	bufferSize   = 64 << 10
	readAhead    = 8 << 10
	readAtLeast  = 4 << 10 // below this, what is missing of a value is read through the buffer
	discardChunk = 64 << 10
)

// errProtocol means that what comes next on the connection cannot be told: it must end.
var errProtocol = errors.New("protocol error")

func protocolError(format string, a ...any) error {
	return fmt.Errorf("%w: %s", errProtocol, fmt.Sprintf(format, a...))
}

// reader takes RESP commands from a connection. Its buffer holds heads and small arguments; values bypass it.
type reader struct {
	conn  net.Conn
	stall time.Duration
	buf   []byte
	r, w  int
	until time.Time // the deadline that is set now
	due   time.Time // when the command that has begun must be here
	last  time.Time // no read may end later, whatever is asked for; zero = no such bound
}

func newReader(c net.Conn, stall time.Duration) *reader {
	return &reader{conn: c, stall: stall, buf: make([]byte, bufferSize)}
}

// buffered says whether more input is here already.
func (r *reader) buffered() bool { return r.w > r.r }

// rest lets reads wait until a moment, zero for ever: between two commands a client may be silent.
func (r *reader) rest(until time.Time) error {
	if !r.last.IsZero() && (until.IsZero() || until.After(r.last)) {
		until = r.last
	}
	r.until = until
	return r.conn.SetReadDeadline(until)
}

// begin starts the time of a command: it has the stall, and what its values' sizes allow on top. Nothing that comes byte by
// byte gets more.
func (r *reader) begin() { r.due = time.Now().Add(r.stall) }

// grant gives the command the time of a value of n bytes.
func (r *reader) grant(n int) { r.due = r.due.Add(front.Allowance(0, int64(n))) }

// hurry holds the next read to the command's end. A deadline that comes a little before it is left alone: setting one costs as
// much as a small read.
func (r *reader) hurry() error {
	if early := r.due.Sub(r.until); !r.until.IsZero() && early >= 0 && early <= r.stall/2 {
		return nil
	}
	return r.rest(r.due)
}

// await waits for the first byte of a command; until a moment, if that is not zero.
func (r *reader) await(until time.Time) error {
	if r.buffered() {
		return nil
	}
	if r.until != until {
		if err := r.rest(until); err != nil {
			return err
		}
	}
	return r.take()
}

// fill waits for more of a command that has begun.
func (r *reader) fill() error {
	if err := r.hurry(); err != nil {
		return err
	}
	return unexpected(r.take())
}

func (r *reader) take() error {
	if r.r > 0 {
		r.w = copy(r.buf, r.buf[r.r:r.w])
		r.r = 0
	}
	if r.w == len(r.buf) {
		return protocolError("a line has more than %d bytes", len(r.buf))
	}
	// A little at a time: of a value that follows, what is read here is copied once more.
	n, err := r.conn.Read(r.buf[r.w:min(len(r.buf), r.w+readAhead)])
	r.w += n
	if n > 0 {
		return nil
	}
	return err
}

// line is the next line without its end, valid until the next read. A bare \n ends one too, as in Redis.
func (r *reader) line(limit int) ([]byte, error) {
	for seen := 0; ; {
		have := r.buf[r.r:r.w]
		for i := seen; i < len(have); i++ {
			if have[i] != '\n' {
				continue
			}
			r.r += i + 1
			l := have[:i]
			if i > 0 && l[i-1] == '\r' {
				l = l[:i-1]
			}
			return l, nil
		}
		seen = len(have)
		if seen > limit {
			return nil, protocolError("a line has more than %d bytes", limit)
		}
		if err := r.fill(); err != nil {
			return nil, err
		}
	}
}

// count reads a line of a sign and a decimal number, such as *3 or $512.
func (r *reader) count(sign byte, limit int) (int, error) {
	l, err := r.line(maxStranger)
	if err != nil {
		return 0, err
	}
	if len(l) == 0 || l[0] != sign {
		return 0, protocolError("expected '%c', got %.20q", sign, l)
	}
	n, ok := decimal(l[1:])
	if !ok || n > limit {
		return 0, protocolError("invalid length %.20q", l[1:])
	}
	return n, nil
}

func decimal(b []byte) (int, bool) {
	if len(b) == 0 || len(b) > 10 {
		return 0, false
	}
	n := 0
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, true
}

// read fills b with the next bytes: what is buffered first, then straight from the socket.
func (r *reader) read(b []byte) error {
	n := copy(b, r.buf[r.r:r.w])
	r.r += n
	if n == len(b) {
		return nil
	}
	r.grant(len(b) - n)
	if err := r.hurry(); err != nil {
		return err
	}
	for n < len(b) {
		if len(b)-n < readAtLeast { // the end of the command, and maybe the next one, come with it
			if err := r.fill(); err != nil {
				return err
			}
			m := copy(b[n:], r.buf[r.r:r.w])
			r.r += m
			n += m
			continue
		}
		m, err := r.conn.Read(b[n:])
		if n += m; m == 0 && err != nil {
			return unexpected(err)
		}
	}
	return nil
}

// discard drops the next n bytes.
func (r *reader) discard(n int) error {
	var chunk []byte
	for n > 0 {
		if have := min(n, r.w-r.r); have > 0 {
			r.r += have
			n -= have
			continue
		}
		if chunk == nil {
			chunk = make([]byte, discardChunk)
		}
		part := chunk[:min(n, len(chunk))]
		if err := r.read(part); err != nil {
			return err
		}
		n -= len(part)
	}
	return nil
}

// end reads the line end that follows a bulk string.
func (r *reader) end() error {
	for r.w-r.r < 2 {
		if err := r.fill(); err != nil {
			return err
		}
	}
	if r.buf[r.r] != '\r' || r.buf[r.r+1] != '\n' {
		return protocolError("a bulk string is longer than it says")
	}
	r.r += 2
	return nil
}

// bulk reads a bulk string of at most limit bytes into b's memory, if that is enough.
func (r *reader) bulk(b []byte, limit int) ([]byte, error) {
	n, err := r.count('$', limit)
	if err != nil {
		return nil, err
	}
	if cap(b) < n {
		b = make([]byte, n)
	}
	b = b[:n]
	if err := r.read(b); err != nil {
		return nil, err
	}
	return b, r.end()
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
