package gateway

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/penstock/penstock/scheduler/gateway/rawjson"
)

// serveWhole answers a request that wants its answer in one piece. The answer is held back until it is whole, so that a
// replica that dies in the middle costs time and nothing else: another one is asked.
func (g *Gateway) serveWhole(ctx context.Context, w http.ResponseWriter, q *request) {
	for {
		a, refused := g.send(ctx, q, g.first(q))
		if refused != nil {
			g.refuse(w, q, refused)
			return
		}
		body, rest, err := g.readAnswer(a)
		if err == nil && !aborted(q, body) {
			g.passOn(w, q, a, body, rest)
			return
		}
		failure := "engine_aborted"
		if err != nil {
			failure = failureOf(err)
		}
		a.close(failure)
		if gone(ctx) {
			g.left(q)
			return
		}
		g.metrics.upstream.WithLabelValues(failure).Inc()
		g.suspect(a.m, q.id, failure, err)
		if q.tried = append(q.tried, a.m); len(q.tried) >= g.opts.Limits.Attempts {
			g.refuse(w, q, g.exhausted(q, failure))
			return
		}
		g.metrics.retries.WithLabelValues(failure).Inc()
	}
}

// aborted reports whether an engine that is being stopped has ended the answer early.
func aborted(q *request, body []byte) bool {
	var c chunk
	return q.makesTokens() && c.scan(body, hide{}) && string(c.finish.of(body)) == `"abort"`
}

// readAnswer reads an answer up to MaxAnswer. rest tells that there is more.
func (g *Gateway) readAnswer(a *attempt) (body []byte, rest bool, err error) {
	limit := g.opts.Limits.MaxAnswer
	var buf bytes.Buffer
	if n, err := strconv.ParseInt(a.resp.Header.Get("Content-Length"), 10, 64); err == nil && n > 0 && n <= limit {
		buf.Grow(int(n) + bytes.MinRead)
	}
	n, err := buf.ReadFrom(io.LimitReader(a.resp, limit))
	a.answered()
	return buf.Bytes(), err == nil && n == limit, err
}

// passOn sends the client the answer.
func (g *Gateway) passOn(w http.ResponseWriter, q *request, a *attempt, body []byte, rest bool) {
	status := a.resp.Status
	g.deadline(w)
	if status >= 400 {
		a.close("refused_" + strconv.Itoa(status))
		g.passRefusal(w, q, a, body)
		return
	}
	q.usage = answerUsage(body)
	a.rec.Tokens = q.usage.completion
	q.ttft = g.now().Sub(q.at)
	g.metrics.ttft.WithLabelValues(q.model.Name).Observe(seconds(q.ttft))
	h := w.Header()
	copyHeader(h, a.resp.Header)
	q.explainIn(h)
	if !rest {
		h.Set("Content-Length", strconv.Itoa(len(body)))
	}
	w.WriteHeader(status)
	n, err := w.Write(body)
	g.metrics.bytes.Add(float64(n))
	if rest && err == nil {
		err = g.copyRest(w, a)
	}
	q.status, q.outcome = status, outcomeOK
	if err != nil {
		q.outcome, q.failure = outcomeGone, "the client took no more"
		if rest {
			// The client must not take half an answer for a whole one.
			a.close("cut")
			panic(http.ErrAbortHandler)
		}
	}
	a.close("")
}

func (g *Gateway) copyRest(w http.ResponseWriter, a *attempt) error {
	buf := g.pools.buffers.get()
	defer g.pools.buffers.put(buf)
	for {
		n, err := a.resp.Read(buf)
		if n > 0 {
			g.deadline(w)
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
			g.metrics.bytes.Add(float64(n))
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// deadline gives the client time for the next write.
func (g *Gateway) deadline(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(g.opts.Limits.WriteStall))
}

// copyHeader takes over what a client may see of an engine's header.
func copyHeader(dst, src http.Header) {
	for _, name := range []string{"Content-Type", "Retry-After"} {
		if v := src.Get(name); v != "" {
			dst.Set(name, v)
		}
	}
}

// passRefusal sends the client what the engine says against its request, in OpenAI's shape where the engine has another one.
func (g *Gateway) passRefusal(w http.ResponseWriter, q *request, a *attempt, body []byte) {
	status := a.resp.Status
	q.status, q.outcome, q.failure = status, outcomeRefused, "the engine refused: "+strconv.Itoa(status)
	if !hasError(body) {
		kind := kindRequest
		if status >= 500 {
			kind = kindServer
		}
		e := &apiError{status: status, kind: kind, message: engineMessage(body, status)}
		if status == http.StatusTooManyRequests {
			e.kind = kindLimit
			copyHeader(w.Header(), a.resp.Header)
		}
		e.write(w)
		return
	}
	h := w.Header()
	copyHeader(h, a.resp.Header)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

func hasError(body []byte) bool {
	e := inside(bytes.TrimSpace(body), "error")
	return len(e) > 0 && e[0] == '{' && rawjson.Check(body, 100) == nil
}

// engineMessage finds what an engine says in a shape of its own: vLLM's of old has "message", FastAPI has "detail".
func engineMessage(body []byte, status int) string {
	body = bytes.TrimSpace(body)
	for _, name := range []string{"message", "detail", "error"} {
		v := inside(body, name)
		if s, ok := text(v); ok {
			return s
		}
		if len(v) > 0 && v[0] == '[' {
			return shorten(string(v))
		}
	}
	if len(body) > 0 && body[0] != '<' {
		return shorten(strings.ToValidUTF8(string(body), "?"))
	}
	return "the engine answered " + strconv.Itoa(status) + " " + http.StatusText(status)
}
