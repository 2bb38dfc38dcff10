package traffic

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/penstock/penstock/tests/installation"
)

// readiness asks a gateway all the time whether a replica is ready, and notes for how long at the most none was.
type readiness struct {
	done   chan struct{}
	asking sync.WaitGroup

	mu      sync.Mutex
	longest time.Duration
}

const askEvery = 20 * time.Millisecond

func watchReadiness(ctx context.Context, client *installation.Client) *readiness {
	r := &readiness{done: make(chan struct{})}
	r.asking.Go(func() { r.watch(ctx, transportOf(client), strings.TrimSuffix(client.URL, "/v1")+"/ready") })
	return r
}

// transportOf makes a transport of its own that dials as the client does.
func transportOf(client *installation.Client) *http.Transport {
	if client.HTTP != nil {
		if t, ok := client.HTTP.Transport.(*http.Transport); ok {
			return t.Clone()
		}
	}
	return &http.Transport{}
}

func (r *readiness) watch(ctx context.Context, transport *http.Transport, url string) {
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 5 * time.Second}
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	last, down := time.Now(), false
	for {
		resp, err := client.Get(url)
		ok := err == nil && resp.StatusCode == http.StatusOK
		if err == nil {
			_ = resp.Body.Close()
		}
		if !ok || down {
			r.note(time.Since(last))
		}
		if ok {
			last = time.Now()
		}
		down = !ok
		select {
		case <-r.done:
			return
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (r *readiness) note(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.longest = max(r.longest, d)
}

// stop ends the asking and returns the longest time without a ready replica.
func (r *readiness) stop() {
	close(r.done)
	r.asking.Wait()
}
