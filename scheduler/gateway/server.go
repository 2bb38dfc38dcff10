package gateway

import (
	"context"
	"errors"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/gateway/rawjson"
	"github.com/penstock/penstock/scheduler/keys"
	"github.com/penstock/penstock/scheduler/upstream"
)

// Handler answers clients. Only the paths of the allow-list exist.
func (g *Gateway) Handler() http.Handler {
	return http.HandlerFunc(g.serve)
}

// HTTPServer returns a server for Handler with all of its deadlines. The caller gives it a listener, and TLS beyond
// loopback.
func (g *Gateway) HTTPServer() *http.Server {
	return &http.Server{
		Handler: g.Handler(), ReadHeaderTimeout: g.opts.Limits.ReadHeader, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10,
		ErrorLog: stdlog.New(logWriter{g}, "", 0), DisableGeneralOptionsHandler: true, // OPTIONS * is not on the allow-list
	}
}

// logWriter takes what net/http has to say about connections: mostly clients that do not speak TLS.
type logWriter struct{ g *Gateway }

func (l logWriter) Write(p []byte) (int, error) {
	l.g.log.Debug().Str("detail", strings.TrimSpace(string(p))).Msg("client connection")
	return len(p), nil
}

// allowed is the allow-list: paths and their method. Models by name are below /v1/models/.
var allowed = map[string]string{
	"/v1/models": http.MethodGet, "/health": http.MethodGet, "/ready": http.MethodGet, "/metrics": http.MethodGet,
	pathChat: http.MethodPost, pathCompletions: http.MethodPost, pathEmbeddings: http.MethodPost, pathResponses: http.MethodPost,
	pathTokenize: http.MethodPost,
}

const modelPrefix = "/v1/models/"

func (g *Gateway) serve(w http.ResponseWriter, r *http.Request) {
	g.deadline(w) // that of this connection's last answer has passed by now
	g.hurry(w)
	path := r.URL.Path
	method, ok := allowed[path]
	if strings.HasPrefix(path, modelPrefix) {
		method, ok = http.MethodGet, true
	}
	switch {
	case !ok || path == "/metrics" && g.opts.Gatherer == nil:
		(&apiError{status: http.StatusNotFound, kind: kindRequest, code: "unknown_path", message: "there is nothing at " + strconv.Quote(shorten(path))}).write(w)
		return
	case r.Method != method && !(r.Method == http.MethodHead && method == http.MethodGet):
		(&apiError{
			status: http.StatusMethodNotAllowed, kind: kindRequest, code: "method_not_allowed", allow: method,
			message: path + " takes " + method,
		}).write(w)
		return
	}
	switch path {
	case "/health":
		writeJSON(w, http.StatusOK, `{"status":"ok"}`)
	case "/ready":
		g.serveReady(w)
	case "/metrics":
		g.serveMetrics(w, r)
	default:
		if method == http.MethodGet {
			g.serveModels(w, r)
			return
		}
		g.serveInference(w, r)
	}
}

func writeJSON(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

// serveReady tells balancers whether requests make sense here. Names and reasons need a key, so there are none.
func (g *Gateway) serveReady(w http.ResponseWriter) {
	for _, members := range g.view.Load().deployments {
		for _, m := range members {
			if m.usable() {
				writeJSON(w, http.StatusOK, `{"status":"ready"}`)
				return
			}
		}
	}
	w.Header().Set("Retry-After", "5")
	writeJSON(w, http.StatusServiceUnavailable, `{"status":"not ready"}`)
}

func (g *Gateway) serveMetrics(w http.ResponseWriter, r *http.Request) {
	if !g.opts.OpenMetrics || !fromThisHost(r) {
		if key, err := keys.Verify(g.view.Load().keys, presented(r.Header), g.now()); err != nil || key == nil {
			g.metrics.refusedKeys.Inc()
			(&apiError{status: http.StatusUnauthorized, kind: kindAuth, code: "invalid_api_key", message: "/metrics needs an API key"}).write(w)
			return
		}
	}
	promhttp.HandlerFor(g.opts.Gatherer, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second}).ServeHTTP(w, r)
}

