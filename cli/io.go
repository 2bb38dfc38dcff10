package cli

import (
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/term"
)

// IO is everything of the outside that a command may touch. Whether something is a terminal is a field, never asked
// inside a command, so that tests decide it.
type IO struct {
	In       io.Reader
	Out, Err io.Writer
	InTTY    bool
	OutTTY   bool
	ErrTTY   bool
	Width    int // columns of the terminal; 0 = not a terminal
	// Getenv is the environment; commands never ask os for it.
	Getenv  func(string) string
	Environ []string
	Dir     string           // working folder
	Self    string           // path of this binary
	Now     func() time.Time // nil = time.Now
}

// System is the process's own IO.
func System() IO {
	dir, _ := os.Getwd()
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	std := IO{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
		InTTY:  term.IsTerminal(int(os.Stdin.Fd())),
		OutTTY: term.IsTerminal(int(os.Stdout.Fd())),
		ErrTTY: term.IsTerminal(int(os.Stderr.Fd())),
		Getenv: os.Getenv, Environ: os.Environ(), Dir: dir, Self: self,
	}
	if w, _, err := term.GetSize(int(os.Stdout.Fd())); err == nil {
		std.Width = w
	}
	return std
}

func (std IO) now() time.Time {
	if std.Now != nil {
		return std.Now()
	}
	return time.Now()
}

// color says whether output to a terminal-or-not stream is coloured: NO_COLOR and CLICOLOR are honoured.
func (std IO) color(tty bool) bool {
	switch {
	case std.Getenv("NO_COLOR") != "":
		return false
	case std.Getenv("CLICOLOR_FORCE") != "" && std.Getenv("CLICOLOR_FORCE") != "0":
		return true
	case std.Getenv("CLICOLOR") == "0", std.Getenv("TERM") == "dumb":
		return false
	}
	return tty
}

// path resolves a path that a person typed.
func (std IO) path(p string) string {
	if filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(std.Dir, p)
}
