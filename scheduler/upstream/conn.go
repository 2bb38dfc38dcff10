package upstream

import (
	"bufio"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"
)

// maxHead bounds the status line and header of an answer.
const maxHead = 64 << 10

// errHeadTooLong means that an answer's header is larger than maxHead.
var errHeadTooLong = errors.New("the answer's header is too long")

// socket is the TCP connection with a buffer, below TLS: a read takes what is there, several records of a busy stream at
// once.
type socket struct {
	net.Conn
	buf  []byte
	r, w int
	fed  int // bytes given so far
	// dry: give what the buffer holds and never wait for more.
	dry bool
}

// socketBuffer holds some dozens of tokens.
const socketBuffer = 8 << 10

func newSocket(c net.Conn) *socket { return &socket{Conn: c, buf: make([]byte, socketBuffer)} }

func (s *socket) Read(p []byte) (int, error) {
	if s.r == s.w {
		if s.dry {
			return 0, errDry
		}
		if len(p) >= len(s.buf) {
			n, err := s.Conn.Read(p)
			s.fed += n
			return n, err
		}
		n, err := s.Conn.Read(s.buf)
		s.r, s.w = 0, n
		if n == 0 {
			return 0, err
		}
	}
	n := copy(p, s.buf[s.r:s.w])
	s.r += n
	s.fed += n
	return n, nil
}

// recordOverhead is what a TLS 1.3 record has beside its content: header, type and tag.
const recordOverhead = 5 + 1 + 16

// errDry says that a dry socket has nothing. TLS takes it for a timeout, after which reading may go on.
var errDry net.Error = dryError{}

type dryError struct{}

func (dryError) Error() string   { return "nothing is buffered" }
func (dryError) Timeout() bool   { return true }
func (dryError) Temporary() bool { return true }

// conn is one connection. One request uses it at a time.
type conn struct {
	peer   peer
	raw    *socket
	stream net.Conn // what is spoken over: TLS on raw, or raw itself
	br     *bufio.Reader
	err    error // met while reading ahead, and not yet returned

	carried   bool // by a trunk
	reused    bool
	idleSince time.Time
	head      int       // bytes that an answer's header may still take; -1 = no header is being read
	wait      time.Time // the read deadline that is set

	once sync.Once
}

// newStream makes one of a trunk's stream, which needs no buffer of its own.
func newStream(p peer, s net.Conn) *conn {
	raw := &socket{Conn: s}
	cn := newConn(p, raw, raw)
	cn.carried = true
	return cn
}

// readers are those of streams that came to a good end: a stream is for one request, and its buffer is most of its cost.
var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 8<<10) }}

func newConn(p peer, raw *socket, stream net.Conn) *conn {
	cn := &conn{peer: p, raw: raw, stream: stream, head: -1, br: readers.Get().(*bufio.Reader)}
	cn.br.Reset(reader{cn})
	return cn
}

// finish ends a stream whose answer has been read whole. Nobody may use it any more.
func (cn *conn) finish() {
	cn.kill()
	cn.br.Reset(nil)
	readers.Put(cn.br)
}

// reader counts what a header takes, and takes along what came with it: on a busy machine several tokens wait, and passing
// them on together saves a write for each.
type reader struct{ cn *conn }

func (r reader) Read(p []byte) (int, error) {
	cn := r.cn
	if cn.head == 0 {
		return 0, errHeadTooLong
	}
	if cn.head > 0 && len(p) > cn.head {
		p = p[:cn.head]
	}
	if cn.err != nil {
		return 0, cn.err
	}
	fed := cn.raw.fed
	n, err := cn.stream.Read(p)
	// What came was just the record whose content we have: on a machine at ease there is no need to look for more.
	one := cn.raw.r == cn.raw.w && cn.raw.fed-fed == n+recordOverhead
	for err == nil && n < len(p) && !one {
		var more int
		cn.raw.dry = true
		more, err = cn.stream.Read(p[n:])
		cn.raw.dry = false
		n += more
	}
	if cn.head > 0 {
		cn.head -= n
	}
	if n > 0 && err != nil {
		if !errors.Is(err, errDry) {
			cn.err = err
		}
		err = nil
	}
	return n, err
}

// within sets the read deadline to d from now. Moving a deadline costs as much as a small read, so it is moved only when
// more than a tenth of d has passed: a wait ends between 0.9 d and d.
func (cn *conn) within(d time.Duration) {
	now := time.Now()
	if left := cn.wait.Sub(now); left > d || left < d-d/10 {
		cn.wait = now.Add(d)
		cn.raw.SetReadDeadline(cn.wait)
	}
}

// kill closes the connection at once, without the goodbye of TLS, which could block. It may be called from any goroutine
// and more than once.
func (cn *conn) kill() {
	cn.once.Do(func() { cn.raw.Close() })
}

// alive reports whether an idle connection can be used: nothing has come on it, neither an end nor bytes that nobody asked
// for.
func (cn *conn) alive() bool {
	if cn.br.Buffered() > 0 || cn.raw.r < cn.raw.w || cn.err != nil {
		return false
	}
	sc, ok := cn.raw.Conn.(syscall.Conn)
	if !ok {
		return true
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	quiet := false
	err = rc.Control(func(fd uintptr) {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		quiet = errors.Is(err, syscall.EAGAIN)
	})
	return err == nil && quiet
}
