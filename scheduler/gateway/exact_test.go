package gateway

import (
	"strings"
	"testing"

	"github.com/penstock/penstock/scheduler/gateway/rawjson"
)

func TestWhatCanBeContinued(t *testing.T) {
	for body, why := range map[string]string{
		`{"model":"m","prompt":"p","temperature":0}`:     "",
		`{"model":"m","prompt":[1,2],"temperature":0.0}`: "",
		`{"temperature":0,"messages":[{"role":"user","content":"x"},{"role":"user","content":[{"type":"text","text":"y"}]}]}`: "",
		`{"temperature":0,"messages":[{"role":"assistant","content":null,"tool_calls":[]}]}`:                                  "",
		`{"temperature":0,"n":1,"best_of":null,"logprobs":false,"logit_bias":{},"tools":[],"tool_choice":"none"}`:             "",
		`{"temperature":0,"stop":["a"],"stop_token_ids":[1],"top_k":40,"seed":7,"response_format":{"type":"text"}}`:           "",
		`{"temperature":-0.0,"presence_penalty":0,"repetition_penalty":1.0}`:                                                  "",
		`{"model":"m"}`:                                              "it samples",
		`{"temperature":null}`:                                       "it samples",
		`{"temperature":0.001}`:                                      "it samples",
		`{"temperature":"0"}`:                                        "it samples",
		`{"temperature":0,"n":2}`:                                    `"n"`,
		`{"temperature":0,"logprobs":true}`:                          `"logprobs"`,
		`{"temperature":0,"logprobs":1}`:                             `"logprobs"`,
		`{"temperature":0,"repetition_penalty":2}`:                   `"repetition_penalty"`,
		`{"temperature":0,"logit_bias":{"1":5}}`:                     `"logit_bias"`,
		`{"temperature":0,"tools":[{}]}`:                             `"tools"`,
		`{"temperature":0,"tool_choice":"auto"}`:                     `"tool_choice"`,
		`{"temperature":0,"guided_json":{}}`:                         `"guided_json"`,
		`{"temperature":0,"structured_outputs":{"regex":"x"}}`:       `"structured_outputs"`,
		`{"temperature":0,"response_format":{"type":"json_object"}}`: `"response_format"`,
		`{"temperature":0,"reasoning_effort":"low"}`:                 `"reasoning_effort"`,
		`{"temperature":0,"echo":true}`:                              `"echo"`,
		`{"temperature":0,"max_tokens":-1}`:                          `"max_tokens"`,
		`{"temperature":0,"max_tokens":1.5}`:                         `"max_tokens"`,
		`{"temperature":0,"prompt":["a","b"]}`:                       `"prompt"`,
		`{"temperature":0,"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:"}}]}]}`: `"messages"`,
		`{"temperature":0,"messages":"x"}`:          `"messages"`,
		`{"temperature":0,"a_field_of_tomorrow":1}`: `"a_field_of_tomorrow"`,
	} {
		o, err := rawjson.Parse([]byte(body), 20)
		if err != nil {
			t.Fatal(err)
		}
		if got := whyNotExact(o); (got == "") != (why == "") || !strings.Contains(got, why) {
			t.Errorf("%s: %q, want %q", body, got, why)
		}
	}
}
