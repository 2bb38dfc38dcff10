package slurm

import (
	"cmp"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock/penstock/tests/slurm/testbed"
)

// row is what a fault came to.
type row struct {
	number int
	fault  string

	sent, completed int
	continued       int // of completed: begun by one replica and ended by another
	refused         int // with an error that says what to do
	broken          int // ended with the gateway that they went through
	lost            int
	altered         int
	doubled         int
	downtime        time.Duration // longest, without a ready replica
	orphans         int           // processes and jobs
	remark          string        // what else was measured
}

// verify fails the test for what must not be.
func (r row) verify(t *testing.T) {
	t.Helper()
	for _, c := range []struct {
		what string
		n    int
	}{{"lost", r.lost}, {"altered", r.altered}, {"doubled", r.doubled}, {"orphans", r.orphans}} {
		if c.n > 0 {
			t.Errorf("%d %s", c.n, c.what)
		}
	}
}

const (
	tableHead = "| # | fault | sent | completed | continued | refused, clearly | ended with their gateway | lost | altered | doubled | longest without a ready replica | orphans | measured besides |\n"
	tableRule = "|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|\n"
)

func (r row) String() string {
	return fmt.Sprintf("| %d | %s | %d | %d | %d | %d | %d | %d | %d | %d | %.2f s | %d | %s |\n", r.number, r.fault, r.sent, r.completed,
		r.continued, r.refused, r.broken, r.lost, r.altered, r.doubled, r.downtime.Seconds(), r.orphans, r.remark)
}

// table is all rows of this run.
type table struct {
	mu   sync.Mutex
	rows []row
}

var results table

func (tb *table) add(r row) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	tb.rows = append(tb.rows, r)
	fmt.Print(tableHead, tableRule, r)
}

const preface = `# Faults on a real Slurm under content-checked streams

Made by ` + "`go test ./tests/slurm -count=1 -timeout 60m -parallel 4 -skip TestConforms -args -faults all -update`" + ` on %d CPUs, as root, with the real program,
simulated engines and Slurm %s on beds of %d nodes (tests/slurm/testbed), everything of Penstock as an ordinary user. Slurm's
own timers are short there (SlurmdTimeout 20 s, KillWait 5 s). Every answer is compared with what the engine's model says to
its prompt; every completed request must be in the usage files once. Lost, altered, doubled and orphans (processes of Penstock
on any node and jobs after ` + "`penstock stop`" + `) must be 0, or the test fails.

`

func (tb *table) markdown() string {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	slices.SortFunc(tb.rows, func(a, b row) int {
		return cmp.Or(cmp.Compare(a.number, b.number), strings.Compare(a.fault, b.fault))
	})
	var b strings.Builder
	fmt.Fprintf(&b, preface, runtime.NumCPU(), cmp.Or(*release, "22.05"), testbed.Nodes)
	b.WriteString(tableHead + tableRule)
	for _, r := range tb.rows {
		b.WriteString(r.String())
	}
	return b.String()
}
