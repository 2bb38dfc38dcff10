package gateway

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/scheduler/gateway/rawjson"
)

// badBodies are one per line; a line may hold \xNN for bytes that are no text.
func badBodies(t testing.TB) []string {
	t.Helper()
	b, err := os.ReadFile("testdata/bad_bodies.txt")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "#") {
			continue
		}
		out = append(out, strings.NewReplacer(`\xff`, "\xff", `\xc3`, "\xc3", `\x00`, "\x00").Replace(line))
	}
	return out
}

// TestBadBodies: 200 bodies of every wrong kind are refused in OpenAI's shape, and none of them reaches an engine.
func TestBadBodies(t *testing.T) {
	g := newTestGateway(t, 1, func(o *Options) { o.Limits.MaxDepth = 40 })
	bodies := badBodies(t)
	if len(bodies) < 200 {
		t.Fatalf("only %d bodies", len(bodies))
	}
	for _, body := range bodies {
		for _, path := range []string{pathChat, pathCompletions} {
			w := g.post(path, body)
			var e struct {
				Error struct{ Message, Type string }
			}
			if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || w.Code < 400 || w.Code >= 500 || e.Error.Message == "" {
				t.Errorf("%s %q: %d %s", path, body, w.Code, w.Body)
			}
		}
	}
	if n := len(g.engines[0].seen()); n != 0 {
		t.Errorf("%d reached the engine", n)
	}
}

// FuzzBody: whatever a client sends, it gets an answer that is not our fault.
func FuzzBody(f *testing.F) {
	for _, b := range badBodies(f) {
		f.Add([]byte(b))
	}
	f.Add([]byte(`{"model":"m","messages":[{"role":"user","content":"x"}],"temperature":0,"stream":true,"max_tokens":3,"stop":["a"]}`))
	f.Add([]byte(`{"model":"m","prompt":"x","stream":false,"n":2,"vllm_xargs":{"a":1}}`))
	g := newTestGateway(f, 1, nil)
	g.engines[0].Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}`))
	})
	f.Fuzz(func(t *testing.T, body []byte) {
		r := httptest.NewRequest(http.MethodPost, pathChat, bytes.NewReader(body))
		w := httptest.NewRecorder()
		g.Handler().ServeHTTP(w, r)
		if w.Code >= 500 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		if w.Code == 200 && !json.Valid(body) {
			t.Fatal("a body that is no JSON went through")
		}
		<-g.records.records
	})
}

// FuzzChunk: scanning an engine's event never leaves its bytes, and what is left after the cuts is JSON if it was before.
func FuzzChunk(f *testing.F) {
	f.Add([]byte(`{"id":"x","choices":[{"index":0,"delta":{"role":"assistant","content":"a"},"finish_reason":null,"token_ids":[1,2]}],"usage":null,"prompt_token_ids":[1]}`))
	f.Add([]byte(`{"prompt_token_ids":[1],"choices":[{"token_ids":[],"text":"\u00e9"}],"usage":{"a":1}}`))
	f.Add([]byte(`{"choices":[{"delta":null},{"delta":{}}],"error":{"code":500}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var c chunk
		if !c.scan(data, hide{ids: true, usage: true}) {
			return
		}
		rest := c.append(nil)
		if json.Valid(data) && !json.Valid(rest) {
			t.Fatalf("%s became %s", data, rest)
		}
		h := history{}
		_, _ = h.take(&c)
		if tpl := newTemplate(rest); tpl != nil && rawjson.Check(rest, 200) == nil {
			event := tpl.event(nil, []byte("text \"é"), &c)
			if body := event[len("data: ") : len(event)-2]; rawjson.Check(body, 250) != nil && rawjson.Check(data, 200) == nil {
				t.Fatalf("%s made an event %s", rest, body)
			}
			_ = tpl.usage(nil, usage{prompt: 1})
		}
	})
}

// FuzzStream: whatever an engine streams, the client gets an answer, in bounded time and without a panic.
func FuzzStream(f *testing.F) {
	f.Add([]byte("data: {\"choices\":[{\"delta\":{\"content\":\"a\"},\"token_ids\":[1]}]}\n\ndata: [DONE]\n\n"), true)
	f.Add([]byte("data: {\"error\":{\"code\":500}}\n\n"), false)
	f.Add([]byte("data: {\"choices\":[{\"text\":\"a\",\"finish_reason\":\"abort\"}]}\n\n: x\n\n\n\n"), true)
	g := newTestGateway(f, 1, func(o *Options) { o.Limits.Patience, o.Limits.MaxEvent = time.Millisecond, 1<<16 })
	var stream []byte
	g.engines[0].Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = w.Write(stream)
	})
	f.Fuzz(func(t *testing.T, b []byte, greedy bool) {
		stream = b
		g.member(0).routable.Store(true)
		body := `{"model":"m","messages":[],"stream":true}`
		if greedy {
			body = `{"model":"m","messages":[],"stream":true,"temperature":0}`
		}
		w := g.post(pathChat, body)
		if w.Code != 200 && w.Code != 503 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		<-g.records.records
	})
}
