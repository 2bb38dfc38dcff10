package cache

import (
	"context"
	"sync"
	"time"

	"github.com/penstock/penstock/kvstore"
)

// describeWithin bounds the writing of one description.
const describeWithin = 10 * time.Second

// maxDescribed is how many spaces are remembered as described; beyond, the rest are not described. Tenants are people's groups.
const maxDescribed = 4096

// descriptions are the spaces that the object tier's manifest is to have in words.
type descriptions struct {
	mu    sync.Mutex
	known map[kvstore.Space]bool
	todo  chan described
}

type described struct {
	layout kvstore.Layout
	tenant string
}

func newDescriptions() *descriptions {
	return &descriptions{known: map[kvstore.Space]bool{}, todo: make(chan described, 64)}
}

// Describe has the manifest of the object tier say what a space is, once. It does not wait.
func (c *Cache) Describe(space kvstore.Space, layout kvstore.Layout, tenant string) {
	d := c.descriptions
	if c.object == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.known[space] || len(d.known) >= maxDescribed {
		return
	}
	select {
	case d.todo <- described{layout, tenant}:
		d.known[space] = true
	default: // again with the next request
	}
}

// describe writes the manifest until the context ends.
func (c *Cache) describe(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-c.descriptions.todo:
			within, cancel := context.WithTimeout(ctx, describeWithin)
			err := c.object.Describe(within, s.layout, s.tenant)
			cancel()
			if err != nil {
				c.log.Warn().Err(err).Msg("a space of KV blocks is not described in the object tier")
				c.descriptions.forget(kvstore.NewSpace(s.layout, s.tenant))
			}
		}
	}
}

// forget lets a space be described again.
func (d *descriptions) forget(space kvstore.Space) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.known, space)
}
