package gateway

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// script makes engine i answer with these bytes.
func (g *testGateway) script(i int, contentType, body string) {
	g.engines[i].Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", contentType)
		_, _ = io.WriteString(w, body)
	})
}

// TestOnlyWhatWasAskedForIsTakenOut: what the gateway asked for goes away, every other byte stays.
func TestOnlyWhatWasAskedForIsTakenOut(t *testing.T) {
	const (
		plainBody = `{"model":"m","messages":[],"stream":true}`
		askedAll  = `{"model":"m","messages":[],"stream":true,"stream_options":{"include_usage":true},"return_token_ids":true}`
	)
	for name, tc := range map[string]struct{ in, plain string }{
		"ids first, in the middle, last": {
			`data: {"token_ids":[1],"choices":[{"token_ids": [1, 2] , "index":0,"prompt_token_ids":[3],"delta":{"content":"a"},"token_ids":[]}],"prompt_token_ids":[1]}` + "\n\n",
			`data: {"token_ids":[1],"choices":[{"index":0,"delta":{"content":"a"}}]}` + "\n\n",
		},
		"nothing but ids": {
			`data: {"choices":[{"token_ids":[1]}],"x":1}` + "\n\n" + `data: {"choices":[{"delta":{"content":"a"}}]}` + "\n\n",
			`data: {"choices":[{}],"x":1}` + "\n\n" + `data: {"choices":[{"delta":{"content":"a"}}]}` + "\n\n",
		},
		"usage in a chunk of its own, and null elsewhere": {
			`data: {"choices":[{"delta":{"content":"a"}}],"usage":null}` + "\n\n" + `data: {"choices":[],"usage":{"prompt_tokens":1}}` + "\n\n",
			`data: {"choices":[{"delta":{"content":"a"}}]}` + "\n\n",
		},
		"usage in the last chunk": {
			`data: {"usage":{"prompt_tokens":1},"choices":[{"text":"a","finish_reason":"stop"}]}` + "\r\n\r\n",
			`data: {"choices":[{"text":"a","finish_reason":"stop"}]}` + "\r\n\r\n",
		},
		"numbers, escapes, spaces, unknown fields": {
			`data:  { "n":12345678901234567890.10, "choices":[ {"delta":{"content":"\u00e9\/"} } ], "timings":{"a":[{}]} } ` + "\n\n",
			`data:  { "n":12345678901234567890.10, "choices":[ {"delta":{"content":"\u00e9\/"} } ], "timings":{"a":[{}]} } ` + "\n\n",
		},
		"comments and other fields": {
			": ping\n\n" + "id: 7\nevent: e\n" + `data: {"choices":[{"delta":{"content":"a"}}]}` + "\n\n",
			": ping\n\n" + "id: 7\nevent: e\n" + `data: {"choices":[{"delta":{"content":"a"}}]}` + "\n\n",
		},
		"not JSON": {"data: hello\n\ndata: {\"choices\":\n\n", "data: hello\n\ndata: {\"choices\":\n\n"},
		"tool calls": {
			`data: {"choices":[{"delta":{"role":"assistant","tool_calls":[{"index":0,"function":{"arguments":"{\"a\":"}}]}}]}` + "\n\n",
			`data: {"choices":[{"delta":{"role":"assistant","tool_calls":[{"index":0,"function":{"arguments":"{\"a\":"}}]}}]}` + "\n\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := newTestGateway(t, 1, nil)
			g.script(0, "text/event-stream", tc.in+"data: [DONE]\n\n")
			if w := g.post(pathChat, plainBody); w.Body.String() != tc.plain+"data: [DONE]\n\n" {
				t.Error(cmp.Diff(tc.plain+"data: [DONE]\n\n", w.Body.String()))
			}
			if w := g.post(pathChat, askedAll); w.Body.String() != tc.in+"data: [DONE]\n\n" {
				t.Error("asked for everything: ", cmp.Diff(tc.in+"data: [DONE]\n\n", w.Body.String()))
			}
		})
	}
}

func TestUsageOfStreams(t *testing.T) {
	g := newTestGateway(t, 1, nil)
	body := fmt.Sprintf(chatBody, "u", 9, `,"min_tokens":9`)
	g.post(pathChat, body)
	n := uint64(len(promptOf(t, body)))
	if rec := g.lastRecord(); rec.PromptTokens != n || rec.CompletionTokens != 9 || rec.CachedTokens != n/2 || rec.UsageCounted || !rec.Stream || rec.Ttft == nil {
		t.Errorf("record: %v", rec)
	}
}

