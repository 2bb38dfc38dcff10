package agent

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain lets the test binary play an engine or an agent of its own: the agent under test, or a benchmark, starts it as
// one.
func TestMain(m *testing.M) {
	if play := os.Getenv(envEngine); play != "" {
		os.Exit(playEngine(play, os.Args[1:]))
	}
	if len(os.Args) > 2 && os.Args[1] == "engine" && os.Args[2] == "sim" {
		os.Exit(playSim(os.Args[3:]))
	}
	if join := os.Getenv(envAgent); join != "" {
		os.Exit(playAgent(join))
	}
	goleak.VerifyTestMain(m)
}
