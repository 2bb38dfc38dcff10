package gateway

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

const chatBody = `{"model":"m","messages":[{"role":"user","content":"%s"}],"temperature":0,"stream":true,"max_tokens":%d%s}`

func promptOf(t testing.TB, body string) []int {
	t.Helper()
	var b map[string]any
	if err := json.Unmarshal([]byte(body), &b); err != nil {
		t.Fatal(err)
	}
	if p, ok := b["prompt"].(string); ok {
		return bytesAsTokens(p)
	}
	m, _ := json.Marshal(b["messages"])
	return bytesAsTokens(string(m))
}

// expect compares a client's stream with the reference.
func expect(t testing.TB, what, stream, body string, max, min int, stop ...string) answer {
	t.Helper()
	tokens, text, finish := generate(promptOf(t, body), max, min, stop)
	a := parseStream(t, stream)
	if a.text != text || a.finish != finish || !a.done || a.fault != nil {
		t.Fatalf("%s: got  %q, %q, done %v, error %v\nwant %q, %q", what, a.text, a.finish, a.done, a.fault, text, finish)
	}
	if len(a.ids) != 1 || a.tokens {
		t.Fatalf("%s: ids %v, token ids shown: %v", what, a.ids, a.tokens)
	}
	if strings.Contains(body, "messages") && a.roles != 1 {
		t.Fatalf("%s: %d roles", what, a.roles)
	}
	wantUsage := strings.Contains(body, "include_usage")
	if (a.usage != nil) != wantUsage {
		t.Fatalf("%s: usage %v, asked for: %v", what, a.usage, wantUsage)
	}
	if wantUsage && (a.usage["completion_tokens"] != float64(len(tokens)) || a.usage["prompt_tokens"] != float64(len(promptOf(t, body)))) {
		t.Fatalf("%s: usage %v, made %d tokens of %d", what, a.usage, len(tokens), len(promptOf(t, body)))
	}
	return a
}

// TestCutAtEveryByte cuts the first replica's stream after each of its bytes, and every third of the less usual streams; the
// client must not notice.
func TestCutAtEveryByte(t *testing.T) {
	completion := `{"model":"m","prompt":"%s","temperature":0,"stream":true,"max_tokens":%d%s}`
	const usage = `,"stream_options":{"include_usage":true}`
	for _, tc := range []struct {
		name, path, body string
		max              int
		step             int
		manner           manner
		stop             []string
	}{
		{name: "chat", path: pathChat, body: fmt.Sprintf(chatBody, "q12", 7, usage), max: 7, step: 1},
		{name: "chat, text shown eagerly", path: pathChat, body: fmt.Sprintf(chatBody, "q7", 7, ""), max: 7, step: 3, manner: manner{eager: true}},
		{name: "completion", path: pathCompletions, body: fmt.Sprintf(completion, "c3", 7, usage), max: 7, step: 1, manner: manner{eager: true}},
		{name: "several tokens a chunk", path: pathChat, body: fmt.Sprintf(chatBody, "q9", 10, usage), max: 10, step: 3, manner: manner{tokens: func(i int) int { return 1 + i%3 }}},
		{name: "stop strings", path: pathCompletions, body: fmt.Sprintf(completion, "s2", 6, `,"stop":["zz","runs down"]`), max: 6, step: 3, stop: []string{"zz", "runs down"}},
		{name: "no token ids", path: pathChat, body: fmt.Sprintf(chatBody, "n1", 6, ""), max: 6, step: 3, manner: manner{eager: true, noIDs: true}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			g := newTestGateway(t, 2, nil)
			for _, e := range g.engines {
				e.behave(tc.manner)
			}
			g.member(1).inflight.Add(1000) // so the other one comes first
			for at := 1; ; at += tc.step {
				g.allRoutable()
				g.engines[0].fail(fault{cutBytes: at})
				w := g.post(tc.path, tc.body)
				expect(t, fmt.Sprintf("cut after byte %d", at), w.Body.String(), tc.body, tc.max, 0, tc.stop...)
				if g.lastRecord().Attempts[0].End == "" { // the stream is shorter than that
					if at < 500 {
						t.Fatalf("nothing was cut at byte %d", at)
					}
					return
				}
			}
		})
	}
}

