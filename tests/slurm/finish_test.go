package slurm

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/penstock/penstock/tests/traffic"
)

// finish ends the traffic and the deployment in good order, looks at what is left on all nodes, and makes the row.
func (w *world) finish(number int, fault, remark string) row {
	w.t.Helper()
	w.note("finish")
	r := row{number: number, fault: fault, remark: remark}
	w.tr.End()
	r.downtime = w.tr.Downtime()
	r.count(w.tr)
	w.checkUsage(&r)
	w.must("stop", "--all", "--wait", "--timeout", "90s")
	for _, stop := range w.gateways {
		stop()
	}
	w.must("serve", "--stop")
	w.checkLeft(&r)
	w.checkLogs()
	r.verify(w.t)
	results.add(r)
	return r
}

func (r *row) count(tr *traffic.Traffic) {
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
	}
}

// checkUsage looks for every completed request in the usage files: once.
func (w *world) checkUsage(r *row) {
	w.t.Helper()
	var lines map[string][]string
	missing := 0
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		lines, missing = w.usage(), 0
		for _, f := range w.tr.Flights() {
			if f.Verdict == traffic.Complete && len(lines[f.ID]) == 0 {
				missing++
			}
		}
		if missing == 0 || time.Now().After(deadline) {
			break
		}
	}
	if missing > 0 {
		w.t.Errorf("%d completed requests are not in the usage files", missing)
	}
	for id, outcomes := range lines {
		if len(outcomes) > 1 {
			r.doubled++
			w.t.Errorf("request %s is in the usage files %d times", id, len(outcomes))
		}
		if outcomes[0] == "continued" {
			r.continued++
		}
	}
}

// usage reads the outcomes of all requests from the usage files.
func (w *world) usage() map[string][]string {
	w.t.Helper()
	out := map[string][]string{}
	names, _ := filepath.Glob(filepath.Join(w.State(), "usage", "*.jsonl"))
	for _, name := range names {
		text, err := os.ReadFile(name)
		w.no(err)
		for line := range strings.Lines(string(text)) {
			var l struct{ ID, Outcome string }
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				w.t.Errorf("%s: %v: %s", name, err, line)
			}
			out[l.ID] = append(out[l.ID], l.Outcome)
		}
	}
	return out
}

// checkLeft looks for processes of Penstock on all machines and for jobs. Those that are about to end get a moment.
func (w *world) checkLeft(r *row) {
	w.t.Helper()
	var left []string
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		left = left[:0]
		for _, m := range w.bed.All() {
			for _, line := range m.CommandLines() {
				if strings.Contains(line, w.Binary) || strings.Contains(line, "slurm_script") {
					left = append(left, m.Name+": "+line)
				}
			}
		}
		if jobs := w.asRoot("squeue", "-h", "-o", "job %i %T"); jobs != "" {
			left = append(left, jobs)
		}
		if len(left) == 0 || time.Now().After(deadline) {
			break
		}
	}
	for _, l := range left {
		r.orphans++
		w.t.Errorf("left: %s", l)
	}
}

// checkLogs fails the test where a process of ours has panicked.
func (w *world) checkLogs() {
	w.t.Helper()
	_ = filepath.WalkDir(w.State(), func(path string, d os.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".log" {
			text, _ := os.ReadFile(path)
			for _, word := range []string{"panic", "fatal error"} {
				if strings.Contains(string(text), word) {
					w.t.Errorf("%s speaks of %q", path, word)
				}
			}
		}
		return nil
	})
}
