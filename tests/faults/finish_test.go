package faults

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/penstock/penstock/tests/traffic"
)

// finish ends the traffic and the installation in good order, looks at what is left, and makes the row.
func (w *world) finish(number int, fault string) row {
	w.t.Helper()
	r := row{number: number, fault: fault}
	for _, tr := range w.streams {
		tr.End()
		if !tr.Dead.Load() {
			r.downtime = max(r.downtime, tr.Downtime())
		}
	}
	w.count(&r)
	w.checkUsage(&r)
	w.stopAll()
	for _, p := range w.orphans() {
		r.orphans++
		w.t.Errorf("process %d is left: %v", p.PID, p.Command)
	}
	for _, who := range w.leftPorts() {
		r.openPorts++
		w.t.Errorf("port is left open: %s", who)
	}
	for _, name := range w.leftSockets() {
		w.t.Errorf("unix socket is left: %s", name)
	}
	w.checkLogs()
	r.verify(w.t)
	results.add(r)
	return r
}

func (w *world) stopAll() {
	w.t.Helper()
	w.sockets = listening(w.Installation, w.sockets)
	w.must("stop", "--all", "--wait", "--timeout", "60s")
	for _, g := range w.gateways {
		_ = g.cmd.Process.Signal(syscall.SIGTERM)
	}
	w.must("serve", "--stop")
	for _, g := range w.gateways {
		<-g.ended
	}
}

// checkLogs fails the test where a process of ours has panicked or raced.
func (w *world) checkLogs() {
	w.t.Helper()
	for name, text := range w.logs() {
		for _, word := range []string{"panic", "fatal error", "DATA RACE"} {
			if strings.Contains(string(text), word) {
				w.t.Errorf("%s speaks of %q", name, word)
			}
		}
	}
}

// count sums up what became of the requests.
func (w *world) count(r *row) {
	w.t.Helper()
	for _, tr := range w.streams {
		for _, f := range tr.Flights() {
			r.sent++
			switch f.Verdict {
			case traffic.Complete:
				r.completed++
			case traffic.Refused:
				r.refused++
			case traffic.Broken:
				r.broken++
			case traffic.Lost:
				r.lost++
			case traffic.Altered:
				r.altered++
			case traffic.Doubled:
				r.doubled++
			}
			if !f.Open {
				continue
			}
			r.open++
			if f.Verdict == traffic.Complete && w.attempts(f.ID) > 1 {
				r.cut++
			}
		}
	}
}

// attempts is how many replicas worked on a request. Gateways hand records over in batches: it may take a moment.
func (w *world) attempts(id string) int {
	w.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		text, err := w.Run(w.ctx, "why", "--json", id)
		if err != nil && time.Now().Before(deadline) {
			continue
		}
		var got struct{ Record struct{ Attempts []any } }
		if err == nil {
			err = json.Unmarshal([]byte(text), &got)
		}
		if err != nil {
			w.t.Errorf("request %s: %v", id, err)
		}
		return len(got.Record.Attempts)
	}
}

// usageLine is what a request took, as the usage files have it.
type usageLine struct {
	ID         string
	Outcome    string
	Completion uint64 `json:"completion_tokens,string"`
}

// checkUsage looks for every completed request in the usage files: once, with its tokens.
func (w *world) checkUsage(r *row) {
	w.t.Helper()
	want := map[string]*traffic.Flight{}
	for _, tr := range w.streams {
		for _, f := range tr.Flights() {
			if f.Verdict == traffic.Complete {
				want[f.ID] = f
			}
		}
	}
	var lines map[string][]usageLine
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		lines = w.usage()
		missing := 0
		for id := range want {
			if len(lines[id]) == 0 {
				missing++
			}
		}
		if missing == 0 {
			break
		}
		if time.Now().After(deadline) {
			w.t.Errorf("%d of %d requests are not in the usage files", missing, len(want))
			break
		}
	}
	for id, f := range want {
		got := lines[id]
		if len(got) > 1 {
			w.t.Errorf("request %s is in the usage files %d times", id, len(got))
		}
		for _, l := range got {
			if l.Outcome == "continued" {
				r.continued++
			}
			if tokens := uint64(f.Prompt.Fields["max_tokens"].(int)); l.Completion != tokens {
				w.t.Errorf("request %s: usage of %d tokens, not of %d (%+v)", id, l.Completion, tokens, l)
			}
		}
	}
}

// usage reads the usage files.
func (w *world) usage() map[string][]usageLine {
	w.t.Helper()
	out := map[string][]usageLine{}
	names, _ := filepath.Glob(filepath.Join(w.State(), "usage", "*.jsonl"))
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			w.t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			var l usageLine
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				w.t.Errorf("%s: %v: %s", name, err, line)
			}
			out[l.ID] = append(out[l.ID], l)
		}
	}
	return out
}

// atLeastHalf fails the test where the fault has cut less than half of the requests that were in the middle, but for one,
// whose answer may have ended between the look at it and the fault.
func (w *world) atLeastHalf(r row) {
	w.t.Helper()
	if r.open == 0 || 2*(r.cut+1) < r.open {
		w.t.Errorf("the fault has cut %d of %d streams", r.cut, r.open)
	}
}
