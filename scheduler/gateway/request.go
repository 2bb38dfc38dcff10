package gateway

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/jobspecs/engine"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/gateway/rawjson"
	"github.com/penstock/penstock/scheduler/upstream"
)

// The paths that make tokens or vectors.
const (
	pathChat        = "/v1/chat/completions"
	pathCompletions = "/v1/completions"
	pathEmbeddings  = "/v1/embeddings"
	pathResponses   = "/v1/responses"
	pathTokenize    = "/tokenize"
)

// request is one client's request from its arrival to its record. One goroutine owns it.
type request struct {
	id     string // unique; in records, logs and towards engines
	at     time.Time
	path   string
	caller caller
	body   rawjson.Object
	drop   []rawjson.Edit // fields that go away for every engine

	modelName string
	model     *apiv1.Model // of the view; nil = unknown
	stream    bool
	wantUsage bool   // the client asked for usage in the stream
	wantIDs   bool   // the client asked for token ids
	inexact   string // why the answer cannot be continued elsewhere; empty = it can
	estimate  int    // prompt tokens
	keys      *names // of the prompt, for caches; nil = not looked for
	explain   bool   // the client wants to see the choice
	trace     []upstream.Header

	bodies map[jobspecs.EngineKind]prepared // what engines of a kind get
	tried  []*member                        // that failed since the last token

	// For the record.
	status   int
	outcome  string
	failure  string
	attempts []*apiv1.Attempt
	ttft     time.Duration
	usage    usage // by the engine
	counted  usage // by the gateway, should the engine's never come
	settle   func(used uint64)
}

// makesTokens reports whether the request is for text by one of the paths that continue each other.
func (q *request) makesTokens() bool { return q.path == pathChat || q.path == pathCompletions }

// tokens is the prompt's length, as well as it is known.
func (q *request) tokens() int {
	if q.keys != nil && q.keys.tokens > 0 {
		return q.keys.tokens
	}
	return q.estimate
}

// newID makes the request's ID. One that the client sent is kept in front of a random end: `penstock why` finds it by its
// beginning, and two requests of one ID do not hide each other.
func newID(clients string) string {
	var b [10]byte
	_, _ = rand.Read(b[:]) // never fails
	if validID(clients) {
		return clients + "." + hex.EncodeToString(b[:4])
	}
	return "req-" + hex.EncodeToString(b[:])
}

func validID(id string) bool {
	if id == "" || len(id) > 64 {
		return false
	}
	return !strings.ContainsFunc(id, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r))
	})
}

// readBody reads a whole body within its limits of size and time.
func (g *Gateway) readBody(w http.ResponseWriter, r *http.Request) ([]byte, *apiError) {
	limit := g.opts.Limits.MaxBody
	tooLarge := &apiError{
		status: http.StatusRequestEntityTooLarge, kind: kindRequest, code: "request_too_large",
		message: fmt.Sprintf("the body is larger than %d bytes", limit),
	}
	if r.ContentLength > limit {
		return nil, tooLarge
	}
	rc := http.NewResponseController(w)
	// Not every writer of a test has deadlines; a server's has.
	_ = rc.SetReadDeadline(time.Now().Add(g.opts.Limits.ReadBody))
	var body []byte
	var err error
	in := http.MaxBytesReader(w, r.Body, limit)
	if r.ContentLength > 0 {
		body = make([]byte, r.ContentLength)
		_, err = io.ReadFull(in, body)
	} else {
		body, err = io.ReadAll(in)
	}
	var over *http.MaxBytesError
	switch {
	case err == nil:
		_ = rc.SetReadDeadline(time.Time{}) // it stays where the rest of a body is still to come
		return body, nil
	case errors.As(err, &over):
		return nil, tooLarge
	}
	return nil, &apiError{
		status: http.StatusRequestTimeout, kind: kindRequest, code: "body_incomplete", message: "the body did not come whole, or not in time",
	}
}

// parse reads what the gateway needs of a body.
func (g *Gateway) parse(q *request, body []byte, h http.Header) *apiError {
	o, err := rawjson.Parse(body, g.opts.Limits.MaxDepth)
	if err != nil {
		return badRequest("", "invalid_json", err.Error())
	}
	q.body = o
	var refused *apiError
	if q.drop, refused = refuseSteering(o, h); refused != nil {
		return refused
	}
	name, ok := text(o.Get("model"))
	if !ok || name == "" {
		return badRequest("model", "missing_model", `the field "model" must name a model; GET /v1/models lists them`)
	}
	q.modelName = name
	if v := o.Get("stream"); !absent(v) && string(v) != "true" && string(v) != "false" {
		return badRequest("stream", "invalid_type", `the field "stream" must be true or false`)
	}
	if v := o.Get("stream_options"); !absent(v) && v[0] != '{' {
		return badRequest("stream_options", "invalid_type", `the field "stream_options" must be an object`)
	}
	q.stream = isTrue(o.Get("stream")) && q.path != pathEmbeddings && q.path != pathTokenize
	q.wantUsage = isTrue(inside(o.Get("stream_options"), "include_usage"))
	q.wantIDs = isTrue(o.Get("return_token_ids"))
	q.estimate = estimateTokens(q.path, o)
	if q.makesTokens() {
		q.inexact = whyNotExact(o)
	} else {
		q.inexact = "of its path"
	}
	return nil
}

