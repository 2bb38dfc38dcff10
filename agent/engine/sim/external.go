package sim

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"time"

	"github.com/rs/zerolog"
)

// external is a KV store outside of this engine, in which full blocks are kept as LMCache keeps its chunks. Everything it
// does is for speed: what does not come in time is computed.
type external struct {
	url, model string
	v          *vocabulary
	log        zerolog.Logger
	todo       chan chunk
}

// chunk is a block on its way out.
type chunk struct {
	key     string
	content prefix
}

const (
	lookWithin = 5 * time.Second        // for all blocks of one prompt
	saveWithin = 5 * time.Second        // for one block
	lastSaves  = 5 * time.Second        // for what still waits at the end
	waitingOut = 4096                   // blocks; more are not stored
	chunkBytes = 1024 * prefixBytes     // of one block: as many copies of its content
	retryAfter = 100 * time.Millisecond // after the store could not be reached
)

func newExternal(opts Options, v *vocabulary, log zerolog.Logger) *external {
	if opts.ExternalKV == "" {
		return nil
	}
	return &external{url: opts.ExternalKV, model: opts.servedNames()[0], v: v, log: log, todo: make(chan chunk, waitingOut)}
}

// key is the name of a block, as LMCache writes it: model, ranks, rank, hash, dtype, and tags.
func (x *external) key(h blockHash, tenant string) string {
	key := x.model + "@1@0@" + hex.EncodeToString(h[:]) + "@bfloat16"
	if tenant != "" {
		key += "@tenant%" + tenant
	}
	return key
}

// encodeChunk is a block's KV: its content over and over.
func encodeChunk(c prefix) []byte {
	one := c.encode()
	return slices.Repeat(one[:], chunkBytes/prefixBytes)
}

// decodeChunk takes the content from the first copy, and spoils it where another one is not the same: any byte that is not as
// it was gives another text.
func (v *vocabulary) decodeChunk(b []byte) (c prefix, ok bool) {
	if len(b) != chunkBytes {
		return prefix{}, false
	}
	hash, rest, damage := binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:]), uint64(0)
	for i := prefixBytes; i < len(b); i += prefixBytes {
		if h, r := binary.BigEndian.Uint64(b[i:])^hash, binary.BigEndian.Uint64(b[i+8:])^rest; h|r != 0 {
			damage = mix(mix(damage, h), r)
		}
	}
	c = prefix{
		hash: hash, run: uint16(rest >> 48), limit: uint16(rest >> 32), spelling: uint16(rest >> 16), at: uint8(rest >> 8), phase: phase(uint8(rest)),
	}.damaged(damage)
	// An engine believes the KV that it is given. What can't be an index becomes one.
	c.phase %= phase(phases)
	c.spelling %= uint16(len(v.spellings))
	c.at %= uint8(len(v.spellings[c.spelling].tokens))
	return c, true
}

// fetch returns the contents of the leading keys that the store has.
func (x *external) fetch(ctx context.Context, keys []string) (found []prefix) {
	ctx, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	l, err := dialLMCache(ctx, x.url)
	if err != nil {
		x.log.Warn().Err(err).Msg("KV store not reached: the prompt is computed")
		return nil
	}
	stop := context.AfterFunc(ctx, func() { _ = l.c.Close() })
	defer func() {
		if stop() {
			_ = l.c.Close()
		}
	}()
	_ = l.within(lookWithin)
	for _, key := range keys {
		value, err := l.get(key)
		if err != nil {
			x.log.Warn().Err(err).Msg("KV store broke off: the rest of the prompt is computed")
			return found
		}
		content, ok := x.v.decodeChunk(value)
		if !ok {
			return found
		}
		found = append(found, content)
	}
	return found
}

// save has a block stored soon, unless too many wait.
func (x *external) save(key string, content prefix) {
	select {
	case x.todo <- chunk{key, content}:
	default:
	}
}

// run stores blocks until the context ends, and then for a while what still waits.
func (x *external) run(ctx context.Context) {
	var l *lmcacheConn
	defer func() {
		if l != nil {
			_ = l.c.Close()
		}
	}()
	last := time.Now().Add(time.Hour)
	for {
		var c chunk
		select {
		case c = <-x.todo:
		default:
			select {
			case <-ctx.Done():
				return
			case c = <-x.todo:
			}
		}
		if ctx.Err() != nil {
			last = minTime(last, time.Now().Add(lastSaves))
		}
		if time.Now().After(last) {
			return
		}
		if l = x.store(ctx, l, c); l == nil && sleep(ctx, retryAfter) != nil {
			return
		}
	}
}

// store stores one block over the connection, or over a new one; nil: the store is not to be reached now.
func (x *external) store(ctx context.Context, l *lmcacheConn, c chunk) *lmcacheConn {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveWithin)
	defer cancel()
	var err error
	if l == nil {
		if l, err = dialLMCache(ctx, x.url); err != nil {
			x.log.Warn().Err(err).Msg("KV store not reached: a block is not stored")
			return nil
		}
	}
	_ = l.within(saveWithin)
	if err := l.put(c.key, encodeChunk(c.content)); err != nil {
		x.log.Warn().Err(err).Msg("KV store broke off: a block is not stored")
		_ = l.c.Close()
		return nil
	}
	return l
}

// seek looks in the store for the blocks of a sequence that the engine's own cache does not have, while others run.
func (e *engine) seek(s *sequence) {
	hits, usable := 0, (len(s.tokens)-1)/e.opts.BlockSize
	for hits < usable && e.pool.find(s.hashes[hits]) != nil {
		hits++
	}
	if e.external == nil || s.pull != nil || hits == usable {
		e.waiting = append(e.waiting, s)
		return
	}
	keys := make([]string, 0, usable-hits)
	for _, h := range s.hashes[hits:usable] {
		keys = append(keys, e.external.key(h, s.tenant))
	}
	s.local, s.asked = hits*e.opts.BlockSize, true
	e.pulling = append(e.pulling, s)
	e.pulls.Go(func() {
		found := e.external.fetch(e.ctx, keys)
		e.post(func() { e.sought(s, hits, found) })
	})
}

// sought puts what was found into the cache, as if it had been computed and its user gone, and lets the sequence in.
func (e *engine) sought(s *sequence, first int, found []prefix) {
	i := slices.Index(e.pulling, s)
	if i < 0 { // aborted
		return
	}
	e.pulling = slices.Delete(e.pulling, i, i+1)
	e.waiting = append(e.waiting, s)
	var taken []*block
	for i, content := range found {
		b := e.pool.take()
		if b == nil {
			break
		}
		e.pool.store(b, s.hashes[first+i], content)
		taken = append(taken, b)
	}
	if n := len(taken); n > 0 {
		e.recordStored(s, first, first+n)
		s.sought = n * e.opts.BlockSize
	}
	e.pool.release(taken)
	e.publish()
	e.observe()
}
