// Package engine reads one running inference engine over HTTP: is it healthy, which models does it serve, does it
// produce a real token, how loaded is it, how full is its KV cache. It talks to a unix socket or to a TCP port with a key.
//
// It starts and stops nothing, keeps no history and decides nothing: the agent calls it, once a second for load and now
// and then for health. What the engine does not tell stays unset in its answers, never zero.
package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/jobspecs"
	spec "github.com/penstock/penstock/jobspecs/engine"
)

// maxBody bounds every answer that is read from an engine. A vLLM with all its histograms answers some 100 KiB.
const maxBody = 4 << 20

// base begins the URL of every request; the dialer knows the real address.
const base = "http://engine"

// Options say where an engine listens and what is known of its kind.
type Options struct {
	Kind   jobspecs.EngineKind
	Role   jobspecs.RoleKind
	Traits spec.Traits
	// Socket is the engine's unix socket; empty: Address, a host:port.
	Socket  string
	Address string
	// Check is asked about every new connection before anything is sent on it; nil = no check.
	Check func(context.Context, net.Conn) error
	// Key is sent as a bearer token; empty = none.
	Key string
}

// Reader asks one engine. It is safe for use by several goroutines. Every call ends with its context.
type Reader struct {
	opts      Options
	transport *http.Transport
	client    *http.Client
	embeds    atomic.Bool // completions are known not to be served, embeddings are
}

// New makes a Reader and connects to nothing yet.
func New(o Options) *Reader {
	t := &http.Transport{
		DialContext:           dialer(o),
		MaxIdleConns:          1024,
		MaxIdleConnsPerHost:   1024,
		IdleConnTimeout:       30 * time.Second,
		DisableCompression:    true,
		ResponseHeaderTimeout: 0, // a queued request may wait long for its first byte; contexts bound the rest
	}
	return &Reader{opts: o, transport: t, client: &http.Client{Transport: t, CheckRedirect: noRedirect}}
}

func dialer(o Options) func(context.Context, string, string) (net.Conn, error) {
	d := &net.Dialer{Timeout: 5 * time.Second}
	network, address := "unix", o.Socket
	if o.Socket == "" {
		network, address = "tcp", o.Address
	}
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := d.DialContext(ctx, network, address)
		if err != nil || o.Check == nil {
			return conn, err
		}
		if err := o.Check(ctx, conn); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		return conn, nil
	}
}

// noRedirect: an engine never redirects; following one would leave the socket's owner.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// Transport is the connection pool to the engine, for whoever proxies requests to it. It reaches the engine whatever host
// a request's URL names.
func (r *Reader) Transport() http.RoundTripper { return r.transport }

// Authorize puts the engine's key on a request that goes through Transport, in place of whatever was there.
func (r *Reader) Authorize(h http.Header) {
	if r.opts.Key == "" {
		h.Del("Authorization")
		return
	}
	h.Set("Authorization", "Bearer "+r.opts.Key)
}

// Close drops idle connections.
func (r *Reader) Close() { r.transport.CloseIdleConnections() }

// StatusError is an engine's answer that was not 200.
type StatusError struct {
	Path   string
	Status int
	Text   string // start of the body, for people
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("engine answers %d to %s: %s", e.Status, e.Path, e.Text)
}

// Health is nil when the engine says that it can serve. A *StatusError means that it listens and is not ready; any other
// error means that nobody answers.
func (r *Reader) Health(ctx context.Context) error {
	path := r.opts.Traits.HealthPath
	if path == "" {
		path = r.opts.Traits.ModelsPath
	}
	_, err := r.do(ctx, http.MethodGet, path, nil)
	return err
}

// Models lists the names that the engine serves.
func (r *Reader) Models(ctx context.Context) ([]string, error) {
	body, err := r.do(ctx, http.MethodGet, r.opts.Traits.ModelsPath, nil)
	if err != nil {
		return nil, err
	}
	return decodeModels(body)
}

func decodeModels(body []byte) ([]string, error) {
	var list struct {
		Data []struct {
			ID string `json:"id"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("read the engine's list of models: %w", err)
	}
	names := make([]string, 0, len(list.Data))
	for _, m := range list.Data {
		if m.ID != "" {
			names = append(names, m.ID)
		}
	}
	return names, nil
}

// do sends one small request and returns the whole answer, or *StatusError when it is not 200.
func (r *Reader) do(ctx context.Context, method, path string, in any) ([]byte, error) {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("write the request for %s: %w", path, err)
		}
		body = strings.NewReader(string(text))
	}
	req, err := http.NewRequestWithContext(ctx, method, base+path, body)
	if err != nil {
		return nil, fmt.Errorf("ask the engine for %s: %w", path, err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	r.Authorize(req.Header)
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the engine for %s: %w", path, err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the engine's answer to %s: %w", path, err)
	case resp.StatusCode != http.StatusOK:
		return nil, &StatusError{Path: path, Status: resp.StatusCode, Text: summary(out)}
	case len(out) > maxBody:
		return nil, fmt.Errorf("the engine's answer to %s is larger than %d bytes", path, maxBody)
	}
	return out, nil
}

// summary is the start of an answer on one line.
func summary(body []byte) string {
	text := strings.Join(strings.Fields(strings.ToValidUTF8(string(body[:min(len(body), 300)]), "?")), " ")
	if text == "" {
		return "(no text)"
	}
	return text
}

// unsupported tells whether an answer means that the engine does not serve this path for its model.
func unsupported(err error) bool {
	var s *StatusError
	if !errors.As(err, &s) {
		return false
	}
	switch s.Status {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return true
	}
	return false
}
