package agent

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain lets the test binary play an engine: the agent under test starts it as one.
func TestMain(m *testing.M) {
	if play := os.Getenv(envEngine); play != "" {
		os.Exit(playEngine(play, os.Args[1:]))
	}
	goleak.VerifyTestMain(m)
}
