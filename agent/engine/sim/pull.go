package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// pull is a sequence's KV that another engine computed and that is to be fetched.
type pull struct {
	from  remoteKV
	begun bool
	done  bool
	start chan struct{} // closed when there are blocks to put it in
}

// remoteKV says where KV is kept.
type remoteKV struct {
	engineID, requestID, host string
	port                      int
	blockIDs                  []int32
}

// remoteKVOf reads parameters that a decode request came with; nil if there is nothing to fetch. Incomplete ones are
// ignored, as in vLLM.
func remoteKVOf(p *transferParams) *remoteKV {
	if p == nil || !p.DoRemotePrefill || p.RemoteEngineID == nil || p.RemoteRequestID == nil || p.RemoteHost == nil || p.RemotePort == nil {
		return nil
	}
	ids, err := blockIDsOf(p.RemoteBlockIDs)
	if err != nil || len(ids) == 0 {
		return nil
	}
	return &remoteKV{engineID: *p.RemoteEngineID, requestID: *p.RemoteRequestID, host: *p.RemoteHost, port: *p.RemotePort, blockIDs: ids}
}

// blockIDsOf reads [[ids]] by group, or the older [ids].
func blockIDsOf(raw json.RawMessage) ([]int32, error) {
	var flat []int32
	if json.Unmarshal(raw, &flat) == nil {
		return flat, nil
	}
	var groups [][]int32
	if err := json.Unmarshal(raw, &groups); err != nil {
		return nil, fmt.Errorf("remote_block_ids: %w", err)
	}
	return slices.Concat(groups...), nil
}

func newPull(from remoteKV) *pull { return &pull{from: from, start: make(chan struct{})} }

// wanted reports whether the sequence cannot run before its KV was fetched.
func (p *pull) wanted() bool { return p != nil && !p.begun && !p.done }

func (p *pull) begin() {
	p.begun = true
	close(p.start)
}

// startPull begins to look after a sequence's remote KV: its lease is kept alive while the sequence waits for blocks.
func (e *engine) startPull(s *sequence) {
	ctx, cancel := context.WithCancel(e.ctx)
	s.cancelPull = cancel
	job := pullJob{pull: s.pull, model: s.model, prompt: s.tokens[:s.promptLen:s.promptLen], blockSize: e.opts.BlockSize}
	e.pulls.Go(func() {
		defer cancel()
		states, err := e.puller.run(ctx, job)
		e.post(func() { e.pulled(s, states, err) })
	})
}

// pulled puts fetched KV into a sequence's blocks. states are those after each full block, and after all but the last
// token.
func (e *engine) pulled(s *sequence, states []prefix, err error) {
	i := slices.Index(e.pulling, s)
	if s.ended || i < 0 && err == nil {
		return
	}
	if err != nil {
		e.log.Warn().Err(err).Str("request_id", s.id).Msg("KV could not be fetched")
	}
	if err != nil && e.opts.KVTransfer.OnFailure == FailOnLoadFailure {
		e.end(s, outcome{reason: finishedError, stopToken: -1, err: err})
		return
	}
	s.pull.done = true
	if i >= 0 {
		e.pulling = slices.Delete(e.pulling, i, i+1)
		e.waiting = slices.Insert(e.waiting, 0, s)
	}
	if err == nil {
		s.fetched = s.promptLen - 1 - s.computed
		e.fill(s, states)
	}
	e.publish()
}

// fill stores fetched KV as if it had been computed here. The last token is left to compute.
func (e *engine) fill(s *sequence, states []prefix) {
	first := s.computed / e.opts.BlockSize
	full := s.promptLen / e.opts.BlockSize
	for i := first; i < full; i++ {
		if b := s.blocks[i]; !b.cached {
			e.pool.store(b, s.hashes[i], states[i])
		}
	}
	if full > first {
		e.recordStored(s, first, full)
	}
	s.computed, s.state = s.promptLen-1, states[len(states)-1]
}

// pullJob is what fetching needs to know of a sequence.
type pullJob struct {
	*pull
	model     Fingerprint
	prompt    []int32
	blockSize int
}

// expected are the states that the prompt's KV has to hold: after each full block, after all tokens, and after all but
// the last.
func (j pullJob) expected(v *vocabulary) (blocks []prefix, all, butLast prefix) {
	c := newPrefix(j.model)
	for i, t := range j.prompt {
		butLast = c
		c = v.fold(c, t)
		if (i+1)%j.blockSize == 0 {
			blocks = append(blocks, c)
		}
	}
	return blocks, c, butLast
}

// verify compares fetched KV with what it has to be.
func (j pullJob) verify(m manifest, blocks []prefix, all prefix) error {
	switch {
	case m.EngineID != j.from.engineID || m.RequestID != j.from.requestID:
		return errors.New("the answer is for another engine or request")
	case m.Tokens != len(j.prompt):
		return fmt.Errorf("it is for %d tokens, the prompt has %d", m.Tokens, len(j.prompt))
	case m.BlockSize != j.blockSize:
		return fmt.Errorf("its blocks hold %d tokens, ours %d", m.BlockSize, j.blockSize)
	case !slices.Equal(m.BlockIDs, j.from.blockIDs):
		return errors.New("its blocks are not those that kv_transfer_params names")
	case len(m.Checksums) != len(blocks):
		return fmt.Errorf("it holds %d full blocks, the prompt has %d", len(m.Checksums), len(blocks))
	}
	for i, sum := range m.Checksums {
		if sum != checksum(blocks[i]) {
			return fmt.Errorf("block %d of %d has wrong content: other tokens, other weights, or damaged", i+1, len(blocks))
		}
	}
	if m.Rest != checksum(all) {
		return errors.New("the tokens after the last full block have wrong content")
	}
	return nil
}

// run keeps the lease alive until the pull may start, fetches the KV, checks it, and lets the time of the transfer pass.
// The lease is released in any case, since nobody else will read it.
func (p *puller) run(ctx context.Context, job pullJob) ([]prefix, error) {
	defer p.release(ctx, job.from)
	if err := p.awaitStart(ctx, job); err != nil {
		return nil, err
	}
	blocks, all, butLast := job.expected(p.v)
	m, err := p.manifest(ctx, job.from)
	if err != nil {
		return nil, err
	}
	if err := job.verify(m, blocks, all); err != nil {
		return nil, fmt.Errorf("KV of request %s from %s: %w", job.from.requestID, job.from.host, err)
	}
	seconds := float64(int64(m.Tokens)*p.opts.KVBytesPerToken) / float64(p.opts.TransferBandwidth) / p.opts.Speedup
	if err := sleep(ctx, time.Duration(seconds*float64(time.Second))); err != nil {
		return nil, err
	}
	return append(blocks, butLast), nil
}

// awaitStart waits for blocks to fetch into.
func (p *puller) awaitStart(ctx context.Context, job pullJob) error {
	beat := time.NewTicker(max(p.opts.KVTransfer.Lease/3, time.Millisecond))
	defer beat.Stop()
	for {
		select {
		case <-job.start:
			return nil
		case <-beat.C:
			if err := p.heartbeat(ctx, job.from); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
