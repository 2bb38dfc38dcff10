package ledger

import (
	"path/filepath"
	"strconv"
	"strings"

	"github.com/penstock/penstock/scheduler/cluster"
)

const (
	termsDir       = "terms"
	intentDir      = "intent"
	quarantineDir  = "quarantine"
	deploymentsDir = "deployments"
	launchesDir    = "launches"
	stateFile      = "state.json"
	countersFile   = "counters.json"
	eventsFile     = "events.jsonl"
	oldEventsFile  = "events.jsonl.1"
	beatSuffix     = ".beat"
	jsonSuffix     = ".json"

	format    = 1
	maxRecord = 4 << 20
)

func number(n uint64) string { return strconv.FormatUint(n, 10) }

// parseNumber accepts what number writes.
func parseNumber(s string) (uint64, bool) {
	n, err := strconv.ParseUint(s, 10, 64)
	return n, err == nil && n > 0 && number(n) == s
}

func (l *Ledger) termPath(term uint64) string {
	return filepath.Join(l.dir, termsDir, number(term))
}

func (l *Ledger) intentPath(term uint64) string {
	return filepath.Join(l.dir, intentDir, number(term))
}

func launchPath(root string, id cluster.LaunchID) string {
	return filepath.Join(root, launchesDir, string(id)+jsonSuffix)
}

func statePath(root, deployment string) string {
	return filepath.Join(root, deploymentsDir, deployment, stateFile)
}

func revisionName(n int) string { return "revision-" + strconv.Itoa(n) + ".yaml" }

func revisionPath(root, deployment string, n int) string {
	return filepath.Join(root, deploymentsDir, deployment, revisionName(n))
}

// revisionNumber is the inverse of revisionName.
func revisionNumber(name string) (int, bool) {
	s, ok := strings.CutPrefix(name, "revision-")
	s, ok2 := strings.CutSuffix(s, ".yaml")
	n, err := strconv.Atoi(s)
	return n, ok && ok2 && err == nil && n > 0 && revisionName(n) == name
}

// validName keeps names of deployments and launches fit for files: [a-z0-9-], at most 40.
func validName(s string) bool {
	return s != "" && len(s) <= 40 && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-')
	})
}
