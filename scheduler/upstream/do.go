package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// Call is one request to an agent. Only what stands here is sent: no header of a client passes by itself.
type Call struct {
	Method  string // default POST
	Path    string
	Body    []byte // sent as application/json; not changed, not kept
	Request string // request ID, for the agent's and the engine's logs
	Tenant  string
	Stream  bool     // an event stream is wanted
	Headers []Header // further ones, such as traceparent
	// FirstByte is how long the answer's header may take, and then each read of its body until Response.SetIdle.
	FirstByte time.Duration // default 5 min
}

// Header is one header line.
type Header struct{ Name, Value string }

// Error says which step of a request to a run went wrong. Before the header of an answer came, any step's error means that
// the caller has seen nothing of an answer.
type Error struct {
	Target Target
	Step   string // connect, send, wait for
	Err    error
}

func (e *Error) Error() string {
	what := e.Err.Error()
	if errors.Is(e.Err, os.ErrDeadlineExceeded) {
		what = "no answer in time"
	}
	switch e.Step {
	case "connect":
		return fmt.Sprintf("connect to launch %s at %s: %s", e.Target.Launch, e.Target.Address, what)
	case "send":
		return fmt.Sprintf("send the request to launch %s at %s: %s", e.Target.Launch, e.Target.Address, what)
	}
	return fmt.Sprintf("wait for launch %s at %s: %s", e.Target.Launch, e.Target.Address, what)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Do sends a request to the run t and returns its answer once the header is there. The caller closes the answer. When ctx
// ends, before or after Do returns, the connection is cut, which ends the engine's work too.
func (c *Client) Do(ctx context.Context, t Target, call Call) (*Response, error) {
	if call.FirstByte <= 0 {
		call.FirstByte = 5 * time.Minute
	}
	head, err := appendHead(make([]byte, 0, 512+min(len(call.Body), smallBody)), t, call)
	if err != nil {
		return nil, &Error{Target: t, Step: "send", Err: err}
	}
	for fresh := false; ; fresh = true {
		cn, err := c.connect(ctx, t, fresh)
		if err != nil {
			return nil, err
		}
		resp, answered, err := c.exchange(ctx, cn, t, head, call)
		if err == nil {
			return resp, nil
		}
		cn.kill()
		// An idle connection can be closed by the other end while our request is on its way. That says nothing of the run.
		if !cn.reused || answered || ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, err
		}
	}
}

// smallBody is what is sent together with the header, in one packet and one TLS record.
const smallBody = 8 << 10

// exchange sends the request and reads the answer's header. answered tells whether any byte of an answer came.
func (c *Client) exchange(ctx context.Context, cn *conn, t Target, head []byte, call Call) (_ *Response, answered bool, err error) {
	stop := context.AfterFunc(ctx, cn.kill)
	defer func() {
		if err != nil {
			stop()
		}
	}()
	cn.raw.SetWriteDeadline(time.Now().Add(c.opts.SendTimeout))
	if err := send(cn, head, call.Body); err != nil {
		return nil, false, &Error{Target: t, Step: "send", Err: cause(ctx, err)}
	}
	cn.within(call.FirstByte)
	cn.head = maxHead
	if _, err := cn.br.Peek(1); err != nil {
		return nil, false, &Error{Target: t, Step: "wait for", Err: cause(ctx, err)}
	}
	answer, err := readHead(cn, call.Method)
	if err != nil {
		return nil, true, &Error{Target: t, Step: "wait for", Err: cause(ctx, err)}
	}
	cn.head = -1
	return &Response{
		Status: answer.StatusCode, Header: answer.Header,
		body: answer.Body, keep: !answer.Close, client: c, conn: cn, ctx: ctx, stop: stop, idle: call.FirstByte,
	}, true, nil
}

func send(cn *conn, head, body []byte) error {
	if len(body) <= smallBody {
		_, err := cn.stream.Write(append(head, body...))
		return err
	}
	if _, err := cn.stream.Write(head); err != nil {
		return err
	}
	_, err := cn.stream.Write(body)
	return err
}

// readHead reads the header of the final answer, past a few interim ones.
func readHead(cn *conn, method string) (*http.Response, error) {
	asked := posted
	if method == http.MethodGet {
		asked = got
	}
	for range 5 {
		answer, err := http.ReadResponse(cn.br, asked)
		if err != nil {
			return nil, err
		}
		if answer.StatusCode >= 200 || answer.StatusCode == http.StatusSwitchingProtocols {
			return answer, nil
		}
	}
	return nil, errors.New("only interim answers came")
}

// posted and got tell http.ReadResponse which method an answer belongs to. Nothing changes them.
var (
	posted = &http.Request{Method: http.MethodPost}
	got    = &http.Request{Method: http.MethodGet}
)

// cause prefers the caller's own reason over that of the connection which it cut.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// appendHead writes the request line and header. Penstock's own headers tell the agent for which launch and epoch the
// request is, so that it can refuse one that was meant for somebody else.
func appendHead(b []byte, t Target, call Call) ([]byte, error) {
	method := call.Method
	if method == "" {
		method = http.MethodPost
	}
	b = append(b, method+" "+call.Path+" HTTP/1.1\r\n"...)
	lines := []Header{
		{"Host", t.Address},
		{"Penstock-Launch", t.Launch},
		{"Penstock-Epoch", strconv.FormatUint(t.Epoch, 10)},
		{"Penstock-Request", call.Request},
		{"Penstock-Tenant", call.Tenant},
		{"X-Request-Id", call.Request},
	}
	for _, h := range lines {
		if h.Value == "" {
			continue
		}
		var err error
		if b, err = appendHeader(b, h); err != nil {
			return nil, err
		}
	}
	for _, h := range call.Headers {
		var err error
		if b, err = appendHeader(b, h); err != nil {
			return nil, err
		}
	}
	if call.Stream {
		b = append(b, "Accept: text/event-stream\r\n"...)
	} else {
		b = append(b, "Accept: application/json\r\n"...)
	}
	if method != http.MethodGet {
		b = append(b, "Content-Type: application/json\r\nContent-Length: "...)
		b = strconv.AppendInt(b, int64(len(call.Body)), 10)
		b = append(b, '\r', '\n')
	}
	return append(b, '\r', '\n'), nil
}

// appendHeader refuses what would end the line early.
func appendHeader(b []byte, h Header) ([]byte, error) {
	if strings.ContainsFunc(h.Value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return nil, fmt.Errorf("header %s holds a control character", h.Name)
	}
	b = append(b, h.Name...)
	b = append(b, ": "...)
	b = append(b, h.Value...)
	return append(b, '\r', '\n'), nil
}
