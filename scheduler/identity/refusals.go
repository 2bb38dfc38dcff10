package identity

import (
	stdlog "log" //nolint:depguard // http.Server takes nothing else
	"strings"
	"time"

	"github.com/rs/zerolog"
)

// RefusalLog is what an http.Server behind ServerConfig takes as its ErrorLog. A peer that is refused in the handshake
// is logged as a warning, since nobody of ours ever is; one that leaves by itself (a port scanner, a health check) at
// debug.
//
// Strangers decide how often they come: only the first lines of each minute are written.
func RefusalLog(log zerolog.Logger) *stdlog.Logger {
	return stdlog.New(refusals{log.Sample(&zerolog.BurstSampler{Burst: refusalsPerMinute, Period: time.Minute})}, "", 0)
}

const (
	refusalsPerMinute = 10
	handshakeError    = "http: TLS handshake error from "
)

type refusals struct{ log zerolog.Logger }

func (r refusals) Write(p []byte) (int, error) {
	line := strings.TrimSpace(string(p))
	rest, handshake := strings.CutPrefix(line, handshakeError)
	from, reason, _ := strings.Cut(rest, ": ")
	switch {
	case handshake && strings.Contains(reason, "tls: "):
		r.log.Warn().Str("from", from).Str("reason", reason).Msg("connection refused")
	case strings.Contains(line, "panic serving"):
		r.log.Error().Str("detail", line).Msg("connection broken")
	default:
		r.log.Debug().Str("detail", line).Msg("connection")
	}
	return len(p), nil
}
