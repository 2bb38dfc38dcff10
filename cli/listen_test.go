package cli

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPortOfLastTime: a gateway comes back to its port; where somebody else has taken it, that is told, and the new one is
// kept from then on.
func TestPortOfLastTime(t *testing.T) {
	file := filepath.Join(t.TempDir(), portFile)
	open := func() (address, lost string) {
		l, lost, err := listenAgain("127.0.0.1", "0", file)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().String(), lost
	}
	first, lost := open()
	if lost != "" {
		t.Errorf("at the first start %s is lost", lost)
	}
	if again, lost := open(); again != first || lost != "" {
		t.Errorf("came back to %s, not to %s; lost %q", again, first, lost)
	}
	squatter, err := net.Listen("tcp", first)
	if err != nil {
		t.Fatal(err)
	}
	moved, lost := open()
	if moved == first || lost != first {
		t.Errorf("moved to %s, lost %q, expected to lose %s", moved, lost, first)
	}
	if err := squatter.Close(); err != nil {
		t.Fatal(err)
	}
	if again, lost := open(); again != moved || lost != "" {
		t.Errorf("came back to %s, not to %s; lost %q", again, moved, lost)
	}
	warning := clientsPort{url: "http://" + moved + "/v1", lost: first}.warning()
	if !strings.Contains(warning, first) || !strings.Contains(warning, moved) || (clientsPort{}).warning() != "" {
		t.Errorf("warning %q", warning)
	}
}

func TestPortOfNoName(t *testing.T) {
	dir := t.TempDir()
	l, lost, err := listenAgain("127.0.0.1", "0", ownPortFile(dir, ""))
	if err != nil || lost != "" {
		t.Fatal(lost, err)
	}
	l.Close()
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("%v, %v", entries, err)
	}
	if one, other := ownPortFile(dir, "a"), ownPortFile(dir, "b"); one == other || one == filepath.Join(dir, portFile) {
		t.Errorf("gateways share a file: %s, %s", one, other)
	}
}
