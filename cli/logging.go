package cli

import (
	"time"

	"github.com/rs/zerolog"
)

// logger writes to stderr: lines for people on a terminal, JSON else.
func (inv *invocation) logger() (zerolog.Logger, error) {
	level, err := zerolog.ParseLevel(inv.set.get("log.level"))
	if err != nil {
		return zerolog.Nop(), usageError("log level %q: use debug, info, warn or error", inv.set.get("log.level"))
	}
	out := zerolog.SyncWriter(inv.Err)
	switch format := inv.set.get("log.format"); {
	case format == "console", format == "auto" && inv.ErrTTY:
		out = zerolog.ConsoleWriter{Out: out, NoColor: !inv.color(inv.ErrTTY), TimeFormat: time.DateTime}
	case format != "json" && format != "auto":
		return zerolog.Nop(), usageError("log format %q: use auto, console or json", format)
	}
	return zerolog.New(out).Level(level).With().Timestamp().Logger(), nil
}
