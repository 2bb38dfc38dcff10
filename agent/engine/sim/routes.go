package sim

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// version is what /version answers: the vLLM whose API is imitated, and that it is imitated.
const version = "0.24.0+penstock.sim"

// routes is the whole API.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	get := func(path string, h http.HandlerFunc) { mux.Handle("GET "+path, s.ready(h)) }
	infer := func(path string, h http.HandlerFunc) { mux.Handle("POST "+path, s.ready(s.inference(h))) }
	empty := func(http.ResponseWriter, *http.Request) {}
	get("/health", empty)
	get("/ping", empty)
	mux.Handle("POST /ping", s.ready(empty))
	get("/version", func(w http.ResponseWriter, _ *http.Request) { answerValue(w, map[string]string{"version": version}) })
	get("/load", func(w http.ResponseWriter, _ *http.Request) {
		answerValue(w, map[string]int64{"server_load": s.load.Load()})
	})
	get("/v1/models", s.models)
	get("/metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{}).ServeHTTP)
	infer("/v1/completions", s.completions)
	infer("/v1/chat/completions", s.chat)
	infer("/v1/embeddings", s.embeddings)
	infer("/v1/responses", s.responses)
	mux.Handle("POST /tokenize", s.ready(s.tokenize))
	mux.Handle("POST /detokenize", s.ready(s.detokenize))
	mux.Handle("POST /reset_prefix_cache", s.ready(s.resetPrefixCache))
	s.admin(mux)
	if s.opts.TransferPort == 0 {
		s.sideChannel(mux)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		answerJSON(w, http.StatusNotFound, []byte(`{"detail":"Not Found"}`))
	})
	return s.track(s.authorize(mux))
}

// sideRoutes is only what other engines need.
func (s *Server) sideRoutes() http.Handler {
	mux := http.NewServeMux()
	s.sideChannel(mux)
	return s.track(mux)
}

// track keeps count of running handlers, so that Run can wait for them.
func (s *Server) track(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.handlers.enter() {
			panic(http.ErrAbortHandler)
		}
		defer s.handlers.leave()
		next.ServeHTTP(w, r)
	})
}

// handlers counts running handlers.
type handlers struct {
	mu     sync.Mutex
	closed bool
	group  sync.WaitGroup
}

// enter counts one more, until wait was called.
func (h *handlers) enter() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.group.Add(1)
	return true
}

func (h *handlers) leave() { h.group.Done() }

// wait lets no more in and waits for those inside.
func (h *handlers) wait() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.group.Wait()
}

// authorize asks for the API key below /v1 and for failures, where there is one.
func (s *Server) authorize(next http.Handler) http.Handler {
	want := sha256.Sum256([]byte(s.opts.APIKey))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		guarded := strings.HasPrefix(r.URL.Path, "/v1") || r.URL.Path == failPath
		if s.opts.APIKey != "" && guarded {
			token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
			if got := sha256.Sum256([]byte(token)); subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
				answerJSON(w, http.StatusUnauthorized, []byte(`{"error":"Unauthorized"}`))
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// ready answers 503 while the model loads and while the engine ends, and hangs if it is to hang.
func (s *Server) ready(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch {
		case s.faults.hangs(false):
			s.hang(r)
		case !s.loaded.Load():
			fail(w, unavailable("the model is loading"))
		case s.draining.Load():
			fail(w, unavailable("the server is shutting down"))
		default:
			next(w, r)
		}
	}
}

// inference counts a request as load, and carries out the failures of requests.
func (s *Server) inference(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.load.Add(1)
		defer s.load.Add(-1)
		switch {
		case s.faults.hangs(true):
			s.hang(r)
		case s.faults.refuses():
			fail(w, internalError("simulated failure: refused"))
		default:
			next(w, r)
		}
	}
}

// hang never answers: it waits for the client to give up, or for the end.
func (s *Server) hang(r *http.Request) {
	<-r.Context().Done()
	panic(http.ErrAbortHandler)
}

// resetPrefixCache is POST /reset_prefix_cache.
func (s *Server) resetPrefixCache(w http.ResponseWriter, r *http.Request) {
	ok, err := s.engine.resetCache(r.Context())
	switch {
	case err != nil:
		panic(http.ErrAbortHandler)
	case !ok:
		s.log.Warn().Msg("the prefix cache is in use and was not reset")
	}
}
