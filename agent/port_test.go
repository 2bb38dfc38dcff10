package agent

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"

	"github.com/penstock/penstock/agent/engine"
	"github.com/penstock/penstock/jobspecs"
	spec "github.com/penstock/penstock/jobspecs/engine"
	"github.com/penstock/penstock/scheduler/identity"
	"github.com/penstock/penstock/scheduler/trunk"
)

// shortDir is a folder whose path leaves room for a socket's name.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "psa")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func testCA(t testing.TB) *identity.CA {
	t.Helper()
	ca, err := identity.OpenCA(filepath.Join(shortDir(t), "ca"))
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func issue(t testing.TB, ca *identity.CA, id identity.ID) *identity.Holder {
	t.Helper()
	cert, err := ca.Issue(id, time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return identity.NewHolder(cert)
}

// clientOf dials as id; nobody where id is zero.
func clientOf(t testing.TB, ca *identity.CA, id identity.ID) *http.Client {
	t.Helper()
	own := func() *tls.Certificate { return nil }
	if id != (identity.ID{}) {
		own = issue(t, ca, id).Certificate
	}
	tr := &http.Transport{TLSClientConfig: identity.ClientConfig(own, ca.Pool(), nil), MaxIdleConnsPerHost: 100}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// way is how a client comes to a port.
type way func(testing.TB, *identity.CA, identity.ID) *http.Client

// bothWays makes a test with connections for requests, and with streams of a trunk.
func bothWays(t *testing.T, test func(*testing.T, way)) {
	t.Parallel()
	for name, w := range map[string]way{"connections": clientOf, "trunk": trunkClientOf} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, w)
		})
	}
}

// trunkClientOf is clientOf with one connection to each port for all requests.
func trunkClientOf(t testing.TB, ca *identity.CA, id identity.ID) *http.Client {
	t.Helper()
	own := func() *tls.Certificate { return nil }
	if id != (identity.ID{}) {
		own = issue(t, ca, id).Certificate
	}
	conf := identity.ClientConfig(own, ca.Pool(), nil)
	conf.NextProtos = []string{trunk.Protocol}
	var mu sync.Mutex
	trunks := map[string]*trunk.Trunk{}
	var running sync.WaitGroup
	tr := &http.Transport{DialTLSContext: func(_ context.Context, network, address string) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		if trunks[address] == nil {
			c, err := tls.Dial(network, address, conf)
			if err != nil {
				return nil, err
			}
			over := trunk.Dialed(c)
			trunks[address] = over
			running.Go(func() { _ = over.Run() })
		}
		return trunks[address].Open()
	}}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		for _, over := range trunks {
			over.Close()
		}
		running.Wait()
	})
	return &http.Client{Transport: tr}
}

var (
	asGateway = identity.ID{Role: identity.Gateway, Name: "g"}
	asAgent   = identity.ID{Role: identity.Agent, Launch: "l1", Run: "r1"}
)

type portUnderTest struct {
	*port
	url string
	ca  *identity.CA
}

// openPort opens a data port in front of an engine that h plays on a unix socket.
func openPort(t testing.TB, h http.Handler) portUnderTest {
	t.Helper()
	ca := testCA(t)
	registry := prometheus.NewRegistry()
	p := newPort(portOptions{
		launch: "l1", run: "r1", epoch: 7,
		traits:  spec.Traits{Paths: []string{"/v1/chat/completions", "/v1/completions"}, TokenizePath: "/tokenize"},
		metrics: newMetrics(registry), scrape: promhttp.HandlerFor(registry, promhttp.HandlerOpts{}), log: zerolog.Nop(),
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conf := identity.ServerConfig(issue(t, ca, asAgent).Certificate, ca.Pool(), true)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.serve(ctx, l, conf) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	p.admit(engineOnSocket(t, h), nil)
	return portUnderTest{port: p, url: "https://" + l.Addr().String(), ca: ca}
}

func engineOnSocket(t testing.TB, h http.Handler) *engine.Reader {
	t.Helper()
	path := filepath.Join(shortDir(t), "e.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(h)
	srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	t.Cleanup(srv.Close)
	r := engine.New(engine.Options{Kind: jobspecs.VLLM, Socket: path})
	t.Cleanup(r.Close)
	return r
}

// post sends a request as a gateway does.
func (p portUnderTest) post(t testing.TB, c *http.Client, path, body string, change func(*http.Request)) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Penstock-Launch", "l1")
	req.Header.Set("Penstock-Epoch", "7")
	req.Header.Set("Penstock-Tenant", "alice")
	if change != nil {
		change(req)
	}
	return c.Do(req)
}

func TestPortPassesRequestsThrough(t *testing.T) {
	bothWays(t, func(t *testing.T, clientOf way) {
		p := openPort(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			for name := range r.Header {
				if strings.HasPrefix(name, "Penstock-") || name == "Authorization" {
					t.Errorf("%s reaches the engine", name)
				}
			}
			w.Header().Set("X-Engine", "yes")
			w.Header().Set("Penstock-Reason", "forged")
			w.WriteHeader(http.StatusTeapot)
			fmt.Fprintf(w, "%s %s %s", r.URL.RequestURI(), r.Header.Get("X-Request-Id"), body)
		}))
		resp, err := p.post(t, clientOf(t, p.ca, asGateway), "/v1/completions?a=b", "hello", func(r *http.Request) {
			r.Header.Set("X-Request-Id", "q1")
			r.Header.Set("Authorization", "Bearer of-the-user")
		})
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != http.StatusTeapot || string(body) != "/v1/completions?a=b q1 hello" {
			t.Errorf("%d %q", resp.StatusCode, body)
		}
		if resp.Header.Get("X-Engine") != "yes" || resp.Header.Get("Penstock-Reason") != "" {
			t.Errorf("headers %v", resp.Header)
		}
	})
}

