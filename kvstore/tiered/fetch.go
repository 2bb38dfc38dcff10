package tiered

import (
	"context"
	"errors"
	"time"

	"github.com/penstock/penstock/kvstore"
)

// Engine is what an engine's prefill costs, by the shape of its model.
type Engine struct {
	Parameters  float64 // that take part in a token
	Layers      float64
	Dimension   float64
	FLOPS       float64 // of all its GPUs, per second
	Utilisation float64 // what prefill reaches of them, 0 to 1
}

// Recompute is how long the engine takes for tokens that begin at a position: 2P for the weights of each, and attention
// over all before it, 4·L·d for each of those. Zero = the engine is not known.
func (e Engine) Recompute(start, tokens int) time.Duration {
	if e.FLOPS <= 0 || e.Utilisation <= 0 {
		return 0
	}
	n, p := float64(tokens), float64(start)
	flop := n * (2*e.Parameters + 4*e.Layers*e.Dimension*(p+n/2))
	return time.Duration(flop / (e.Utilisation * e.FLOPS) * float64(time.Second))
}

// Run is a piece of a prefix that lies in one tier.
type Run struct {
	Blocks, Tokens int
	Bytes          int64
	Speed          Speed // of the tier; unknown = worth a try, which measures it
}

// WorthFetching is how many of the prefix's first blocks to fetch, so that the first token comes soonest: all later ones
// are recomputed. Runs are in the prefix's order. A run is worth its time only with all before it, and a slow one may be
// worth it for what comes after it.
func WorthFetching(e Engine, runs []Run) (blocks int) {
	var best, gain time.Duration
	position, count := 0, 0
	for _, r := range runs {
		if r.Speed.Known() {
			gain -= r.Speed.Time(r.Bytes)
		}
		gain += e.Recompute(position, r.Tokens)
		position += r.Tokens
		count += r.Blocks
		if gain > best || e.Recompute(0, position) == 0 {
			best, blocks = gain, count
		}
	}
	return blocks
}

// Worth is how many of a prefix's blocks, root first, of so many tokens each, are here and worth fetching for this engine.
func (s *Store) Worth(ctx context.Context, keys []kvstore.Key, blockTokens int, e Engine) (int, error) {
	var runs []Run
	last := -1
	for _, k := range keys {
		tier, size, err := s.where(ctx, k)
		if errors.Is(err, kvstore.ErrNotFound) || errors.Is(err, kvstore.ErrUnavailable) {
			break
		} else if err != nil {
			return 0, err
		}
		if tier != last {
			runs = append(runs, Run{Speed: s.speed(tier)})
			last = tier
		}
		r := &runs[len(runs)-1]
		r.Blocks++
		r.Tokens += blockTokens
		r.Bytes += size
	}
	return WorthFetching(e, runs), nil
}

// where finds the tier that a Get would be answered from; 0 is the first.
func (s *Store) where(ctx context.Context, k kvstore.Key) (tier int, size int64, err error) {
	if err := s.usable(ctx); err != nil {
		return 0, 0, err
	}
	info, err := s.first.Has(ctx, k)
	for i := 0; i < len(s.lanes) && kvstore.IsMiss(err); i++ {
		tier = i + 1
		info, err = s.lanes[i].has(ctx, k)
	}
	return tier, info.Size, err
}

// memorySpeed stands for the first tier: it beats recomputing always.
var memorySpeed = Speed{Bandwidth: 10e9}

func (s *Store) speed(tier int) Speed {
	if tier == 0 {
		return memorySpeed
	}
	return s.lanes[tier-1].meter.speed()
}

// Speeds are the measured speeds of the tiers below the first, in their order.
func (s *Store) Speeds() (out []Speed) {
	for _, l := range s.lanes {
		out = append(out, l.meter.speed())
	}
	return out
}
