package agent

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/identity"
	"github.com/penstock/penstock/scheduler/trunk"
)

// berth is a gateway's port for agents that it cannot dial. Each connection that passes its handshake comes out of offers.
type berth struct {
	address string
	offers  chan *tls.Conn
}

func newBerth(t *testing.T, ca *identity.CA, as identity.ID) *berth {
	t.Helper()
	conf := identity.ServerConfig(issue(t, ca, as).Certificate, ca.Pool(), true)
	conf.NextProtos = []string{trunk.ReverseProtocol}
	l, err := tls.Listen("tcp", "127.0.0.1:0", conf)
	if err != nil {
		t.Fatal(err)
	}
	b := &berth{address: l.Addr().String(), offers: make(chan *tls.Conn, 100)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			secure, _ := c.(*tls.Conn)
			if err := secure.Handshake(); err != nil {
				_ = c.Close()
				continue
			}
			b.offers <- secure
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
		close(b.offers)
		for c := range b.offers {
			_ = c.Close()
		}
	})
	return b
}

// over sends requests over an agent's connection.
func over(t *testing.T, c net.Conn) *http.Client {
	t.Helper()
	tr := trunk.Dialed(c)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = tr.Run()
	}()
	t.Cleanup(func() {
		_ = tr.Close()
		<-ended
	})
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return tr.Open() },
	}}
}

func (b *berth) next(t *testing.T) *tls.Conn {
	t.Helper()
	select {
	case c := <-b.offers:
		return c
	case <-time.After(patience):
		t.Fatal("the agent does not dial")
		return nil
	}
}

func (w *world) tell(gateways ...*apiv1.GatewayAddress) {
	w.controller.set(func() { w.controller.gateways = gateways })
}

// TestReverse: nobody dials the port. The agent dials the gateway, whose requests come over that connection, and again when it
// has ended.
func TestReverse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	g := newBerth(t, w.ca, asGateway)
	w.tell(&apiv1.GatewayAddress{Name: "g", Addresses: []string{"127.0.0.1:1", g.address}})
	a := w.start(func(o *Options) { o.Reach, o.Limits.Dialled = ReachAuto, 10*time.Millisecond })
	a.reach(apiv1.Phase_PHASE_STARTED)
	for range 2 {
		c := g.next(t)
		state := c.ConnectionState()
		if id, err := identity.FromState(&state); err != nil || id != (identity.ID{Role: identity.Agent, Launch: w.launch, Run: "r1"}) {
			t.Errorf("dialled by %s, %v", id, err)
		}
		client := over(t, c)
		p := portUnderTest{url: "http://agent"}
		resp, err := p.post(t, client, "/v1/completions", `{"prompt":"x"}`, func(r *http.Request) { r.Header.Set(headerLaunch, w.launch) })
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", resp.Status, text)
		}
		resp, err = p.post(t, client, "/v1/completions", `{"prompt":"x"}`, func(r *http.Request) { r.Header.Set(headerLaunch, "another") })
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusMisdirectedRequest {
			t.Errorf("another launch's request: %s", resp.Status)
		}
		_ = c.Close()
	}
}

// TestReverseWrongPeer: at a gateway's address somebody else listens, with a certificate of this installation even. He gets nothing.
func TestReverseWrongPeer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	for _, as := range []identity.ID{asAgent, {Role: identity.Gateway, Name: "other"}, {Role: identity.Controller, Name: "controller"}} {
		b := newBerth(t, w.ca, as)
		o := &outward{
			mode: ReachReverse, dial: (&net.Dialer{}).DialContext,
			tls: func(want func(identity.ID) error) *tls.Config {
				return identity.ClientConfig(issue(t, w.ca, asAgent).Certificate, w.ca.Pool(), want)
			},
		}
		_, err := o.connect(t.Context(), target{want: wantExactly(asGateway), addresses: []string{b.address}})
		if err == nil || !strings.Contains(err.Error(), "wrong peer") {
			t.Errorf("%s: %v", as, err)
		}
	}
}

// TestDue: who dials by himself is left alone, until what bears his name is somewhere else.
func TestDue(t *testing.T) {
	t.Parallel()
	p := newPort(portOptions{})
	o := &outward{mode: ReachAuto, port: p, patience: time.Minute}
	gateway := &apiv1.GatewayAddress{Name: "g", Addresses: []string{"g:1"}}
	o.meet("https://c:1", []*apiv1.GatewayAddress{gateway, {Name: "closed"}})
	later := time.Now().Add(2 * time.Minute)
	if got := o.due(later); len(got) > 0 {
		t.Errorf("before the engine serves: %q", got)
	}
	o.started()
	if got := o.due(time.Now()); len(got) > 0 {
		t.Errorf("at once: %q", got)
	}
	if got := strings.Join(o.due(later), " "); got != "controller/controller gateway/g" {
		t.Errorf("nobody has dialled: %q", got)
	}
	p.came.note(asGateway)
	p.came.note(asAgent)
	if got := strings.Join(o.due(later), " "); got != "controller/controller" {
		t.Errorf("the gateway has dialled: %q", got)
	}
	o.meet("https://c:1", []*apiv1.GatewayAddress{{Name: "g", Addresses: []string{"g:2"}}})
	if got := strings.Join(o.due(later), " "); got != "controller/controller gateway/g" {
		t.Errorf("the gateway has moved: %q", got)
	}
	o.meet("https://c:1", nil)
	o.mode = ReachReverse
	if got := strings.Join(o.due(time.Now()), " "); got != "controller/controller" {
		t.Errorf("in reverse: %q", got)
	}
}
