package gateway

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/penstock/penstock/scheduler/admit"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/keys"
)

// anonymousTenant is whose cache requests without a key share, where no key is required.
const anonymousTenant = "default"

// caller is who asks: a key, or nobody in particular.
type caller struct {
	key    *apiv1.Key // nil = anonymous
	tenant string
}

func (c caller) keyID() string { return c.key.GetId() }

// authenticate finds the caller. Where no key is required, a client may show some other service's key, as many do out of
// habit; but one of ours that is wrong is refused, since its owner believes to be known.
func (g *Gateway) authenticate(r *http.Request) (caller, *apiError) {
	shown := presented(r.Header)
	key, err := keys.Verify(g.view.Load().keys, shown, g.now())
	switch {
	case err == nil:
		return caller{key, key.Tenant}, nil
	case !g.opts.RequireKey && !strings.HasPrefix(shown, "psk-"):
		return caller{tenant: anonymousTenant}, nil
	}
	g.metrics.refusedKeys.Inc()
	e := &apiError{status: http.StatusUnauthorized, kind: kindAuth, code: "invalid_api_key"}
	switch {
	case errors.Is(err, keys.ErrMissing):
		e.message = "no API key: send it as the header \"Authorization: Bearer psk-...\""
	case errors.Is(err, keys.ErrExpired):
		e.message = "the API key has expired: ask for a new one"
	default:
		e.message = "the API key is not known here: check it, or ask for a new one"
	}
	return caller{}, e
}

// presented is the key that a client shows.
func presented(h http.Header) string {
	if auth := h.Get("Authorization"); auth != "" {
		scheme, key, _ := strings.Cut(auth, " ")
		if strings.EqualFold(scheme, "bearer") {
			return strings.TrimSpace(key)
		}
		return auth
	}
	return strings.TrimSpace(h.Get("X-Api-Key"))
}

// quotas keeps each key's use. Every gateway counts for itself: with n gateways a key can use up to n times its limits.
type quotas struct {
	mu     sync.Mutex
	states map[string]*quota
}

type quota struct {
	mu    sync.Mutex
	state admit.State
}

func (q *quotas) of(id string) *quota {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.states == nil {
		q.states = map[string]*quota{}
	}
	s := q.states[id]
	if s == nil {
		s = &quota{}
		q.states[id] = s
	}
	return s
}

// keep forgets keys that are no more.
func (q *quotas) keep(set keys.Set) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for id := range q.states {
		if set[id] == nil {
			delete(q.states, id)
		}
	}
}

func limitsOf(k *apiv1.Key) admit.Limits {
	return admit.Limits{RequestsPerMinute: k.RequestsPerMinute, TokensPerMinute: k.TokensPerMinute, Concurrency: k.Concurrency}
}

// admit lets the request in or answers 429. settle must be called with the tokens that were used.
func (g *Gateway) admit(c caller, estimate int) (settle func(used uint64), refused *apiError) {
	if c.key == nil {
		return func(uint64) {}, nil
	}
	limits := limitsOf(c.key)
	if limits == (admit.Limits{}) {
		return func(uint64) {}, nil
	}
	q := g.quotas.of(c.key.Id)
	ask := admit.Request{Tokens: uint64(estimate)}
	q.mu.Lock()
	state, verdict := admit.Decide(q.state, limits, ask, g.now())
	q.state = state
	q.mu.Unlock()
	if !verdict.OK {
		return nil, &apiError{
			status: http.StatusTooManyRequests, kind: kindLimit, code: "rate_limit_exceeded", retry: verdict.RetryAfter,
			message: fmt.Sprintf("this key's limit of %s is reached: try again in %s", limitText(verdict.Limit, limits), verdict.RetryAfter.Round(time.Second)),
		}
	}
	return func(used uint64) {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.state = admit.Settle(q.state, limits, ask, used, g.now())
	}, nil
}

func limitText(which string, l admit.Limits) string {
	switch which {
	case "requests per minute":
		return fmt.Sprintf("%d %s", l.RequestsPerMinute, which)
	case "tokens per minute":
		return fmt.Sprintf("%d %s", l.TokensPerMinute, which)
	}
	return fmt.Sprintf("%d %s", l.Concurrency, which)
}

// salts makes a tenant's cache salt: nobody who does not have the key can make another tenant's.
type salts struct {
	key []byte
	mu  sync.Mutex
	of  map[string]salt
}

// salt is one tenant's.
type salt struct {
	text string
	json []byte // the same as a JSON string
}

func newSalts(key []byte) *salts { return &salts{key: key, of: map[string]salt{}} }

// maxSalts bounds the memory; tenants come from keys, so there are never many.
const maxSalts = 100_000

func (s *salts) json(tenant string) []byte { return s.get(tenant).json }

func (s *salts) text(tenant string) string { return s.get(tenant).text }

func (s *salts) get(tenant string) salt {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known, ok := s.of[tenant]; ok {
		return known
	}
	mac := hmac.New(sha256.New, s.key)
	mac.Write([]byte("penstock cache salt\x00" + tenant))
	text := base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	made := salt{text, []byte(`"` + text + `"`)}
	if len(s.of) < maxSalts {
		s.of[tenant] = made
	}
	return made
}
