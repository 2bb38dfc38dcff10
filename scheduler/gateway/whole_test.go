package gateway

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

func TestWholeAnswerIsNeverHalf(t *testing.T) {
	body := `{"model":"m","prompt":"w","max_tokens":20}`
	_, text, _ := generate(bytesAsTokens("w"), 20, 0, nil)
	for name, f := range map[string]fault{
		"cut":           {cutBytes: 60},
		"cut at once":   {cutBytes: 1},
		"aborted":       {finish: "abort"},
		"draining":      {status: 503, reason: "draining"},
		"stale":         {status: 421},
		"engine error":  {status: 500, body: "{}"},
		"engine is bad": {status: 502},
	} {
		t.Run(name, func(t *testing.T) {
			g := newTestGateway(t, 2, nil)
			g.member(1).inflight.Add(100)
			g.engines[0].fail(f)
			w := g.post(pathCompletions, body)
			if w.Code != 200 || !strings.Contains(w.Body.String(), quote(text)) || w.Header().Get("Content-Length") != fmt.Sprint(w.Body.Len()) {
				t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
			}
			rec := g.lastRecord()
			if len(rec.Attempts) != 2 || rec.Attempts[0].End == "" || rec.Outcome != outcomeOK || rec.PromptTokens != 1 || rec.CompletionTokens == 0 || rec.UsageCounted {
				t.Errorf("record: %v", rec)
			}
			a := rec.Attempts[1]
			if a.Replica != "d/mixed/1" || a.Launch != "launch-1" || a.PredictedMs <= 0 || len(a.PartsMs) == 0 || a.Reason == "" || len(rec.Attempts[0].RunnersUp) != 1 {
				t.Errorf("attempt: %v", a)
			}
			if n := g.member(0).inflight.Load() + g.member(1).inflight.Load() - 100; n != 0 {
				t.Errorf("%d requests are still counted as open", n)
			}
			if n := g.member(0).waiting.Load() + g.member(1).waiting.Load(); n != 0 {
				t.Errorf("%d tokens are still counted as waiting", n)
			}
		})
	}
}

func TestAllFail(t *testing.T) {
	for _, stream := range []bool{false, true} {
		g := newTestGateway(t, 3, nil)
		for _, e := range g.engines {
			e.fail(fault{cutBytes: 1})
		}
		w := g.post(pathCompletions, fmt.Sprintf(`{"model":"m","prompt":"w","stream":%v}`, stream))
		wantError(t, w, 503, "replicas_failed", "the last one: connection lost")
		if rec := g.lastRecord(); rec.Outcome != outcomeError || len(rec.Attempts) != 3 {
			t.Errorf("record: %v", rec)
		}
		// Nothing is routable now, and nobody was asked: that is said.
		wantError(t, g.post(pathCompletions, plain), 503, "no_replica", "no replica is routable from this gateway")
	}
}

func TestEngineRefuses(t *testing.T) {
	g := newTestGateway(t, 2, nil)
	for _, tc := range []struct {
		status     int
		body, want string
	}{
		{400, `{"error":{"message":"too long","type":"BadRequestError","param":null,"code":400}}`, `{"error":{"message":"too long","type":"BadRequestError","param":null,"code":400}}`},
		{400, `{"object":"error","message":"too long","code":400}`, `{"error":{"message":"too long","type":"invalid_request_error","param":null,"code":null}}`},
		{422, `{"detail":[{"loc":["body"]}]}`, `{"error":{"message":"[{\"loc\":[\"body\"]}]","type":"invalid_request_error","param":null,"code":null}}`},
		{404, `<html>`, `{"error":{"message":"the engine answered 404 Not Found","type":"invalid_request_error","param":null,"code":null}}`},
		{429, `slow down`, `{"error":{"message":"slow down","type":"rate_limit_error","param":null,"code":null}}`},
	} {
		for _, stream := range []bool{false, true} {
			for _, e := range g.engines {
				e.behave(manner{}, fault{status: tc.status, body: tc.body})
			}
			w := g.post(pathCompletions, fmt.Sprintf(`{"model":"m","stream":%v}`, stream))
			if w.Code != tc.status || w.Body.String() != tc.want {
				t.Errorf("%d %s, want %s", w.Code, w.Body, tc.want)
			}
			if rec := g.lastRecord(); len(rec.Attempts) != 1 || rec.Outcome != outcomeRefused || rec.Status != uint32(tc.status) {
				t.Errorf("record: %v", rec)
			}
		}
	}
}

// TestLongAnswerStreams: an answer beyond MaxAnswer is passed on as it comes, and one that is cut then is cut for the client.
func TestLongAnswerStreams(t *testing.T) {
	g := newTestGateway(t, 1, func(o *Options) { o.Limits.MaxAnswer = 1000 })
	long := `{"x":"` + strings.Repeat("y", 100_000) + `"}`
	g.engines[0].Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte(long))
		if r.Header.Get("Traceparent") != "" {
			panic(http.ErrAbortHandler)
		}
	})
	if w := g.post(pathEmbeddings, `{"model":"m"}`); w.Body.String() != long || w.Header().Get("Content-Length") != "" {
		t.Errorf("got %d bytes of %d", w.Body.Len(), len(long))
	}
	defer func() {
		if p := recover(); p != http.ErrAbortHandler {
			t.Errorf("the client's connection was not cut: %v", p)
		}
		if rec := g.lastRecord(); rec.Outcome == outcomeOK {
			t.Errorf("record: %v", rec)
		}
	}()
	g.post(pathEmbeddings, `{"model":"m"}`, "Traceparent", "cut")
}

func TestAnswerUsage(t *testing.T) {
	for body, want := range map[string]usage{
		`{"usage":{"prompt_tokens":3,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":2}}}`: {3, 2, 4, true, true},
		`{"usage":{"input_tokens":3,"output_tokens":4,"input_tokens_details":{"cached_tokens":1}}}`:       {3, 1, 4, true, true},
		`{"usage":{"prompt_tokens":-3}}`: {0, 0, 0, true, false},
		`{"usage":null}`:                 {},
		`[]`:                             {},
		``:                               {},
		`{"usage":{"prompt_tokens":9`:    {},
	} {
		if got := answerUsage([]byte(body)); got != want {
			t.Errorf("%s: %+v, want %+v", body, got, want)
		}
	}
}
