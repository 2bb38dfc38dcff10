package gateway

import (
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/penstock/penstock/scheduler/gateway/rawjson"
)

// apiError is an answer in OpenAI's shape: {"error":{"message","type","param","code"}}.
type apiError struct {
	status  int
	kind    string // "type" in JSON
	code    string // empty = null
	param   string // empty = null
	message string
	retry   time.Duration // Retry-After; 0 = none
	allow   string        // Allow, with 405
}

func (e *apiError) Error() string { return e.message }

// The kinds of errors that OpenAI's clients know.
const (
	kindRequest = "invalid_request_error"
	kindAuth    = "authentication_error"
	kindLimit   = "rate_limit_error"
	kindServer  = "server_error"
)

func badRequest(param, code, message string) *apiError {
	return &apiError{status: http.StatusBadRequest, kind: kindRequest, param: param, code: code, message: message}
}

func unavailable(code, message string, retry time.Duration) *apiError {
	return &apiError{
		status: http.StatusServiceUnavailable, kind: kindServer, code: code, message: message, retry: max(retry, time.Second),
	}
}

// append appends the error's JSON object.
func (e *apiError) append(b []byte) []byte {
	b = append(b, `{"error":{"message":`...)
	b = rawjson.AppendString(b, []byte(e.message))
	b = append(b, `,"type":`...)
	b = rawjson.AppendString(b, []byte(e.kind))
	b = append(b, `,"param":`...)
	b = appendOptional(b, e.param)
	b = append(b, `,"code":`...)
	b = appendOptional(b, e.code)
	return append(b, "}}"...)
}

func appendOptional(b []byte, s string) []byte {
	if s == "" {
		return append(b, "null"...)
	}
	return rawjson.AppendString(b, []byte(s))
}

// write sends the error as the whole answer.
func (e *apiError) write(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	if e.retry > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(e.retry.Seconds()))))
	}
	if e.allow != "" {
		h.Set("Allow", e.allow)
	}
	if e.status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", "Bearer")
	}
	body := e.append(make([]byte, 0, 128+len(e.message)))
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(e.status)
	_, _ = w.Write(body)
}
