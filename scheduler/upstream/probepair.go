package upstream

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// pairPrompt gives a text that fills several KV blocks of any usual size, since engines hand over full blocks only, and
// that no engine has seen: a block that decode holds from the last probe would not come through the pair. Blocks are found
// by all that is before them, so that a new beginning makes all of them new.
func pairPrompt() string {
	return rand.Text() + ": " + strings.Repeat("one token through the pair, please. ", 64)
}

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
// reads a new prompt, decode takes its KV blocks and answers. Deadline and error are those of Probe; the error names the
// half that failed.
func (c *Client) ProbePair(ctx context.Context, prefill, decode Target, model string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	request := "probe-" + prefill.Launch + "-" + decode.Launch
	half := probeBody{Model: model, Prompt: pairPrompt(), MaxTokens: 1, Params: remoteDecode}
	body, err := c.askHalf(ctx, prefill, request, half)
	if err != nil {
		return err
	}
	if half.Params, err = keptBlocks(body); err != nil {
		return failed(prefill, err)
	}
	body, err = c.askHalf(ctx, decode, request, half)
	if err == nil {
		if err = oneToken(body); err != nil {
			err = failed(decode, err)
		}
	}
	if err != nil {
		return fmt.Errorf("through prefill launch %s: %w", prefill.Launch, err)
	}
	return nil
}

// keptBlocks reads out of prefill's answer where its blocks are.
func keptBlocks(body []byte) (json.RawMessage, error) {
	var answer struct {
		Params json.RawMessage `json:"kv_transfer_params"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("the answer is no completion: %w", err)
	}
	if len(answer.Params) == 0 || bytes.Equal(answer.Params, []byte("null")) {
		return nil, errors.New("it keeps no KV blocks for a decode replica")
	}
	return answer.Params, nil
}

func (c *Client) askHalf(ctx context.Context, t Target, request string, b probeBody) ([]byte, error) {
	text, err := json.Marshal(b)
	if err != nil {
		return nil, failed(t, err)
	}
	return c.ask(ctx, t, Call{Path: "/v1/completions", Request: request, Body: text})
}
