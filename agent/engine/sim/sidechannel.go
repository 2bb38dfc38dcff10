package sim

import (
	"context"
	"errors"
	"net/http"
)

// sideChannel adds what other engines call: to read the KV of a finished prefill, to keep it, to release it. The engine's
// id in the path is random and known only to who got it in kv_transfer_params.
func (s *Server) sideChannel(mux *http.ServeMux) {
	if !s.opts.KVTransfer.on() {
		return
	}
	one := kvPath + "{engine}/{request}"
	mux.HandleFunc("GET "+one, s.lease(func(ctx context.Context, w http.ResponseWriter, engineID, requestID string) error {
		m, err := s.engine.readLease(ctx, engineID, requestID)
		if err == nil {
			answerValue(w, m)
		}
		return err
	}))
	mux.HandleFunc("POST "+one+"/heartbeat", s.lease(func(ctx context.Context, _ http.ResponseWriter, engineID, requestID string) error {
		return s.engine.extendLease(ctx, engineID, requestID)
	}))
	mux.HandleFunc("DELETE "+one, s.lease(func(ctx context.Context, _ http.ResponseWriter, engineID, requestID string) error {
		return s.engine.endLease(ctx, engineID, requestID)
	}))
}

type leaseCall func(ctx context.Context, w http.ResponseWriter, engineID, requestID string) error

func (s *Server) lease(call leaseCall) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		err := call(r.Context(), w, r.PathValue("engine"), r.PathValue("request"))
		switch {
		case errors.Is(err, errUnknownLease):
			fail(w, &apiError{http.StatusNotFound, "NotFoundError", "", err.Error()})
		case err != nil:
			panic(http.ErrAbortHandler)
		}
	}
}