// bytesPerToken is what one token of a prompt is taken to be, for limits and routing before an engine has counted.
const bytesPerToken = 4

// maxEstimate bounds the estimate: a picture's bytes are not tokens.
const maxEstimate = 32 << 10

func estimateTokens(path string, o rawjson.Object) int {
	field := map[string]string{
		pathChat: "messages", pathCompletions: "prompt", pathEmbeddings: "input", pathResponses: "input",
	}[path]
	return min(len(o.Get(field))/bytesPerToken, maxEstimate)
}

// prepared is a body for engines of one kind, and what of its answer the client did not ask for.
type prepared struct {
	body []byte
	hide hide
}

// bodyFor returns the client's body with what the gateway sets itself for the member's engine.
func (g *Gateway) bodyFor(q *request, m *member) prepared {
	if p, ok := q.bodies[m.target.Engine]; ok {
		return p
	}
	edits := slices.Clone(q.drop)
	var h hide
	if m.known {
		edits = g.addSalt(edits, q, m)
		if q.stream && q.makesTokens() {
			if !q.wantUsage {
				edits = append(edits, rawjson.Edit{Name: "stream_options", Value: withUsage(q.body.Get("stream_options"))})
				h.usage = true
			}
			if askIDs(q, m) && !q.wantIDs {
				edits = append(edits, rawjson.Edit{Name: "return_token_ids", Value: []byte("true")})
				h.ids = true
			}
		}
	}
	p := prepared{body: q.body.Raw, hide: h}
	if len(edits) > 0 {
		p.body = q.body.Edit(make([]byte, 0, len(q.body.Raw)+256), edits...)
	}
	if q.bodies == nil {
		q.bodies = map[jobspecs.EngineKind]prepared{}
	}
	q.bodies[m.target.Engine] = p
	return p
}

// addSalt parts the engine's prefix cache by tenant.
func (g *Gateway) addSalt(edits []rawjson.Edit, q *request, m *member) []rawjson.Edit {
	switch q.path {
	case pathChat, pathCompletions, pathResponses:
		if m.traits.CacheSalt {
			// In front: a dropped "cache_salt": null must not win.
			return append([]rawjson.Edit{{Name: "cache_salt", Value: g.salts.json(q.caller.tenant)}}, edits...)
		}
	}
	return edits
}

// askIDs reports whether to ask the engine for token ids: to continue the stream, or to count what an aborted one used. With
// tools an engine would send chunks for the ids alone that it does not send otherwise.
func askIDs(q *request, m *member) bool {
	return m.traits.TokenIDs == engine.ReturnTokenIDs && (q.inexact == "" || nothingIn(q.body.Get("tools")))
}

func nothingIn(v []byte) bool { return absent(v) || empty(v) }

// withUsage returns stream_options that ask for usage.
func withUsage(options []byte) []byte {
	yes := rawjson.Edit{Name: "include_usage", Value: []byte("true")}
	if absent(options) {
		return []byte(`{"include_usage":true}`)
	}
	o, err := rawjson.Parse(options, 100)
	if err != nil { // two fields of one name, say: the engine refuses it
		return options
	}
	return o.Edit(nil, yes)
}

// find looks the model up for the caller.
func (g *Gateway) find(q *request) *apiError {
	v := g.view.Load()
	if m := v.models[q.modelName]; m != nil && q.caller.may(m) {
		q.model = m
		return nil
	}
	known := v.known(q.caller)
	names := make([]string, 0, len(known))
	for _, k := range known {
		names = append(names, strconv.Quote(k.Name))
	}
	const most = 50
	list := "there is none at present"
	if len(names) > 0 {
		list = "known: " + strings.Join(names[:min(most, len(names))], ", ")
		if len(names) > most {
			list += fmt.Sprintf(" and %d more", len(names)-most)
		}
	}
	return &apiError{
		status: http.StatusNotFound, kind: kindRequest, code: "model_not_found", param: "model",
		message: fmt.Sprintf("the model %s is not known here or not for this key; %s", strconv.Quote(shorten(q.modelName)), list),
	}
}

func shorten(s string) string {
	if len(s) > 100 {
		return strings.ToValidUTF8(s[:100], "") + "..."
	}
	return s
}
