package engine

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/penstock/penstock/jobspecs"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// ErrNoMetrics means that this engine has no metrics to read; its load is unknown.
var ErrNoMetrics = errors.New("the engine has no metrics")

// Load reads the engine's own counts once. Fields that the engine does not tell are unset. OpenRequests is never set: the
// agent counts those itself. Where load was read and the KV cache could not be, both what is known and an error come back.
func (r *Reader) Load(ctx context.Context) (*apiv1.EngineLoad, *apiv1.KVState, error) {
	if r.opts.Traits.MetricsPath == "" {
		return nil, nil, ErrNoMetrics
	}
	body, err := r.do(ctx, http.MethodGet, r.opts.Traits.MetricsPath, nil)
	if err != nil {
		return nil, nil, err
	}
	load, kv, err := r.decode(body)
	if err != nil {
		return nil, nil, err
	}
	if r.opts.Kind == jobspecs.LlamaCpp {
		err = r.slots(ctx, load, kv)
	}
	at := timestamppb.New(time.Now())
	load.At, kv.At = at, at
	return load, kv, err
}

// decode tells the two forms of metrics apart by their first byte: TensorRT-LLM answers JSON at the path where others
// answer Prometheus text, unless it was told otherwise.
func (r *Reader) decode(body []byte) (*apiv1.EngineLoad, *apiv1.KVState, error) {
	if text := bytes.TrimLeft(body, " \t\r\n"); len(text) > 0 && (text[0] == '[' || text[0] == '{') {
		return decodeIterations(text)
	}
	return decodeMetrics(body, r.opts.Traits.Metrics)
}

func (r *Reader) slots(ctx context.Context, load *apiv1.EngineLoad, kv *apiv1.KVState) error {
	// llama-server counts evaluated and cached prompt tokens apart: looked up = both.
	if kv.CachedTokensTotal != nil && kv.QueriedTokensTotal == nil && load.PromptTokensTotal != nil {
		kv.QueriedTokensTotal = new(*kv.CachedTokensTotal + *load.PromptTokensTotal)
	}
	body, err := r.do(ctx, http.MethodGet, "/slots", nil)
	if err != nil {
		return err
	}
	return decodeSlots(body, kv)
}
