package faults

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/penstock/penstock/tests/installation"
)

// socketOf is where an engine listens.
func socketOf(p installation.Process) string {
	for i, arg := range p.Command {
		if arg == "--uds" && i+1 < len(p.Command) {
			return p.Command[i+1]
		}
	}
	return ""
}

// head finds the engine process of a replica that answers, which is that of rank 0.
func (w *world) head(launch string) installation.Process {
	w.t.Helper()
	for _, p := range w.Find(launch, "engine", "sim") {
		if socketOf(p) != "" {
			return p
		}
	}
	w.t.Fatalf("launch %s has no engine that listens", launch)
	return installation.Process{}
}

// fail switches failures of a replica's engine on.
func (w *world) fail(launch string, failures ...string) {
	w.t.Helper()
	body, err := json.Marshal(map[string][]string{"set": failures})
	if err != nil {
		w.t.Fatal(err)
	}
	resp, err := unixClient(socketOf(w.head(launch))).Post("http://engine/sim/fail", "application/json", bytes.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		w.t.Fatalf("failures %v: %s: %s", failures, resp.Status, text)
	}
}

// engine is a replica and the process of its engine that answers.
type engine struct {
	installation.Replica
	process installation.Process
}

// survey finds the engines of a deployment's replicas that are ready. It takes its time; what is asked in the middle of streams must not.
func (w *world) survey(name string) map[string]engine {
	w.t.Helper()
	out := map[string]engine{}
	for _, r := range w.replicas(name) {
		if r.State == "ready" { // a successor may be on its way
			out[r.Launch] = engine{r, w.head(r.Launch)}
		}
	}
	return out
}

// busiest is the replica with the most requests among those that there were before the traffic.
func (w *world) busiest() installation.Replica {
	w.t.Helper()
	var found installation.Replica
	most := -1
	for _, e := range w.engines {
		if n := w.running(e); n > most {
			most, found = n, e.Replica
		}
	}
	return found
}

// running is how many requests an engine works on, by its own count.
func (w *world) running(e engine) int { w.t.Helper(); return w.metric(e, "vllm:num_requests_running") }

// metric reads one of an engine's own metrics.
func (w *world) metric(e engine, name string) int {
	w.t.Helper()
	resp, err := unixClient(socketOf(e.process)).Get("http://engine/metrics")
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && (key == name || strings.HasPrefix(key, name+"{")) {
			n, _ := strconv.ParseFloat(value, 64)
			return int(n)
		}
	}
	w.t.Fatalf("the engine of launch %s has no metric %s:\n%s", e.Launch, name, text)
	return 0
}
