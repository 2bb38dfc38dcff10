package engine

import (
	"context"
	"net/http"
)

// TakeKVEvents asks an engine of the trait PolledJSON for the KV events since the last call. The engine forgets what it answers:
// there must be no other reader.
func (r *Reader) TakeKVEvents(ctx context.Context) ([]byte, error) {
	return r.do(ctx, http.MethodPost, "/kv_cache_events", nil)
}
