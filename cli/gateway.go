package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/jobspecs/engine"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/blocks"
	"github.com/penstock/penstock/scheduler/gateway"
	"github.com/penstock/penstock/scheduler/route"
	"github.com/penstock/penstock/scheduler/statefile"
	"github.com/penstock/penstock/scheduler/upstream"
)

type gatewayParts struct {
	name     string
	upstream *upstream.Client
	record   func(context.Context, []*apiv1.RequestRecord) error
	registry *prometheus.Registry
	log      zerolog.Logger
	state    string
	holdings interface {
		Match(ids []uint64, dst []blocks.Held) []blocks.Held
	}
	blockSeed func() uint64
}

func newGateway(inv *invocation, p gatewayParts) (*gateway.Gateway, error) {
	salt, err := saltKey(filepath.Join(p.state, "cache-salt.key"))
	if err != nil {
		return nil, err
	}
	mode, err := route.ParseMode(inv.set.get("gateway.route"))
	if err != nil {
		return nil, usageError("gateway.route: %s", err)
	}
	return gateway.New(gateway.Options{
		Holdings: p.holdings, BlockSeed: p.blockSeed, Route: mode,
		Name: p.name, Upstream: p.upstream, Traits: traits, Record: p.record, CacheSaltKey: salt, RequireKey: true,
		Gatherer: p.registry, Registerer: p.registry, Log: p.log.With().Str("component", "gateway").Logger(),
	})
}

func traits(kind jobspecs.EngineKind) (engine.Traits, bool) {
	e := engine.For(kind)
	if e == nil {
		return engine.Traits{}, false
	}
	return e.Traits(), true
}

// saltKey is the key that makes tenants into salts of engines' caches, the same for all gateways of an installation.
func saltKey(path string) ([]byte, error) {
	key, err := statefile.ReadPrivate(path, 64)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	key = make([]byte, 32)
	_, _ = rand.Read(key)
	if err := statefile.WriteNew(statefile.OS{}, path, key); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("write the key of cache salts: %w", err)
	}
	return statefile.ReadPrivate(path, 64)
}

// feed is the way of views into a gateway.
type feed struct {
	apply func(*apiv1.WatchResponse) error
	first chan struct{} // closed when the first one has come
	once  sync.Once
}

func newFeed(g *gateway.Gateway) *feed { return &feed{apply: g.Apply, first: make(chan struct{})} }

// Apply hands a view on.
func (f *feed) Apply(v *apiv1.WatchResponse) error {
	err := f.apply(v)
	if err == nil {
		f.once.Do(func() { close(f.first) })
	}
	return err
}

// serveGateway serves clients until its context ends. It begins with the first view: before, the gateway knows no key and
// would tell everybody that his is wrong. Who connects earlier waits.
func serveGateway(l boundedListener, g *gateway.Gateway, f *feed) func(context.Context) error {
	return func(ctx context.Context) error {
		select {
		case <-f.first:
			return untilDone(ctx, g.HTTPServer(), l, func() {})
		case <-ctx.Done():
			return nil
		}
	}
}
