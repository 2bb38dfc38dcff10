// Package cache opens the KV tiers that a deployment asks for on one node, and ends them in good order: host memory, a folder
// on the node's disk, and what comes after them, as one store. It is what agents give to slots and to doors.
//
// It joins kvstore's stores and decides nothing: budgets and places are the deployment's.
package cache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/disk"
	"github.com/penstock/penstock/kvstore/keyring"
	"github.com/penstock/penstock/kvstore/mem"
	"github.com/penstock/penstock/kvstore/object"
	"github.com/penstock/penstock/kvstore/tiered"
)

// Options say what is opened.
type Options struct {
	Tiers jobspecs.KV
	// Owner names the folders on disk, such as a deployment and its role: runs of one owner find each other's blocks.
	Owner string
	// Shared lets other processes of the user look into the host tier (Locate). It costs huge pages on most systems.
	Shared bool
	Log    zerolog.Logger
}

// smallHost is the host tier of a deployment that names only tiers below it: what passes through on the way down.
const smallHost = 256 << 20

// folders is how many runs of one owner may have a folder on one node at the same time.
const folders = 64

// openWithin bounds how long the blocks of earlier runs are looked through.
const openWithin = time.Minute

// closeWithin bounds what is still sent at the end.
const closeWithin = 10 * time.Second

// Cache is the tiers of one run.
type Cache struct {
	log    zerolog.Logger
	host   *mem.Store
	disk   *disk.Store   // nil = none
	object *object.Store // nil = none
	store  *tiered.Store

	descriptions *descriptions
}

// Open opens the tiers. It starts nothing but what reads the disk. What is below host memory may be missing afterwards: a disk
// that can't be used costs its tier, and is logged.
func Open(ctx context.Context, o Options) (*Cache, error) {
	host := int64(o.Tiers.Host)
	if host == 0 {
		host = smallHost
	}
	var keys *keyring.Ring
	if o.Tiers.KeyFile != "" {
		var err error
		if keys, err = keyring.Open(o.Tiers.KeyFile); err != nil {
			return nil, err // in the clear is not what was asked for
		}
	}
	c := &Cache{log: o.Log, host: mem.New(mem.Options{Bytes: host, Shared: o.Shared}), descriptions: newDescriptions()}
	tiers := []tiered.Tier{{Store: c.host}}
	// Both are written at once: a job may be killed without a word, and its successor is to find what it had.
	if o.Tiers.Disk.Path != "" {
		d, err := openDisk(ctx, o, c.host, keys)
		if err != nil {
			o.Log.Warn().Err(err).Msg("this run has no KV tier on disk")
		} else {
			c.disk = d
			tiers = append(tiers, tiered.Tier{Store: d, Write: tiered.Through})
		}
	}
	if o.Tiers.Object != nil {
		s, err := openObject(ctx, o, c.host, keys)
		if err != nil {
			o.Log.Warn().Err(err).Msg("this run has no KV tier in an object store")
		} else {
			c.object = s
			tiers = append(tiers, tiered.Tier{Store: s, Write: tiered.Through})
		}
	}
	store, err := tiered.New(o.Log, tiers...)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	c.store = store
	return c, nil
}

// openDisk takes the first of the owner's folders that no other run has: the one with the blocks of the run before us.
func openDisk(ctx context.Context, o Options, alloc kvstore.Allocator, keys *keyring.Ring) (*disk.Store, error) {
	ctx, cancel := context.WithTimeout(ctx, openWithin)
	defer cancel()
	var first error
	for n := range folders {
		d, err := disk.Open(ctx, disk.Options{
			Dir:    filepath.Join(o.Tiers.Disk.Path, o.Owner+"-"+strconv.Itoa(n)),
			Budget: int64(o.Tiers.Disk.Size), Alloc: alloc, Keys: keys, Log: o.Log,
		})
		if err == nil || !errors.Is(err, disk.ErrInUse) {
			return d, err
		}
		first = errors.Join(first, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("each of the %d folders of %s is in use: %w", folders, o.Owner, first)
}

// openObject opens the shared store. Servers that are not AWS are asked in the path style, which all of them know.
func openObject(ctx context.Context, o Options, alloc kvstore.Allocator, keys *keyring.Ring) (*object.Store, error) {
	ctx, cancel := context.WithTimeout(ctx, openWithin)
	defer cancel()
	spec := o.Tiers.Object
	endpoint := spec.Endpoint
	if endpoint != "" && !strings.Contains(endpoint, "://") {
		endpoint = "https://" + endpoint
	}
	return object.Open(ctx, object.Options{
		URL: spec.URL, Endpoint: endpoint, PathStyle: endpoint != "", CredentialsFile: spec.CredentialsFile, CAFile: spec.CAFile,
		Budget: int64(spec.Size), Alloc: alloc, Keys: keys, Log: o.Log,
	})
}

// Show has metrics tell of these tiers.
func (c *Cache) Show(m *tiered.Metrics) { m.Show(c.store) }

// Store is the composition.
func (c *Cache) Store() kvstore.Store { return c.store }

// Host is the tier in memory.
func (c *Cache) Host() kvstore.Lender { return c.host }

// Alloc gives memory for blocks.
func (c *Cache) Alloc() kvstore.Allocator { return c.host }

// Locate says where a block lies in the host tier's memory, which processes of the same user can be let map.
func (c *Cache) Locate(b *kvstore.Block) (region uint32, file *os.File, bytes, offset int64, ok bool) {
	p, ok := c.host.Locate(b)
	return p.Region, p.File, p.Bytes, p.Offset, ok
}

// Run moves blocks down and makes them durable, until the context ends.
func (c *Cache) Run(ctx context.Context) {
	var parts sync.WaitGroup
	defer parts.Wait()
	parts.Go(func() { _ = c.store.Run(ctx) })
	if c.disk != nil {
		parts.Go(func() { _ = c.disk.Run(ctx) })
	}
	if c.object != nil {
		parts.Go(func() { _ = c.object.Run(ctx) })
		parts.Go(func() { c.describe(ctx) })
	}
}

// Flush writes to the lowest tier what it does not have, until the context ends. It is for the end of a job, before Close.
func (c *Cache) Flush(ctx context.Context) {
	if c.disk == nil && c.object == nil {
		return
	}
	begun := time.Now()
	done, err := c.store.Flush(ctx, nil)
	if c.disk != nil {
		err = errors.Join(err, c.disk.Sync(ctx))
	}
	if c.object != nil {
		err = errors.Join(err, c.object.Sync(ctx))
	}
	l := c.log.Info()
	if err != nil || done.Left || done.Failed > 0 {
		l = c.log.Warn().Err(err).Bool("left", done.Left).Int64("failed", done.Failed)
	}
	l.Int64("blocks", done.Blocks).Int64("bytes", done.Bytes).Dur("took", time.Since(begun)).Msg("KV blocks flushed")
}

// Close ends the tiers. It comes after Run has returned and when nobody holds a block.
func (c *Cache) Close() error {
	var errs []error
	if c.store != nil {
		errs = append(errs, c.store.Close())
	}
	if c.object != nil {
		ctx, cancel := context.WithTimeout(context.Background(), closeWithin)
		defer cancel()
		errs = append(errs, c.object.Close(ctx))
	}
	if c.disk != nil {
		errs = append(errs, c.disk.Close())
	}
	return errors.Join(append(errs, c.host.Close())...)
}
