package faults

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// row is what a fault came to.
type row struct {
	number int
	fault  string

	sent, completed    int
	open, cut          int // in the middle of their answer at the fault; of those: their replica changed
	continued          int // of completed: begun by one replica and ended by another
	refused            int // with an error that says what to do
	broken             int // ended with the gateway that they went through
	lost               int
	altered, doubled   int
	downtime           time.Duration // longest, without a ready replica
	orphans, openPorts int
}

// verify fails the test for what must not be.
func (r row) verify(t *testing.T) {
	t.Helper()
	for _, c := range []struct {
		what string
		n    int
	}{
		{"lost", r.lost}, {"altered", r.altered}, {"doubled", r.doubled}, {"orphans", r.orphans}, {"open ports left", r.openPorts},
	} {
		if c.n > 0 {
			t.Errorf("%d %s", c.n, c.what)
		}
	}
}

const (
	tableHead = "| # | fault | sent | completed | in the middle | of them cut | continued | refused, clearly | ended with their gateway | lost | altered | doubled | longest without a ready replica | orphans | open ports left |\n"
	tableRule = "|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n"
)

func (r row) String() string {
	return fmt.Sprintf("| %d | %s | %d | %d | %d | %d | %d | %d | %d | %d | %d | %d | %.2f s | %d | %d |\n", r.number, r.fault, r.sent, r.completed,
		r.open, r.cut, r.continued, r.refused, r.broken, r.lost, r.altered, r.doubled, r.downtime.Seconds(), r.orphans, r.openPorts)
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

const preface = `# Faults under content-checked streams

Made by ` + "`go test ./tests/faults -count=1 -update`" + ` on %d CPUs, with the real program and simulated engines. Every answer is
compared with what the engine's model says to its prompt (package agent/engine/sim, asked directly); every completed
request must be in the usage files once, with its tokens.

"In the middle" are requests whose answer was on its way at the fault; "cut" are those of them whose replica changed: half
of them at least, where replicas are hit. "Continued" are all whose answer one replica began and another ended; answers in
one piece are begun anew instead. Lost, altered, doubled and the last two columns must be 0, or the test fails.

`

func (tb *table) markdown() string {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	slices.SortFunc(tb.rows, func(a, b row) int { return strings.Compare(a.key(), b.key()) })
	var b strings.Builder
	fmt.Fprintf(&b, preface, runtime.NumCPU())
	b.WriteString(tableHead + tableRule)
	for _, r := range tb.rows {
		b.WriteString(r.String())
	}
	return b.String()
}

func (r row) key() string { return fmt.Sprintf("%03d %s", r.number, r.fault) }
