package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

const (
	logPoll    = 250 * time.Millisecond
	maxLogLine = 16 << 10 // bytes; longer lines are cut into pieces
)

// logFile is one file to be read, and the name under which its lines are shown.
type logFile struct {
	path    string
	replica string
	rank    int
}

// logLine is one line of one file.
type logLine struct {
	replica string
	rank    int
	text    string
}

// readLogs sends the last tail lines (0 = all) of each file, one file after the other, and with follow then every new
// line of all of them until ctx ends. A file that is not there yet is waited for; one that was rotated is read on from
// its successor's start. files is asked again on every round, so that new replicas appear.
func readLogs(ctx context.Context, files func() []logFile, tail int, follow bool, send func(logLine) error) error {
	open := map[string]*tailer{}
	defer func() {
		for _, t := range open {
			t.close()
		}
	}()
	for first := true; ; first = false {
		for _, f := range files() {
			t := open[f.path]
			if t == nil {
				t = &tailer{logFile: f}
				if !first {
					tail = 0 // a replica that came later is shown from its start
				}
				open[f.path] = t
				if err := t.start(tail, send); err != nil {
					return err
				}
				continue
			}
			if err := t.more(send); err != nil {
				return err
			}
		}
		if !follow {
			return flushAll(open, send)
		}
		select {
		case <-ctx.Done():
			return flushAll(open, send)
		case <-time.After(logPoll):
		}
	}
}

func flushAll(open map[string]*tailer, send func(logLine) error) error {
	var errs []error
	for _, t := range open {
		errs = append(errs, t.flush(send))
	}
	return errors.Join(errs...)
}

// tailer reads one growing file.
type tailer struct {
	logFile
	f    *os.File
	part []byte // a line without its end yet
	buf  [32 << 10]byte
}

func (t *tailer) close() {
	if t.f != nil {
		t.f.Close()
	}
}

func (t *tailer) start(tail int, send func(logLine) error) error {
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
	return t.drain(send)
}

// more reads what has been added, and moves on to the new file after a rotation.
func (t *tailer) more(send func(logLine) error) error {
	if t.f == nil {
		return t.start(0, send)
	}
	if err := t.drain(send); err != nil {
		return err
	}
	was, err1 := t.f.Stat()
	is, err2 := os.Stat(t.path)
	if err1 != nil || err2 != nil || os.SameFile(was, is) {
		return nil
	}
	if err := t.drain(send); err != nil { // what came between the two
		return err
	}
	t.f.Close()
	t.f = nil
	return t.start(0, send)
}

func (t *tailer) drain(send func(logLine) error) error {
	for {
		n, err := t.f.Read(t.buf[:])
		t.part = append(t.part, t.buf[:n]...)
		for {
			i := bytes.IndexByte(t.part, '\n')
			if i < 0 && len(t.part) < maxLogLine {
				break
			}
			cut, next := i, i+1
			if i < 0 || i > maxLogLine {
				cut, next = maxLogLine, maxLogLine
			}
			if err := send(t.line(t.part[:cut])); err != nil {
				return err
			}
			t.part = t.part[:copy(t.part, t.part[next:])]
		}
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read log %s: %w", t.path, err)
		}
	}
}

func (t *tailer) flush(send func(logLine) error) error {
	if len(t.part) == 0 {
		return nil
	}
	line := t.line(t.part)
	t.part = nil
	return send(line)
}

// line makes a line safe to print: valid UTF-8, no carriage return.
func (t *tailer) line(b []byte) logLine {
	text := strings.ToValidUTF8(strings.TrimRight(string(b), "\r"), "\uFFFD")
	return logLine{replica: t.replica, rank: t.rank, text: text}
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
