package upstream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// pairPrompt fills several KV blocks of any usual size: engines hand over full blocks only.
var pairPrompt = strings.Repeat("One token through the pair, please. ", 64)

// probeBody is the request of both halves of a pair probe.
type probeBody struct {
	Model       string          `json:"model"`
	Prompt      string          `json:"prompt"`
	MaxTokens   int             `json:"max_tokens"`
	Temperature int             `json:"temperature"`
	Params      json.RawMessage `json:"kv_transfer_params"`
}

// remoteDecode asks a prefill replica to keep its blocks for somebody else (vLLM's protocol).
var remoteDecode = json.RawMessage(`{"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":null,` +
	`"remote_block_ids":null,"remote_host":null,"remote_port":null}`)

// ProbePair asks for one real token through a pair of replicas of an engine that splits by kv_transfer_params: prefill
// reads the prompt, decode takes its KV blocks and answers. Deadline and errors as of Probe.
func (c *Client) ProbePair(ctx context.Context, prefill, decode Target, model string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	request := "probe-" + prefill.Launch + "-" + decode.Launch
	body, err := c.askHalf(ctx, prefill, request, probeBody{Model: model, Prompt: pairPrompt, MaxTokens: 1, Params: remoteDecode})
	if err != nil {
		return err
	}
	var answer struct {
		Params json.RawMessage `json:"kv_transfer_params"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("probe launch %s at %s: the answer is no completion: %w", prefill.Launch, prefill.Address, err)
	}
	if len(answer.Params) == 0 || bytes.Equal(answer.Params, []byte("null")) {
		return fmt.Errorf("probe launch %s at %s: %w", prefill.Launch, prefill.Address, errors.New("it keeps no KV blocks for a decode replica"))
	}
	body, err = c.askHalf(ctx, decode, request, probeBody{Model: model, Prompt: pairPrompt, MaxTokens: 1, Params: answer.Params})
	if err == nil {
		err = oneToken(body)
	}
	if err != nil {
		return fmt.Errorf("through prefill launch %s: %w", prefill.Launch, err)
	}
	return nil
}

func (c *Client) askHalf(ctx context.Context, t Target, request string, b probeBody) ([]byte, error) {
	text, err := json.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("probe launch %s: %w", t.Launch, err)
	}
	return c.ask(ctx, t, Call{Path: "/v1/completions", Request: request, Body: text})
}
