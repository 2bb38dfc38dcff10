package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock/penstock/scheduler/trunk"
)

// trunkAgent is a fake agent that knows trunks, and shows those that are open.
type trunkAgent struct {
	*agent
	trunks chan *trunk.Trunk
}

func newTrunkAgent(t *testing.T, a *authority, h http.HandlerFunc) *trunkAgent {
	t.Helper()
	g := &trunkAgent{trunks: make(chan *trunk.Trunk, 100)}
	g.agent = startAgent(t, a, "L/R", h, func(srv *http.Server, conf *tls.Config) {
		srv.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){
			trunk.Protocol: func(_ *http.Server, c *tls.Conn, h http.Handler) {
				over := trunk.Accepted(c)
				g.trunks <- over
				var running sync.WaitGroup
				running.Go(func() { _ = over.Run() })
				inner := &http.Server{Handler: h}
				_ = inner.Serve(over)
				_ = inner.Close()
				running.Wait()
			},
		}
		conf.NextProtos = []string{trunk.Protocol, "http/1.1"}
	})
	return g
}

// echo answers with the request's body.
func echo(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	_, _ = w.Write(b)
}

// TestRequestsShareATrunk: requests that come at once wait for one handshake, and get their own answers.
func TestRequestsShareATrunk(t *testing.T) {
	a := newAuthority(t)
	g := newTrunkAgent(t, a, echo)
	c := newClient(t, Options{TLS: a.clientTLS(t)})
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			body := strings.Repeat(fmt.Sprint("request ", i), 1+10*i)
			resp, err := c.Do(t.Context(), g.target("L", "R"), Call{Path: "/", Body: []byte(body)})
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Close()
			if got, err := io.ReadAll(resp); err != nil || string(got) != body {
				t.Errorf("request %d got %d bytes of another answer, or not all: %v", i, len(got), err)
			}
		})
	}
	all.Wait()
	if n := g.conns.Load(); n != 1 {
		t.Errorf("100 requests took %d connections", n)
	}
}

// TestTrunkEnds: requests that were on it fail, the next one goes over a new one.
func TestTrunkEnds(t *testing.T) {
	a := newAuthority(t)
	began := make(chan struct{})
	g := newTrunkAgent(t, a, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stream" {
			_, _ = io.WriteString(w, "first")
			_ = http.NewResponseController(w).Flush()
			began <- struct{}{}
			<-r.Context().Done()
		}
	})
	c := newClient(t, Options{TLS: a.clientTLS(t)})
	resp, err := c.Do(t.Context(), g.target("L", "R"), Call{Path: "/stream"})
	if err != nil {
		t.Fatal(err)
	}
	<-began
	(<-g.trunks).Close()
	if b, err := io.ReadAll(resp); string(b) != "first" || err == nil {
		t.Errorf("a stream whose trunk ended: %q, %v", b, err)
	}
	resp.Close()
	for range 2 {
		if resp, err = c.Do(t.Context(), g.target("L", "R"), Call{Path: "/"}); err != nil {
			t.Fatal(err)
		}
		read(t, resp)
	}
	if n := g.conns.Load(); n != 2 {
		t.Errorf("%d connections, want a second one", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if resp, err = c.Do(ctx, g.target("L", "R"), Call{Path: "/stream"}); err != nil {
		t.Fatal(err)
	}
	<-began
	cancel() // the handler ends, else the agent's Close waits for ever
	if _, err := io.ReadAll(resp); !errors.Is(err, context.Canceled) {
		t.Errorf("after the caller left: %v", err)
	}
	resp.Close()
}

// TestTrunkIsGivenUp: a run that is forgotten, or has not been asked for long, keeps no connection.
func TestTrunkIsGivenUp(t *testing.T) {
	a := newAuthority(t)
	g := newTrunkAgent(t, a, echo)
	c := newClient(t, Options{TLS: a.clientTLS(t), IdleTimeout: time.Millisecond})
	for name, giveUp := range map[string]func(){
		"forgotten": func() { c.CloseTarget(g.target("L", "R")) },
		"reaped":    func() { time.Sleep(2 * time.Millisecond); c.Reap() },
		"too old": func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.pools[peer{"L", "R", g.Listener.Addr().String()}].born = time.Now().Add(-trunkAge)
		},
	} {
		before := g.conns.Load()
		for range 2 {
			resp, err := c.Do(t.Context(), g.target("L", "R"), Call{Path: "/"})
			if err != nil {
				t.Fatal(err)
			}
			read(t, resp)
			giveUp()
		}
		if n := g.conns.Load() - before; n < 1 {
			t.Errorf("%s: no new connection", name)
		}
	}
	c.Close()
	if _, err := c.Do(t.Context(), g.target("L", "R"), Call{Path: "/"}); !errors.Is(err, errClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// TestNobodyThere: all who wait for one attempt are told how it went, and it is made once.
func TestNobodyThere(t *testing.T) {
	a := newAuthority(t)
	g := newTrunkAgent(t, a, echo)
	var attempts atomic.Int32
	verdict := make(chan struct{})
	c := newClient(t, Options{TLS: func(launch, run string) *tls.Config {
		conf := a.clientTLS(t)(launch, run)
		conf.VerifyConnection = func(tls.ConnectionState) error {
			attempts.Add(1)
			<-verdict
			return errors.New("not the run that was meant")
		}
		return conf
	}})
	var all sync.WaitGroup
	time.AfterFunc(200*time.Millisecond, func() { close(verdict) }) // most of the others have come by then
	for range 20 {
		all.Go(func() {
			var e *Error
			if _, err := c.Do(t.Context(), g.target("L", "R"), Call{Path: "/"}); !errors.As(err, &e) || e.Step != "connect" {
				t.Errorf("%v", err)
			}
		})
	}
	all.Wait()
	if n := attempts.Load(); n > 19 {
		t.Errorf("%d attempts for 20 requests at once", n)
	}
}
