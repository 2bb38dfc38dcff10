// Package s3 is a front door to a block store for engines' connectors that speak S3: vLLM's object tier and SGLang's HiCache
// through NIXL, LMCache's S3 backends, and any S3 client. It is the part of S3 that a cache of blobs needs: GET with ranges,
// HEAD, PUT, DELETE, multipart uploads, and a listing; Signature Version 4 in headers, bodies plain or in aws-chunked form
// with signatures and checksums, which are verified.
//
// An object is one block. A credential stands for one launch and one space, so that objects of another space cannot be
// named; buckets are a part of the name and exist as soon as they are spoken of. Object names are taken as they are sent:
// "//" inside and "/" in front are kept (both are in use).
//
// It is a cache: an object may be gone at any time, and a listing holds what was put or read through this door since it was
// opened. Where there is no room, PUT answers 507, which the AWS clients do not retry.
//
// It does not know which tiers are behind the store, nor who may have a credential.
package s3

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/net/netutil"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/front"
)

// Options say whom a Door serves, from where, and within which bounds. Zero bounds are replaced by the defaults.
type Options struct {
	Store kvstore.Store
	Alloc kvstore.Allocator
	// Credential is the secret and the space of an access key.
	Credential func(accessKey string) (secret string, space kvstore.Space, ok bool)
	// Anonymous is the space of requests without a signature; nil: they are refused. It is for unix sockets in a folder that
	// only the launch can enter.
	Anonymous *kvstore.Space
	// Domain is what follows the bucket in the Host of virtual-hosted requests; default localhost.
	Domain  string
	Log     zerolog.Logger
	Metrics *front.Metrics // nil = none

	MaxConnections int           // default 512
	MaxObject      int64         // bytes; default 512 MiB
	MaxUploading   int64         // bytes of all parts of one user's uploads that are under way; default 1 GiB
	MaxListed      int           // names kept for listings; default 1,000,000
	Stall          time.Duration // how long a request may take, over the time its size takes at 4 MiB/s; default 30 s
}

const (
	defaultConnections = 512
	defaultMaxObject   = 512 << 20
	defaultUploading   = 1 << 30
	defaultMaxListed   = 1_000_000
	defaultStall       = 30 * time.Second
	maxHeader          = 64 << 10
	idle               = 10 * time.Minute
)

// Door serves requests. It is made by New; its state is its counters, what it has seen for listings, and uploads that are
// under way.
type Door struct {
	o       Options
	counts  front.Door
	since   time.Time
	conns   sync.WaitGroup
	seen    *listing
	uploads *uploads
}

// New makes a door. It starts nothing.
func New(o Options) *Door {
	o.MaxConnections = cmp.Or(o.MaxConnections, defaultConnections)
	o.MaxObject = cmp.Or(o.MaxObject, defaultMaxObject)
	o.MaxUploading = cmp.Or(o.MaxUploading, defaultUploading)
	o.MaxListed = cmp.Or(o.MaxListed, defaultMaxListed)
	o.Stall = cmp.Or(o.Stall, defaultStall)
	o.Domain = cmp.Or(o.Domain, "localhost")
	if o.Metrics == nil {
		o.Metrics = front.NewMetrics(nil)
	}
	return &Door{o: o, counts: o.Metrics.Door("s3"), since: time.Now(), seen: newListing(o.MaxListed), uploads: newUploads(o.MaxObject, o.MaxUploading)}
}

// Serve takes connections from the listener until the context ends, and returns when all of them have ended. It closes the
// listener, and gives up the uploads that were not completed. It is called once.
func (d *Door) Serve(ctx context.Context, l net.Listener) error {
	s := &http.Server{
		Handler:           d,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: d.o.Stall,
		IdleTimeout:       idle,
		MaxHeaderBytes:    maxHeader,
		ConnState:         d.watch,
	}
	cut := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(cut)
		_ = s.Close()
	})
	err := s.Serve(netutil.LimitListener(l, d.o.MaxConnections))
	if stop() {
		_ = s.Close()
	} else {
		<-cut
	}
	d.conns.Wait()
	d.uploads.close()
	if ctx.Err() != nil && errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve the S3 door: %w", err)
}

// watch counts connections. It hears of a new one before Serve's loop goes on, so that none begins after Serve has ended.
func (d *Door) watch(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		d.conns.Add(1)
		d.counts.Open.Inc()
	case http.StateClosed, http.StateHijacked:
		d.conns.Done()
		d.counts.Open.Dec()
	}
}
