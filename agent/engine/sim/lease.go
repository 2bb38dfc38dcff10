package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/zeebo/xxh3"
)

var (
	errEngineEnded  = errors.New("the engine has ended")
	errUnknownLease = errors.New("no KV is kept under this request id: it was never there, was released, or its lease ran out")
)

// lease keeps the blocks of a finished prefill until a decode engine has read them, or until it ends.
type lease struct {
	manifest manifest
	blocks   []*block
	expires  time.Time
}

// manifest says what a prefill left behind. The checksums stand for the KV itself: an engine that computes the same prompt
// with the same weights gets the same ones.
type manifest struct {
	EngineID  string   `json:"engine_id"`
	RequestID string   `json:"request_id"`
	Tokens    int      `json:"num_tokens"`
	BlockSize int      `json:"block_size"`
	BlockIDs  []int32  `json:"block_ids"`
	Checksums []string `json:"checksums"` // of full blocks
	Rest      string   `json:"rest"`      // of the tokens after them
}

// transferParams are vLLM's kv_transfer_params, as far as they are read here.
type transferParams struct {
	DoRemotePrefill bool            `json:"do_remote_prefill"`
	DoRemoteDecode  bool            `json:"do_remote_decode"`
	RemoteEngineID  *string         `json:"remote_engine_id"`
	RemoteRequestID *string         `json:"remote_request_id"`
	RemoteBlockIDs  json.RawMessage `json:"remote_block_ids"`
	RemoteHost      *string         `json:"remote_host"`
	RemotePort      *int            `json:"remote_port"`
	RemoteNumTokens int             `json:"remote_num_tokens"`
	TenantTag       string          `json:"lmcache.tag.tenant"` // LMCache's, not NIXL's
}

// grantedParams are the kv_transfer_params that a prefill answers with, in vLLM's words.
type grantedParams struct {
	DoRemotePrefill bool      `json:"do_remote_prefill"`
	DoRemoteDecode  bool      `json:"do_remote_decode"`
	RemoteBlockIDs  [][]int32 `json:"remote_block_ids"` // by KV cache group: one
	RemoteEngineID  string    `json:"remote_engine_id"`
	RemoteRequestID string    `json:"remote_request_id"`
	RemoteHost      string    `json:"remote_host"`
	RemotePort      int       `json:"remote_port"`
	TPSize          int       `json:"tp_size"`
	RemoteNumTokens int       `json:"remote_num_tokens"`
	TransferMode    string    `json:"transfer_mode"`
}

// checksum stands for the KV of a prefix.
func checksum(p prefix) string {
	b := p.encode()
	return fmt.Sprintf("%016x", xxh3.Hash(b[:]))
}

// grant leases the blocks of a finished prefill, if there is a full one, and returns the parameters for the decode side.
func (e *engine) grant(s *sequence, now time.Time) json.RawMessage {
	full := s.computed / e.opts.BlockSize
	if full == 0 {
		return nil
	}
	m := manifest{
		EngineID: e.puller.self.engineID, RequestID: s.id, Tokens: s.computed, BlockSize: e.opts.BlockSize, Rest: checksum(s.state),
	}
	for i, b := range s.blocks {
		m.BlockIDs = append(m.BlockIDs, b.id)
		if i < full {
			m.Checksums = append(m.Checksums, checksum(b.kv()))
		}
	}
	l := &lease{manifest: m, blocks: s.blocks, expires: now.Add(e.opts.KVTransfer.Lease)}
	e.leases[s.id] = l
	e.checkLeasesBy(l.expires)
	self := e.puller.self
	params, err := json.Marshal(grantedParams{
		DoRemotePrefill: true, RemoteBlockIDs: [][]int32{m.BlockIDs}, RemoteEngineID: m.EngineID, RemoteRequestID: m.RequestID,
		RemoteHost: self.host, RemotePort: self.port, TPSize: e.opts.TensorParallel, RemoteNumTokens: m.Tokens, TransferMode: "pull",
	})
	if err != nil {
		panic(err) // plain values
	}
	return params
}

func (e *engine) checkLeasesBy(t time.Time) {
	if len(e.leases) == 1 || t.Before(e.leaseCheck) {
		e.leaseCheck = t
	}
}

// expireLeases frees the blocks of leases that ran out.
func (e *engine) expireLeases(now time.Time) {
	if len(e.leases) == 0 || now.Before(e.leaseCheck) {
		return
	}
	e.leaseCheck = now.Add(time.Hour)
	for id, l := range e.leases {
		if now.Before(l.expires) {
			e.leaseCheck = minTime(e.leaseCheck, l.expires)
			continue
		}
		e.log.Warn().Str("request_id", id).Int("blocks", len(l.blocks)).Msg("KV lease ran out before the KV was read")
		e.releaseLease(id)
	}
}

func (e *engine) releaseLease(id string) {
	e.pool.release(e.leases[id].blocks)
	delete(e.leases, id)
	e.observe()
}

// withLease runs f on a live lease in the scheduler's goroutine.
func (e *engine) withLease(ctx context.Context, engineID, requestID string, f func(*lease)) error {
	done := make(chan error, 1)
	e.post(func() {
		e.expireLeases(time.Now())
		l, ok := e.leases[requestID]
		if !ok || engineID != l.manifest.EngineID {
			done <- errUnknownLease
			return
		}
		f(l)
		done <- nil
	})
	select {
	case err := <-done:
		return err
	case <-e.done:
		return errEngineEnded
	case <-ctx.Done():
		return ctx.Err()
	}
}

// readLease is what a lease holds.
func (e *engine) readLease(ctx context.Context, engineID, requestID string) (m manifest, err error) {
	err = e.withLease(ctx, engineID, requestID, func(l *lease) { m = l.manifest })
	return m, err
}

// extendLease starts the time of a lease again.
func (e *engine) extendLease(ctx context.Context, engineID, requestID string) error {
	return e.withLease(ctx, engineID, requestID, func(l *lease) { l.expires = time.Now().Add(e.opts.KVTransfer.Lease) })
}

// endLease frees a lease's blocks.
func (e *engine) endLease(ctx context.Context, engineID, requestID string) error {
	return e.withLease(ctx, engineID, requestID, func(*lease) { e.releaseLease(requestID) })
}

func minTime(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
