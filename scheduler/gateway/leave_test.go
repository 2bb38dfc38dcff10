package gateway

import (
	"context"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var leavers = flag.Int("leavers", 500, "clients that leave in TestClientsThatLeave")

// TestClientsThatLeave: thousands of clients go away in the middle of their streams. Nothing of theirs is left: no goroutine, no open
// request, no token that counts for the next choice, and each has its record.
func TestClientsThatLeave(t *testing.T) {
	clients := *leavers
	g := newTestGateway(t, 2, func(o *Options) { o.Limits.RecordQueue = clients + 10 })
	endless := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		for r.Context().Err() == nil {
			_, _ = io.WriteString(w, `data: {"id":"x","object":"chunk","created":1,"model":"m","choices":[{"index":0,"text":" on","logprobs":null,"finish_reason":null,"token_ids":[5]}]}`+"\n\n")
			w.(http.Flusher).Flush()
			time.Sleep(time.Millisecond)
		}
	})
	for _, e := range g.engines {
		e.Config.Handler = endless
	}
	s := httptest.NewServer(g.Handler())
	t.Cleanup(s.Close)
	body := strings.Replace(plain, `"model"`, `"stream":true,"model"`, 1)
	before := runtime.NumGoroutine()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}}
	var group sync.WaitGroup
	var begun atomic.Int64
	turns := make(chan struct{}, 64)
	for range clients {
		turns <- struct{}{}
		group.Go(func() {
			defer func() { <-turns }()
			ctx, leave := context.WithCancel(context.Background())
			defer leave()
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+pathCompletions, strings.NewReader(body))
			if err != nil {
				t.Error(err)
				return
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			var b [64]byte
			if n, _ := resp.Body.Read(b[:]); n > 0 {
				begun.Add(1)
			}
			leave()
			resp.Body.Close()
		})
	}
	group.Wait()
	client.CloseIdleConnections()
	if begun.Load() != int64(clients) {
		t.Errorf("%d of %d streams began", begun.Load(), clients)
	}
	settled := func() bool {
		for i := range g.engines {
			m := g.member(i)
			if m.inflight.Load() != 0 || m.waiting.Load() != 0 || m.tokens.Load() != 0 || m.unanswered.Load() != 0 {
				return false
			}
		}
		return g.open.Load() == 0 && runtime.NumGoroutine() <= before+20 // idle connections to the engines are kept
	}
	for deadline := time.Now().Add(2 * time.Minute); !settled(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("left: %d open, %d goroutines of %d before, member 0: %d in flight, %d tokens", g.open.Load(), runtime.NumGoroutine(), before, g.member(0).inflight.Load(), g.member(0).tokens.Load())
		}
	}
	if n := len(g.records.records); n != clients {
		t.Errorf("%d records of %d requests", n, clients)
	}
}
