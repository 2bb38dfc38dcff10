package cli

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock/penstock/scheduler/accept"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/gateway"
	"github.com/penstock/penstock/scheduler/upstream"
)

// TestGatewayWaitsForItsFirstView: a client with a good key must not be told, in the first moments after a restart, that it
// is a bad one: no client tries again after that.
func TestGatewayWaitsForItsFirstView(t *testing.T) {
	t.Parallel()
	g, err := gateway.New(gateway.Options{
		Upstream: upstream.New(upstream.Options{}), Traits: traits, CacheSaltKey: make([]byte, 32), RequireKey: true,
		Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := bounded(raw, "clients", accept.NewRefusals(prometheus.NewRegistry()), nil)
	defer l.Close()
	f := newFeed(g)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- serveGateway(l, g, f)(ctx) }()

	var viewed atomic.Bool
	go func() {
		time.Sleep(20 * time.Millisecond) // for a gateway that does not wait
		viewed.Store(true)
		if err := f.Apply(&apiv1.WatchResponse{Term: 1, Seq: 1, Full: true}); err != nil {
			t.Error(err)
		}
	}()
	if code := models(t, "http://"+raw.Addr().String()+"/v1", "Bearer x"); code != http.StatusUnauthorized {
		t.Errorf("answered %d", code)
	}
	if !viewed.Load() {
		t.Error("it answered before it knew any key")
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if err := serveGateway(l, g, newFeed(g))(ended); err != nil {
		t.Errorf("ended before a view: %v", err)
	}
}
