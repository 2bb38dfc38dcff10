package accept

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	stdlog "log" //nolint:depguard // http.Server takes nothing else
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second

// door is a server behind a Listener. Its handler answers when the test lets it.
type door struct {
	*Listener
	*httptest.Server
	entered, release chan struct{}
}

func newDoor(t *testing.T, limits Limits, silence time.Duration, withTLS bool) *door {
	t.Helper()
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &door{
		Listener: Wrap(raw, "test", limits, NewRefusals(prometheus.NewRegistry())),
		entered:  make(chan struct{}), release: make(chan struct{}),
	}
	d.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hold" {
			d.entered <- struct{}{}
			<-d.release
		}
	}))
	_ = d.Server.Listener.Close()
	d.Server.Listener = d.Listener
	d.Config.ErrorLog = stdlog.New(io.Discard, "", 0)
	d.Config.ReadHeaderTimeout = silence
	d.Watch(d.Config)
	if withTLS {
		d.StartTLS()
	} else {
		d.Start()
	}
	t.Cleanup(d.Server.Close)
	return d
}

// dial opens a connection that says nothing.
func (d *door) dial(t *testing.T) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", d.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

// ask sends a request over a connection that stays open, and waits for the answer.
func ask(c net.Conn, path string) error {
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err == nil {
		err = resp.Body.Close()
	}
	return err
}

func (d *door) counted(reason string) int {
	var m dto.Metric
	if err := d.refused.WithLabelValues(reason).Write(&m); err != nil {
		panic(err)
	}
	return int(m.GetCounter().GetValue())
}

// count gives how many are in a state: silent, idle, or in all.
func (d *door) count(state string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if state == "" {
		return d.open
	}
	return d.waiting[state].Len()
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited in vain: " + what)
		}
	}
}

// closed waits until the other side has closed a connection.
func closed(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a connection goes on that should be closed")
	} else if e, ok := err.(net.Error); ok && e.Timeout() {
		t.Error("a connection is open that should be closed")
	}
}

func TestSilentOnesMakeRoom(t *testing.T) {
	t.Parallel()
	d := newDoor(t, Limits{Open: 8, Silent: 3}, patience, false)
	held := d.dial(t)
	if err := ask(held, "/"); err != nil {
		t.Fatal(err)
	}
	first := d.dial(t)
	for range 20 {
		d.dial(t)
	}
	closed(t, first)
	if err := ask(d.dial(t), "/"); err != nil {
		t.Errorf("an honest client is not served beside a flood: %v", err)
	}
	if err := ask(held, "/"); err != nil {
		t.Errorf("one that had been served before is not served any more: %v", err)
	}
	if n := d.counted(silent); n < 18 {
		t.Errorf("%d counted, want each that had to go", n)
	}
	if n := d.count(""); n > 8 {
		t.Errorf("%d are open", n)
	}
}

func TestIdleOnesMakeRoom(t *testing.T) {
	t.Parallel()
	d := newDoor(t, Limits{Open: 2, Silent: 2}, patience, false)
	var clients []net.Conn
	for i := range 3 {
		c := d.dial(t)
		if err := ask(c, "/"); err != nil {
			t.Fatal(err)
		}
		clients = append(clients, c)
		eventually(t, "the server sees that it is idle", func() bool { return d.count(idle) == min(i+1, 2) })
	}
	closed(t, clients[0]) // idle for longest
	if err := ask(clients[1], "/"); err != nil {
		t.Errorf("another one had to go too: %v", err)
	}
	if n := d.counted(idle); n != 1 {
		t.Errorf("%d counted, want 1", n)
	}
}

func TestRequestsAreNotCutForNewcomers(t *testing.T) {
	t.Parallel()
	d := newDoor(t, Limits{Open: 2, Silent: 2}, patience, false)
	answers := make(chan error, 2)
	for range 2 {
		c := d.dial(t)
		go func() { answers <- ask(c, "/hold") }()
		<-d.entered
	}
	closed(t, d.dial(t))
	if n := d.counted(full); n != 1 {
		t.Errorf("%d counted, want 1", n)
	}
	close(d.release)
	for range 2 {
		if err := <-answers; err != nil {
			t.Errorf("a request was cut: %v", err)
		}
	}
	eventually(t, "there is room again", func() bool { return d.count(idle) == 2 })
	if err := ask(d.dial(t), "/"); err != nil {
		t.Error(err)
	}
}

func TestFailedHandshakesAreCounted(t *testing.T) {
	t.Parallel()
	d := newDoor(t, Limits{}, 100*time.Millisecond, true)
	garbage := d.dial(t)
	_, _ = io.WriteString(garbage, "GET / HTTP/1.1\r\n\r\n")
	slow := d.dial(t)
	_, _ = slow.Write([]byte{22, 3, 1}) // the beginning of a handshake, and then nothing
	eventually(t, "both are counted", func() bool { return d.counted(handshake) == 2 })
	closed(t, slow)
}

func TestConnectionsAreFollowedThroughTLS(t *testing.T) {
	t.Parallel()
	d := newDoor(t, Limits{}, patience, true)
	c := tls.Client(d.dial(t), &tls.Config{InsecureSkipVerify: true})
	if err := ask(c, "/"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is seen to be idle", func() bool { return d.count(idle) == 1 && d.count("") == 1 })
	_ = c.Close()
	eventually(t, "nothing is left", func() bool { return d.count("") == 0 && d.count(idle) == 0 && d.count(silent) == 0 })
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	l := Limits{}.orDefault()
	if l.Open < 1 || l.Open > mostOpen || l.Silent < 1 || l.Silent > l.Open {
		t.Errorf("%+v", l)
	}
	if got := (Limits{Open: 5}).orDefault(); got != (Limits{5, 2}) {
		t.Errorf("%+v", got)
	}
}

// TestCountsAreRight: whatever a server says, and in whatever order connections close, the counts are those of the open ones
// and never beyond the limits.
func TestCountsAreRight(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		limits := Limits{Open: rapid.IntRange(1, 4).Draw(rt, "open"), Silent: rapid.IntRange(1, 4).Draw(rt, "silent")}
		l := Wrap(nil, "test", limits, NewRefusals(prometheus.NewRegistry()))
		var all []*conn
		for range rapid.IntRange(0, 40).Draw(rt, "steps") {
			if len(all) == 0 || rapid.Bool().Draw(rt, "new") {
				c := &conn{Conn: nothing{}, l: l}
				all = append(all, c)
				if _, ok := l.enter(c); !ok {
					c.gone = true
				}
				continue
			}
			c := rapid.SampledFrom(all).Draw(rt, "conn")
			switch rapid.IntRange(0, 2).Draw(rt, "what") {
			case 0:
				l.changed(c, http.StateActive)
			case 1:
				l.changed(c, http.StateIdle)
			default:
				_ = c.Close()
			}
		}
		states := map[string]int{}
		for _, c := range all {
			if !c.gone {
				states[c.state]++
			}
		}
		quiet, resting := l.waiting[silent].Len(), l.waiting[idle].Len()
		if quiet != states[silent] || resting != states[idle] || l.open != quiet+resting+states[""] || l.open > limits.Open || quiet > limits.Silent {
			rt.Errorf("open %d, silent %d, idle %d, limits %+v; the connections: %v", l.open, quiet, resting, limits, states)
		}
	})
}

type nothing struct{ net.Conn }

func (nothing) Close() error { return nil }
