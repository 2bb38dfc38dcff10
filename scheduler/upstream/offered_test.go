package upstream

import (
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/penstock/penstock/scheduler/trunk"
)

// dialsIn has an agent dial the client and serve over that connection. It returns what cuts it.
func dialsIn(t *testing.T, c *Client, launch, run string, h http.HandlerFunc) (cut func()) {
	t.Helper()
	now := func() *trunk.Trunk {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.offered[offer{launch, run}]
	}
	before := now()
	ours, theirs := net.Pipe()
	over := trunk.Accepted(theirs)
	var running sync.WaitGroup
	running.Go(func() { _ = c.Adopt(launch, run, ours) })
	running.Go(func() { _ = over.Run() })
	inner := &http.Server{Handler: h}
	running.Go(func() { _ = inner.Serve(over) })
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		if latest := now(); latest != nil && latest != before {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the connection is not taken")
		}
	}
	cut = sync.OnceFunc(func() {
		_ = over.Close()
		_ = inner.Close()
		running.Wait()
	})
	t.Cleanup(cut)
	return cut
}

// ask sends a request to a run that cannot be dialled.
func ask(t *testing.T, c *Client, run string) string {
	t.Helper()
	resp, err := c.Do(t.Context(), Target{Launch: "L", Run: run, Address: "127.0.0.1:1"}, Call{Path: "/", Body: []byte("x")})
	if err != nil {
		return ""
	}
	defer resp.Close()
	text, err := io.ReadAll(resp)
	if err != nil {
		t.Error(err)
	}
	return string(text)
}

func says(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }
}

// TestAdopt: requests to a run go over the connection that its agent has dialled, and to no other run.
func TestAdopt(t *testing.T) {
	a := newAuthority(t)
	c := newClient(t, Options{TLS: a.clientTLS(t)})
	if got := ask(t, c, "R"); got != "" {
		t.Errorf("nobody is there, and %q answers", got)
	}
	cut := dialsIn(t, c, "L", "R", says("first"))
	if got := ask(t, c, "R"); got != "first" {
		t.Errorf("got %q", got)
	}
	if got := ask(t, c, "another"); got != "" {
		t.Errorf("another run got %q", got)
	}
	second := dialsIn(t, c, "L", "R", says("second"))
	if got := ask(t, c, "R"); got != "second" {
		t.Errorf("got %q", got)
	}
	cut() // which was retired by the second
	if got := ask(t, c, "R"); got != "second" {
		t.Errorf("got %q", got)
	}
	second()
	if got := ask(t, c, "R"); got != "" {
		t.Errorf("the connection is cut, and %q answers", got)
	}
}

// TestAdoptReplaced: what is under way on a connection goes on when the agent's next one takes its place.
func TestAdoptReplaced(t *testing.T) {
	a := newAuthority(t)
	c := newClient(t, Options{TLS: a.clientTLS(t)})
	began, finish := make(chan struct{}), make(chan struct{})
	dialsIn(t, c, "L", "R", func(w http.ResponseWriter, _ *http.Request) {
		close(began)
		<-finish
		_, _ = io.WriteString(w, "first")
	})
	got := make(chan string)
	go func() { got <- ask(t, c, "R") }()
	<-began
	dialsIn(t, c, "L", "R", says("second"))
	if text := ask(t, c, "R"); text != "second" {
		t.Errorf("a new request got %q", text)
	}
	close(finish)
	if text := <-got; text != "first" {
		t.Errorf("the open request got %q", text)
	}
	c.CloseTarget(Target{Launch: "L", Run: "R", Address: "127.0.0.1:1"})
	if text := ask(t, c, "R"); text != "" {
		t.Errorf("a run that is forgotten answers %q", text)
	}
}
