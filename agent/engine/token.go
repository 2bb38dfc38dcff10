package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/penstock/penstock/jobspecs"
	spec "github.com/penstock/penstock/jobspecs/engine"
)

// fakeBootstrapHost is the host that SGLang itself uses for its warm-up of a prefill or decode server: no peer is asked.
const fakeBootstrapHost = "2.2.2.2"

// ErrNoToken means that the engine answered well and yet produced nothing.
var ErrNoToken = errors.New("the engine answered without a token")

// Token asks the engine for one real token of the model, or for one embedding where the model makes no text. It is the
// proof that an engine has started; a health check is none.
func (r *Reader) Token(ctx context.Context, model string) error {
	if r.embeds.Load() {
		return r.embedding(ctx, model)
	}
	err := r.completion(ctx, model)
	if err == nil || !unsupported(err) {
		return err
	}
	if embedErr := r.embedding(ctx, model); embedErr != nil {
		return errors.Join(err, embedErr)
	}
	r.embeds.Store(true)
	return nil
}

func (r *Reader) completion(ctx context.Context, model string) error {
	in := map[string]any{"model": model, "prompt": "1", "max_tokens": 1, "temperature": 0}
	if r.opts.Traits.Disaggregation == spec.Bootstrap && r.opts.Role != jobspecs.Mixed {
		in["bootstrap_host"], in["bootstrap_room"] = fakeBootstrapHost, 0
	}
	body, err := r.do(ctx, http.MethodPost, "/v1/completions", in)
	if err != nil {
		return err
	}
	return checkCompletion(body)
}

// checkCompletion accepts text, or a counted token: one token may be half a character or the end of the text.
func checkCompletion(body []byte) error {
	var out struct {
		Choices []struct {
			Text string `json:"text"`
		} `json:"choices"`
		Usage struct {
			CompletionTokens int `json:"completion_tokens"`
		} `json:"usage"`
	}
	if err := json.Unmarshal(body, &out); err != nil {
		return fmt.Errorf("read the engine's completion: %w", err)
	}
	if len(out.Choices) == 0 || (out.Choices[0].Text == "" && out.Usage.CompletionTokens < 1) {
		return fmt.Errorf("%w: %s", ErrNoToken, summary(body))
	}
	return nil
}

func (r *Reader) embedding(ctx context.Context, model string) error {
	body, err := r.do(ctx, http.MethodPost, "/v1/embeddings", map[string]any{"model": model, "input": "1"})
	if err != nil {
		return err
	}
	return checkEmbedding(body)
}

func checkEmbedding(body []byte) error {
	var out struct {
		Data []struct {
			Embedding []float64 `json:"embedding"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &out); err != nil {
		return fmt.Errorf("read the engine's embedding: %w", err)
	}
	if len(out.Data) == 0 || len(out.Data[0].Embedding) == 0 {
		return fmt.Errorf("%w: %s", ErrNoToken, summary(body))
	}
	return nil
}
