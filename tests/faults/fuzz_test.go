package faults

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/tests/traffic"
)

// bad is one bad request.
type bad struct{ method, path, kind, body string }

const badRequests = 200

// TestBadRequests: broken, hostile and merely odd requests. None of them gets a 5xx but 503, each refusal is in OpenAI's
// shape, and the streams beside them do not notice.
func TestBadRequests(t *testing.T) {
	w := start(t, deployment())
	tr := w.traffic(w.client)
	before := w.runs("web")
	statuses := map[int]int{}
	w.fault(func() {
		draw := rand.New(rand.NewPCG(20261124, 15))
		for i := range badRequests {
			b := newBad(draw, i)
			status, err := w.send(b)
			if err != nil {
				t.Errorf("request %d, %s %s %.200q: %v", i, b.method, b.path, b.body, err)
			}
			statuses[status]++
		}
	})
	t.Logf("answers by status: %v", statuses)
	tr.Finished(w.ctx, traffic.Streams)
	w.same("web", before)
	if r := w.finish(15, fmt.Sprintf("%d bad requests", badRequests)); r.cut > 0 || r.refused > 0 {
		t.Errorf("%d streams were moved, %d refused", r.cut, r.refused)
	}
}

// send sends a bad request and looks at the answer.
func (w *world) send(b bad) (status int, err error) {
	req, err := http.NewRequestWithContext(w.ctx, b.method, strings.TrimSuffix(w.client.URL, "/v1")+b.path, strings.NewReader(b.body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+w.client.Key)
	if b.kind != "" {
		req.Header.Set("Content-Type", b.kind)
	}
	resp, err := (&http.Client{Timeout: 20 * time.Second}).Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	switch {
	case err != nil:
		return resp.StatusCode, err
	case resp.StatusCode >= 500 && resp.StatusCode != http.StatusServiceUnavailable:
		return resp.StatusCode, fmt.Errorf("%s: %.300s", resp.Status, text)
	case resp.StatusCode < 400:
		return resp.StatusCode, nil // odd, and yet good
	}
	var got struct {
		Error struct{ Message, Type string }
	}
	if err := json.Unmarshal(text, &got); err != nil || got.Error.Message == "" || got.Error.Type == "" {
		return resp.StatusCode, fmt.Errorf("%s: not in OpenAI's shape: %.300s", resp.Status, text)
	}
	return resp.StatusCode, nil
}

// good is what bad requests are made from.
const good = `{"model":"` + traffic.Model + `","messages":[{"role":"system","content":"Be short."},{"role":"user","content":"How are you? 🙂"}],` +
	`"max_tokens":8,"temperature":0,"stream":true,"stream_options":{"include_usage":true},"stop":["x","y"],"user":"someone"}`

// odd values stand in for good ones.
var odd = []string{
	`null`, `true`, `-1`, `0`, `1e308`, `-1e400`, `9223372036854775808`, `1.5`, `""`, `"\u0000"`, `"\ud800"`, `[]`, `{}`, `[[[[[[]]]]]]`,
	`{"role":"user"}`, `[{"role":"user","content":null}]`, `[{"content":"x"}]`, `[{"role":"tool","content":[{"type":"image_url","image_url":{"url":"file:///etc/passwd"}}]}]`,
	`"` + strings.Repeat("long ", 2000) + `"`, strings.Repeat("[", 5000), strings.Repeat("9", 400), `"🙂"`, `+1`, `NaN`, `'x'`, `undefined`,
}

// fields may be asked for by a client, or only by the gateway itself.
var fields = []string{
	"model", "messages", "max_tokens", "max_completion_tokens", "temperature", "stream", "stream_options", "stop", "n", "seed", "logprobs",
	"top_logprobs", "tools", "tool_choice", "response_format", "logit_bias", "prompt", "user", "ignore_eos", "min_tokens", "return_token_ids",
	"kv_transfer_params", "bootstrap_host", "bootstrap_port", "disaggregated_params", "cache_salt", "id_slot", "priority", "data_parallel_rank",
	"Model", "messages ", "", "__proto__", "frequency_penalty", "best_of", "echo", "suffix", "stop_token_ids", "prompt_logprobs",
}

var paths = []string{
	"/v1/chat/completions", "/v1/chat/completions", "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/tokenize",
	"/v1/models", "/v1/models/..%2f..%2fmetrics", "/sim/fail", "/v1/chat/completions/", "//v1/chat/completions", "/v1/%63hat/completions", "/load_lora_adapter",
}

func newBad(draw *rand.Rand, i int) bad {
	pick := func(list []string) string { return list[draw.IntN(len(list))] }
	b := bad{method: http.MethodPost, path: "/v1/chat/completions", kind: "application/json", body: good}
	switch i % 10 {
	case 0: // cut off
		b.body = good[:draw.IntN(len(good))]
	case 1: // bytes changed
		text := []byte(good)
		for range 1 + draw.IntN(8) {
			text[draw.IntN(len(text))] = byte(draw.Uint32())
		}
		b.body = string(text)
	case 2: // a piece twice
		at, end := draw.IntN(len(good)), draw.IntN(len(good))
		b.body = good[:max(at, end)] + good[min(at, end):]
	case 3: // noise
		text := make([]byte, draw.IntN(300))
		for k := range text {
			text[k] = byte(draw.Uint32())
		}
		b.body = string(text)
	case 4, 5, 6: // one more field, or one again
		b.body = good[:len(good)-1] + fmt.Sprintf(",%q:%s}", pick(fields), pick(odd))
	case 7: // one field with another value
		b.body = replaceField(pick([]string{"model", "messages", "max_tokens", "temperature", "stream", "stream_options", "stop"}), pick(odd))
	case 8: // elsewhere
		b.path, b.method = pick(paths), pick([]string{"POST", "GET", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "BREW"})
		if b.method == http.MethodHead {
			b.method = http.MethodTrace
		}
	case 9: // as something else
		b.kind, b.path = pick([]string{"", "text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "\xff"}), pick(paths)
		b.body = pick([]string{"", good, "a=b", "\xef\xbb\xbf" + good, good + good, "[" + good + "]", strings.Repeat(" ", 70_000) + good})
	}
	return b
}

// replaceField gives the good request with another value of one field.
func replaceField(name, value string) string {
	var object map[string]json.RawMessage
	if err := json.Unmarshal([]byte(good), &object); err != nil {
		panic(err)
	}
	var out bytes.Buffer
	sep := "{"
	for _, k := range []string{"model", "messages", "max_tokens", "temperature", "stream", "stream_options", "stop", "user"} {
		v := string(object[k])
		if k == name {
			v = value
		}
		fmt.Fprintf(&out, "%s%q:%s", sep, k, v)
		sep = ","
	}
	return out.String() + "}"
}