// fromThisHost reports whether the client is on this host: by loopback or a unix socket.
func fromThisHost(r *http.Request) bool {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr == "" || r.RemoteAddr == "@"
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// serveModels lists the models that the caller may use, or shows one of them.
func (g *Gateway) serveModels(w http.ResponseWriter, r *http.Request) {
	caller, refused := g.authenticate(r)
	if refused != nil {
		refused.write(w)
		return
	}
	known := g.view.Load().known(caller)
	if name, one := strings.CutPrefix(r.URL.Path, modelPrefix); one {
		for _, m := range known {
			if m.Name == name {
				writeJSON(w, http.StatusOK, string(appendModel(nil, m)))
				return
			}
		}
		(&apiError{
			status: http.StatusNotFound, kind: kindRequest, code: "model_not_found", param: "model",
			message: "the model " + strconv.Quote(shorten(name)) + " is not known here or not for this key; GET /v1/models lists them",
		}).write(w)
		return
	}
	b := []byte(`{"object":"list","data":[`)
	for i, m := range known {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendModel(b, m)
	}
	writeJSON(w, http.StatusOK, string(append(b, "]}"...)))
}

// appendModel writes a model as OpenAI does, with its state besides; an adapter names its base model as parent.
func appendModel(b []byte, m *apiv1.Model) []byte {
	b = append(b, `{"id":`...)
	b = rawjson.AppendString(b, []byte(m.Name))
	b = append(b, `,"object":"model","created":`...)
	b = strconv.AppendInt(b, max(0, m.GetCreatedAt().GetSeconds()), 10)
	b = append(b, `,"owned_by":"penstock","parent":`...)
	b = appendOptional(b, m.Parent)
	b = append(b, `,"state":`...)
	b = appendOptional(b, m.State)
	return append(b, '}')
}

// serveInference takes one request from its arrival to its record.
func (g *Gateway) serveInference(w http.ResponseWriter, r *http.Request) {
	q := &request{id: newID(r.Header.Get("X-Request-Id")), at: g.now(), path: r.URL.Path, settle: func(uint64) {}}
	w.Header().Set("X-Request-Id", q.id)
	if n := g.open.Add(1); n > int64(g.opts.Limits.MaxOpen) {
		g.open.Add(-1)
		unavailable("too_many_requests", "this gateway has too many requests open", time.Second).write(w)
		return
	}
	g.metrics.open.Inc()
	defer g.closeRequest(w, q)
	if refused := g.accept(w, r, q); refused != nil {
		g.refuse(w, q, refused)
		return
	}
	if q.stream {
		g.serveStream(r.Context(), w, q)
		return
	}
	g.serveWhole(r.Context(), w, q)
}

// accept makes all checks that need no replica.
func (g *Gateway) accept(w http.ResponseWriter, r *http.Request, q *request) (refused *apiError) {
	if q.caller, refused = g.authenticate(r); refused != nil {
		return refused
	}
	body, refused := g.readBody(w, r)
	if refused != nil {
		return refused
	}
	if refused = g.parse(q, body, r.Header); refused != nil {
		return refused
	}
	if refused = g.find(q); refused != nil {
		return refused
	}
	if v := r.Header.Get("Traceparent"); v != "" && len(v) <= 128 {
		q.trace = []upstream.Header{{Name: "Traceparent", Value: v}}
	}
	q.explain = r.Header.Get(headerExplain) == "1"
	settle, refused := g.admit(q.caller, q.estimate)
	if refused == nil {
		q.settle = settle
	}
	return refused
}

// hurry bounds how long the rest of a request may take that is refused before its body is read: else whoever announces a
// body, sends none and has no key would hold a connection for ever. readBody gives those who have one their time.
func (g *Gateway) hurry(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(g.opts.Limits.ReadHeader))
}

// closeRequest ends a request however its handler ended. A panic becomes an answer where there is none yet.
func (g *Gateway) closeRequest(w http.ResponseWriter, q *request) {
	defer func() { // last: whoever sees that nothing is open finds every record
		g.open.Add(-1)
		g.metrics.open.Dec()
	}()
	p := recover()
	if p != nil && !isAbort(p) {
		g.log.Error().Str("request_id", q.id).Interface("panic", p).Bytes("stack", debug.Stack()).Msg("request handler panicked")
		begun := q.status != 0
		q.status, q.outcome, q.failure = http.StatusInternalServerError, outcomeError, "internal error"
		if !begun && q.ttft == 0 {
			(&apiError{status: q.status, kind: kindServer, code: "internal_error", message: "internal error, see the gateway's log for request " + q.id}).write(w)
			p = nil
		} else {
			p = http.ErrAbortHandler
		}
	}
	g.finish(q)
	if p != nil {
		panic(p)
	}
}

func isAbort(p any) bool {
	err, ok := p.(error)
	return ok && errors.Is(err, http.ErrAbortHandler)
}

// refuse ends a request with an error as its whole answer.
func (g *Gateway) refuse(w http.ResponseWriter, q *request, e *apiError) {
	if e == errGone {
		g.left(q)
		return
	}
	q.status, q.outcome, q.failure = e.status, outcomeRefused, e.message
	if e.status >= 500 {
		q.outcome = outcomeError
	}
	g.deadline(w)
	e.write(w)
}

// left ends a request whose client did not wait for the end.
func (g *Gateway) left(q *request) {
	if q.status == 0 {
		q.status = errGone.status
	}
	q.outcome, q.failure = outcomeGone, "the client left"
}

// gone reports whether the client has left.
func gone(ctx context.Context) bool { return ctx.Err() != nil }
