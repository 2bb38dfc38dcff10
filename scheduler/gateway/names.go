package gateway

import (
	"context"
	"slices"
	"time"

	"github.com/penstock/penstock/kvstore/index"
	"github.com/penstock/penstock/scheduler/gateway/prefix"
)

// The kinds of keys, in records and metrics.
const (
	keysExact        = "exact"        // the tokens of the whole prompt
	keysConversation = "conversation" // of an earlier turn; the rest is not known
	keysText         = "text"         // chunks of its text
)

const (
	// worthAsking is the length from which an engine is asked for a prompt's tokens. What a cache saves of less costs a few
	// milliseconds, as asking does.
	worthAsking = 256
	// usualBlock is the size of blocks where no engine tells it.
	usualBlock = 16
	// maxBlockTokens bounds what an engine may call a block.
	maxBlockTokens = 4096
	// maxSizes bounds how many sizes of blocks a deployment's replicas may have.
	maxSizes = 4

	conversationMemory = 64 << 20
	guessMemory        = 64 << 20
)

// names are what a request's prompt is called in caches.
type names struct {
	kind   string
	tokens int           // of the whole prompt; 0 = not known
	took   time.Duration // to find them
	salt   string        // the tenant's

	ids    []uint32 // leading tokens that are known
	text   []uint64 // names of its chunks of text
	chains []chain
}

// chain is the names of the prompt's blocks of one size, as one kind of cache has them.
type chain struct {
	tokens int
	salt   string
	names  []uint64
}

// blockTokens is the size of the blocks that are mostly looked up.
func (k *names) blockTokens() int {
	if len(k.chains) > 0 {
		return k.chains[0].tokens
	}
	return 0
}

// lookUp finds the request's keys, once. It may wait for an engine as long as Limits.Tokenize.
func (g *Gateway) lookUp(ctx context.Context, q *request, list *candidateList) {
	if q.keys != nil {
		return
	}
	begin := time.Now()
	k := &names{kind: keysText, salt: g.salts.text(q.caller.tenant)}
	q.keys = k
	p := q.prompt()
	k.text = p.AppendText(nil, g.root(q, 0, k.salt))
	switch ids := p.IDs(); {
	case ids != nil:
		k.kind, k.ids, k.tokens = keysExact, ids, len(ids)
	case p.Unsure() == "" && p.Bytes()/bytesPerToken >= worthAsking:
		g.findTokens(ctx, q, &p, list)
	}
	k.took = time.Since(begin)
	g.metrics.keys.WithLabelValues(k.kind).Inc()
	g.metrics.keySeconds.Observe(k.took.Seconds())
}

// prompt is what of the body makes the prompt.
func (q *request) prompt() prefix.Prompt {
	switch q.path {
	case pathChat:
		return prefix.Chat(q.body)
	case pathCompletions:
		return prefix.Completion(q.body)
	case pathResponses:
		return prefix.Other(slices.Concat(q.body.Get("instructions"), q.body.Get("input")))
	}
	return prefix.Other(nil) // vectors and token counts leave nothing in caches
}

// findTokens gets the prompt's tokens out of memory or from an engine.
func (g *Gateway) findTokens(ctx context.Context, q *request, p *prefix.Prompt, list *candidateList) {
	k := q.keys
	known := g.conversations.Find(q.model.Deployment+"\x00"+q.modelName, p)
	if !known.Whole() {
		if tokens := g.askTokens(ctx, q, p, known, list); tokens != nil {
			k.kind, k.ids, k.tokens = keysExact, tokens, len(tokens)
			return
		}
	}
	k.ids = known.Tokens()
	switch {
	case known.Whole():
		k.kind, k.tokens = keysExact, len(k.ids)
	case k.ids != nil:
		k.kind = keysConversation
		k.tokens = max(len(k.ids)+1, p.Bytes()/bytesPerToken)
	}
}

// root is where chains of a request's blocks begin. salt is what parts its tenant's from others' in the cache that is meant.
func (g *Gateway) root(q *request, blockTokens int, salt string) index.Root {
	i := index.Identity{Namespace: q.model.Deployment, BlockTokens: blockTokens, Salt: salt}
	if g.opts.BlockSeed != nil {
		i.Seed = g.opts.BlockSeed()
	}
	if q.model.Parent != "" {
		i.LoRA = q.modelName
	}
	return index.ChainRoot(i)
}

// chain is the names of the prompt's blocks of a size, made once.
func (g *Gateway) chain(q *request, blockTokens int, salt string) []uint64 {
	k := q.keys
	for _, c := range k.chains {
		if c.tokens == blockTokens && c.salt == salt {
			return c.names
		}
	}
	if len(k.ids) < blockTokens || len(k.chains) >= 2*maxSizes {
		return nil
	}
	c := chain{tokens: blockTokens, salt: salt, names: make([]uint64, 0, len(k.ids)/blockTokens)}
	c.names = index.AppendChain(c.names, g.root(q, blockTokens, salt), k.ids, blockTokens)
	k.chains = append(k.chains, c)
	return c.names
}
