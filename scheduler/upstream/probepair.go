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

	"github.com/penstock/penstock/jobspecs/engine"
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
	Params      json.RawMessage `json:"kv_transfer_params,omitempty"`
}

// remoteDecode asks a prefill replica to keep its blocks for somebody else (vLLM's protocol).
var remoteDecode = json.RawMessage(`{"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":null,` +
	`"remote_block_ids":null,"remote_host":null,"remote_port":null}`)

// ProbePair asks for one real token through a pair of replicas: prefill reads a new prompt, decode takes its KV blocks (by
// kv_transfer_params, or by way of the agents) and answers. Deadline and error are those of Probe; the error names the
// half that failed.
func (c *Client) ProbePair(ctx context.Context, prefill, decode Target, model string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	request := "probe-" + prefill.Launch + "-" + decode.Launch
	half := probeBody{Model: model, Prompt: pairPrompt(), MaxTokens: 1, Params: remoteDecode}
	if slotFiles(decode) {
		return c.probeAgents(ctx, prefill, decode, request, probeBody{Model: model, Prompt: half.Prompt, MaxTokens: 1})
	}
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

func slotFiles(t Target) bool {
	e := engine.For(t.Engine)
	return e != nil && e.Traits().Disaggregation == engine.SlotFiles
}

// probeAgents is ProbePair where the agents move the blocks (llama.cpp): decode must say that it has not read the prompt itself.
func (c *Client) probeAgents(ctx context.Context, prefill, decode Target, request string, half probeBody) error {
	if _, err := c.askHalf(ctx, prefill, request, half, KVSave); err != nil {
		return err
	}
	body, err := c.askHalf(ctx, decode, request, half, KVFrom(prefill))
	if err == nil {
		if err = errors.Join(oneToken(body), cameOver(body)); err != nil {
			err = failed(decode, err)
		}
	}
	if err != nil {
		return fmt.Errorf("through prefill launch %s: %w", prefill.Launch, err)
	}
	return nil
}

// cameOver tells by its answer whether an engine was given the prompt's KV.
func cameOver(body []byte) error {
	var answer struct {
		Usage struct {
			Details struct {
				Cached int `json:"cached_tokens"`
			} `json:"prompt_tokens_details"`
		} `json:"usage"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("the answer is no completion: %w", err)
	}
	if answer.Usage.Details.Cached == 0 {
		return errors.New("it has read all of the prompt itself: no KV came over from prefill")
	}
	return nil
}

func (c *Client) askHalf(ctx context.Context, t Target, request string, b probeBody, more ...Header) ([]byte, error) {
	text, err := json.Marshal(b)
	if err != nil {
		return nil, failed(t, err)
	}
	return c.ask(ctx, t, Call{Path: "/v1/completions", Request: request, Body: text, Headers: more})
}
