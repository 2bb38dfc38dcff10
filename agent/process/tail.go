package process

import (
	"bytes"
	"regexp"
	"strings"
	"sync"
	"unicode"
)

// Tail is a writer that keeps the last lines of what is written to it, fit to be shown: valid UTF-8 without control
// characters and colours, of bounded length. A carriage return begins the line anew, so that a progress bar is one
// line. It is safe for concurrent use and never fails.
type Tail struct {
	mu    sync.Mutex
	lines []string // a ring: next is the oldest once it is full
	next  int
	keep  int
	width int
	part  []byte // begun line
	cr    bool   // the last byte was a carriage return
}

// NewTail keeps the given number of lines, of which each shows up to width bytes; what is longer loses its end.
func NewTail(lines, width int) *Tail {
	return &Tail{keep: lines, width: width}
}

// raw is how many bytes of a line are kept for each byte that is shown: colour codes take room too.
const raw = 4

// Write takes in output. Lines may come in pieces.
func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for rest := p; len(rest) > 0; {
		i := bytes.IndexAny(rest, "\r\n")
		if i < 0 {
			t.extend(rest)
			break
		}
		t.extend(rest[:i])
		if rest[i] == '\n' {
			t.push()
		}
		t.cr = rest[i] == '\r'
		rest = rest[i+1:]
	}
	return len(p), nil
}

// extend adds to the begun line, or begins it anew where a carriage return went before.
func (t *Tail) extend(b []byte) {
	if len(b) == 0 {
		return
	}
	if t.cr {
		t.part, t.cr = t.part[:0], false
	}
	t.part = append(t.part, b[:min(len(b), max(0, raw*t.width-len(t.part)))]...)
}

func (t *Tail) push() {
	line := clean(t.part, t.width)
	t.part = t.part[:0]
	if len(t.lines) < t.keep {
		t.lines = append(t.lines, line)
		return
	}
	if t.keep > 0 {
		t.lines[t.next] = line
		t.next = (t.next + 1) % t.keep
	}
}

// Lines gives the kept lines, the oldest first, with the one that is not ended yet.
func (t *Tail) Lines() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := append(append(make([]string, 0, len(t.lines)+1), t.lines[t.next:]...), t.lines[:t.next]...)
	if len(t.part) > 0 {
		lines = append(lines, clean(t.part, t.width))
	}
	return lines[max(0, len(lines)-t.keep):]
}

// escape matches a terminal's control sequences: colours and cursor moves (CSI), titles and links (OSC).
var escape = regexp.MustCompile(`\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)?`)

func clean(b []byte, width int) string {
	s := strings.ToValidUTF8(string(escape.ReplaceAll(b, nil)), "\uFFFD")
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\t' {
			return -1
		}
		return r
	}, s)
	if len(s) <= width {
		return s
	}
	return strings.ToValidUTF8(s[:width], "")
}
