package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

type fields = map[string]any

func with(base fields, more fields) fields {
	out := fields{}
	for _, m := range []fields{base, more} {
		for k, v := range m {
			out[k] = v
		}
	}
	return out
}

var greedy = fields{"model": "test/model", "temperature": 0}

func TestCompletionIsTheReference(t *testing.T) {
	t.Parallel()
	r := start(t, fast(func(o *Options) { o.Speedup = 50 })) // slow enough for many chunks
	const text = "Tell me about the river."
	prompt := Tokenizer{}.Encode(text)
	want := Generate(r.Fingerprint(), prompt, 300)
	req := with(greedy, fields{"prompt": text, "max_tokens": 300, "return_token_ids": true})
	whole := r.generate("/v1/completions", req)
	chunks := r.streamed("/v1/completions", with(req, fields{"stream": true}))
	if one := whole.Choices[0]; one.Text != Text(want) || !slices.Equal(one.TokenIDs, want) || !slices.Equal(one.PromptTokenIDs, prompt) || *one.FinishReason != "stop" {
		t.Errorf("answer %+v, want %q", one, Text(want))
	}
	if got := textOf(chunks); got != Text(want) || !slices.Equal(idsIn(chunks), want) {
		t.Errorf("stream\n%q, want\n%q", got, Text(want))
	}
	for i, c := range chunks {
		if ids := c.Choices[0].PromptTokenIDs; i == 0 && !slices.Equal(ids, prompt) || i > 0 && ids != nil {
			t.Errorf("chunk %d has the prompt ids %v; they belong to the first one's choice", i, ids)
		}
	}
	if last := chunks[len(chunks)-1].Choices[0]; last.FinishReason == nil || *last.FinishReason != "stop" {
		t.Errorf("last chunk %+v", last)
	}
	if whole.Usage.PromptTokens != len(prompt) || whole.Usage.CompletionTokens != len(want) {
		t.Errorf("usage %+v", whole.Usage)
	}
}

func TestChatIsTheReference(t *testing.T) {
	t.Parallel()
	r := start(t, fast())
	prompt := ChatPrompt(Message{"system", "Be brief."}, Message{"user", "Where is the dam?"})
	want := Generate(r.Fingerprint(), prompt, 1000)
	req := with(greedy, fields{"messages": []Message{{"system", "Be brief."}, {"user", "Where is the dam?"}}, "return_token_ids": true})
	whole := r.generate("/v1/chat/completions", req)
	chunks := r.streamed("/v1/chat/completions", with(req, fields{"stream": true}))
	if one := whole.Choices[0]; one.Message.Content != Text(want) || one.Message.Role != "assistant" || !slices.Equal(one.TokenIDs, want) || !slices.Equal(whole.PromptTokenIDs, prompt) {
		t.Errorf("answer %+v, want %q", whole, Text(want))
	}
	if textOf(chunks) != Text(want) || !slices.Equal(idsIn(chunks), want) {
		t.Errorf("stream\n%q, want\n%q", textOf(chunks), Text(want))
	}
	first := chunks[0]
	if first.Choices[0].Delta.Role != "assistant" || !slices.Equal(first.PromptTokenIDs, prompt) || first.Choices[0].TokenIDs != nil || chunks[1].PromptTokenIDs != nil {
		t.Errorf("first chunk %+v", first)
	}
}

// Gateways continue a chat that broke off by a completion of all token ids so far: at every cut the client sees the same
// text, also in the middle of a character.
func TestContinuedThroughTheAPI(t *testing.T) {
	t.Parallel()
	r := start(t, fast())
	prompt := ChatPrompt(Message{"user", "Erzähl mir vom Fluss 🌊"})
	want := Generate(r.Fingerprint(), prompt, 1000)
	if isASCII(Text(want)) {
		t.Fatal("choose another question: the answer has no character outside ASCII")
	}
	for cut := range want {
		rest := r.generate("/v1/completions", with(greedy, fields{"prompt": append(slices.Clone(prompt), want[:cut]...), "max_tokens": 1000}))
		if got := Text(want[:cut]) + rest.Choices[0].Text; got != Text(want) {
			t.Errorf("cut after %d tokens:\n%q, want\n%q", cut, got, Text(want))
		}
	}
}

