// Package sse finds the events of a server-sent event stream in the bytes that carry them, without copying them.
//
// It knows framing only, nothing of what events say. The gateway reads engines' streams with it. Lines end with LF or CR LF;
// a lone CR, which the standard allows too and no engine sends, is part of its line.
package sse

import (
	"bytes"
	"errors"
	"io"
)

// ErrTooLong means that an event is longer than the Splitter's limit.
var ErrTooLong = errors.New("an event of the stream is too long")

// Splitter cuts a byte stream into events. It owns its buffer: what Next returns is valid until the next Fill. Not safe for
// concurrent use.
type Splitter struct {
	buf  []byte
	max  int
	r, w int // buf[r:w] is not yet returned
	line int // where the line begins in which the next line end is looked for
	scan int // up to here there is no line end after line
}

// NewSplitter returns a Splitter that begins with buf, which it takes over, and takes events of up to max bytes.
func NewSplitter(buf []byte, max int) *Splitter {
	return &Splitter{buf: buf[:cap(buf)], max: max}
}

// Buffer gives the buffer back, for reuse once the Splitter is done with.
func (s *Splitter) Buffer() []byte { return s.buf }

// Fill reads once from src. It returns what src returned, or ErrTooLong.
func (s *Splitter) Fill(src io.Reader) (int, error) {
	if s.r == s.w {
		s.r, s.w, s.line, s.scan = 0, 0, 0, 0
	}
	if s.w == len(s.buf) {
		if err := s.room(); err != nil {
			return 0, err
		}
	}
	n, err := src.Read(s.buf[s.w:])
	s.w += n
	return n, err
}

// room makes place at the end of the buffer: by moving what is left to the front, else by a larger buffer.
func (s *Splitter) room() error {
	if s.r == 0 {
		if len(s.buf) >= s.max {
			return ErrTooLong
		}
		larger := make([]byte, min(s.max, max(4096, 2*len(s.buf))))
		copy(larger, s.buf[:s.w])
		s.buf = larger
		return nil
	}
	copy(s.buf, s.buf[s.r:s.w])
	s.w -= s.r
	s.line -= s.r
	s.scan -= s.r
	s.r = 0
	return nil
}

// Next returns the next whole event with the blank line that ends it, or nil until there is one.
func (s *Splitter) Next() []byte {
	for {
		i := bytes.IndexByte(s.buf[s.scan:s.w], '\n')
		if i < 0 {
			s.scan = s.w
			return nil
		}
		end := s.scan + i
		blank := end == s.line || end == s.line+1 && s.buf[s.line] == '\r'
		s.line, s.scan = end+1, end+1
		if blank {
			event := s.buf[s.r : end+1]
			s.r = end + 1
			return event
		}
	}
}

// Rest is what came after the last whole event.
func (s *Splitter) Rest() []byte { return s.buf[s.r:s.w] }

// Data returns where the data of an event stands in it. ok is false when the event has no data line, or several of them,
// whose data would have to be joined.
func Data(event []byte) (start, end int, ok bool) {
	for at := 0; at < len(event); {
		next := len(event)
		if i := bytes.IndexByte(event[at:], '\n'); i >= 0 {
			next = at + i + 1
		}
		if bytes.HasPrefix(event[at:next], []byte("data:")) {
			if ok {
				return 0, 0, false
			}
			start, end, ok = trim(event, at+len("data:"), next)
		}
		at = next
	}
	return start, end, ok
}

// trim leaves out the one space after the colon and the line end.
func trim(event []byte, start, end int) (int, int, bool) {
	if end > start && event[end-1] == '\n' {
		end--
	}
	if end > start && event[end-1] == '\r' {
		end--
	}
	if end > start && event[start] == ' ' {
		start++
	}
	return start, end, true
}
