package nomad

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"
)

// result is how a story ended on one Nomad.
type result struct {
	name, measured string
	took           time.Duration
	failed         bool
}

// table is what the real Nomad did in this run.
type table struct {
	mu   sync.Mutex
	on   string
	rows []result
}

var results table

func (tb *table) note(w *world, name, measured string, took time.Duration) {
	if !w.live {
		return
	}
	tb.mu.Lock()
	defer tb.mu.Unlock()
	r := result{name, measured, took, w.Failed()}
	tb.rows = append(tb.rows, r)
	fmt.Print(r)
}

func (r result) String() string {
	verdict := "passed"
	if r.failed {
		verdict = "FAILED"
	}
	if r.took == 0 {
		verdict = "–"
	}
	return fmt.Sprintf("| %s | %s | %s | %.1f s | %s |\n", r.name, verdict, time.Now().UTC().Format("2006-01-02"), r.took.Seconds(), strings.ReplaceAll(r.measured, "|", "/"))
}

const preface = `# Penstock and what it relies on, on a real Nomad

Made by ` + "`NOMAD_BIN=... NOMAD_DEVICES=... go test ./tests/nomad -count=1 -timeout 60m -run Live -args -update`" + ` on %s,
on a machine with %d CPUs that was busy with other things too. A run of some of the tests replaces their rows only. The stories
of TestLive are told of the fake (nomad/nomadtest) too, by ` + "`make test`" + `.

`

const head = "| story | | date | took | measured |\n|---|---|---|--:|---|\n"

// write makes RESULTS.md, with the rows of stories that were not told now as they were. Without a live run there is nothing
// to write.
func (tb *table) write(name string) error {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	if len(tb.rows) == 0 {
		return fmt.Errorf("%s is made of a live run only: set NOMAD_BIN or NOMAD_ADDR", name)
	}
	old, _ := os.ReadFile(name)
	var b strings.Builder
	fmt.Fprintf(&b, preface, tb.on, runtime.NumCPU())
	b.WriteString(head)
	told := map[string]string{}
	for _, r := range tb.rows {
		told[r.name] = r.String()
	}
	for line := range strings.Lines(string(old)) {
		story, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " |")
		switch {
		case !strings.HasPrefix(line, "| ") || story == "story":
		case told[story] != "":
			b.WriteString(told[story])
			delete(told, story)
		default:
			b.WriteString(line)
		}
	}
	for _, r := range tb.rows {
		b.WriteString(told[r.name])
		delete(told, r.name)
	}
	return os.WriteFile(name, []byte(b.String()), 0o644)
}
