package sim

import (
	"encoding/json"
	"net"
	"net/http/httptest"
	"testing"
	"time"
)

// fuzzServer is an engine that never runs: decoding and preparing need none.
func fuzzServer(f *testing.F) *Server {
	f.Helper()
	s, err := New(fast(nixl), nothing)
	if err != nil {
		f.Fatal(err)
	}
	return s
}

func FuzzCompletionRequest(f *testing.F) {
	for _, body := range []string{
		`{"prompt":"a","stream":true,"stream_options":{"include_usage":true},"stop":["x"],"logprobs":3,"echo":true}`,
		`{"prompt":[1,2,3],"n":2,"seed":-5,"stop_token_ids":[1],"response_format":{"type":"json_object"}}`,
		`{"prompt":[[1],[2]],"kv_transfer_params":{"do_remote_prefill":true,"remote_engine_id":"e","remote_request_id":"r","remote_host":"h","remote_port":1,"remote_block_ids":[[1,2]]}}`,
		`{"prompt":["a","b"],"max_tokens":1e9,"cache_salt":"@"}`, `null`, `[]`, `{"prompt":null}`,
	} {
		f.Add([]byte(body))
	}
	s := fuzzServer(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		var req completionRequest
		if decode(body, &req) != nil || orElse(req.N, 1) > 4 {
			return
		}
		g, _, err := s.prepareCompletion(httptest.NewRequest("POST", "/v1/completions", nil), &req)
		if (err == nil) == (g == nil) || err != nil && (err.status < 400 || !json.Valid(err.body())) {
			t.Errorf("%+v, %v", g, err)
		}
	})
}

func FuzzChatRequest(f *testing.F) {
	for _, body := range []string{
		`{"messages":[{"role":"user","content":"hi"}],"temperature":0.5,"top_logprobs":2,"logprobs":true}`,
		`{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"u"}}]},{"role":"assistant","content":null,"tool_calls":[{}]}]}`,
		`{"messages":[{"role":"user","content":"x"}],"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{"a":{"type":["string","null"]},"b":{"type":"array","items":{"enum":[1]}}}}}}],"tool_choice":"required"}`,
		`{"messages":[{"role":"user","content":"x"}],"response_format":{"type":"json_schema","json_schema":{"schema":{"anyOf":[{"type":"integer"}]}}}}`,
		`{"messages":[]}`, `{"messages":[{"role":"user","content":5}]}`,
	} {
		f.Add([]byte(body))
	}
	s := fuzzServer(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		var req chatRequest
		if decode(body, &req) != nil || orElse(req.N, 1) > 4 {
			return
		}
		g, err := s.prepareChat(httptest.NewRequest("POST", "/v1/chat/completions", nil), &req)
		if (err == nil) == (g == nil) || err != nil && (err.status < 400 || !json.Valid(err.body())) {
			t.Errorf("%+v, %v", g, err)
		}
		if err != nil {
			return
		}
		if script := g.choices[0].seq.script; script != nil && !json.Valid([]byte(Text(ints(script)))) {
			t.Errorf("constrained output %q is no JSON", Text(ints(script)))
		}
	})
}

func FuzzResponsesRequest(f *testing.F) {
	f.Add([]byte(`{"input":"a","instructions":"b","max_output_tokens":5}`))
	f.Add([]byte(`{"input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"x"}]}]}`))
	s := fuzzServer(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		var req responsesRequest
		if decode(body, &req) != nil {
			return
		}
		if g, err := s.prepareResponse(httptest.NewRequest("POST", "/v1/responses", nil), &req); (err == nil) == (g == nil) {
			t.Errorf("%+v, %v", g, err)
		}
	})
}

// What another engine answers decides about text: whatever it says, only the right KV is taken.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"engine_id":"e","request_id":"r","num_tokens":3,"block_size":2,"block_ids":[7,8],"checksums":["0"],"rest":"0"}`))
	v := theVocabulary()
	job := pullJob{pull: newPull(remoteKV{engineID: "e", requestID: "r", blockIDs: []int32{7, 8}}), model: 1, prompt: []int32{300, 301, 302}, blockSize: 2}
	blocks, all, _ := job.expected(v)
	f.Fuzz(func(t *testing.T, body []byte) {
		var m manifest
		if json.Unmarshal(body, &m) != nil || job.verify(m, blocks, all) != nil {
			return
		}
		if len(m.Checksums) != 1 || m.Checksums[0] != checksum(blocks[0]) || m.Rest != checksum(all) {
			t.Errorf("%s is accepted", body)
		}
	})
}

func FuzzRankMessage(f *testing.F) {
	f.Add([]byte(`{"rank":1,"nodes":2,"proof":"00"}` + "\n"))
	f.Add([]byte("\n\n"))
	f.Fuzz(func(t *testing.T, line []byte) {
		a, b := net.Pipe()
		defer b.Close()
		go func() {
			defer a.Close()
			_, _ = a.Write(line)
		}()
		for c := newRankConn(b); ; {
			if _, err := c.receive(time.Second); err != nil {
				return
			}
		}
	})
}

func FuzzFailure(f *testing.F) {
	f.Add("slow:2")
	f.Add("crash-loading:1,2")
	f.Fuzz(func(t *testing.T, spec string) {
		one, err := ParseFailure(spec)
		if err != nil {
			return
		}
		if again, err := ParseFailure(one.String()); err != nil || again.String() != one.String() {
			t.Errorf("%q reads as %s, which reads as %s, %v", spec, one, again, err)
		}
	})
}

func FuzzKVTransferConfig(f *testing.F) {
	f.Add(`{"kv_connector":"NixlConnector","kv_connector_extra_config":{"kv_lease_duration":5}}`)
	f.Fuzz(func(t *testing.T, text string) {
		if c, err := ParseKVTransferConfig(text); err == nil && c.validate() != nil {
			t.Errorf("%q gives %+v, which is not valid", text, c)
		}
	})
}
