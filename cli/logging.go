package cli

import (
	"context"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"

	"github.com/penstock/penstock/agent/process"
)

// logger writes to stderr: lines for people on a terminal, JSON else.
func (inv *invocation) logger() (zerolog.Logger, error) {
	return inv.loggerTo(inv.Err, inv.ErrTTY)
}

func (inv *invocation) loggerTo(w io.Writer, tty bool) (zerolog.Logger, error) {
	level, err := zerolog.ParseLevel(inv.set.get("log.level"))
	if err != nil {
		return zerolog.Nop(), usageError("log level %q: use debug, info, warn or error", inv.set.get("log.level"))
	}
	out := zerolog.SyncWriter(w)
	switch format := inv.set.get("log.format"); {
	case format == "console", format == "auto" && tty:
		out = zerolog.ConsoleWriter{Out: out, NoColor: !inv.color(tty), TimeFormat: time.DateTime}
	case format != "json" && format != "auto":
		return zerolog.Nop(), usageError("log format %q: use auto, console or json", format)
	}
	return zerolog.New(out).Level(level).With().Timestamp().Logger(), nil
}

// logFileFlag is for roles, which run for weeks.
func logFileFlag() cli.Flag {
	return &cli.StringFlag{Name: "log-file", Usage: "write the log into this file, which is put aside at 32 MiB, instead of to stderr; three older ones are kept"}
}

// roleLogger writes into a file of limited size, or to stderr where path is empty. flush writes what is still queued; it must
// be called.
func (inv *invocation) roleLogger(path string) (log zerolog.Logger, flush func(), err error) {
	if path == "" {
		log, err = inv.logger()
		return log, func() {}, err
	}
	path = inv.path(path)
	file, err := process.NewRotating(process.RotatingOptions{
		Path: path, MaxBytes: process.LogBytes, Keep: process.LogsKept, Also: inv.leadTo(path),
	})
	if err != nil {
		return zerolog.Nop(), nil, err
	}
	if log, err = inv.loggerTo(file, false); err != nil {
		return log, nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var writing sync.WaitGroup
	writing.Go(func() { _ = file.Run(ctx) })
	return log, func() { cancel(); writing.Wait() }, nil
}

// leadTo gives the standard descriptors that lead to the very file at path, as those of background processes do.
func (inv *invocation) leadTo(path string) (fds []int) {
	info, err := os.Stat(path)
	if err != nil {
		return nil
	}
	for _, w := range []io.Writer{inv.Out, inv.Err} {
		if f, ok := w.(*os.File); ok {
			if own, err := f.Stat(); err == nil && os.SameFile(own, info) {
				fds = append(fds, int(f.Fd()))
			}
		}
	}
	return fds
}

// sharedFile writes to the file that stands at a path now: another process puts it aside when it is long.
type sharedFile string

func (path sharedFile) Write(p []byte) (int, error) {
	f, err := os.OpenFile(string(path), os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return f.Write(p)
}
