package main

import (
	"bytes"
	"fmt"
	"net"
	"strconv"
	"time"
)

// answerReader reads HTTP/1.1 answers from one connection, with two buffers and nothing allocated for each event: the
// client must cost little, since it shares the cores with what is measured.
type answerReader struct {
	conn net.Conn
	buf  []byte
	in   []byte // the part of buf that is not looked at yet
	body []byte // without the framing; events are taken off its front
}

func newAnswerReader(c net.Conn) *answerReader {
	return &answerReader{conn: c, buf: make([]byte, 8<<10)}
}

// answer is what an answer held.
type answer struct {
	status int
	text   []byte // of a whole answer, or of a refusal; valid until the next one
	tokens int
}

// read takes one answer; each is called for every event with text, with the time at which it came.
func (r *answerReader) read(each func(event []byte, at time.Time)) (a answer, err error) {
	r.body = r.body[:0]
	var head []byte
	for {
		if i := bytes.Index(r.in, []byte("\r\n\r\n")); i >= 0 {
			head, r.in = r.in[:i+2], r.in[i+4:]
			break
		}
		if _, err := r.fill(); err != nil {
			return a, err
		}
	}
	if len(head) < 12 {
		return a, fmt.Errorf("no answer: %q", head)
	}
	if a.status, err = strconv.Atoi(string(head[9:12])); err != nil {
		return a, fmt.Errorf("no answer: %q", head)
	}
	if length := header(head, "\r\nContent-Length: "); length != nil {
		n, err := strconv.Atoi(string(length))
		if err != nil {
			return a, err
		}
		return r.whole(a, n)
	}
	return r.chunks(a, each)
}

// whole reads a body of known length.
func (r *answerReader) whole(a answer, n int) (answer, error) {
	for len(r.in) < n {
		if _, err := r.fill(); err != nil {
			return a, err
		}
	}
	a.text, r.in = r.in[:n], r.in[n:]
	a.tokens = bytes.Count(a.text, []byte(word))
	return a, nil
}

// chunks reads a body in chunks up to the last one.
func (r *answerReader) chunks(a answer, each func([]byte, time.Time)) (answer, error) {
	at := time.Now()
	for {
		n, size, ok := frame(r.in)
		switch {
		case ok && size == 0:
			r.in, a.text = r.in[n:], r.body
			return a, nil
		case ok:
			r.body = append(r.body, r.in[n:n+size]...)
			r.in = r.in[n+size+2:]
			a.tokens += r.events(each, at)
			continue
		}
		var err error
		if at, err = r.fill(); err != nil {
			return a, err
		}
	}
}

// frame finds the first chunk of b: where its data begins, and how long it is. ok is false until it is there whole; the
// last chunk has size 0, and n is its end.
func frame(b []byte) (n, size int, ok bool) {
	i := bytes.Index(b, []byte("\r\n"))
	if i <= 0 {
		return 0, 0, false
	}
	for _, c := range b[:i] {
		switch {
		case c >= '0' && c <= '9':
			size = size<<4 | int(c-'0')
		case c >= 'a' && c <= 'f':
			size = size<<4 | int(c-'a'+10)
		}
	}
	return i + 2 + map[bool]int{true: 2}[size == 0], size, len(b) >= i+2+size+2
}

// events takes whole events off the body.
func (r *answerReader) events(each func([]byte, time.Time), at time.Time) (tokens int) {
	rest := r.body
	for {
		i := bytes.Index(rest, []byte("\n\n"))
		if i < 0 {
			break
		}
		if event := rest[:i]; bytes.Contains(event, []byte(word)) {
			tokens++
			if each != nil {
				each(event, at)
			}
		}
		rest = rest[i+2:]
	}
	r.body = append(r.body[:0], rest...)
	return tokens
}

// fill waits for more. What was taken from the buffer before is not valid any more.
func (r *answerReader) fill() (time.Time, error) {
	n := copy(r.buf, r.in)
	if n == len(r.buf) {
		r.buf = append(r.buf, make([]byte, n)...)
	}
	more, err := r.conn.Read(r.buf[n:])
	at := time.Now()
	r.in = r.buf[:n+more]
	if more > 0 {
		err = nil
	}
	return at, err
}

// header is the value of a header line; name begins with the line break before it.
func header(head []byte, name string) []byte {
	_, rest, ok := bytes.Cut(head, []byte(name))
	if !ok {
		return nil
	}
	value, _, _ := bytes.Cut(rest, []byte("\r\n"))
	return value
}

// stamp reads one of the engine's times out of an event; zero = it is not there.
func stamp(event []byte, key string) (ns int64) {
	_, rest, ok := bytes.Cut(event, []byte(key))
	if !ok {
		return 0
	}
	for _, c := range rest {
		if c < '0' || c > '9' {
			break
		}
		ns = ns*10 + int64(c-'0')
	}
	return ns
}
