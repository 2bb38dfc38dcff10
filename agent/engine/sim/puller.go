package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	kvPath          = "/sim/kv/" // + engine id / request id [/heartbeat]
	fetchTimeout    = 10 * time.Second
	releaseTimeout  = time.Second
	manifestLimit   = 64 << 20
	unixHostPrefix  = "unix:" // a remote_host that is a socket's path
	errorTextLimit  = 1 << 10
	transferMaxIdle = 16
)

// sideChannel is where other engines find this one's KV.
type sideChannel struct {
	engineID string
	host     string // or unix:PATH, with port 0
	port     int
}

// puller speaks to the side channels of other engines.
type puller struct {
	v    *vocabulary
	opts Options
	self sideChannel
	http *http.Client
}

func newPuller(opts Options) *puller {
	transport := &http.Transport{DialContext: dialSideChannel, MaxIdleConnsPerHost: transferMaxIdle, IdleConnTimeout: time.Minute}
	return &puller{v: theVocabulary(), opts: opts, http: &http.Client{Transport: transport, Timeout: fetchTimeout}}
}

func (p *puller) close() { p.http.CloseIdleConnections() }

// dialSideChannel dials a host, or the socket whose path is in the host in hexadecimal (see remoteURL).
func dialSideChannel(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	if path, ok := socketOfHost(host); ok {
		return d.DialContext(ctx, "unix", path)
	}
	return d.DialContext(ctx, network, address)
}

// socketSuffix marks a host name that encodes the path of a unix socket.
const socketSuffix = ".unix.invalid"

func hostOfSocket(path string) string { return fmt.Sprintf("%x", path) + socketSuffix }

func socketOfHost(host string) (path string, ok bool) {
	hexed, ok := strings.CutSuffix(host, socketSuffix)
	if !ok {
		return "", false
	}
	_, err := fmt.Sscanf(hexed, "%x", &path)
	return path, err == nil
}

func remoteURL(from remoteKV, more string) string {
	host := net.JoinHostPort(from.host, strconv.Itoa(from.port))
	if path, ok := strings.CutPrefix(from.host, unixHostPrefix); ok {
		host = hostOfSocket(path)
	}
	return "http://" + host + kvPath + url.PathEscape(from.engineID) + "/" + url.PathEscape(from.requestID) + more
}

func (p *puller) manifest(ctx context.Context, from remoteKV) (m manifest, err error) {
	body, err := p.call(ctx, http.MethodGet, from, "")
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return m, fmt.Errorf("KV of request %s from %s: the answer is no manifest: %w", from.requestID, from.host, err)
	}
	return m, nil
}

func (p *puller) heartbeat(ctx context.Context, from remoteKV) error {
	_, err := p.call(ctx, http.MethodPost, from, "/heartbeat")
	return err
}

// release tells the other engine that its blocks are no longer needed, also when ctx has ended. If it fails, the lease
// runs out by itself.
func (p *puller) release(ctx context.Context, from remoteKV) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	_, _ = p.call(ctx, http.MethodDelete, from, "")
}

func (p *puller) call(ctx context.Context, method string, from remoteKV, more string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, remoteURL(from, more), nil)
	if err != nil {
		return nil, fmt.Errorf("KV of request %s from %s: %w", from.requestID, from.host, err)
	}
	res, err := p.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("KV of request %s from %s: %w", from.requestID, from.host, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, manifestLimit))
	if err != nil {
		return nil, fmt.Errorf("KV of request %s from %s: %w", from.requestID, from.host, err)
	}
	if res.StatusCode != http.StatusOK {
		text := strings.TrimSpace(string(body[:min(len(body), errorTextLimit)]))
		return nil, fmt.Errorf("KV of request %s from %s: %s: %s", from.requestID, from.host, res.Status, text)
	}
	return body, nil
}
