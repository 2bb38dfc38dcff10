package nomadtest

import (
	"cmp"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/hashicorp/nomad/api"
)

// logs serves what a task has written, in frames; with follow until the task has ended.
func (s *Server) logs(w http.ResponseWriter, r *http.Request) {
	c, ok := s.admit(w, r)
	if !ok {
		return
	}
	q := r.URL.Query()
	s.mu.Lock()
	a, err := s.found(c)
	s.mu.Unlock()
	task := q.Get("task")
	if err == nil && a.group().Tasks[0] != nil && task == "" {
		task = a.group().Tasks[0].Name
	}
	name := filepath.Join("alloc", "logs", filepath.Base(task)+"."+cmp.Or(q.Get("type"), "stdout")+".0")
	var f *os.File
	if err == nil {
		f, err = os.Open(filepath.Join(s.dir, a.ID, name))
		if err != nil {
			err = refuse(http.StatusNotFound, "%v", err)
		}
	}
	if err != nil {
		s.write(w, nil, 0, err)
		return
	}
	defer f.Close()
	offset, _ := strconv.ParseInt(q.Get("offset"), 10, 64)
	whence := io.SeekStart
	if q.Get("origin") == "end" {
		whence, offset = io.SeekEnd, -offset
	}
	if at, err := f.Seek(offset, whence); err == nil {
		offset = at
	} else {
		offset = 0
	}
	s.follow(w, r, a, f, name, offset)
}

func (s *Server) follow(w http.ResponseWriter, r *http.Request, a *alloc, f *os.File, name string, offset int64) {
	const step = 50 * time.Millisecond
	out := json.NewEncoder(w)
	for {
		s.mu.Lock()
		over := a.left == 0 || s.closed
		s.mu.Unlock()
		text, err := io.ReadAll(io.LimitReader(f, 1<<20))
		if err == nil && len(text) > 0 {
			offset += int64(len(text))
			err = out.Encode(api.StreamFrame{Offset: offset, Data: text, File: name})
			_ = http.NewResponseController(w).Flush()
		}
		if err != nil || r.URL.Query().Get("follow") != "true" || over && len(text) == 0 {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-time.After(step):
		}
	}
}
