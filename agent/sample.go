package agent

import (
	"context"
	"math"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// sample looks at the engine and the cards once an interval until ctx ends.
func (r *run) sample(ctx context.Context) {
	for {
		now := time.Now()
		r.cards.look(ctx, now)
		r.state.setGPUs(r.cards.report(now))
		r.sampleEngine(ctx)
		if !sleep(ctx, r.opts.Interval) {
			return
		}
	}
}

// sampleEngine reads load and KV use. What the engine does not tell now is unknown now.
func (r *run) sampleEngine(ctx context.Context) {
	load, kv := &apiv1.EngineLoad{}, &apiv1.KVState{}
	if e := r.engine.Load(); e != nil && e.serving.Load() {
		ctx, cancel := context.WithTimeout(ctx, max(2*time.Second, r.opts.Interval))
		l, k, err := e.reader.Load(ctx)
		cancel()
		if l != nil {
			load, kv = l, k
			r.tokens.Store(uint64(l.GetPromptTokensTotal() + l.GetGenerationTokensTotal()))
		}
		if err != nil {
			r.log.Debug().Err(err).Msg("engine metrics not read")
		}
	}
	if load.At == nil {
		load.At = timestamppb.New(time.Now())
		kv.At = load.At
	}
	load.OpenRequests = uint32(min(r.port.requests(), math.MaxUint32))
	r.state.setLoad(load)
	r.state.setKV(kv)
}
