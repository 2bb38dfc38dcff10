package server

import (
	"context"
	"errors"
	"slices"
	"time"
)

const logPoll = 250 * time.Millisecond

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
// its successor's start. files is asked again on every round: a replica that comes later is shown from its start, and one
// that is named no more is read to its end.
func readLogs(ctx context.Context, files func() []logFile, tail int, follow bool, send func(logLine) error) error {
	r := logReader{send: send, open: map[string]*tailer{}, over: map[string]bool{}}
	defer r.close()
	for {
		if err := r.round(files(), tail, !follow); err != nil || !follow {
			return err
		}
		tail = 0
		select {
		case <-ctx.Done():
			return r.flush()
		case <-time.After(logPoll):
		}
	}
}

// logReader reads several files that grow.
type logReader struct {
	send  func(logLine) error
	open  map[string]*tailer
	order []string        // of open
	over  map[string]bool // read to their end, and not to be read again
}

// round sends what is new in all files; whole says that there is no other round.
func (r *logReader) round(files []logFile, tail int, whole bool) error {
	named := map[string]bool{}
	for _, f := range files {
		named[f.path] = true
		t := r.open[f.path]
		if t == nil && r.over[f.path] {
			continue
		}
		var err error
		if t == nil {
			t = &tailer{logFile: f, send: r.send}
			r.open[f.path], r.order = t, append(r.order, f.path)
			err = t.start(tail)
		} else {
			err = t.more()
		}
		if err == nil && whole {
			err = t.flush()
		}
		if err != nil {
			return err
		}
	}
	return r.finish(named)
}

// finish reads files that are named no more to their end.
func (r *logReader) finish(named map[string]bool) error {
	for _, path := range slices.Clone(r.order) {
		if named[path] {
			continue
		}
		t := r.open[path]
		err := errors.Join(t.more(), t.flush())
		t.close()
		delete(r.open, path)
		r.order = slices.DeleteFunc(r.order, func(p string) bool { return p == path })
		r.over[path] = true
		if err != nil {
			return err
		}
	}
	return nil
}

// flush sends lines that have no end yet.
func (r *logReader) flush() error {
	var errs []error
	for _, path := range r.order {
		errs = append(errs, r.open[path].flush())
	}
	return errors.Join(errs...)
}

func (r *logReader) close() {
	for _, t := range r.open {
		t.close()
	}
}