// TestClientGoes: when the client leaves, the engine's work ends, and what it took is counted.
func TestClientGoes(t *testing.T) {
	g := newTestGateway(t, 1, nil)
	s := httptest.NewServer(g.Handler())
	defer s.Close()
	for _, stream := range []bool{true, false} {
		g.engines[0].fail(fault{cutTokens: 30, cutBytes: 4000, hang: true})
		body := fmt.Sprintf(`{"model":"m","prompt":"x","max_tokens":4000,"min_tokens":4000,"stream":%v}`, stream)
		ctx, cancel := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+pathCompletions, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if stream {
			resp, err := s.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(resp.Body, make([]byte, 1500)); err != nil {
				t.Fatal(err)
			}
			cancel()
			resp.Body.Close()
		} else {
			before := len(g.engines[0].seen())
			go func() {
				for len(g.engines[0].seen()) == before { // it has to have the request, or it sees nobody go
					time.Sleep(time.Millisecond)
				}
				cancel()
			}()
			if resp, err := s.Client().Do(req); err == nil {
				resp.Body.Close()
				t.Fatal("an answer came")
			}
		}
		cancel()
		g.engines[0].waitCanceled(t)
		for g.open.Load() > 0 {
			time.Sleep(time.Millisecond)
		}
		rec := g.lastRecord()
		if rec.Outcome != outcomeGone || stream && (!rec.UsageCounted || rec.CompletionTokens < 5 || rec.PromptTokens != 1) {
			t.Errorf("record: %v", rec)
		}
		if !g.member(0).routable.Load() {
			t.Error("the replica is blamed for a client that left")
		}
	}
}

// TestSlowClient: a client that takes nothing more is given up, and costs no more memory than the sockets' buffers.
func TestSlowClient(t *testing.T) {
	g := newTestGateway(t, 1, func(o *Options) { o.Limits.WriteStall = 200 * time.Millisecond })
	s := httptest.NewUnstartedServer(nil)
	s.Config = g.HTTPServer()
	s.Start()
	defer s.Close()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.(*net.TCPConn).SetReadBuffer(4096)
	body := `{"model":"m","prompt":"x","max_tokens":1000000,"min_tokens":1000000,"stream":true}`
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", pathCompletions, len(body), body)
	g.engines[0].waitCanceled(t)
	for g.open.Load() > 0 {
		time.Sleep(time.Millisecond)
	}
	if rec := g.lastRecord(); rec.Outcome != outcomeGone {
		t.Errorf("record: %v", rec)
	}
}

// TestEngineHangs in the middle of a stream: another replica goes on when nothing has come for IdleStream.
func TestEngineHangs(t *testing.T) {
	g := newTestGateway(t, 2, func(o *Options) { o.Limits.IdleStream = 300 * time.Millisecond })
	g.member(1).inflight.Add(100)
	g.engines[0].fail(fault{cutBytes: 1500, hang: true})
	body := fmt.Sprintf(chatBody, "h", 30, `,"min_tokens":30`)
	expect(t, "hang", g.post(pathChat, body).Body.String(), body, 30, 30)
	if rec := g.lastRecord(); rec.Attempts[0].End != "no_answer_in_time" || rec.Outcome != outcomeContinued {
		t.Errorf("record: %v", rec)
	}
	g.engines[0].waitCanceled(t)
}

func TestRequestOfTheClientsFault(t *testing.T) {
	g := newTestGateway(t, 2, nil)
	g.member(1).inflight.Add(100)
	e := `{"error":{"message":"grammar","type":"BadRequestError","code":400}}`
	g.engines[0].fail(fault{cutTokens: 3, event: e})
	w := g.post(pathChat, fmt.Sprintf(chatBody, "x", 9, ""))
	a := parseStream(t, w.Body.String())
	if a.fault["message"] != "grammar" || a.done {
		t.Errorf("%+v", a)
	}
	if rec := g.lastRecord(); len(rec.Attempts) != 1 || rec.Outcome != outcomeRefused {
		t.Errorf("record: %v", rec)
	}
}

func TestResponsesPath(t *testing.T) {
	g := newTestGateway(t, 1, nil)
	stream := "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"usage\":null}}\n\n" +
		"event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"hi\"}\n\n" +
		"event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":5,\"output_tokens\":7}}}\n\n"
	g.script(0, "text/event-stream; charset=utf-8", stream)
	w := g.post(pathResponses, `{"model":"m","input":"x","stream":true}`)
	if w.Body.String() != stream {
		t.Error(cmp.Diff(stream, w.Body.String()))
	}
	if rec := g.lastRecord(); rec.PromptTokens != 5 || rec.CompletionTokens != 7 || rec.Outcome != outcomeOK {
		t.Errorf("record: %v", rec)
	}
	g.engines[0].Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, stream[:200])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	w = g.post(pathResponses, `{"model":"m","input":"x","stream":true}`)
	if !strings.Contains(w.Body.String(), "event: error\ndata: {\"type\":\"error\",\"code\":\"stream_interrupted\"") {
		t.Errorf("cut: %s", w.Body)
	}
}

// TestAnswerInOnePiece: an engine that answers a stream's request with a whole answer is passed on as it is.
func TestAnswerInOnePiece(t *testing.T) {
	g := newTestGateway(t, 1, nil)
	g.script(0, "application/json", `{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}`)
	w := g.post(pathChat, fmt.Sprintf(chatBody, "x", 9, ""))
	if w.Code != 200 || w.Header().Get("Content-Type") != "application/json" || g.lastRecord().CompletionTokens != 2 {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
}
