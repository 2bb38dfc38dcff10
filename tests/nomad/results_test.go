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
	return fmt.Sprintf("| %s | %s | %.1f s | %s |\n", r.name, verdict, r.took.Seconds(), r.measured)
}

const preface = `# Penstock and what it relies on, on a real Nomad

Made by ` + "`NOMAD_BIN=... go test ./tests/nomad -count=1 -timeout 60m -run TestLive -args -update`" + ` on %s, %s, on a machine
with %d CPUs that was busy with other things too. The same stories are told of the fake (nomad/nomadtest) by ` + "`make test`" + `.

| story | | took | measured |
|---|---|--:|---|
`

// write makes RESULTS.md; without a live run there is nothing to write.
func (tb *table) write(name string) error {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	if len(tb.rows) == 0 {
		return fmt.Errorf("%s is made of a live run only: set NOMAD_BIN or NOMAD_ADDR", name)
	}
	var b strings.Builder
	fmt.Fprintf(&b, preface, tb.on, time.Now().UTC().Format("2006-01-02"), runtime.NumCPU())
	for _, r := range tb.rows {
		b.WriteString(r.String())
	}
	return os.WriteFile(name, []byte(b.String()), 0o644)
}
