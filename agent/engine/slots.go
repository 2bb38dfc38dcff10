package engine

import (
	"encoding/json"
	"fmt"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// slot is what is read of llama-server's /slots. A slot that was never used, or only restored, has no prompt count.
type slot struct {
	NCtx          *uint64 `json:"n_ctx"`
	NPromptTokens *uint64 `json:"n_prompt_tokens"`
}

// decodeSlots puts llama-server's KV use into kv. Penstock starts it with one shared pool (-kvu), in which the n_ctx of
// every slot is the whole pool; n_prompt_tokens counts answered tokens too.
func decodeSlots(body []byte, kv *apiv1.KVState) error {
	var slots []slot
	if err := json.Unmarshal(body, &slots); err != nil {
		return fmt.Errorf("read the engine's slots: %w", err)
	}
	var used, pool uint64
	for _, s := range slots {
		if s.NPromptTokens != nil {
			used += min(*s.NPromptTokens, 1<<40)
		}
		if s.NCtx != nil {
			pool = max(pool, *s.NCtx)
		}
	}
	if pool == 0 {
		return nil
	}
	kv.CapacityTokens = &pool
	kv.Usage = new(min(float64(used)/float64(pool), 1))
	return nil
}