func TestPortLetsIn(t *testing.T) {
	bothWays(t, func(t *testing.T, clientOf way) {
		p := openPort(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		tests := map[string]struct {
			as     identity.ID
			path   string
			change func(*http.Request)
			want   int
		}{
			"a gateway":           {asGateway, "/v1/completions", nil, 200},
			"the controller":      {identity.ID{Role: identity.Controller, Name: "c"}, "/v1/completions", nil, 200},
			"an agent":            {asAgent, "/v1/completions", nil, 403},
			"a person":            {identity.ID{Role: identity.CLI, Name: "me"}, "/v1/completions", nil, 403},
			"another launch":      {asGateway, "/v1/completions", func(r *http.Request) { r.Header.Set("Penstock-Launch", "l2") }, 421},
			"an older epoch":      {asGateway, "/v1/completions", func(r *http.Request) { r.Header.Set("Penstock-Epoch", "6") }, 421},
			"no epoch":            {asGateway, "/v1/completions", func(r *http.Request) { r.Header.Del("Penstock-Epoch") }, 421},
			"tokenize":            {asGateway, "/tokenize", nil, 200},
			"engine control":      {asGateway, "/reset_prefix_cache", nil, 404},
			"adapters":            {asGateway, "/v1/load_lora_adapter", nil, 404},
			"failure injection":   {asGateway, "/sim/fail", nil, 404},
			"slots":               {asGateway, "/slots/0?action=erase", nil, 404},
			"a path with dots":    {asGateway, "/v1/completions/../../slots/0", nil, 404},
			"wrong method":        {asGateway, "/health", nil, 404},
			"our metrics":         {asGateway, "/penstock/metrics", nil, 200},
			"metrics as an agent": {asAgent, "/penstock/metrics", nil, 403},
			"no gang here":        {asAgent, "/penstock/gang", nil, 404},
		}
		clients := map[identity.ID]*http.Client{}
		for _, test := range tests {
			if clients[test.as] == nil {
				clients[test.as] = clientOf(t, p.ca, test.as)
			}
		}
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				resp, err := p.post(t, clients[test.as], test.path, "{}", test.change)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				if resp.StatusCode != test.want {
					t.Errorf("status %d, want %d", resp.StatusCode, test.want)
				}
			})
		}
	})
}

