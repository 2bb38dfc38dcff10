package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDoctor: it finds what is in the way, says what to do, and makes nothing.
func TestDoctor(t *testing.T) {
	t.Parallel()
	tt := newTerminal(t, nil)
	dir := t.TempDir()
	state := filepath.Join(dir, "state")
	code, out, talk := tt.run("doctor", "--state-dir", state, "--runtime-dir", "/tmp/penstock-doctor-test")
	if code != 0 || !strings.Contains(out, "free space: ") || !strings.Contains(out, "no command of Slurm's is on the PATH") {
		t.Errorf("exit %d\n%s%s", code, out, talk)
	}
	if exists(state) || exists("/tmp/penstock-doctor-test") {
		t.Error("it has made folders")
	}
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(state, 0o755); err != nil {
		t.Fatal(err)
	}
	code, out, _ = tt.run("doctor", "--state-dir", state, "--runtime-dir", "/tmp/"+strings.Repeat("x", 80))
	for _, want := range []string{"problem  state folder: " + state + " is open to others (mode 0755): chmod 700", "problem  runtime folder: ", "bytes too long for unix sockets"} {
		if code != ExitError || !strings.Contains(out, want) {
			t.Errorf("exit %d, no %q in\n%s", code, want, out)
		}
	}
	_, out, _ = tt.run("doctor", "--json", "--state-dir", state)
	var doc struct {
		Schema   string
		Findings []struct{ Check, Level, Text, Fix string }
	}
	if err := json.Unmarshal([]byte(out), &doc); err != nil || doc.Schema != "penstock.doctor/v1" || len(doc.Findings) < 5 || doc.Findings[0].Text == "" {
		t.Errorf("%v, %+v", err, doc)
	}
}

func TestFilesystemOf(t *testing.T) {
	t.Parallel()
	if kind, shared, known := filesystemOf("/proc/../dev/shm/not/there"); known && (shared || !strings.Contains(kind, "memory") && !strings.Contains(kind, "container")) {
		t.Errorf("%s, shared %v", kind, shared)
	}
	if _, local := localFilesystem("relative/path/of/nothing"); local {
		t.Error("a path that leads nowhere is of this machine alone")
	}
}
