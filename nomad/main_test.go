package nomad

import (
	"encoding/json"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/penstock/penstock/scheduler/cluster/clustertest"
)

// TestMain is also the agent that the fake's clients start: its join file says how it behaves.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "agent" {
		os.Exit(agent())
	}
	goleak.VerifyTestMain(m)
}

// agent opens the ready port, and obeys or does not.
func agent() int {
	text, err := os.ReadFile(filepath.Join(os.Getenv("NOMAD_SECRETS_DIR"), "join.json"))
	if err != nil {
		return 70
	}
	var b clustertest.Behaviour
	if err := json.Unmarshal(text, &b); err != nil {
		return 71
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM)
	l, err := net.Listen("tcp", os.Getenv("NOMAD_ADDR_ready"))
	if err != nil {
		return 72
	}
	defer l.Close()
	switch {
	case b.Exit != nil && b.Exit.Signal != 0:
		_ = syscall.Kill(os.Getpid(), syscall.Signal(b.Exit.Signal))
		time.Sleep(time.Minute)
	case b.Exit != nil:
		return b.Exit.Code
	}
	for range signals {
		if !b.Stubborn {
			return 0
		}
	}
	return 73
}