// TestDeaths lets replicas die at random again and again, in every way in which one can, under answers of every kind.
func TestDeaths(t *testing.T) {
	g := newTestGateway(t, 3, func(o *Options) {
		o.Limits.IdleStream, o.Limits.FirstByte, o.Limits.Patience = 50*time.Millisecond, 150*time.Millisecond, time.Millisecond
	})
	rapid.Check(t, func(rt *rapid.T) {
		max := rapid.IntRange(1, 60).Draw(rt, "max_tokens")
		min := rapid.IntRange(0, max).Draw(rt, "min_tokens")
		extra := fmt.Sprintf(`,"min_tokens":%d`, min)
		var stop []string
		if rapid.Bool().Draw(rt, "stop") {
			stop = []string{rapid.SampledFrom([]string{"the water", "水", "\n", "é,", "down."}).Draw(rt, "which")}
			extra += `,"stop":` + quote(stop[0])
		}
		if rapid.Bool().Draw(rt, "usage") {
			extra += `,"stream_options":{"include_usage":true}`
		}
		question := rapid.StringMatching("[a-z]{1,6}").Draw(rt, "question")
		path, body := pathChat, fmt.Sprintf(chatBody, question, max, extra)
		if rapid.Bool().Draw(rt, "completion") {
			path, body = pathCompletions, fmt.Sprintf(`{"model":"m","prompt":%q,"temperature":0.0,"max_tokens":%d,"stream":true%s}`, question, max, extra)
		}
		eager, packed := rapid.Bool().Draw(rt, "eager"), rapid.Bool().Draw(rt, "packed")
		g.allRoutable()
		for _, e := range g.engines {
			m := manner{eager: eager}
			if packed {
				m.tokens = func(i int) int { return 1 + i*7%3 }
			}
			e.behave(m)
			if rapid.IntRange(0, 9).Draw(rt, "dies") < 7 {
				f := fault{cutTokens: rapid.IntRange(1, max).Draw(rt, "after")}
				switch rapid.IntRange(0, 11).Draw(rt, "how") {
				case 0:
					f.event = `{"error":{"message":"engine died","type":"InternalServerError","code":500}}`
				case 1:
					f.finish = "abort"
				case 2:
					f.hang = true
				case 3:
					f.cutTokens, f.cutBytes = 0, rapid.IntRange(1, 4000).Draw(rt, "bytes")
				}
				e.fail(f)
			}
		}
		w := g.post(path, body)
		if w.Code != http.StatusOK || strings.Contains(w.Body.String(), `{"error"`) { // all three died
			if n := deaths(g.lastRecord()); n < 3 {
				rt.Fatalf("gave up after %d deaths: %d %s", n, w.Code, w.Body)
			}
			return
		}
		expect(t, question, w.Body.String(), body, max, min, stop...)
		_ = g.lastRecord()
	})
}

func deaths(rec *apiv1.RequestRecord) (n int) {
	for _, a := range rec.Attempts {
		if a.End != "" {
			n++
		}
	}
	return n
}

// TestThreeDeathsInOneStream: each replica brings the answer further and dies; the first, back again, ends it.
func TestThreeDeathsInOneStream(t *testing.T) {
	for _, eager := range []bool{false, true} {
		g := newTestGateway(t, 4, nil)
		body := fmt.Sprintf(chatBody, "long one", 80, `,"min_tokens":80,"stream_options":{"include_usage":true}`)
		for i, e := range g.engines[:3] {
			e.behave(manner{eager: eager}, fault{cutTokens: 12 + i})
			g.member(i).inflight.Add(int64(100 * i))
		}
		g.engines[3].behave(manner{eager: eager})
		g.member(3).inflight.Add(1000)
		w := g.post(pathChat, body)
		expect(t, "three deaths", w.Body.String(), body, 80, 80)
		rec := g.lastRecord()
		if rec.Outcome != outcomeContinued || len(rec.Attempts) < 4 || rec.CompletionTokens != 80 || rec.UsageCounted {
			t.Errorf("record: %v", rec)
		}
		resumed := g.engines[3].seen()
		last := resumed[len(resumed)-1]
		ids, _ := last["prompt"].([]any)
		if made := len(ids) - len(promptOf(t, body)); made < 20 || last["max_tokens"] != float64(80-made) || last["min_tokens"] != float64(80-made) {
			t.Errorf("the last replica was asked for %v after %d tokens", last["max_tokens"], made)
		}
	}
}

