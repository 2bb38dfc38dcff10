package engine

import (
	"encoding/json"
	"fmt"
	"math"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// iteration is what is read of one record of TensorRT-LLM's iteration statistics.
type iteration struct {
	Active *float64 `json:"numActiveRequests"`
	Queued *float64 `json:"numQueuedRequests"`
	KV     *struct {
		MaxBlocks      *float64 `json:"maxNumBlocks"`
		UsedBlocks     *float64 `json:"usedNumBlocks"`
		TokensPerBlock *float64 `json:"tokensPerBlock"`
	} `json:"kvCacheStats"`
}

// decodeIterations reads TensorRT-LLM's JSON: records of the iterations since somebody last asked, newest last, or one
// record alone. None means that nothing ran since, or that somebody else read them: the load is unknown then.
func decodeIterations(body []byte) (*apiv1.EngineLoad, *apiv1.KVState, error) {
	var all []iteration
	if body[0] == '{' {
		all = make([]iteration, 1)
		if err := json.Unmarshal(body, &all[0]); err != nil {
			return nil, nil, fmt.Errorf("read the engine's iteration statistics: %w", err)
		}
	} else if err := json.Unmarshal(body, &all); err != nil {
		return nil, nil, fmt.Errorf("read the engine's iteration statistics: %w", err)
	}
	load, kv := &apiv1.EngineLoad{}, &apiv1.KVState{}
	if len(all) == 0 {
		return load, kv, nil
	}
	last := all[len(all)-1]
	load.Running, load.Waiting = count32(positive(last.Active)), count32(positive(last.Queued))
	if last.KV != nil {
		blockUse(kv, positive(last.KV.MaxBlocks), positive(last.KV.UsedBlocks), positive(last.KV.TokensPerBlock))
	}
	return load, kv, nil
}

func blockUse(kv *apiv1.KVState, blocks, used, tokens *float64) {
	kv.BlockTokens = count32(tokens)
	if blocks == nil || *blocks == 0 {
		return
	}
	if used != nil {
		kv.Usage = share(new(*used / *blocks))
	}
	if tokens != nil {
		kv.CapacityTokens = count64(new(*blocks * *tokens))
	}
}

func positive(v *float64) *float64 {
	if v == nil || *v < 0 || math.IsInf(*v, 0) {
		return nil
	}
	return v
}
