package sim

import (
	"net/http"
	"strconv"
	"time"
)

// sseWriter writes server-sent events: what is appended to buf goes out with flush.
type sseWriter struct {
	w        http.ResponseWriter
	control  *http.ResponseController
	buf      []byte
	timeout  time.Duration
	deadline time.Time
}

// newSSE sends the header at once, before the first token, as vLLM does.
func newSSE(w http.ResponseWriter, timeout time.Duration) *sseWriter {
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	w.WriteHeader(http.StatusOK)
	s := &sseWriter{w: w, control: http.NewResponseController(w), timeout: timeout, buf: make([]byte, 0, 1024)}
	_ = s.flush()
	return s
}

// flush sends buf. A client that takes nothing for the timeout makes it fail.
func (s *sseWriter) flush() error {
	if now := time.Now(); s.deadline.Sub(now) < s.timeout/2 {
		s.deadline = now.Add(s.timeout)
		if err := s.control.SetWriteDeadline(s.deadline); err != nil {
			return err
		}
	}
	if len(s.buf) > 0 {
		if _, err := s.w.Write(s.buf); err != nil {
			return err
		}
	}
	s.buf = s.buf[:0]
	return s.control.Flush()
}

// event appends one event with this data.
func (s *sseWriter) event(data []byte) {
	s.buf = append(append(append(s.buf, "data: "...), data...), "\n\n"...)
}

// done ends the stream.
func (s *sseWriter) done() error {
	s.event([]byte("[DONE]"))
	return s.flush()
}

func appendInt(b []byte, n int) []byte { return strconv.AppendInt(b, int64(n), 10) }

// appendTokenIDs appends a list of token ids, or null where they were not asked for.
func appendTokenIDs(b []byte, wanted bool, tokens []emitted) []byte {
	if !wanted {
		return append(b, "null"...)
	}
	b = append(b, '[')
	for i, t := range tokens {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendInt(b, int(t.token))
	}
	return append(b, ']')
}

func appendIDs(b []byte, ids []int32) []byte {
	b = append(b, '[')
	for i, t := range ids {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendInt(b, int(t))
	}
	return append(b, ']')
}

// appendFinish appends "finish_reason" with its value.
func appendFinish(b []byte, f finish) []byte {
	b = append(b, `,"finish_reason":`...)
	if f == running {
		return append(b, "null"...)
	}
	return append(append(append(b, '"'), f...), '"')
}

// appendStopReason appends "stop_reason" with its value.
func appendStopReason(b []byte, reason any) []byte {
	b = append(b, `,"stop_reason":`...)
	switch r := reason.(type) {
	case string:
		return appendJSONString(b, r)
	case int32:
		return appendInt(b, int(r))
	}
	return append(b, "null"...)
}
