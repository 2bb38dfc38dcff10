package server

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/identity"
	"github.com/penstock/penstock/scheduler/ledger"
)

var (
	errNotFound = errors.New("not found")
	errInvalid  = errors.New("invalid request")
	errNotNow   = errors.New("not possible now")
)

type callerKey struct{}

// caller is who makes a call.
type caller struct {
	id     identity.ID // as the transport has proved it
	hangUp func()      // ends the reading side of the call: a reader gets an error
}

func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

// peer is who makes the call, as the transport has proved it.
func peer(ctx context.Context) identity.ID { return callerOf(ctx).id }

// authorize lets a call through only if the caller's role may make it. who says who the caller is by the transport alone.
func (s *Server) authorize(next http.Handler, who func(*http.Request) identity.ID) http.Handler {
	refuse := connect.NewErrorWriter()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := who(r)
		hangUp := func() { _ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(-time.Second)) }
		r = r.WithContext(context.WithValue(r.Context(), callerKey{}, caller{id, hangUp})) // a copy
		if id.Role == identity.Nobody {
			s.bound(w, r)
		}
		if err := identity.Authorize(id.Role, r.URL.Path); err != nil {
			code := connect.CodePermissionDenied
			if id.Role == identity.Nobody {
				code = connect.CodeUnauthenticated
			}
			s.refuse(callRefused, code, nil, "peer", id.String(), "from", r.RemoteAddr, "call", r.URL.Path)
			_ = refuse.Write(w, r, connect.NewError(code, err))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// byCertificate takes the caller's name from its verified certificate. Without one it is Nobody.
func byCertificate(r *http.Request) identity.ID {
	id, err := identity.FromState(r.TLS)
	if err != nil {
		return identity.ID{}
	}
	return id
}

// byOwner is for the unix socket, whose folder and whose peer check let only the owner in.
func byOwner(*http.Request) identity.ID { return identity.ID{Role: identity.CLI, Name: "owner"} }

// answer gives an error of the inner parts the code that callers act on.
func answer(err error) error {
	var held *ledger.HeldError
	var wire *connect.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &wire):
		return err
	case errors.Is(err, errNotFound), errors.Is(err, ledger.ErrNotFound):
		return connect.NewError(connect.CodeNotFound, without(err, errNotFound))
	case errors.Is(err, errInvalid), errors.Is(err, ledger.ErrInvalid):
		return connect.NewError(connect.CodeInvalidArgument, without(err, errInvalid))
	case errors.Is(err, errNotNow):
		return connect.NewError(connect.CodeFailedPrecondition, without(err, errNotNow))
	case errors.Is(err, ledger.ErrDamaged):
		return connect.NewError(connect.CodeFailedPrecondition, err)
	case errors.Is(err, cluster.ErrUnknown), errors.Is(err, ledger.ErrTermLost), errors.Is(err, ledger.ErrNoTerm), errors.As(err, &held):
		return connect.NewError(connect.CodeUnavailable, err)
	case errors.Is(err, context.DeadlineExceeded):
		return connect.NewError(connect.CodeDeadlineExceeded, err)
	case errors.Is(err, context.Canceled):
		return connect.NewError(connect.CodeCanceled, err)
	}
	return connect.NewError(connect.CodeInternal, err)
}

// without is err without the words of what it wraps last: the code says them.
func without(err, last error) error {
	return errors.New(strings.TrimSuffix(err.Error(), ": "+last.Error()))
}
