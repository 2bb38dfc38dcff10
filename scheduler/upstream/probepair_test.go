package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// half is a fake half of a pair that keeps what it was asked.
type half struct {
	*agent
	answer string
	status int
	asked  []probeBody
}

func newHalf(t *testing.T, answer string) *half {
	h := &half{answer: answer, status: http.StatusOK}
	h.agent = newAgent(t, nil, "", func(w http.ResponseWriter, r *http.Request) {
		var b probeBody
		if err := json.NewDecoder(r.Body).Decode(&b); err != nil {
			t.Error(err)
		}
		h.asked = append(h.asked, b)
		w.WriteHeader(h.status)
		_, _ = io.WriteString(w, h.answer)
	})
	return h
}

const (
	kept  = `{"choices":[{"text":" a"}],"kv_transfer_params":{"remote_block_ids":[1,2]}}`
	token = `{"choices":[{"text":" a"}]}`
)

func TestProbePairTakesDecodeTheBlocksOfPrefill(t *testing.T) {
	prefill, decode := newHalf(t, kept), newHalf(t, token)
	c := newClient(t, Options{Plaintext: true})
	for range 2 {
		if err := c.ProbePair(t.Context(), prefill.target("P", "R"), decode.target("D", "R"), "m"); err != nil {
			t.Fatal(err)
		}
	}
	for i, p := range prefill.asked {
		d := decode.asked[i]
		if p.Prompt != d.Prompt || p.Model != "m" || d.Model != "m" {
			t.Errorf("probe %d: the halves are asked different things", i)
		}
		if string(p.Params) != string(remoteDecode) || string(d.Params) != `{"remote_block_ids":[1,2]}` {
			t.Errorf("probe %d: params %s, then %s", i, p.Params, d.Params)
		}
	}
	// A common beginning of one block would be a hit in decode's cache, and the pair not asked.
	if a, b := prefill.asked[0].Prompt, prefill.asked[1].Prompt; a[:8] == b[:8] {
		t.Errorf("two probes begin alike: %.20q, %.20q", a, b)
	}
}

func TestProbePairSaysWhichHalfFailed(t *testing.T) {
	for _, tc := range []struct {
		prefill, decode string
		status          int // of decode
		want            string
	}{
		{"<html>", token, 200, "probe launch P at ADDR: the answer is no completion"},
		{token, token, 200, "probe launch P at ADDR: it keeps no KV blocks for a decode replica"},
		{kept, `{"choices":[]}`, 200, "through prefill launch P: probe launch D at ADDR: the answer holds no text"},
		{kept, "full", 500, "through prefill launch P: probe launch D at ADDR: it answered 500 Internal Server Error: full"},
	} {
		prefill, decode := newHalf(t, tc.prefill), newHalf(t, tc.decode)
		decode.status = tc.status
		c := newClient(t, Options{Plaintext: true})
		err := c.ProbePair(t.Context(), prefill.target("P", "R"), decode.target("D", "R"), "m")
		if err == nil {
			t.Errorf("%s, %s: no error", tc.prefill, tc.decode)
			continue
		}
		addr := strings.NewReplacer(prefill.Listener.Addr().String(), "ADDR", decode.Listener.Addr().String(), "ADDR")
		if got := addr.Replace(err.Error()); !strings.HasPrefix(got, tc.want) {
			t.Errorf("got %q, want %q", got, tc.want)
		}
		if se := (*StatusError)(nil); errors.As(err, &se) != (tc.status != 200) {
			t.Errorf("a StatusError in %v: %v", err, se)
		}
	}
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	prefill := newHalf(t, kept)
	err := newClient(t, Options{Plaintext: true}).ProbePair(ctx, prefill.target("P", "R"), prefill.target("D", "R"), "m")
	if err == nil || !strings.HasSuffix(err.Error(), "no answer in time") {
		t.Errorf("without time: %v", err)
	}
}
