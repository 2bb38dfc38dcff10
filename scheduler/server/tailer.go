package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"
)

const maxLogLine = 16 << 10 // bytes; longer lines are sent in pieces

// tailer reads one growing file.
type tailer struct {
	logFile
	send func(logLine) error
	f    *os.File
	part []byte // a line without its end yet
	buf  [32 << 10]byte
}

func (t *tailer) close() {
	if t.f != nil {
		t.f.Close()
	}
}

func (t *tailer) start(tail int) error {
	f, err := os.Open(t.path)
	if os.IsNotExist(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	t.f = f
	if tail > 0 {
		if err := seekLines(f, tail); err != nil {
			return fmt.Errorf("read log %s: %w", t.path, err)
		}
	}
	return t.drain()
}

// more reads what has been added, and moves on to the new file after a rotation.
func (t *tailer) more() error {
	if t.f == nil {
		return t.start(0)
	}
	if err := t.drain(); err != nil {
		return err
	}
	was, err1 := t.f.Stat()
	is, err2 := os.Stat(t.path)
	if err1 != nil || err2 != nil || os.SameFile(was, is) {
		return nil
	}
	if err := t.drain(); err != nil { // what came between the two
		return err
	}
	t.f.Close()
	t.f = nil
	return t.start(0)
}

func (t *tailer) drain() error {
	for {
		n, err := t.f.Read(t.buf[:])
		t.part = append(t.part, t.buf[:n]...)
		if err := t.lines(); err != nil {
			return err
		}
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read log %s: %w", t.path, err)
		}
	}
}

// lines sends what has come to an end, and the beginnings of lines that are too long.
func (t *tailer) lines() error {
	rest := t.part
	for {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 && len(rest) <= maxLogLine {
			t.part = t.part[:copy(t.part, rest)]
			return nil
		}
		piece, next := rest, 0
		if i >= 0 && i <= maxLogLine {
			piece, next = bytes.TrimRight(rest[:i], "\r"), i+1
		} else {
			next = cutAt(rest, maxLogLine)
			piece = rest[:next]
		}
		if err := t.send(t.line(piece)); err != nil {
			return err
		}
		rest = rest[next:]
	}
}

// cutAt is where to cut b into two at n bytes at most, so that no character is cut.
func cutAt(b []byte, n int) int {
	for i := n; i > n-utf8.UTFMax; i-- {
		if utf8.RuneStart(b[i]) {
			return i
		}
	}
	return n
}

func (t *tailer) flush() error {
	if len(t.part) == 0 {
		return nil
	}
	line := t.line(bytes.TrimRight(t.part, "\r"))
	t.part = nil
	return t.send(line)
}

// line makes a line's text valid UTF-8, as the wire needs it.
func (t *tailer) line(b []byte) logLine {
	return logLine{replica: t.replica, rank: t.rank, text: strings.ToValidUTF8(string(b), "\uFFFD")}
}

// seekLines moves to the start of the last n lines.
func seekLines(f *os.File, n int) error {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	buf := make([]byte, 32<<10)
	seen := 0
	for pos := end; pos > 0; {
		size := min(int64(len(buf)), pos)
		pos -= size
		if _, err := f.ReadAt(buf[:size], pos); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		for i := size - 1; i >= 0; i-- {
			if buf[i] != '\n' || pos+i == end-1 {
				continue
			}
			if seen++; seen == n {
				_, err := f.Seek(pos+i+1, io.SeekStart)
				return err
			}
		}
	}
	_, err = f.Seek(0, io.SeekStart)
	return err
}
