package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/penstock/penstock/scheduler/gateway/rawjson"
)

// Bodies of requests are no deeper; the gateway has looked at them before.
const maxDepth = 128

const transferParams = "kv_transfer_params"

// withTenant puts the tenant into the field of kv_transfer_params that the engine's connector makes a part of blocks' names.
// What a client or gateway has put there under that name does not count.
func withTenant(body []byte, field, tenant string) ([]byte, error) {
	o, err := rawjson.Parse(body, maxDepth)
	if err != nil {
		return nil, fmt.Errorf("read the request: %w", err)
	}
	// A digest: names of blocks are split at characters that a tenant's name may hold.
	sum := sha256.Sum256([]byte("penstock kv tenant 1\x00" + tenant))
	tag, err := json.Marshal(hex.EncodeToString(sum[:16]))
	if err != nil {
		return nil, err
	}
	params := []byte("{}")
	if has := o.Get(transferParams); len(has) > 0 && has[0] == '{' {
		params = has
	}
	p, err := rawjson.Parse(params, maxDepth)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", transferParams, err)
	}
	return o.Edit(nil, rawjson.Edit{Name: transferParams, Value: p.Edit(nil, rawjson.Edit{Name: field, Value: tag})}), nil
}