func TestPortRefusesStrangers(t *testing.T) {
	bothWays(t, func(t *testing.T, clientOf way) {
		p := openPort(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a stranger reached the engine") }))
		other := testCA(t)
		stranger := &http.Client{Transport: &http.Transport{TLSClientConfig: identity.ClientConfig(
			issue(t, other, asGateway).Certificate, p.ca.Pool(), nil)}}
		defer stranger.CloseIdleConnections()
		for name, c := range map[string]*http.Client{
			"no certificate": clientOf(t, p.ca, identity.ID{}), "certificate of another installation": stranger,
			"plain HTTP": http.DefaultClient,
		} {
			change := func(*http.Request) {}
			if name == "plain HTTP" {
				change = func(r *http.Request) { r.URL.Scheme = "http" }
			}
			resp, err := p.post(t, c, "/v1/completions", "{}", change)
			if err != nil {
				continue
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusBadRequest { // what Go answers to plain HTTP on a TLS port
				t.Errorf("%s: status %d", name, resp.StatusCode)
			}
		}
	})
}

func TestPortSaysWhyNot(t *testing.T) {
	t.Parallel()
	p := openPort(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	c := clientOf(t, p.ca, asGateway)
	for _, why := range []refusal{loading, draining, failed} {
		p.refuse(why)
		resp, err := p.post(t, c, "/v1/completions", "{}", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Penstock-Reason") != string(why) {
			t.Errorf("%s: %d %q", why, resp.StatusCode, resp.Header.Get("Penstock-Reason"))
		}
	}
}

func TestPortStreamsPieceByPiece(t *testing.T) {
	bothWays(t, func(t *testing.T, clientOf way) {
		next := make(chan string)
		p := openPort(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for piece := range next {
				fmt.Fprintf(w, "data: %s\n\n", piece)
				_ = http.NewResponseController(w).Flush()
			}
		}))
		go func() { next <- "0" }()
		resp, err := p.post(t, clientOf(t, p.ca, asGateway), "/v1/completions", "{}", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		lines := bufio.NewReader(resp.Body)
		for i := range 20 {
			line, err := lines.ReadString('\n')
			if err != nil || line != fmt.Sprintf("data: %d\n", i) {
				t.Fatalf("piece %d: %q, %v", i, line, err)
			}
			_, _ = lines.ReadString('\n')
			if p.requests() != 1 {
				t.Fatalf("%d open requests, want 1", p.requests())
			}
			if i < 19 {
				next <- fmt.Sprint(i + 1) // only after the one before has arrived: nothing is held back
			}
		}
		close(next)
		if rest, err := io.ReadAll(lines); err != nil || len(rest) != 0 {
			t.Errorf("end: %q, %v", rest, err)
		}
		eventually(t, "the request is counted out", func() bool { return p.requests() == 0 })
	})
}

func TestPortShowsTheCut(t *testing.T) {
	bothWays(t, func(t *testing.T, clientOf way) {
		tests := map[string]func(w http.ResponseWriter, p portUnderTest){
			"engine dies in the middle": func(http.ResponseWriter, portUnderTest) { panic(http.ErrAbortHandler) },
			"drain cuts": func(w http.ResponseWriter, p portUnderTest) {
				eventually(t, "the first piece has passed", func() bool { return p.moved.Load() > 0 })
				p.cut()
				for {
					if _, err := io.WriteString(w, "data: more\n\n"); err != nil {
						return
					}
					_ = http.NewResponseController(w).Flush()
				}
			},
			"answer without an end of its own": nil,
		}
		for name, end := range tests {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				var p portUnderTest
				begun := make(chan struct{})
				p = openPort(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					<-begun
					if end == nil {
						answerUntilClose(t, w)
						return
					}
					_, _ = io.WriteString(w, "data: first\n\n")
					_ = http.NewResponseController(w).Flush()
					end(w, p)
				}))
				close(begun)
				resp, err := p.post(t, clientOf(t, p.ca, asGateway), "/v1/completions", "{}", nil)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				body, err := io.ReadAll(resp.Body)
				if err == nil || !strings.HasPrefix(string(body), "data: first\n\n") {
					t.Errorf("a cut stream looks complete: %.60q, %v", body, err)
				}
			})
		}
	})
}

// answerUntilClose answers as HTTP/1.0 did: the body ends with the connection, whatever the reason.
func answerUntilClose(t *testing.T, w http.ResponseWriter) {
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		t.Error(err)
		return
	}
	_, _ = buf.WriteString("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\ndata: first\n\n")
	_ = buf.Flush()
	_ = conn.Close()
}

func TestPortBeforeTheFirstByte(t *testing.T) {
	t.Parallel()
	p := openPort(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	resp, err := p.post(t, clientOf(t, p.ca, asGateway), "/v1/completions", "{}", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var body struct {
		Error struct{ Message string }
	}
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil || body.Error.Message == "" {
		t.Errorf("body %+v, %v", body, err)
	}
	if resp.StatusCode != http.StatusBadGateway || resp.Header.Get("Penstock-Reason") != "failed" {
		t.Errorf("%d %q: the gateway must see that it may try another", resp.StatusCode, resp.Header.Get("Penstock-Reason"))
	}
}

func TestPortCancelsTheEnginesWork(t *testing.T) {
	bothWays(t, func(t *testing.T, clientOf way) {
		cancelled := make(chan struct{})
		p := openPort(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(w, "data: first\n\n")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			close(cancelled)
		}))
		ctx, cancel := context.WithCancel(t.Context())
		resp, err := p.post(t, clientOf(t, p.ca, asGateway), "/v1/completions", "{}", func(r *http.Request) { *r = *r.WithContext(ctx) })
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		cancel()
		select {
		case <-cancelled:
		case <-time.After(20 * time.Second):
			t.Error("the client has gone, and the engine works on")
		}
	})
}

func TestPortEndsWithItsContext(t *testing.T) {
	bothWays(t, func(t *testing.T, clientOf way) {
		p := openPort(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "data: first\n\n")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}))
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- p.serve(ctx, l, identity.ServerConfig(issue(t, p.ca, asAgent).Certificate, p.ca.Pool(), true))
		}()
		p.url = "https://" + l.Addr().String()
		resp, err := p.post(t, clientOf(t, p.ca, asGateway), "/v1/completions", "{}", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
		if _, err := io.ReadAll(resp.Body); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("an open stream looks complete: %v", err)
		}
		if p.requests() != 0 {
			t.Errorf("%d requests are open after serve has returned", p.requests())
		}
	})
}

// eventually waits for something that another goroutine is about to do.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}
