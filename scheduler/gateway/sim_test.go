package gateway

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/penstock/penstock/agent/engine/sim"
	"github.com/penstock/penstock/jobspecs"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

const simModel = "test/model"

// simulated puts real simulated engines behind agents. The first one cuts an answer after so many bytes as cut says, 0 =
// never, once the client has got something of it.
func simulated(t *testing.T, n int, got *atomic.Int64, change ...func(*sim.Options)) (g *testGateway, cut *atomic.Int64) {
	t.Helper()
	g, cut = newTestGateway(t, n, nil), new(atomic.Int64)
	for _, agent := range g.engines {
		o := sim.DefaultOptions()
		o.Model, o.ServedModelNames, o.Speedup, o.MaxModelLen, o.Host, o.Port = simModel, []string{"m"}, 200, 4096, "127.0.0.1", 0
		for _, c := range change {
			c(&o)
		}
		s, err := sim.New(o, zerolog.Nop())
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		t.Cleanup(func() {
			stop()
			<-ended
		})
		<-s.Listening()
		transport := &http.Transport{}
		t.Cleanup(transport.CloseIdleConnections)
		agent.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).EnableFullDuplex() // else ReverseProxy cuts answers that begin early
			proxy := httputil.ReverseProxy{
				FlushInterval: -1, Transport: transport,
				Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(&url.URL{Scheme: "http", Host: s.Addr().String()}) },
			}
			if left := cut.Swap(0); left > 0 {
				w = &cuttingWriter{w, int(left), got}
			}
			proxy.ServeHTTP(w, r)
		})
		for ready := false; !ready; {
			w := httptest.NewRecorder()
			agent.Config.Handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/health", nil))
			ready = w.Code == http.StatusOK
		}
	}
	g.member(1).inflight.Add(1000) // so the other one comes first
	return g, cut
}

// countingWriter is a client that says how much it has got.
type countingWriter struct {
	*httptest.ResponseRecorder
	got *atomic.Int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	c.got.Add(int64(len(p)))
	return c.ResponseRecorder.Write(p)
}

// cuttingWriter ends the connection after left bytes.
type cuttingWriter struct {
	http.ResponseWriter
	left int
	got  *atomic.Int64
}

func (c *cuttingWriter) Write(p []byte) (int, error) {
	if len(p) < c.left {
		c.left -= len(p)
		return c.ResponseWriter.Write(p)
	}
	_, _ = c.ResponseWriter.Write(p[:c.left])
	_ = http.NewResponseController(c.ResponseWriter).Flush()
	for i := 0; i < 1000 && c.got.Load() == 0; i++ {
		time.Sleep(100 * time.Microsecond)
	}
	panic(http.ErrAbortHandler)
}

func (c *cuttingWriter) Flush() { _ = http.NewResponseController(c.ResponseWriter).Flush() }

// TestOnTheSimulatedEngine cuts streams of the project's own simulated engine at many places, with and without a limit of
// tokens, and compares with the engine's reference.
func TestOnTheSimulatedEngine(t *testing.T) {
	var got atomic.Int64
	g, cut := simulated(t, 2, &got)
	model := sim.FingerprintOf(simModel)
	for i := range 30 {
		question := fmt.Sprintf("What does pump %d do?", i)
		limit, most := `,"max_tokens":90`, 90
		prompt := sim.ChatPrompt(sim.Message{Role: "user", Content: question})
		path, body := pathChat, fmt.Sprintf(`{"model":"m","messages":[{"role":"user","content":%q}]`, question)
		switch i % 3 {
		case 0:
			limit, most = "", 4096-len(prompt)
		case 1:
			prompt = sim.Tokenizer{}.Encode(question)
			path, body = pathCompletions, fmt.Sprintf(`{"model":"m","prompt":%q`, question)
		}
		body += limit + `,"temperature":0,"stream":true,"stream_options":{"include_usage":true}}`
		tokens := sim.Generate(model, prompt, most)
		g.allRoutable()
		got.Store(0)
		cut.Store(int64(700 + 397*i%5000))
		w := &countingWriter{httptest.NewRecorder(), &got}
		g.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, strings.NewReader(body)))
		a := parseStream(t, w.Body.String())
		if a.text != sim.Text(tokens) || !a.done || a.fault != nil || len(a.ids) != 1 {
			t.Fatalf("%s cut after %d bytes: got\n%q, %v, want\n%q", body, 700+397*i%5000, a.text, a.fault, sim.Text(tokens))
		}
		if a.usage["completion_tokens"] != float64(len(tokens)) || a.usage["prompt_tokens"] != float64(len(prompt)) {
			t.Errorf("usage %v, want %d of %d", a.usage, len(tokens), len(prompt))
		}
	}
	continued := 0
	for len(g.records.records) > 0 {
		if rec := <-g.records.records; rec.Outcome == outcomeContinued && strings.HasPrefix(rec.Path, "/v1/") {
			continued++
		}
	}
	if continued < 10 {
		t.Errorf("only %d of 30 streams were cut in the middle", continued)
	}
}

// TestPairOnTheSimulatedEngine: prefill and decode on two engines that really hand blocks over.
func TestPairOnTheSimulatedEngine(t *testing.T) {
	transfer, err := sim.ParseKVTransferConfig(`{"kv_connector":"SimConnector","kv_role":"kv_both"}`)
	if err != nil {
		t.Fatal(err)
	}
	var got atomic.Int64
	g, _ := simulated(t, 2, &got, func(o *sim.Options) { o.KVTransfer = transfer })
	g.apply(&apiv1.WatchResponse{Removed: []string{"launch-0", "launch-1"}})
	g.add(0, jobspecs.VLLM, jobspecs.Decode)
	g.add(1, jobspecs.VLLM, jobspecs.Prefill)
	model := sim.FingerprintOf(simModel)
	for i := range 10 {
		question := fmt.Sprintf("%d. ", i) + strings.Repeat("Where does the water of this river come from? ", 20)
		prompt := sim.ChatPrompt(sim.Message{Role: "user", Content: question})
		body := fmt.Sprintf(`{"model":"m","messages":[{"role":"user","content":%q}],"temperature":0,"max_tokens":40,"stream":true,"stream_options":{"include_usage":true}}`, question)
		a := parseStream(t, g.post(pathChat, body).Body.String())
		tokens := sim.Generate(model, prompt, 40)
		if a.text != sim.Text(tokens) || !a.done || a.usage["completion_tokens"] != float64(len(tokens)) {
			t.Fatalf("got %q, want %q", a.text, sim.Text(tokens))
		}
		rec := g.lastRecord()
		if len(rec.Attempts) != 2 || rec.Attempts[0].Replica != "d/prefill/1" || rec.Attempts[0].End != "" || rec.Attempts[0].Tokens != 1 {
			t.Fatalf("record: %v", rec)
		}
		if rec.CachedTokens == 0 {
			t.Errorf("the decode replica read the prompt itself: %v", a.usage)
		}
	}
}
