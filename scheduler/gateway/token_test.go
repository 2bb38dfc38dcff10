package gateway

import (
	"context"
	"net/http"
	"testing"

	"github.com/penstock/penstock/scheduler/gateway/rawjson"
	"github.com/penstock/penstock/scheduler/upstream"
)

type nowhere struct{ header http.Header }

func (n *nowhere) Header() http.Header       { return n.header }
func (*nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (*nowhere) WriteHeader(int)             {}

// tokenPath is a stream in the middle of its answer, and the event that comes next.
func tokenPath(t testing.TB, body string) (s *stream, a *attempt, event []byte) {
	g := newTestGateway(t, 1, nil)
	q := &request{path: pathChat, settle: func(uint64) {}}
	o, err := rawjson.Parse([]byte(body), 10)
	if err != nil {
		t.Fatal(err)
	}
	q.body, q.inexact, q.model = o, whyNotExact(o), g.view.Load().models["m"]
	w := &nowhere{http.Header{}}
	s = &stream{g: g.Gateway, q: q, w: w, rc: http.NewResponseController(w), flush: func() error { return nil }, itl: g.metrics.itl.WithLabelValues("m")}
	s.begin()
	m := g.member(0)
	m.inflight.Add(1)
	up, err := g.opts.Upstream.Do(context.Background(), m.target, upstream.Call{Path: pathChat, Body: []byte(body)})
	if err != nil {
		t.Fatal(err)
	}
	a = &attempt{m: m, hide: hide{ids: true, usage: true}, resp: up}
	t.Cleanup(up.Close)
	event = []byte(`data: {"id":"chatcmpl-8f14e45fceea167a5a36dedd4bea2543","object":"chat.completion.chunk","created":1760000000,"model":"m",` +
		`"choices":[{"index":0,"delta":{"content":" water"},"logprobs":null,"finish_reason":null,"token_ids":[15339]}]}` + "\n\n")
	return s, a, event
}

const greedyChat = `{"model":"m","messages":[{"role":"user","content":"x"}],"temperature":0,"stream":true}`

func TestATokenAllocatesNothing(t *testing.T) {
	for name, body := range map[string]string{
		"greedy":  greedyChat,
		"sampled": `{"model":"m","messages":[],"temperature":1,"stream":true}`,
	} {
		s, a, event := tokenPath(t, body)
		if n := testing.AllocsPerRun(5000, func() {
			if s.event(a, event) != nil || !s.write() {
				t.Fatal("the stream ended")
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations a token", name, n)
		}
	}
}

// BenchmarkToken is the gateway's own work for one token of a greedy stream: scanning, keeping its id, taking out what the
// client did not ask for, measuring. Without sockets.
func BenchmarkToken(b *testing.B) {
	s, a, event := tokenPath(b, greedyChat)
	b.SetBytes(int64(len(event)))
	b.ReportAllocs()
	for b.Loop() {
		if s.event(a, event) != nil || !s.write() {
			b.Fatal("the stream ended")
		}
		if len(s.hist.tokens) > 4096 {
			s.hist.rewind(0)
			s.hist.sent = s.hist.sent[:0]
		}
	}
}