// TestWhatCannotBeContinued ends in an error event, never in [DONE], and what came before stands.
func TestWhatCannotBeContinued(t *testing.T) {
	for name, tc := range map[string]struct{ extra, why string }{
		"sampling":      {`,"temperature":0.7`, "it samples"},
		"tools":         {`,"temperature":0,"tools":[{"type":"function"}]`, `it uses "tools"`},
		"logprobs":      {`,"temperature":0,"logprobs":true`, `it uses "logprobs"`},
		"own ids":       {`,"temperature":0,"return_token_ids":true`, `it uses "return_token_ids"`},
		"penalty":       {`,"temperature":0,"presence_penalty":1`, `it uses "presence_penalty"`},
		"no such field": {`,"temperature":0,"new":1`, `it uses "new"`},
	} {
		t.Run(name, func(t *testing.T) {
			g := newTestGateway(t, 2, nil)
			g.member(1).inflight.Add(100)
			g.engines[0].fail(fault{cutTokens: 9})
			body := `{"model":"m","messages":[{"role":"user","content":"x"}],"stream":true,"max_tokens":30` + tc.extra + `}`
			w := g.post(pathChat, body)
			a := parseStream(t, w.Body.String())
			_, text, _ := generate(promptOf(t, body), 8, 8, nil)
			if a.done || a.fault["code"] != "stream_interrupted" || !strings.Contains(fmt.Sprint(a.fault["message"]), tc.why) || a.finish != "" {
				t.Errorf("done %v, finish %q, error %v", a.done, a.finish, a.fault)
			}
			if !strings.HasPrefix(text, a.text) || len(a.text) < len(text)-8 {
				t.Errorf("text %q, want about %q", a.text, text)
			}
			if rec := g.lastRecord(); rec.Outcome != outcomeError || rec.Status != 200 || !rec.UsageCounted || rec.CompletionTokens < 7 {
				t.Errorf("record: %v", rec)
			}
			if n := len(g.engines[1].seen()); n != 0 {
				t.Errorf("the other replica got %d requests", n)
			}
		})
	}
}

// TestBeforeTheFirstToken everything can begin anew, sampled or not.
func TestBeforeTheFirstToken(t *testing.T) {
	for name, f := range map[string]fault{
		"cut in the role":   {cutBytes: 20},
		"cut after it":      {cutTokens: 1},
		"error event":       {cutTokens: 1, event: `{"error":{"message":"dead","code":500}}`},
		"abort":             {cutTokens: 1, finish: "abort"},
		"stale epoch":       {status: 421},
		"draining":          {status: 503, reason: "draining"},
		"engine broken":     {status: 500, body: `{"error":{"message":"x"}}`},
		"agent sees nobody": {status: 502},
		"not authorized":    {status: 403},
	} {
		for _, temperature := range []string{"0", "1"} {
			t.Run(name+" at temperature "+temperature, func(t *testing.T) {
				g := newTestGateway(t, 2, nil)
				g.member(1).inflight.Add(100)
				g.engines[0].fail(f)
				body := strings.Replace(fmt.Sprintf(chatBody, "x", 20, ""), `"temperature":0`, `"temperature":`+temperature, 1)
				w := g.post(pathChat, body)
				expect(t, name, w.Body.String(), body, 20, 0)
				rec := g.lastRecord()
				if rec.Outcome != outcomeOK || len(rec.Attempts) != 2 || rec.Attempts[0].End == "" || rec.Attempts[1].End != "" {
					t.Errorf("record: %v", rec)
				}
				if routable := g.member(0).routable.Load(); routable != (f.status == 500 || f.event != "") {
					t.Errorf("routable afterwards: %v", routable)
				}
			})
		}
	}
}

// TestAnotherAnswer: a replica that goes on with other text than was sent is found out.
func TestAnotherAnswer(t *testing.T) {
	g := newTestGateway(t, 2, nil)
	g.member(1).inflight.Add(100)
	g.engines[0].fail(fault{cutTokens: 15})
	g.engines[1].fail(fault{otherText: true}, fault{otherText: true}, fault{otherText: true}, fault{otherText: true})
	body := fmt.Sprintf(chatBody, "x", 30, `,"min_tokens":30`)
	a := parseStream(t, g.post(pathChat, body).Body.String())
	_, text, _ := generate(promptOf(t, body), 30, 30, nil)
	if a.fault["code"] != "stream_interrupted" || !strings.HasPrefix(text, a.text) || a.done {
		t.Errorf("got %q, %v", a.text, a.fault)
	}
}

// TestNobodyLeft: a cut stream waits for a replica, for as long as it may.
func TestNobodyLeft(t *testing.T) {
	g := newTestGateway(t, 2, func(o *Options) { o.Limits.Patience = 10 * time.Second })
	g.member(1).routable.Store(false)
	g.engines[0].fail(fault{cutTokens: 9})
	go func() {
		for g.member(0).routable.Load() {
			time.Sleep(time.Millisecond)
		}
		g.member(1).routable.Store(true)
	}()
	body := fmt.Sprintf(chatBody, "x", 30, "")
	expect(t, "a replica came", g.post(pathChat, body).Body.String(), body, 30, 0)

	g = newTestGateway(t, 1, func(o *Options) { o.Limits.Patience = 10 * time.Millisecond })
	g.engines[0].fail(fault{cutTokens: 9})
	if a := parseStream(t, g.post(pathChat, body).Body.String()); a.fault["code"] != "stream_interrupted" || a.done {
		t.Errorf("nobody came: %+v", a)
	}
}
