package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/jobspecs/engine"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/upstream"
)

func TestMain(m *testing.M) {
	benchRole()
	// The simulated engines' event sockets: the library's publisher keeps this one.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/go-zeromq/zmq4.(*pubMWriter).run"))
}

var vllmTraits = engine.Traits{
	TokenIDs: engine.ReturnTokenIDs, CacheSalt: true, Disaggregation: engine.KVTransferParams, TokenizePath: "/tokenize",
	Events: engine.ZMQEvents,
	Paths:  []string{pathChat, pathCompletions, pathEmbeddings, pathResponses},
}

var llamaTraits = engine.Traits{
	TokenIDs: engine.LlamaVerbose, TokenizePath: "/tokenize", Paths: []string{pathChat, pathCompletions, pathEmbeddings},
}

// testGateway is a gateway before fake engines.
type testGateway struct {
	*Gateway
	t       testing.TB
	engines []*fakeEngine
	seq     uint64
}

func testLimits() Limits {
	return Limits{Patience: 2 * time.Second, FirstByte: 20 * time.Second, IdleStream: 20 * time.Second}
}

func newTestGateway(t testing.TB, n int, change func(*Options)) *testGateway {
	t.Helper()
	up := upstream.New(upstream.Options{Plaintext: true})
	t.Cleanup(up.Close)
	opts := Options{
		Name: "gw", Upstream: up, CacheSaltKey: []byte("0123456789abcdef"), Limits: testLimits(), Log: zerolog.Nop(),
		Traits: func(k jobspecs.EngineKind) (engine.Traits, bool) {
			switch k {
			case jobspecs.VLLM:
				return vllmTraits, true
			case jobspecs.LlamaCpp:
				return llamaTraits, true
			}
			return engine.Traits{}, false
		},
	}
	if change != nil {
		change(&opts)
	}
	g, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	tg := &testGateway{Gateway: g, t: t}
	for range n {
		tg.engines = append(tg.engines, newFakeEngine(t))
	}
	tg.apply(&apiv1.WatchResponse{
		Full: true, Models: []*apiv1.Model{{Name: "m", Deployment: "d", State: "ready", RetryAfter: durationpb.New(3 * time.Second)}},
	})
	for i := range tg.engines {
		tg.add(i, jobspecs.VLLM, jobspecs.Mixed)
	}
	return tg
}

// apply feeds a message with the next number.
func (g *testGateway) apply(m *apiv1.WatchResponse) {
	g.t.Helper()
	g.seq++
	m.Seq, m.Term = g.seq, 1
	if err := g.Apply(m); err != nil {
		g.t.Fatal(err)
	}
}

// add makes engine i a replica that is routable at once.
func (g *testGateway) add(i int, kind jobspecs.EngineKind, role jobspecs.RoleKind) {
	g.t.Helper()
	launch := fmt.Sprintf("launch-%d", i)
	g.apply(&apiv1.WatchResponse{Replicas: []*apiv1.Replica{{
		Launch: launch, Run: "run", Epoch: uint64(i + 1), Deployment: "d", Role: string(role), Index: uint32(i), EngineKind: string(kind),
		Address: g.engines[i].Listener.Addr().String(), Ready: true,
	}}})
	g.member(i).routable.Store(true)
}

func (g *testGateway) member(i int) *member {
	g.feed.mu.Lock()
	defer g.feed.mu.Unlock()
	return g.feed.members[fmt.Sprintf("launch-%d", i)]
}

// allRoutable undoes what suspicions did, as probes would.
func (g *testGateway) allRoutable() {
	for i := range g.engines {
		g.member(i).routable.Store(true)
	}
}

// post sends a body and returns the whole answer.
func (g *testGateway) post(path, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	g.Handler().ServeHTTP(w, r)
	return w
}

// lastRecord takes the record of the request before.
func (g *testGateway) lastRecord() *apiv1.RequestRecord {
	g.t.Helper()
	var last *apiv1.RequestRecord
	for {
		select {
		case rec := <-g.records.records:
			last = rec
		default:
			if last == nil {
				g.t.Fatal("no record")
			}
			return last
		}
	}
}

// answer is a stream as a client puts it together.
type answer struct {
	text   string
	finish string
	usage  map[string]any
	fault  map[string]any
	done   bool
	roles  int
	ids    map[string]bool
	events []string
	tokens bool // token ids came through
}

func parseStream(t testing.TB, stream string) answer {
	t.Helper()
	a := answer{ids: map[string]bool{}}
	for event := range strings.SplitSeq(stream, "\n\n") {
		data, ok := strings.CutPrefix(event, "data: ")
		if !ok {
			if strings.TrimSpace(event) != "" && !strings.HasPrefix(event, ":") {
				t.Fatalf("an odd event: %q", event)
			}
			continue
		}
		if a.done {
			t.Fatalf("after [DONE]: %q", event)
		}
		a.events = append(a.events, data)
		if data == "[DONE]" {
			a.done = true
			continue
		}
		a.add(t, data)
	}
	return a
}

func (a *answer) add(t testing.TB, data string) {
	var e struct {
		ID      string         `json:"id"`
		Error   map[string]any `json:"error"`
		Usage   map[string]any `json:"usage"`
		Choices []struct {
			Text  string `json:"text"`
			Delta struct {
				Role    string `json:"role"`
				Content string `json:"content"`
			} `json:"delta"`
			Finish   string `json:"finish_reason"`
			TokenIDs []int  `json:"token_ids"`
			Prompt   []int  `json:"prompt_token_ids"`
		} `json:"choices"`
		Prompt []int `json:"prompt_token_ids"`
	}
	if err := json.Unmarshal([]byte(data), &e); err != nil {
		t.Fatalf("event %q: %v", data, err)
	}
	if e.Error != nil {
		a.fault = e.Error
		return
	}
	a.ids[e.ID] = true
	a.tokens = a.tokens || e.Prompt != nil
	if e.Usage != nil {
		a.usage = e.Usage
	}
	for _, c := range e.Choices {
		if a.finish != "" {
			t.Fatalf("after the finish reason: %q", data)
		}
		a.text += c.Text + c.Delta.Content
		if c.Delta.Role != "" {
			a.roles++
		}
		a.finish = c.Finish
		a.tokens = a.tokens || c.TokenIDs != nil || c.Prompt != nil
	}
}

func readAll(t testing.TB, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// running runs the gateway's loops until the test ends.
func (g *testGateway) running() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	g.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			g.t.Error(err)
		}
	})
}
