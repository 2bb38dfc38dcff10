package cli

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/rs/zerolog"

	"github.com/penstock/penstock/scheduler/accept"
	"github.com/penstock/penstock/scheduler/identity"
)

// serveHTTP serves until its context ends; closeStreams ends what would never end by itself.
func serveHTTP(l boundedListener, h http.Handler, next nextProtocols, closeStreams func(), log zerolog.Logger) func(context.Context) error {
	return func(ctx context.Context) error {
		protocols := new(http.Protocols)
		protocols.SetHTTP1(true)
		protocols.SetHTTP2(true)
		srv := &http.Server{
			Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 5 * time.Minute, MaxHeaderBytes: 64 << 10, Protocols: protocols,
			ErrorLog: identity.RefusalLog(log), TLSNextProto: next,
		}
		return untilDone(ctx, srv, l, closeStreams)
	}
}

// boundedListener is a port with its limits, through TLS or not.
type boundedListener struct {
	net.Listener
	bounds *accept.Listener
}

// bounded limits what strangers can take of a port; conf nil = without TLS.
func bounded(l net.Listener, port string, r *accept.Refusals, conf *tls.Config) boundedListener {
	b := accept.Wrap(l, port, accept.Limits{}, r)
	if conf == nil {
		return boundedListener{b, b}
	}
	return boundedListener{tls.NewListener(b, conf), b}
}

const shutdownPatience = 5 * time.Second

// untilDone runs a server until ctx ends, then lets open requests finish for a while.
func untilDone(ctx context.Context, srv *http.Server, l boundedListener, closeStreams func()) error {
	l.bounds.Watch(srv)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	closeStreams()
	patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownPatience)
	defer cancel()
	if err := srv.Shutdown(patience); err != nil {
		_ = srv.Close()
	}
	<-served
	return nil
}
