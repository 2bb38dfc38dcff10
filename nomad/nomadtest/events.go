package nomadtest

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	keptEvents = 2000
	heartbeat  = 10 * time.Second
)

// event is one event as the stream shows it.
type event struct {
	Topic, Type, Key, Namespace string
	FilterKeys                  []string
	Index                       uint64
	Payload                     json.RawMessage
}

// emit adds an event of the current index to the stream. The payload is encoded now.
func (s *Server) emit(topic, what string, k key, id string, payload map[string]any, filters ...string) {
	text, err := json.Marshal(payload)
	if err != nil {
		panic("nomadtest: event: " + err.Error())
	}
	s.events = append(s.events, event{topic, what, id, k.namespace, filters, s.index, text})
	if extra := len(s.events) - keptEvents; extra > 0 {
		s.events = slices.Delete(s.events, 0, extra)
	}
	s.wake()
}

// wanted says whether an event passes the stream's topics ("Allocation:*", "Job:name", "*").
func wanted(e event, namespace string, topics []string) bool {
	if e.Namespace != "" && namespace != "*" && e.Namespace != namespace {
		return false
	}
	if len(topics) == 0 {
		return true
	}
	for _, t := range topics {
		topic, k, _ := strings.Cut(t, ":")
		if (topic == "*" || topic == e.Topic) && (k == "" || k == "*" || k == e.Key || slices.Contains(e.FilterKeys, k)) {
			return true
		}
	}
	return false
}

// stream serves the event stream: events of the asked index and later ones, those of one index on one line.
func (s *Server) stream(w http.ResponseWriter, r *http.Request) {
	c, ok := s.admit(w, r)
	if !ok {
		return
	}
	from, err := strconv.ParseUint(r.URL.Query().Get("index"), 10, 64)
	if err != nil {
		http.Error(w, "Invalid index", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	out := http.NewResponseController(w)
	_, _ = w.Write([]byte("{}\n"))
	_ = out.Flush()
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	s.mu.Lock()
	cut := s.faults.cuts
	s.mu.Unlock()
	for {
		s.mu.Lock()
		lines := s.lines(from, c.namespace, r.URL.Query()["topic"])
		from = max(from, s.index+1)
		changed, over := s.changed, s.closed || s.faults.cuts != cut
		s.mu.Unlock()
		if over {
			return
		}
		for _, line := range lines {
			_, _ = w.Write(append(line, '\n'))
		}
		_ = out.Flush()
		select {
		case <-changed:
		case <-beat.C:
			_, _ = w.Write([]byte("{}\n"))
		case <-r.Context().Done():
			return
		}
	}
}

// lines are the wanted events from an index on.
func (s *Server) lines(from uint64, namespace string, topics []string) (lines [][]byte) {
	type batch struct {
		Index  uint64
		Events []event
	}
	var now *batch
	flush := func() {
		if now != nil {
			text, _ := json.Marshal(now) // made of what emit has encoded before
			lines = append(lines, text)
			now = nil
		}
	}
	for _, e := range s.events {
		if e.Index < from || !wanted(e, namespace, topics) {
			continue
		}
		if now == nil || now.Index != e.Index {
			flush()
			now = &batch{Index: e.Index}
		}
		now.Events = append(now.Events, e)
	}
	flush()
	return lines
}
