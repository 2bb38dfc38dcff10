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

// conn is one connection. One request uses it at a time.
type conn struct {
	peer   peer
	raw    net.Conn // the TCP connection
	stream net.Conn // what is spoken over: TLS on raw, or raw itself
	br     *bufio.Reader

	reused    bool
	idleSince time.Time
	head      int       // bytes that an answer's header may still take; -1 = no header is being read
	wait      time.Time // the read deadline that is set

	once sync.Once
}

func newConn(p peer, raw, stream net.Conn) *conn {
	cn := &conn{peer: p, raw: raw, stream: stream, head: -1}
	cn.br = bufio.NewReaderSize(reader{cn}, 8<<10)
	return cn
}

// reader counts what a header takes.
type reader struct{ cn *conn }

func (r reader) Read(p []byte) (int, error) {
	cn := r.cn
	if cn.head == 0 {
		return 0, errHeadTooLong
	}
	if cn.head > 0 && len(p) > cn.head {
		p = p[:cn.head]
	}
	n, err := cn.stream.Read(p)
	if cn.head > 0 {
		cn.head -= n
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
	if cn.br.Buffered() > 0 {
		return false
	}
	sc, ok := cn.raw.(syscall.Conn)
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
