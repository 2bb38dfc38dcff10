package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRoleLoggerWritesIntoAFile(t *testing.T) {
	t.Parallel()
	tt := newTerminal(t, nil)
	set, err := resolve(nil, tt.IO)
	if err != nil {
		t.Fatal(err)
	}
	var talk syncBuffer
	inv := &invocation{IO: tt.IO, set: set}
	inv.Err = &talk
	log, flush, err := inv.roleLogger("role.log")
	if err != nil {
		t.Fatal(err)
	}
	log.Info().Msg("hello")
	flush()
	path := filepath.Join(tt.Dir, "role.log")
	if text, err := os.ReadFile(path); err != nil || !strings.Contains(string(text), `"message":"hello"`) {
		t.Errorf("the file holds %q, %v", text, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("others can read the log: %v, %v", info, err)
	}
	if talk.String() != "" {
		t.Errorf("it went to stderr: %s", talk.String())
	}
	log, flush, err = inv.roleLogger("")
	if err != nil {
		t.Fatal(err)
	}
	log.Info().Msg("hello")
	flush()
	if !strings.Contains(talk.String(), "hello") {
		t.Error("without a file nothing goes to stderr")
	}
}

// TestLeadTo: only those standard descriptors follow a log file that lead to it already.
func TestLeadTo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	other, err := os.Create(filepath.Join(dir, "other"))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	inv := &invocation{IO: IO{Out: other, Err: log}}
	if fds := inv.leadTo(log.Name()); len(fds) != 1 || fds[0] != int(log.Fd()) {
		t.Errorf("got %v, want stderr's %d", fds, log.Fd())
	}
	if fds := inv.leadTo(filepath.Join(dir, "none")); fds != nil {
		t.Errorf("got %v for a file that is not there", fds)
	}
}

// TestSharedFileFollows: what another process puts aside is not written into any more.
func TestSharedFileFollows(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	w := sharedFile(path)
	write := func(text string) {
		if _, err := w.Write([]byte(text)); err != nil {
			t.Error(err)
		}
	}
	write("before\n")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	write("after\n")
	if text, _ := os.ReadFile(path); string(text) != "after\n" {
		t.Errorf("the newest file holds %q", text)
	}
}

// TestServeLogTellsOfThisStart: the log is kept over restarts, and what a start says is what it has added.
func TestServeLogTellsOfThisStart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "serve.log")
	for _, text := range []string{"first\n", "second\n"} {
		log, err := openServeLog(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := log.WriteString(text); err != nil {
			t.Fatal(err)
		}
		if got := log.last(); got != strings.TrimSpace(text) {
			t.Errorf("last said %q, want %q", got, text)
		}
		log.Close()
	}
	if text, _ := os.ReadFile(path); string(text) != "first\nsecond\n" {
		t.Errorf("it holds %q", text)
	}
}