// The bytes of chunks are what clients parse: their fields and order are vLLM's.
func TestChunkShapes(t *testing.T) {
	t.Parallel()
	r := start(t, fast())
	id := "X-Request-Id"
	for _, c := range []struct {
		path string
		body fields
		want []string // parts of the stream, in order
	}{
		{"/v1/completions", with(greedy, fields{"prompt": "a", "max_tokens": 1, "stream": true}), []string{
			`data: {"id":"cmpl-r1","object":"text_completion","created":`,
			`,"model":"test/model","choices":[{"index":0,"text":"`,
			`","logprobs":null,"finish_reason":"length","stop_reason":null,"prompt_token_ids":null,"token_ids":null}]}` + "\n\n",
			"data: [DONE]\n\n",
		}},
		{"/v1/chat/completions", with(greedy, fields{
			"messages": []Message{{"user", "a"}}, "max_completion_tokens": 2, "stream": true,
			"stream_options": fields{"include_usage": true},
		}), []string{
			`data: {"id":"chatcmpl-r1","object":"chat.completion.chunk","created":`,
			`,"model":"test/model","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"prompt_token_ids":null}` + "\n\n",
			`"choices":[{"index":0,"delta":{"content":"`,
			`"},"logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null}]}` + "\n\n",
			`"choices":[],"usage":{"prompt_tokens":`, `,"total_tokens":`, `,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":`,
			"data: [DONE]\n\n",
		}},
	} {
		_, got := r.post(c.path, c.body, id, "r1")
		for rest, i := got, 0; i < len(c.want); i++ {
			at := strings.Index(rest, c.want[i])
			if at < 0 {
				t.Errorf("%s: no %q in\n%s", c.path, c.want[i], got)
				break
			}
			rest = rest[at+len(c.want[i]):]
		}
	}
}

func TestStreamUsageAndChoices(t *testing.T) {
	t.Parallel()
	r := start(t, fast())
	chunks := r.streamed("/v1/completions", fields{
		"model": "test/model", "prompt": []string{"one", "two"}, "n": 2, "seed": 5, "max_tokens": 40, "ignore_eos": true, "stream": true,
		"stream_options": fields{"include_usage": true, "continuous_usage_stats": true},
	})
	texts, last := map[int]string{}, chunks[len(chunks)-1]
	for _, c := range chunks[:len(chunks)-1] {
		texts[c.Choices[0].Index] += c.Choices[0].Text
		if c.Usage == nil {
			t.Error("a chunk without continuous usage")
		}
	}
	if len(texts) != 4 || texts[0] == texts[1] || texts[0] == texts[2] {
		t.Errorf("four different choices, got %v", texts)
	}
	if len(last.Choices) != 0 || last.Usage.CompletionTokens != 160 {
		t.Errorf("last chunk %+v", last)
	}
	again := r.generate("/v1/completions", fields{"model": "test/model", "prompt": []string{"one", "two"}, "n": 2, "seed": 5, "max_tokens": 40, "ignore_eos": true})
	for i, c := range again.Choices {
		if c.Text != texts[i] {
			t.Errorf("choice %d: one seed gives %q and %q", i, c.Text, texts[i])
		}
	}
}

func TestStopStrings(t *testing.T) {
	t.Parallel()
	r := start(t, fast())
	full := r.generate("/v1/completions", with(greedy, fields{"prompt": "Go on", "max_tokens": 400})).Choices[0].Text
	words := strings.Fields(full)
	stop := words[len(words)/2][:3] + "" // may span tokens
	cut := strings.Index(full, stop)
	for name, c := range map[string]struct {
		more fields
		want string
	}{
		"cut":       {fields{"stop": stop}, full[:cut]},
		"kept":      {fields{"stop": []string{"@@", stop}, "include_stop_str_in_output": true}, full[:cut+len(stop)]},
		"not there": {fields{"stop": "@@never"}, full},
	} {
		req := with(with(greedy, fields{"prompt": "Go on", "max_tokens": 400}), c.more)
		one := r.generate("/v1/completions", req).Choices[0]
		if one.Text != c.want {
			t.Errorf("%s: %q, want %q", name, one.Text, c.want)
		}
		chunks := r.streamed("/v1/completions", with(req, fields{"stream": true}))
		if got := textOf(chunks); got != c.want {
			t.Errorf("%s, streamed: %q, want %q", name, got, c.want)
		}
		for _, ch := range chunks {
			if !utf8.ValidString(ch.Choices[0].Text) {
				t.Errorf("%s: half a character in %q", name, ch.Choices[0].Text)
			}
		}
		if name != "not there" && (one.StopReason != stop || *one.FinishReason != "stop") {
			t.Errorf("%s: stop reason %v", name, one.StopReason)
		}
	}
	r.eventually("free", func() bool { return r.engine.occupied.Load() == 0 })
	if n := r.metric(`vllm:request_success_total{engine="0",finished_reason="abort",model_name="test/model"}`); n != 0 {
		t.Errorf("%v requests that met a stop string count as aborted", n)
	}
}

