package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func read(t *testing.T, resp *Response) string {
	t.Helper()
	b, err := io.ReadAll(resp)
	if err != nil {
		t.Fatal(err)
	}
	resp.Close()
	return string(b)
}

func TestRequestIsWhatTheCallSays(t *testing.T) {
	a := newAuthority(t)
	g := newAgent(t, a, "L1/R1", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.Path, body)
		want := http.Header{
			"Penstock-Launch": {"L1"}, "Penstock-Epoch": {"7"}, "Penstock-Request": {"q1"}, "Penstock-Tenant": {"t1"},
			"X-Request-Id": {"q1"}, "Accept": {"text/event-stream"}, "Content-Type": {"application/json"},
			"Content-Length": {fmt.Sprint(len(body))}, "Traceparent": {"00-1"},
		}
		if diff := cmp.Diff(want, r.Header); diff != "" {
			t.Error(diff)
		}
	})
	c := newClient(t, Options{TLS: a.clientTLS(t)})
	for _, size := range []int{2, 7 << 10, 9 << 10, 1 << 20, 2} {
		body := strings.Repeat("x", size)
		resp, err := c.Do(t.Context(), g.target("L1", "R1"), Call{
			Path: "/v1/x", Body: []byte(body), Request: "q1", Tenant: "t1", Stream: true,
			Headers: []Header{{"traceparent", "00-1"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := read(t, resp); got != "POST /v1/x "+body {
			t.Errorf("body of %d: got %d bytes", size, len(got))
		}
	}
	if n := g.conns.Load(); n != 1 {
		t.Errorf("5 requests took %d connections", n)
	}
}

func TestAnotherRunGetsNothing(t *testing.T) {
	a := newAuthority(t)
	g := newAgent(t, a, "L1/R2", func(http.ResponseWriter, *http.Request) {})
	c := newClient(t, Options{TLS: a.clientTLS(t)})
	_, err := c.Do(t.Context(), g.target("L1", "R1"), Call{Path: "/"})
	if err == nil || !strings.Contains(err.Error(), "the peer is L1/R2, wanted L1/R1") {
		t.Errorf("a request to run R1 at R2's port: %v", err)
	}
	if g.requests.Load() != 0 {
		t.Error("the request reached the other run")
	}

	none := newClient(t, Options{})
	if _, err := none.Do(t.Context(), g.target("L1", "R2"), Call{Path: "/"}); err == nil {
		t.Error("without TLS settings something was sent")
	}
}

func TestConnectionsBelongToRuns(t *testing.T) {
	g := newAgent(t, nil, "", func(http.ResponseWriter, *http.Request) {})
	c := newClient(t, Options{Plaintext: true})
	for _, run := range []string{"R1", "R1", "R2", "R1"} {
		resp, err := c.Do(t.Context(), g.target("L1", run), Call{Path: "/"})
		if err != nil {
			t.Fatal(err)
		}
		read(t, resp)
	}
	if n := g.conns.Load(); n != 2 {
		t.Errorf("two runs at one address share or waste connections: %d", n)
	}
	c.CloseTarget(g.target("L1", "R1"))
	resp, err := c.Do(t.Context(), g.target("L1", "R1"), Call{Path: "/"})
	if err != nil {
		t.Fatal(err)
	}
	read(t, resp)
	if n := g.conns.Load(); n != 3 {
		t.Errorf("CloseTarget kept a connection: %d", n)
	}
}

func TestIdleConnectionThatDied(t *testing.T) {
	g := newAgent(t, nil, "", func(http.ResponseWriter, *http.Request) {})
	c := newClient(t, Options{Plaintext: true})
	for i := range 3 {
		resp, err := c.Do(t.Context(), g.target("L", "R"), Call{Path: "/", Body: []byte("{}")})
		if err != nil {
			t.Fatalf("request %d: %v", i+1, err)
		}
		read(t, resp)
		g.CloseClientConnections()
	}
}

func TestIdleForTooLong(t *testing.T) {
	g := newAgent(t, nil, "", func(http.ResponseWriter, *http.Request) {})
	c := newClient(t, Options{Plaintext: true, IdleTimeout: time.Nanosecond})
	for range 2 {
		resp, err := c.Do(t.Context(), g.target("L", "R"), Call{Path: "/"})
		if err != nil {
			t.Fatal(err)
		}
		read(t, resp)
	}
	if n := g.conns.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
	c.Reap()
	if n := len(c.pools[peer{"L", "R", g.Listener.Addr().String()}].idle); n != 0 {
		t.Errorf("%d idle connections were not reaped", n)
	}
}

// TestLeavingCutsTheWork: when the caller goes, before the header or in the body, the agent notices.
func TestLeavingCutsTheWork(t *testing.T) {
	for _, when := range []string{"before the header", "in the body", "by Close"} {
		t.Run(when, func(t *testing.T) {
			arrived, gone := make(chan struct{}), make(chan struct{})
			g := newAgent(t, nil, "", func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				if when != "before the header" {
					w.Write([]byte("first"))
					w.(http.Flusher).Flush()
				}
				close(arrived)
				<-r.Context().Done()
				close(gone)
			})
			c := newClient(t, Options{Plaintext: true})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if when == "before the header" {
				go func() {
					<-arrived
					cancel()
				}()
			}
			resp, err := c.Do(ctx, g.target("L", "R"), Call{Path: "/", Body: []byte("{}")})
			if when == "before the header" {
				if !errors.Is(err, context.Canceled) {
					t.Errorf("got %v", err)
				}
			} else {
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(resp, make([]byte, 5)); err != nil {
					t.Fatal(err)
				}
				if when == "by Close" {
					resp.Close()
				} else {
					cancel()
					if _, err := resp.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) {
						t.Errorf("got %v", err)
					}
					resp.Close()
				}
			}
			<-gone
		})
	}
}

func TestBadAnswers(t *testing.T) {
	stall := make(chan struct{})
	defer close(stall)
	g := newAgent(t, nil, "", func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/stalls-at-once":
			<-stall
		case "/stalls-later":
			w.Write([]byte("x"))
			w.(http.Flusher).Flush()
			<-stall
		case "/cut":
			w.Write([]byte("x"))
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		case "/cut-before-the-header":
			panic(http.ErrAbortHandler)
		case "/long-header":
			w.Header().Set("X", strings.Repeat("x", maxHead))
		}
	})
	c := newClient(t, Options{Plaintext: true})
	for _, tc := range []struct {
		path    string
		is      error
		message string
	}{
		{"/stalls-at-once", os.ErrDeadlineExceeded, "no answer in time"},
		{"/stalls-later", os.ErrDeadlineExceeded, ""},
		{"/cut", io.ErrUnexpectedEOF, ""},
		{"/cut-before-the-header", io.EOF, "wait for launch L at "},
		{"/long-header", errHeadTooLong, "header is too long"},
	} {
		resp, err := c.Do(t.Context(), g.target("L", "R"), Call{Path: tc.path, FirstByte: 50 * time.Millisecond})
		if err == nil {
			_, err = io.ReadAll(resp)
			resp.Close()
		}
		if !errors.Is(err, tc.is) || !strings.Contains(err.Error(), tc.message) {
			t.Errorf("%s: %v", tc.path, err)
		}
	}
	if _, err := c.Do(t.Context(), g.target("L", "R"), Call{Path: "/", Tenant: "a\r\nPenstock-Epoch: 9"}); err == nil {
		t.Error("a tenant smuggled a header in")
	}
}

func TestNobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	c := newClient(t, Options{Plaintext: true})
	_, err = c.Do(t.Context(), Target{Launch: "L", Address: l.Addr().String()}, Call{Path: "/"})
	var step *Error
	if !errors.As(err, &step) || step.Step != "connect" || !strings.Contains(err.Error(), "connect to launch L at ") {
		t.Errorf("got %v", err)
	}
	c.Close()
	if _, err = c.Do(t.Context(), Target{Address: l.Addr().String()}, Call{Path: "/"}); !errors.Is(err, errClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestProbe(t *testing.T) {
	var status int
	var answer string
	g := newAgent(t, nil, "", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Penstock-Reason", map[bool]string{true: "loading"}[status == 503])
		w.WriteHeader(status)
		io.WriteString(w, answer)
	})
	c := newClient(t, Options{Plaintext: true})
	for _, tc := range []struct {
		status     int
		answer     string
		embeddings bool
		want       string // part of the error; "" = none
	}{
		{200, `{"choices":[{"text":" a"}]}`, false, ""},
		{200, `{"choices":[{"text":""}],"usage":{"completion_tokens":1}}`, false, ""},
		{200, `{"choices":[{"text":""}],"usage":{"completion_tokens":0}}`, false, "holds no token"},
		{200, `{"choices":[]}`, false, "holds no text"},
		{200, `<html>`, false, "no completion"},
		{200, `{"data":[{"embedding":[0.5,1]}]}`, true, ""},
		{200, `{"data":[{"embedding":[]}]}`, true, "holds no vector"},
		{200, strings.Repeat(" ", maxProbeAnswer+1), false, "longer than"},
		{503, `{"error":"wait"}`, false, "503 Service Unavailable (loading): {\"error\":\"wait\"}"},
		{404, "no such model\nmore", false, "404 Not Found: no such model"},
	} {
		status, answer = tc.status, tc.answer
		err := c.Probe(t.Context(), g.target("L", "R"), "m", tc.embeddings)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%d %.30s: %v", tc.status, tc.answer, err)
		}
		var se *StatusError
		if tc.status != 200 && (!errors.As(err, &se) || se.Status != tc.status) {
			t.Errorf("%d: no StatusError in %v", tc.status, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	if err := c.Probe(ctx, g.target("L", "R"), "m", false); err == nil {
		t.Error("a probe without time succeeded")
	}
}
