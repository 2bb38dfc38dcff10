package upstream

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"
)

// Response is an agent's answer. One goroutine reads and closes it.
type Response struct {
	Status int
	Header http.Header

	body   io.ReadCloser
	keep   bool // the connection may serve another request
	client *Client
	conn   *conn
	ctx    context.Context
	stop   func() bool
	idle   time.Duration
	ended  bool // the whole body was read
	closed bool
}

// Read reads the body. An answer that was cut gives io.ErrUnexpectedEOF or the connection's error, one that stalls an error
// that is os.ErrDeadlineExceeded, one whose caller left the cause of the context's end.
func (r *Response) Read(p []byte) (int, error) {
	r.conn.within(r.idle)
	n, err := r.body.Read(p)
	if err == nil {
		return n, nil
	}
	if errors.Is(err, io.EOF) {
		r.ended = true
		return n, io.EOF
	}
	return n, cause(r.ctx, err)
}

// SetIdle sets how long the next bytes may take from now on, each time.
func (r *Response) SetIdle(d time.Duration) { r.idle = d }

// Close ends the answer. After a whole body the connection is kept for the next request; else it is cut, and the agent
// sees that nobody waits any more. Close may be called again.
func (r *Response) Close() {
	if r.closed {
		return
	}
	r.closed = true
	running := r.stop() // false: ctx has ended, the connection is being cut
	if r.ended && running && r.keep {
		r.client.put(r.conn)
		return
	}
	r.conn.kill()
}