func TestBatchOfTokenLists(t *testing.T) {
	t.Parallel()
	r := start(t, fast())
	prompts := [][]int{ChatPrompt(Message{"user", "one"}), ChatPrompt(Message{"user", "two"})}
	got := r.generate("/v1/completions", with(greedy, fields{"prompt": prompts, "max_tokens": 500}))
	for i, p := range prompts {
		if want := Text(Generate(r.Fingerprint(), p, 500)); got.Choices[i].Text != want {
			t.Errorf("prompt %d: %q, want %q", i, got.Choices[i].Text, want)
		}
	}
}

func TestEchoAndLogprobs(t *testing.T) {
	t.Parallel()
	r := start(t, fast())
	one := r.generate("/v1/completions", with(greedy, fields{"prompt": "Some words", "max_tokens": 5, "echo": true, "logprobs": 2})).Choices[0]
	l := parse[completionLogprobs](t, string(one.Logprobs))
	if !strings.HasPrefix(one.Text, "Some words") || len(l.Tokens) != len(Tokenizer{}.Encode("Some words"))+5 {
		t.Errorf("echo %q with %d tokens", one.Text, len(l.Tokens))
	}
	if l.TokenLogprobs[0] != nil || l.TokenLogprobs[1] == nil || len(l.TopLogprobs[1]) < 2 {
		t.Errorf("logprobs %s", one.Logprobs)
	}
	chat := r.generate("/v1/chat/completions", with(greedy, fields{"messages": []Message{{"user", "a"}}, "max_tokens": 4, "logprobs": true, "top_logprobs": 3})).Choices[0]
	cl := parse[chatLogprobs](t, string(chat.Logprobs))
	if len(cl.Content) != 4 || len(cl.Content[0].Top) != 3 || cl.Content[0].Top[0].Token != cl.Content[0].Token {
		t.Errorf("chat logprobs %s", chat.Logprobs)
	}
}

func TestToolsAndJSON(t *testing.T) {
	t.Parallel()
	r := start(t, fast())
	tool := func(name string) fields {
		return fields{"type": "function", "function": fields{"name": name, "parameters": fields{
			"type": "object", "required": []string{"city"}, "properties": fields{
				"city": fields{"type": "string"}, "days": fields{"type": "integer", "minimum": 3}, "unit": fields{"enum": []string{"C", "F"}},
			},
		}}}
	}
	req := with(greedy, fields{"messages": []Message{{"user", "Weather?"}}, "tools": []any{tool("weather"), tool("tide")}})
	for _, c := range []struct {
		choice any
		finish string
		calls  bool
	}{
		{fields{"type": "function", "function": fields{"name": "tide"}}, "stop", true},
		{"required", "tool_calls", true},
		{"auto", "stop", false},
	} {
		body := with(req, fields{"tool_choice": c.choice})
		one := r.generate("/v1/chat/completions", body).Choices[0]
		if *one.FinishReason != c.finish || (len(one.Message.ToolCalls) > 0) != c.calls {
			t.Errorf("%v: %+v", c.choice, one)
			continue
		}
		var name, args string
		for _, ch := range r.streamed("/v1/chat/completions", with(body, fields{"stream": true})) {
			for _, call := range ch.Choices[0].Delta.ToolCalls {
				name += call.Function.Name
				args += call.Function.Arguments
			}
		}
		if !c.calls {
			continue
		}
		if f := one.Message.ToolCalls[0].Function; name != f.Name || args != f.Arguments {
			t.Errorf("%v: streamed %s(%s), want %s(%s)", c.choice, name, args, f.Name, f.Arguments)
		}
		got := parse[struct {
			City *string
			Days int
			Unit string
		}](t, args)
		if got.City == nil || got.Days < 3 || got.Unit != "C" && got.Unit != "F" {
			t.Errorf("arguments %s do not fit the schema", args)
		}
	}
	one := r.generate("/v1/chat/completions", with(greedy, fields{"messages": []Message{{"user", "JSON!"}}, "response_format": fields{"type": "json_object"}}))
	if !json.Valid([]byte(one.Choices[0].Message.Content)) {
		t.Errorf("json_object gave %q", one.Choices[0].Message.Content)
	}
}

