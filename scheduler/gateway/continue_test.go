package gateway

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
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

// TestCutAtEveryByte cuts the first replica's stream after each of its bytes; the client must not notice.
func TestCutAtEveryByte(t *testing.T) {
	completion := `{"model":"m","prompt":"%s","temperature":0,"stream":true,"max_tokens":%d%s}`
	const usage = `,"stream_options":{"include_usage":true}`
	for _, tc := range []struct {
		name, path, body string
		max              int
		eager, noIDs     bool
		pack             func(int) int
		stop             []string
	}{
		{name: "chat", path: pathChat, body: fmt.Sprintf(chatBody, "q12", 9, usage), max: 9},
		{name: "chat, text shown eagerly", path: pathChat, body: fmt.Sprintf(chatBody, "q7", 9, ""), max: 9, eager: true},
		{name: "completion", path: pathCompletions, body: fmt.Sprintf(completion, "c3", 9, usage), max: 9, eager: true},
		{name: "several tokens a chunk", path: pathChat, body: fmt.Sprintf(chatBody, "q9", 14, usage), max: 14, pack: func(i int) int { return 1 + i%3 }},
		{name: "stop strings", path: pathCompletions, body: fmt.Sprintf(completion, "s2", 9, `,"stop":["zz","runs down"]`), max: 9, stop: []string{"zz", "runs down"}},
		{name: "no token ids", path: pathChat, body: fmt.Sprintf(chatBody, "n1", 8, ""), max: 8, eager: true, noIDs: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			g := newTestGateway(t, 2, nil)
			for _, e := range g.engines {
				e.eager, e.noIDs, e.tokens = tc.eager, tc.noIDs, tc.pack
			}
			g.member(1).inflight.Add(1000) // so the other one comes first
			for at := 1; ; at++ {
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
