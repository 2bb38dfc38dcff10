package s3

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock/penstock/tests/s3/server"
)

// fault is what the proxy does to a request.
type fault int

const (
	none    fault = iota
	late          // it is passed on after a while
	reset         // the connection is reset before an answer
	busy          // 503 SlowDown
	cut           // the answer ends in the middle
	skewed        // 403 RequestTimeTooSkewed, as to a node whose clock is wrong
	silence       // nothing is ever answered
)

// proxy stands between the store and the server and lets the test choose what happens to each request.
type proxy struct {
	*httptest.Server
	choose   atomic.Pointer[func(r *http.Request) fault]
	requests atomic.Int64
	ended    chan struct{}
}

func between(t *testing.T, s *server.Server) *proxy {
	t.Helper()
	to := &url.URL{Scheme: "https", Host: s.Address}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.Pool()}, DisableCompression: true, MaxIdleConnsPerHost: 32}
	relay := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host // it is signed
		},
		Transport: transport, ErrorLog: log.New(io.Discard, "", 0), // it tells of the faults
		ModifyResponse: func(r *http.Response) error {
			if r.Request.Header.Get("Test-Cut") != "" && r.ContentLength > 1 {
				r.Body = &half{r.Body, r.ContentLength / 2}
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	p := &proxy{ended: make(chan struct{})}
	p.set(func(*http.Request) fault { return none })
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.requests.Add(1)
		p.serve(w, r, (*p.choose.Load())(r), relay)
	}))
	t.Cleanup(func() { close(p.ended); p.CloseClientConnections(); p.Close(); transport.CloseIdleConnections() })
	return p
}

func (p *proxy) set(choose func(r *http.Request) fault) { p.choose.Store(&choose) }

func (p *proxy) serve(w http.ResponseWriter, r *http.Request, f fault, relay http.Handler) {
	switch f {
	case late:
		select {
		case <-time.After(300 * time.Millisecond):
		case <-p.ended:
		}
	case reset:
		hangUp(w)
		return
	case busy:
		refuse(w, http.StatusServiceUnavailable, "SlowDown")
		return
	case skewed:
		refuse(w, http.StatusForbidden, "RequestTimeTooSkewed")
		return
	case cut:
		r.Header.Set("Test-Cut", "1")
	case silence:
		select {
		case <-r.Context().Done():
		case <-p.ended:
		}
		return
	}
	defer func() { _ = recover() }() // how ReverseProxy ends an answer that was cut
	relay.ServeHTTP(w, r)
	if f == cut {
		hangUp(w)
	}
}

func hangUp(w http.ResponseWriter) {
	h, ok := w.(http.Hijacker)
	if !ok {
		return
	}
	c, _, err := h.Hijack()
	if err != nil {
		return
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // a reset, not an end
	}
	_ = c.Close()
}

func refuse(w http.ResponseWriter, status int, code string) {
	text := fmt.Sprintf(`<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>by the test</Message></Error>`, code)
	w.Header().Set("Content-Type", "application/xml")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text)
}

// half is a body that fails in the middle.
type half struct {
	io.ReadCloser
	left int64
}

func (h *half) Read(b []byte) (int, error) {
	if h.left <= 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := h.ReadCloser.Read(b[:min(int64(len(b)), h.left)])
	h.left -= int64(n)
	return n, err
}