func TestImagesCountAndMatter(t *testing.T) {
	t.Parallel()
	r := start(t, fast())
	ask := func(url string) answer {
		return r.generate("/v1/chat/completions", with(greedy, fields{"messages": []any{fields{"role": "user", "content": []any{
			fields{"type": "text", "text": "What is this?"}, fields{"type": "image_url", "image_url": fields{"url": url}},
		}}}}))
	}
	a, b := ask("data:image/png;base64,AAAA"), ask("data:image/png;base64,BBBB")
	plain := len(ChatPrompt(Message{"user", "What is this?"}))
	if a.Usage.PromptTokens != plain+patchesPerImage || a.Choices[0].Message.Content == b.Choices[0].Message.Content {
		t.Errorf("an image is %d tokens and changes nothing", a.Usage.PromptTokens-plain)
	}
}

func TestEmbeddings(t *testing.T) {
	t.Parallel()
	r := start(t, fast())
	type result struct {
		Data []struct {
			Index     int
			Embedding json.RawMessage
		}
		Usage usage
	}
	_, text := r.post("/v1/embeddings", fields{"model": "test/model", "input": []string{"a", "b", "a"}})
	got := parse[result](t, text)
	if len(got.Data) != 3 || string(got.Data[0].Embedding) != string(got.Data[2].Embedding) || string(got.Data[0].Embedding) == string(got.Data[1].Embedding) {
		t.Errorf("embeddings %s", text)
	}
	if v := parse[[]float32](t, string(got.Data[0].Embedding)); len(v) != embeddingSize {
		t.Errorf("%d numbers", len(v))
	}
	_, text = r.post("/v1/embeddings", fields{"model": "test/model", "input": "a", "encoding_format": "base64", "dimensions": 16})
	if v := parse[string](t, string(parse[result](t, text).Data[0].Embedding)); len(v) != 88 {
		t.Errorf("16 floats in base64 are %d characters, want 88", len(v))
	}
}

func TestResponses(t *testing.T) {
	t.Parallel()
	r := start(t, fast())
	want := Text(Generate(r.Fingerprint(), ChatPrompt(Message{"system", "Be brief."}, Message{"user", "Hello"}), 1000))
	body := fields{"model": "test/model", "temperature": 0, "instructions": "Be brief.", "input": "Hello"}
	_, text := r.post("/v1/responses", body)
	type output struct {
		Status string
		Output []struct{ Content []struct{ Text string } }
		Usage  struct {
			OutputTokens int `json:"output_tokens"`
		}
	}
	if got := parse[output](t, text); got.Status != "completed" || got.Output[0].Content[0].Text != want || got.Usage.OutputTokens == 0 {
		t.Errorf("%s\nwant %q", text, want)
	}
	_, stream := r.post("/v1/responses", with(body, fields{"stream": true}))
	var kinds []string
	var joined string
	for line := range strings.Lines(stream) {
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			e := parse[struct{ Type, Delta string }](t, data)
			joined += e.Delta
			if !slices.Contains(kinds, e.Type) {
				kinds = append(kinds, e.Type)
			}
		}
	}
	if joined != want || kinds[0] != "response.created" || kinds[len(kinds)-1] != "response.completed" || len(kinds) != 9 {
		t.Errorf("events %v with text %q", kinds, joined)
	}
}

func TestTokenizeRoundTrip(t *testing.T) {
	t.Parallel()
	r := start(t, fast())
	_, text := r.post("/tokenize", fields{"messages": []Message{{"user", "Hi"}}, "add_generation_prompt": true})
	got := parse[tokenizeAnswer](t, text)
	if !slices.Equal(got.Tokens, ChatPrompt(Message{"user", "Hi"})) || got.Count != len(got.Tokens) || got.MaxModelLen != 8192 {
		t.Errorf("tokenize %s", text)
	}
	_, text = r.post("/tokenize", fields{"prompt": "a café 🌊"})
	_, back := r.post("/detokenize", fields{"tokens": parse[tokenizeAnswer](t, text).Tokens})
	if back != `{"prompt":"a café 🌊"}` {
		t.Errorf("detokenize %s", back)
	}
}

