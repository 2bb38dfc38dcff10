package agent

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/penstock/penstock/agent/engine"
)

// engineHost stands in requests to the engine, wherever it listens.
const engineHost = "engine"

// writeLimit is how long a gateway may take to accept one piece of an answer; it is cut off after at least half of that.
const writeLimit = time.Minute

var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// hopByHop are headers that speak of one connection and not of the message.
var hopByHop = map[string]bool{
	"Connection": true, "Keep-Alive": true, "Proxy-Authenticate": true, "Proxy-Authorization": true,
	"Proxy-Connection": true, "Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true,
}

// forward sends one request to the engine and its answer back, piece by piece as it comes. The end of the client ends the
// engine's work. Where the engine's answer breaks off, so does ours: the connection is cut without the last chunk, and
// never looks complete. answered says that the engine has done what it was asked to.
func (p *port) forward(ctx context.Context, w http.ResponseWriter, r *http.Request, e *engine.Reader) (answered bool) {
	// Without it the server closes the request's body at our first write, and a transport that was about to look for the
	// body's end takes the engine's connection down with it.
	_ = http.NewResponseController(w).EnableFullDuplex()
	resp, err := e.Transport().RoundTrip(outgoing(ctx, r, e))
	if err != nil {
		p.lost(ctx, w, err)
		return false
	}
	defer resp.Body.Close()
	copyHeader(w.Header(), resp.Header)
	p.metrics.requests.WithLabelValues(strconv.Itoa(resp.StatusCode)).Inc()
	w.WriteHeader(resp.StatusCode)
	if err := p.pass(w, resp); err != nil {
		p.metrics.cut.Inc()
		panic(http.ErrAbortHandler)
	}
	return resp.StatusCode == http.StatusOK
}

// outgoing is the request as the engine gets it: without what is ours, with the engine's key.
func outgoing(ctx context.Context, r *http.Request, e *engine.Reader) *http.Request {
	out := &http.Request{
		Method:        r.Method,
		URL:           &url.URL{Scheme: "http", Host: engineHost, Path: r.URL.Path, RawQuery: r.URL.RawQuery},
		Header:        make(http.Header, len(r.Header)+1),
		Body:          r.Body,
		ContentLength: r.ContentLength,
	}
	copyHeader(out.Header, r.Header)
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = nil // else Go puts its own
	}
	e.Authorize(out.Header)
	if r.ContentLength == 0 {
		out.Body = http.NoBody
	}
	return out.WithContext(ctx)
}

// copyHeader copies what belongs to the message. Penstock-* headers are between gateway and agent, in both directions.
func copyHeader(to, from http.Header) {
	for name, values := range from {
		if !hopByHop[name] && !strings.HasPrefix(name, headerPrefix) {
			to[name] = values
		}
	}
	for _, list := range from["Connection"] {
		for name := range strings.SplitSeq(list, ",") {
			delete(to, http.CanonicalHeaderKey(strings.TrimSpace(name)))
		}
	}
}

// lost answers where the engine gave no answer. Nothing was sent yet, so that the gateway may try another replica.
func (p *port) lost(ctx context.Context, w http.ResponseWriter, err error) {
	switch {
	case errors.Is(context.Cause(ctx), errCut):
		p.refused(w, http.StatusServiceUnavailable, draining, errCut)
	case ctx.Err() != nil:
		panic(http.ErrAbortHandler) // the client has gone
	default:
		p.refused(w, http.StatusBadGateway, failed, err)
	}
}

// errOpenEnd: an answer that ends with its connection may have been cut; nobody can tell.
var errOpenEnd = errors.New("the engine's answer has no end of its own")

// pass copies the body. Streams are flushed at every piece.
func (p *port) pass(w http.ResponseWriter, resp *http.Response) error {
	control := http.NewResponseController(w)
	defer func() { _ = control.SetWriteDeadline(time.Time{}) }()
	buf := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buf)
	stream := resp.ContentLength < 0
	var till time.Time // the write deadline
	for {
		n, err := resp.Body.Read(buf[:])
		if n > 0 {
			p.moved.Add(uint64(n))
			// Moving the deadline costs a good part of a write, so it is moved when half of it has passed.
			if now := time.Now(); till.Sub(now) < writeLimit/2 {
				till = now.Add(writeLimit)
				_ = control.SetWriteDeadline(till)
			}
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
			if stream {
				if err := control.Flush(); err != nil {
					return err
				}
			}
		}
		switch {
		case errors.Is(err, io.EOF) && stream && len(resp.TransferEncoding) == 0:
			return errOpenEnd
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}
