package gateway

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock/penstock/jobspecs"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// paired is a gateway before a prefill replica (0) and two decode replicas (1, 2).
func paired(t *testing.T) *testGateway {
	g := newTestGateway(t, 3, nil)
	g.apply(&apiv1.WatchResponse{Removed: []string{"launch-0", "launch-1", "launch-2"}})
	g.add(0, jobspecs.VLLM, jobspecs.Prefill)
	g.add(1, jobspecs.VLLM, jobspecs.Decode)
	g.add(2, jobspecs.VLLM, jobspecs.Decode)
	g.member(1).inflight.Add(30) // so that reading a prompt is dear to it
	g.member(2).inflight.Add(130)
	return g
}

// question is long enough for two replicas, and too short to ask for its tokens.
var question = strings.Repeat("tell me more, ", 36)

const transfer = `{"remote_block_ids":[1,2],"remote_host":"h","new_field":12345678901234567890}`

// prefills makes replica 0 answer as a prefill replica does, and keeps what it was asked.
func (g *testGateway) prefills(asked *map[string]any, params string) {
	g.engines[0].Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		*asked = nil
		_ = json.Unmarshal(raw, asked)
		fmt.Fprintf(w, `{"choices":[{"text":" the","finish_reason":"length"}],"kv_transfer_params":%s}`, params)
	})
}

func TestPrefillThenDecode(t *testing.T) {
	g := paired(t)
	var asked map[string]any
	g.prefills(&asked, transfer)
	body := fmt.Sprintf(chatBody, question, 20, `,"min_tokens":3,"max_completion_tokens":20`)
	expect(t, "pair", g.post(pathChat, body).Body.String(), body, 20, 3)
	for field, want := range map[string]any{"stream": false, "max_tokens": 1.0, "max_completion_tokens": 1.0, "min_tokens": nil, "stream_options": nil, "return_token_ids": nil} {
		if diff := cmp.Diff(want, asked[field]); diff != "" {
			t.Errorf("prefill was asked with %s: %s", field, diff)
		}
	}
	if p, _ := asked["kv_transfer_params"].(map[string]any); p["do_remote_decode"] != true || asked["cache_salt"] == nil {
		t.Errorf("prefill was asked %v", asked)
	}
	got, _ := json.Marshal(g.engines[1].seen()[0]["kv_transfer_params"])
	if want := `{"new_field":12345678901234567000,"remote_block_ids":[1,2],"remote_host":"h"}`; string(got) != want {
		t.Errorf("decode got %s", got)
	}
	rec := g.lastRecord()
	if len(rec.Attempts) != 2 || rec.Attempts[0].Replica != "d/prefill/0" || rec.Attempts[0].Tokens != 1 || rec.Attempts[1].Replica != "d/decode/1" {
		t.Errorf("record: %v", rec)
	}
	if n := g.member(0).inflight.Load(); n != 0 {
		t.Errorf("%d open at the prefill replica", n)
	}
}

// TestDecodeAlone: whatever is wrong with prefill, the decode replica serves.
func TestDecodeAlone(t *testing.T) {
	body := fmt.Sprintf(chatBody, question, 20, "")
	for name, spoil := range map[string]func(*testGateway){
		"no parameters":  func(g *testGateway) { g.prefills(new(map[string]any), "null") },
		"prefill cut":    func(g *testGateway) { g.engines[0].fail(fault{cutBytes: 5}) },
		"prefill drains": func(g *testGateway) { g.engines[0].fail(fault{status: 503, reason: "draining"}) },
		"prefill breaks": func(g *testGateway) { g.engines[0].fail(fault{status: 500}) },
		"no prefill":     func(g *testGateway) { g.member(0).ready.Store(false) },
		"prefill gone":   func(g *testGateway) { g.engines[0].Close() },
	} {
		t.Run(name, func(t *testing.T) {
			g := paired(t)
			spoil(g)
			expect(t, name, g.post(pathChat, body).Body.String(), body, 20, 0)
			if p := g.engines[1].seen()[0]["kv_transfer_params"]; p != nil {
				t.Errorf("decode got %v", p)
			}
		})
	}
}

// TestShortPromptsStay: a prompt that decode reads as quickly itself goes to no prefill replica, and the record says why.
func TestShortPromptsStay(t *testing.T) {
	g := paired(t)
	var asked map[string]any
	g.prefills(&asked, transfer)
	body := fmt.Sprintf(chatBody, "p", 20, "")
	expect(t, "short", g.post(pathChat, body).Body.String(), body, 20, 0)
	rec := g.lastRecord()
	if asked != nil || len(rec.Attempts) != 1 || !strings.Contains(rec.Attempts[0].Reason, "decode reads") {
		t.Errorf("prefill was asked %v; record: %v", asked, rec)
	}
}

func TestPairDies(t *testing.T) {
	g := paired(t)
	var asked map[string]any
	g.prefills(&asked, transfer)
	g.engines[1].fail(fault{cutTokens: 9})
	body := fmt.Sprintf(chatBody, question, 30, `,"min_tokens":30`)
	expect(t, "decode died", g.post(pathChat, body).Body.String(), body, 30, 30)
	if ids, ok := asked["prompt"].([]any); !ok || len(ids) < len(promptOf(t, body))+5 {
		t.Errorf("the rest was prefilled from %v", asked["prompt"])
	}
	if g.engines[2].seen()[0]["kv_transfer_params"] == nil {
		t.Error("the other decode replica got no parameters")
	}
}

func TestPrefillNeverServesClients(t *testing.T) {
	g := newTestGateway(t, 1, nil)
	g.apply(&apiv1.WatchResponse{Removed: []string{"launch-0"}})
	g.add(0, jobspecs.VLLM, jobspecs.Prefill)
	wantError(t, g.post(pathCompletions, plain), 503, "no_replica", "no replica is routable")
}
