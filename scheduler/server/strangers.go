package server

import (
	"net/http"
	"time"

	"connectrpc.com/connect"
	"github.com/rs/zerolog"
)

// Everybody who reaches the port may call before the controller knows anything of him. What strangers cost is bounded:
// memory by the size of a call, connections by its time, the disk by the lines that are written about them.
const (
	strangerBody      = 64 << 10 // bytes; a join and an enrolment are far smaller
	strangerTime      = 10 * time.Second
	refusalsPerMinute = 20
	longestQuote      = 80 // bytes of what a stranger made up, in a log line
)

// bound limits what a caller without a certificate may send, and how long it may take. r must be a copy of the server's own
// request: the server looks at the body there to tell whether the connection can go on.
func (s *Server) bound(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, strangerBody)
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.patience)) // a writer of a test may have none
}

// refusal is what somebody was not let in for. Each has its own few lines a minute, so that a flood of one hides no other.
type refusal string

const (
	callRefused   refusal = "call refused"   // the caller's role may not make it
	joinRefused   refusal = "join refused"   // the token is not good
	enrollRefused refusal = "enroll refused" // the token is not good
)

func refusalLogs(log zerolog.Logger) map[refusal]zerolog.Logger {
	logs := map[refusal]zerolog.Logger{}
	for _, r := range []refusal{callRefused, joinRefused, enrollRefused} {
		logs[r] = log.Sample(&zerolog.BurstSampler{Burst: refusalsPerMinute, Period: time.Minute})
	}
	return logs
}

// refuse counts and logs. More are pairs of a field's name and what the caller says of itself.
func (s *Server) refuse(what refusal, code connect.Code, err error, more ...string) {
	s.metrics.refused.WithLabelValues(code.String()).Inc()
	log := s.refusals[what]
	e := log.Warn().Err(err)
	for i := 0; i+1 < len(more); i += 2 {
		e = e.Str(more[i], clip(more[i+1]))
	}
	e.Msg(string(what))
}

func clip(text string) string {
	if len(text) > longestQuote {
		return text[:longestQuote] + "…"
	}
	return text
}
