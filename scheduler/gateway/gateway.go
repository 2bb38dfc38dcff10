// Package gateway is the OpenAI-compatible HTTP front: it checks keys and limits, chooses a replica, relays the answer as
// it comes, tries another replica before the first byte, and continues a greedy stream on another replica when its own
// dies, without a token lost, doubled or changed.
//
// It knows models, keys and replicas from the view that the controller feeds it (Apply), and goes on with the last view when the
// controller is away. It does not know nodes, jobs or deployment files, and it keeps no state on disk. The cli builds it, feeds it, and
// puts its handler behind a listener; as many gateways may run as one likes.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/jobspecs/engine"
	"github.com/penstock/penstock/kvstore/index"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/blocks"
	"github.com/penstock/penstock/scheduler/gateway/prefix"
	"github.com/penstock/penstock/scheduler/route"
	"github.com/penstock/penstock/scheduler/upstream"
)

// Options of a Gateway. Upstream, Traits and CacheSaltKey are needed.
type Options struct {
	Name     string
	Upstream *upstream.Client
	// Traits tells an engine's fixed properties. For a kind that this release does not know it returns false: such
	// replicas get bodies as clients wrote them.
	Traits func(jobspecs.EngineKind) (engine.Traits, bool)
	// Record hands finished requests over to the controller. What fails is tried again, so the receiver drops doubles by
	// id. Nil: records are dropped.
	Record func(context.Context, []*apiv1.RequestRecord) error
	// CacheSaltKey, at least 16 bytes, makes tenants into salts of engines' prefix caches. All gateways must have the same.
	CacheSaltKey []byte
	// RequireKey refuses requests without an API key. Without it such requests belong to the tenant "default"; a key that
	// is shown is checked all the same.
	RequireKey bool
	// Holdings tells what engines' caches hold; nil = nobody does, and only what this gateway has sent somewhere is believed.
	Holdings holdings
	// BlockSeed is the secret of the names in Holdings; 0 = not known yet. Nil = never.
	BlockSeed func() uint64
	// Route is how a replica is chosen; the zero value is by cost.
	Route route.Mode
	// OpenMetrics lets clients on this host read /metrics without a key.
	OpenMetrics bool
	Gatherer    prometheus.Gatherer // what /metrics shows; nil = there is no /metrics
	Registerer  prometheus.Registerer
	Limits      Limits
	Log         zerolog.Logger
	Now         func() time.Time // default time.Now
}

// Limits bound what one client or one replica can take. Zero fields get the default.
type Limits struct {
	MaxBody     int64         // of a request; default 32 MiB
	MaxAnswer   int64         // of an answer that is held back until it is whole; default 64 MiB; more is passed on as it comes
	MaxEvent    int           // of one event of a stream; default 16 MiB
	MaxDepth    int           // of nesting in a body; default 100
	MaxOpen     int           // requests at a time, all keys together; default 10,000
	ReadHeader  time.Duration // default 10 s
	ReadBody    time.Duration // default 60 s
	FirstByte   time.Duration // from a request until its stream begins; default 5 min
	WholeAnswer time.Duration // from a request until an answer in one piece begins; default 20 min
	IdleStream  time.Duration // between the bytes of a stream; default 60 s
	WriteStall  time.Duration // a client that takes nothing for so long is gone; default 60 s
	Patience    time.Duration // how long a cut stream waits for a replica that can go on; default 20 s
	Attempts    int           // replicas that may fail in a row without bringing a token; default 3
	Tokenize    time.Duration // for an engine to tell a prompt's tokens; default 20 ms
	RecordQueue int           // records that wait for the controller; default 10,000
}

func (l Limits) withDefaults() Limits {
	set(&l.MaxBody, 32<<20)
	set(&l.MaxAnswer, 64<<20)
	set(&l.MaxEvent, 16<<20)
	set(&l.MaxDepth, 100)
	set(&l.MaxOpen, 10_000)
	set(&l.ReadHeader, 10*time.Second)
	set(&l.ReadBody, time.Minute)
	set(&l.FirstByte, 5*time.Minute)
	set(&l.WholeAnswer, 20*time.Minute)
	set(&l.IdleStream, time.Minute)
	set(&l.WriteStall, time.Minute)
	set(&l.Patience, 20*time.Second)
	set(&l.Attempts, 3)
	set(&l.Tokenize, 20*time.Millisecond)
	set(&l.RecordQueue, 10_000)
	return l
}

func set[T int | int64 | time.Duration](v *T, otherwise T) {
	if *v <= 0 {
		*v = otherwise
	}
}

// Gateway serves clients. Safe for concurrent use.
type Gateway struct {
	opts    Options
	log     zerolog.Logger
	now     func() time.Time
	metrics *metrics
	salts   *salts
	quotas  quotas
	records *recordQueue

	view atomic.Pointer[view]
	feed feed
	open atomic.Int64 // requests at present

	speeds        speeds
	guesses       *blocks.Guesses
	conversations *prefix.Conversations
	asks          *asks
	turn          atomic.Uint64 // of round-robin

	probes chan struct{} // wakes the prober
	pools  pools
}

// New returns a Gateway without a view: it answers, but has no model yet. It starts nothing.
func New(opts Options) (*Gateway, error) {
	if opts.Upstream == nil || opts.Traits == nil {
		return nil, errors.New("gateway: Upstream and Traits are needed")
	}
	if len(opts.CacheSaltKey) < 16 {
		return nil, fmt.Errorf("gateway: CacheSaltKey has %d bytes, at least 16 are needed", len(opts.CacheSaltKey))
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	opts.Limits = opts.Limits.withDefaults()
	m, err := newMetrics(opts.Registerer)
	if err != nil {
		return nil, fmt.Errorf("gateway: register metrics: %w", err)
	}
	g := &Gateway{
		opts: opts, log: opts.Log, now: opts.Now, metrics: m, salts: newSalts(opts.CacheSaltKey),
		records: newRecordQueue(opts.Limits.RecordQueue, m), probes: make(chan struct{}, 1),
		guesses: blocks.NewGuesses(index.Limit{Bytes: guessMemory}), conversations: prefix.NewConversations(conversationMemory),
		asks: newAsks(), speeds: speeds{metrics: m},
	}
	g.view.Store(&view{})
	return g, nil
}

// Run probes replicas until they can be routed to, hands records over, and closes idle connections, until ctx ends. It
// then tries for a few seconds more to hand over what is left.
func (g *Gateway) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { g.runProbes(ctx) })
	wg.Go(func() { g.runRecords(ctx) })
	reap := time.NewTicker(10 * time.Second)
	defer reap.Stop()
	for {
		select {
		case <-reap.C:
			g.opts.Upstream.Reap()
			g.forgetGuesses()
		case <-ctx.Done():
			wg.Wait()
			g.asks.wait()
			return nil
		}
	}
}
