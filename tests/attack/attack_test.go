// Package attack lets a second Unix user of the same machine try everything it can against an installation of another
// one. The installation is an ordinary user's, since one of root's would hide what only permissions keep out; the attacker
// shares its primary group, its folder for temporary files and the machine's loopback, and has an installation of its own.
// The victim's umask is 0000: nothing may hang on it.
//
// Every attack is a subtest that prints what was tried. What an attack tries as the attacker, it first tries as the victim
// where it can: an attack that nobody could carry out proves nothing.
package attack

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/penstock/penstock/tests/installation"
)

// TestMain is the attacker, where the test has started itself as one.
func TestMain(m *testing.M) {
	if name := os.Getenv(trickEnv); name != "" {
		os.Exit(playTrick(name))
	}
	code := m.Run()
	installation.RemoveBuild()
	os.Exit(code)
}

// TestSecondUser is the whole siege. The attacks come one after the other: what one does must not explain another's result.
func TestSecondUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to run as two other users")
	}
	s := newSiege(t)
	for _, a := range []struct {
		name string
		try  func(*testing.T, *siege)
	}{
		{"files", attackFiles},
		{"processes", attackProcesses},
		{"secrets in sight", searchSecrets},
		{"unix sockets", attackSockets},
		{"ports", listPorts},
		{"data ports of agents", attackAgents},
		{"ranks of an engine", attackRanks},
		{"controller without a certificate", attackController},
		{"controller with another certificate", attackControllerDisguised},
		{"join and enroll", attackTokens},
		{"floods without a key", attackWithFloods},
		{"gateway without a key", attackGateway},
		{"gateway with another key", attackAsTenant},
		{"gateway beyond loopback", attackBeyondLoopback},
		{"smuggled requests", smuggle},
		{"squatted folders", squatFolders},
		{"squatted settings", squatSettings},
		{"squatted port", squatPort},
		{"modes of all files", auditModes},
		{"secrets in sight, after all of that", searchSecrets},
		{"nothing was harmed", checkUnharmed},
	} {
		ok := t.Run(a.name, func(t *testing.T) { a.try(t, s) })
		s.verdicts = append(s.verdicts, verdict{a.name, s.tried, ok})
		s.tried = 0
	}
	t.Log(s.table())
}

// verdict is one line of the table at the end.
type verdict struct {
	name  string
	tried int
	held  bool
}

func (s *siege) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%-38s %7s  %s\n", "ATTACK", "TRIED", "RESULT")
	for _, v := range s.verdicts {
		result := "held"
		if !v.held {
			result = "HOLE"
		}
		fmt.Fprintf(&b, "%-38s %7d  %s\n", v.name, v.tried, result)
	}
	return b.String()
}
