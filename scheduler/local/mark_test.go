package local

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMarkMatches(t *testing.T) {
	t.Parallel()
	rank1 := mark{Launch: "l", Run: "r", Rank: "1"}
	shim1 := mark{shim: "l.r/1"}
	tests := []struct {
		ask, got mark
		want     bool
	}{
		{mark{Launch: "l", Run: "r"}, rank1, true},
		{mark{Launch: "l", Run: "r", Rank: "1"}, rank1, true},
		{mark{Launch: "l", Run: "r", Rank: "2"}, rank1, false},
		{mark{Launch: "l", Run: "other"}, rank1, false},
		{mark{Launch: "l", Run: "r"}, shim1, false},
		{mark{shim: "l.r"}, shim1, true},
		{mark{shim: "l.r/1"}, shim1, true},
		{mark{shim: "l.r/10"}, shim1, false},
		{mark{shim: "l"}, shim1, false},
		{mark{shim: "l.r"}, rank1, false},
	}
	for _, tt := range tests {
		if got := tt.ask.matches(tt.got); got != tt.want {
			t.Errorf("%+v matches %+v: %v", tt.ask, tt.got, got)
		}
	}
}

// TestSearchMissesNothing looks again and again for a process that becomes another program all the time: it carries the mark,
// or shows nothing for now, but never seems not to be there.
func TestSearchMissesNothing(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "again")
	syscall.ForkLock.RLock() // a child forked meanwhile would hold the program open for writing: "text file busy"
	err := os.WriteFile(file, []byte("#!/bin/sh\nexec \"$0\"\n"), 0o700)
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
	m := mark{Launch: "again", Run: newRun(), Rank: "0"}
	cmd := exec.Command(file)
	cmd.Env = m.environ()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	seen := 0
	for range 80 {
		list, veiled, err := search(m, 0)
		if err != nil || len(list) == 0 && !veiled {
			t.Fatalf("after %d looks: %v, veiled %v, %v", seen, list, veiled, err)
		}
		seen += len(list)
	}
	if seen == 0 {
		t.Error("the mark never showed")
	}
}

func TestParseStat(t *testing.T) {
	t.Parallel()
	// 14 fields stand between the number of threads and the end of the environment, among them addresses.
	line := func(state, flags, threads, envEnd string) string {
		return "7 (a) b) (c) " + state + " 3 7 7 0 -1 " + flags + " 0 0 0 0 1 1 0 0 20 0 " + threads + " " +
			strings.Repeat("1 ", 30) + envEnd + " 0"
	}
	for text, want := range map[string]stat{
		line("S", "0", "1", "140"):     {parent: 3, loaded: true},
		line("R", "4", "1", "140"):     {parent: 3, loaded: true, ending: true},
		line("R", "0", "1", "0"):       {parent: 3},
		line("I", "2129984", "1", "0"): {parent: 3, loaded: true},
		line("Z", "4", "1", "0"):       {parent: 3, dead: true, ending: true},
		line("Z", "0", "2", "140"):     {parent: 3, loaded: true},
		"":                             {dead: true},
		"7 (cut off":                   {dead: true},
		"7 (cut) S 3":                  {dead: true},
	} {
		if got := parseStat([]byte(text)); got != want {
			t.Errorf("%q: %+v, want %+v", text, got, want)
		}
	}
}

func TestRoots(t *testing.T) {
	t.Parallel()
	got := roots([]found{{pid: 10, parent: 1}, {pid: 11, parent: 10}, {pid: 12, parent: 11}, {pid: 20, parent: 0}})
	var pids []int
	for _, p := range got {
		pids = append(pids, p.pid)
	}
	if d := cmp.Diff([]int{10, 20}, pids); d != "" {
		t.Error(d)
	}
}

func FuzzParseMark(f *testing.F) {
	f.Add("PENSTOCK_LAUNCH=l\x00PENSTOCK_RUN=r\x00PENSTOCK_RANK=0\x00")
	f.Add("PENSTOCK_RUN=r\x00PENSTOCK_LAUNCH")
	f.Add("PENSTOCK_LAUNCH=l\x00PENSTOCK_LAUNCH=m\x00PENSTOCK_RUN=r")
	f.Add("PENSTOCK_LOCAL_JOB=a.b/0\x00\x00=")
	f.Fuzz(func(t *testing.T, environ string) {
		m, ok := parseMark([]byte(environ))
		if ok != (m.shim != "" || m.Launch != "" && m.Run != "") {
			t.Errorf("mark %+v, ok %v", m, ok)
		}
		for name, value := range map[string]string{EnvLaunch: m.Launch, EnvRun: m.Run, EnvRank: m.Rank, envShim: m.shim} {
			if value != "" && !strings.Contains(environ, name+"="+value) || strings.Contains(value, "\x00") {
				t.Errorf("%s=%q is not in %q", name, value, environ)
			}
		}
	})
}
