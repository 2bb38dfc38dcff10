package local

import (
	"strings"
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