func TestModelsAndSmallPaths(t *testing.T) {
	t.Parallel()
	r := start(t, fast(func(o *Options) {
		o.ServedModelNames, o.LoRAModules = []string{"big", "alias"}, []LoRAModule{{"tuned", "/adapters/tuned"}}
	}))
	_, text := r.get("/v1/models")
	var ids []string
	for _, m := range parse[modelList](t, text).Data {
		ids = append(ids, m.ID)
	}
	if !slices.Equal(ids, []string{"big", "alias", "tuned"}) {
		t.Errorf("models %s", text)
	}
	base := r.generate("/v1/completions", fields{"model": "alias", "prompt": "Hi", "temperature": 0})
	tuned := r.generate("/v1/completions", fields{"model": "tuned", "prompt": "Hi", "temperature": 0})
	if base.Model != "big" || tuned.Model != "tuned" || base.Choices[0].Text == tuned.Choices[0].Text {
		t.Errorf("%q by %s, %q by %s", base.Choices[0].Text, base.Model, tuned.Choices[0].Text, tuned.Model)
	}
	for path, want := range map[string]string{"/health": "", "/ping": "", "/version": `{"version":"` + version + `"}`, "/load": `{"server_load":0}`} {
		if status, text := r.get(path); status != http.StatusOK || text != want {
			t.Errorf("%s: %d %q", path, status, text)
		}
	}
	if status, _ := r.get("/nowhere"); status != http.StatusNotFound {
		t.Errorf("unknown path: %d", status)
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	r := start(t, fast())
	long := strings.Repeat("penstock ", 9000)
	for _, c := range []struct {
		name, path string
		body       any
		status     int
		kind, says string
	}{
		{"unknown model", "/v1/completions", fields{"model": "x", "prompt": "a"}, 404, "NotFoundError", "The model `x` does not exist."},
		{"bad JSON", "/v1/completions", `{"prompt":`, 400, "Bad Request", "JSON decode error"},
		{"wrong type", "/v1/completions", `{"prompt":"a","max_tokens":"many"}`, 400, "BadRequestError", "max_tokens"},
		{"no prompt", "/v1/completions", `{}`, 400, "BadRequestError", "prompt"},
		{"context", "/v1/completions", fields{"prompt": long}, 400, "BadRequestError", "maximum context length is 8192 tokens"},
		{"context in chat", "/v1/chat/completions", fields{"messages": []Message{{"user", long}}}, 400, "BadRequestError", "maximum context length"},
		{"suffix", "/v1/completions", fields{"prompt": "a", "suffix": "b"}, 400, "BadRequestError", "suffix is not currently supported"},
		{"token id", "/v1/completions", fields{"prompt": []int{99999}}, 400, "BadRequestError", "out of vocabulary"},
		{"temperature", "/v1/completions", fields{"prompt": "a", "temperature": -1}, 400, "BadRequestError", "temperature"},
		{"n greedy", "/v1/completions", fields{"prompt": "a", "temperature": 0, "n": 2}, 400, "BadRequestError", "greedy"},
		{"stream options", "/v1/completions", fields{"prompt": "a", "stream_options": fields{}}, 400, "BadRequestError", "stream=True"},
		{"salt", "/v1/completions", fields{"prompt": "a", "cache_salt": ""}, 400, "BadRequestError", "cache_salt"},
		{"priority", "/v1/completions", fields{"prompt": "a", "priority": 1}, 400, "BadRequestError", "priority"},
		{"messages", "/v1/chat/completions", fields{"messages": []int{}}, 400, "BadRequestError", "messages"},
		{"tool", "/v1/chat/completions", fields{"messages": []Message{{"user", "a"}}, "tool_choice": "required"}, 400, "BadRequestError", "tools"},
		{"embedding", "/v1/embeddings", fields{"input": ""}, 400, "BadRequestError", "input"},
		{"tokenize", "/tokenize", fields{}, 400, "BadRequestError", "prompt"},
		{"detokenize", "/detokenize", fields{"tokens": []int{-1}}, 400, "BadRequestError", "vocabulary"},
	} {
		status, text := r.post(c.path, c.body)
		a := parse[answer](t, text)
		if a.Error == nil || status != c.status || a.Error.Code != c.status || a.Error.Type != c.kind || !strings.Contains(a.Error.Message, c.says) {
			t.Errorf("%s: %d %s", c.name, status, text)
		}
	}
	if status, _ := r.post("/v1/completions", `{"prompt":"a"}`, "Content-Type", "text/plain"); status != 400 {
		t.Errorf("text/plain: %d", status)
	}
}

func TestAPIKey(t *testing.T) {
	t.Parallel()
	r := start(t, fast(func(o *Options) { o.APIKey = "secret" }))
	for path, want := range map[string]int{"/v1/models": 401, "/health": 200, "/metrics": 200, failPath: 401} {
		if status, _ := r.get(path); status != want {
			t.Errorf("%s without a key: %d, want %d", path, status, want)
		}
	}
	if status, text := r.post("/v1/completions", fields{"prompt": "a"}, "Authorization", "Bearer wrong"); status != 401 || text != `{"error":"Unauthorized"}` {
		t.Errorf("wrong key: %d %s", status, text)
	}
	if status, _ := r.post("/v1/completions", fields{"prompt": "a"}, "Authorization", "Bearer secret"); status != 200 {
		t.Errorf("right key: %d", status)
	}
}

func TestCachedTokensAndMetrics(t *testing.T) {
	t.Parallel()
	r := start(t, fast())
	prompt := strings.Repeat("The same words again and again. ", 20)
	first := r.generate("/v1/completions", with(greedy, fields{"prompt": prompt, "max_tokens": 3}))
	second := r.generate("/v1/completions", with(greedy, fields{"prompt": prompt, "max_tokens": 3}))
	salted := r.generate("/v1/completions", with(greedy, fields{"prompt": prompt, "max_tokens": 3, "cache_salt": "tenant"}))
	want := (first.Usage.PromptTokens - 1) / 16 * 16
	if a, b, c := first.Usage.Details.CachedTokens, second.Usage.Details.CachedTokens, salted.Usage.Details.CachedTokens; a != 0 || b != want || c != 0 {
		t.Errorf("cached %d, %d and %d tokens, want 0, %d and 0", a, b, c, want)
	}
	if salted.Choices[0].Text != first.Choices[0].Text {
		t.Error("a salt changes the text")
	}
	n := float64(first.Usage.PromptTokens)
	for name, want := range map[string]float64{
		"vllm:prefix_cache_queries_total{":        3 * n,
		"vllm:prefix_cache_hits_total{":           float64(want),
		"vllm:generation_tokens_total{":           9,
		"vllm:num_requests_running{":              0,
		"vllm:num_requests_waiting{":              0,
		"vllm:kv_cache_usage_perc{":               0,
		"vllm:time_to_first_token_seconds_count{": 3,
		"vllm:inter_token_latency_seconds_count{": 6,
		"vllm:e2e_request_latency_seconds_count{": 3,
		"vllm:cache_config_info{":                 1,
		`vllm:request_success_total{engine="0",finished_reason="length",model_name="test/model"}`: 3,
	} {
		if got := r.metric(name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	if status, _ := r.post("/reset_prefix_cache", nil); status != 200 {
		t.Errorf("reset: %d", status)
	}
	if again := r.generate("/v1/completions", with(greedy, fields{"prompt": prompt, "max_tokens": 3})); again.Usage.Details.CachedTokens != 0 {
		t.Error("cached after a reset")
	}
}

// A client that keeps its connection and reads nothing must not hold blocks for ever.
func TestClientThatDoesNotRead(t *testing.T) {
	t.Parallel()
	r := start(t, fast(func(o *Options) { o.WriteTimeout = 100 * time.Millisecond }))
	conn, err := net.Dial("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	body := `{"prompt":"a","max_tokens":8000,"ignore_eos":true,"temperature":0,"stream":true,"logprobs":20}` // megabytes
	fmt.Fprintf(conn, "POST /v1/completions HTTP/1.1\r\nHost: sim\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	r.eventually("cut off", func() bool { return r.metric("vllm:e2e_request_latency_seconds_count{") == 1 && r.load.Load() == 0 })
	if n := r.engine.occupied.Load(); n != 0 {
		t.Errorf("%d blocks are still used", n)
	}
}

func TestDisconnectFreesBlocks(t *testing.T) {
	t.Parallel()
	r := start(t, fast(func(o *Options) { o.Speedup = 1 }))
	for _, stream := range []bool{true, false} {
		ctx, cancel := context.WithCancel(context.Background())
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			res, err := r.try(ctx, "POST", "/v1/completions", with(greedy, fields{"prompt": "hello", "max_tokens": 8000, "ignore_eos": true, "stream": stream}))
			if err == nil {
				_, _, _ = readChunks(res.Body)
				_ = res.Body.Close()
			}
		}()
		r.eventually("running", func() bool { return r.engine.occupied.Load() > 0 })
		cancel()
		<-gone
		r.eventually("free", func() bool { return r.engine.occupied.Load() == 0 })
	}
	r.eventually("counted", func() bool {
		return r.metric(`vllm:request_success_total{engine="0",finished_reason="abort",model_name="test/model"}`) == 2
	})
}
