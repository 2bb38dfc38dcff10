// Package resp is a front door to a block store for engines' connectors that speak the Redis protocol: LMCache's redis://,
// valkey:// and native resp backends, and any Redis client. It is the part of RESP2 and RESP3 that a cache of blobs needs:
// SET, GET, MGET, EXISTS, STRLEN, DEL, and what clients say at the beginning of a connection.
//
// A value goes from the socket straight into a block, and from a block straight to the socket. A user stands for one
// launch and one space: keys of another space cannot be named. What a client calls a block is opaque to the door, except
// that the parts of LMCache's keys that name a rank, and its pair of bytes and metadata, are held together (names.go).
//
// It is a cache: SET answers OK where a block was dropped for want of room (LMCache's native client loses step at any
// other answer), expiry times are accepted and not kept, and there is no key listing, script, transaction or subscription.
//
// It does not know which tiers are behind the store, nor who may be a user.
package resp

import (
	"cmp"
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/front"
)

// Options say whom a Door serves, from where, and within which bounds. Zero bounds are replaced by the defaults.
type Options struct {
	Store kvstore.Store
	Alloc kvstore.Allocator
	// Login says which space a user may use. It must take the same time for a wrong name and a wrong password.
	Login func(user string, password []byte) (kvstore.Space, bool)
	// Anonymous is the space of connections that have not logged in; nil: they may do nothing but log in. It is for unix
	// sockets in a folder that only the launch can enter.
	Anonymous *kvstore.Space
	Log       zerolog.Logger
	Metrics   *front.Metrics // nil = none

	MaxConnections int           // default 512; LMCache opens up to 150 for each rank
	MaxValue       int           // bytes; default 512 MiB
	Stall          time.Duration // how long a command or an answer may take, over the time its size takes at 4 MiB/s; default 30 s
	LoginWithin    time.Duration // default 10 s
}

const (
	defaultConnections = 512
	defaultMaxValue    = 512 << 20
	defaultStall       = 30 * time.Second
	defaultLogin       = 10 * time.Second
)

// Door serves connections. It is made by New and has no state but its counters.
type Door struct {
	o      Options
	counts front.Door
	ids    atomic.Int64
	open   atomic.Int64
	get    func(context.Context, kvstore.Key) (*kvstore.Block, error) // unchecked, where the store can
}

// New makes a door. It starts nothing.
func New(o Options) *Door {
	o.MaxConnections = cmp.Or(o.MaxConnections, defaultConnections)
	o.MaxValue = cmp.Or(o.MaxValue, defaultMaxValue)
	o.Stall = cmp.Or(o.Stall, defaultStall)
	o.LoginWithin = cmp.Or(o.LoginWithin, defaultLogin)
	if o.Metrics == nil {
		o.Metrics = front.NewMetrics(nil)
	}
	d := &Door{o: o, counts: o.Metrics.Door("resp"), get: o.Store.Get}
	if l, ok := o.Store.(kvstore.Lender); ok {
		d.get = l.Lend
	}
	return d
}

// Serve takes connections from the listener until the context ends, and returns when all of them have ended. It closes the
// listener.
func (d *Door) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var conns sync.WaitGroup
	defer conns.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for pause := time.Duration(0); ; {
		c, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if c != nil {
				_ = c.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil: // out of descriptors, most likely: it passes
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			d.o.Log.Warn().Err(err).Msg("kv door takes no connection")
			sleep(ctx, pause)
			continue
		}
		pause = 0
		if d.open.Load() >= int64(d.o.MaxConnections) {
			d.counts.Refused("too-many")
			_ = c.SetWriteDeadline(time.Now().Add(time.Second))
			_, _ = c.Write([]byte("-ERR the door has as many connections as it may have\r\n"))
			_ = c.Close()
			continue
		}
		d.open.Add(1)
		conns.Go(func() {
			defer d.open.Add(-1)
			newConn(d, c).serve(ctx)
		})
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
