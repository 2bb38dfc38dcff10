package cli

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
)

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for _, p := range pairs {
			if v, ok := strings.CutPrefix(p, name+"="); ok {
				return v
			}
		}
		return ""
	}
}

func TestAgentsPlaceInSlurm(t *testing.T) {
	t.Parallel()
	node := env("SLURM_JOB_ID=42", "SLURMD_NODENAME=gpu042", "SLURM_PROCID=2")
	for name, test := range map[string]struct {
		given  agentOptions
		getenv func(string) string
		want   agentOptions
		says   string
	}{
		"batch shell": {
			agentOptions{nodes: 4},
			env("SLURM_JOB_ID=42", "SLURMD_NODENAME=gpu042", "SLURM_PROCID=0"),
			agentOptions{nodes: 4, job: "42", node: "gpu042", slurm: slurmOptions{killWait: defaultKillWait}},
			"",
		},
		"third task of the step": {
			agentOptions{nodes: 4, slurm: slurmOptions{firstRank: 1, killWait: time.Minute}},
			node,
			agentOptions{nodes: 4, rank: 3, job: "42", node: "gpu042", slurm: slurmOptions{firstRank: 1, killWait: time.Minute}},
			"",
		},
		"by hand": {
			agentOptions{node: "n", job: "7"}, node, agentOptions{node: "n", job: "7", slurm: slurmOptions{killWait: defaultKillWait}}, "",
		},
		"outside":   {agentOptions{}, env(), agentOptions{}, "SLURM_JOB_ID"},
		"odd place": {agentOptions{}, env("SLURM_JOB_ID=42", "SLURM_PROCID=x"), agentOptions{}, "SLURM_PROCID"},
	} {
		got, err := test.given.fromSlurm(test.getenv)
		if test.says != "" {
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(agentOptions{}, slurmOptions{}, nomadOptions{})); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
}

func TestSlurmsSignals(t *testing.T) {
	t.Parallel()
	soon, later := time.Now().Add(2*time.Minute), time.Now().Add(5*time.Hour)
	for name, test := range map[string]struct {
		signal syscall.Signal
		endsAt time.Time
		within time.Duration
		drains bool
		now    bool
	}{
		"our own word":                    {syscall.SIGUSR1, soon, 0, true, false},
		"warning of a limit that we know": {syscall.SIGUSR2, soon, 0, false, false},
		"warning of a preemption":         {syscall.SIGUSR2, later, 0, true, false},
		"warning without a limit":         {syscall.SIGUSR2, time.Time{}, 0, true, false},
		"before KILL":                     {syscall.SIGTERM, later, 25 * time.Second, true, false},
		"interrupt":                       {syscall.SIGINT, later, 0, false, true},
	} {
		o := slurmOptions{killWait: 30 * time.Second, warning: 130 * time.Second}
		drained, ended := false, false
		o.obey(test.signal, test.endsAt, func(_ string, within time.Duration) {
			drained = true
			if within != test.within {
				t.Errorf("%s: drains within %s, want %s", name, within, test.within)
			}
		}, func() { ended = true }, zerolog.Nop())
		if drained != test.drains || ended != test.now {
			t.Errorf("%s: drains %v, ends at once %v", name, drained, ended)
		}
	}
	if got := (slurmOptions{killWait: 5 * time.Second}).grace(); got != 4*time.Second {
		t.Errorf("of 5s a drain gets %s", got)
	}
}

// TestRuntimeFolderOfASlurmJob: the login environment's folders may be missing on a node, or too long for sockets.
func TestRuntimeFolderOfASlurmJob(t *testing.T) {
	dir := t.TempDir()
	given := func(origin string) resolved { return resolved{[]value{{"runtimeDir", "/given", origin}}} }
	if got := slurmRuntimeDir(given("flag --runtime-dir"), env("XDG_RUNTIME_DIR="+dir)); got != "/given" {
		t.Errorf("a folder that somebody has named: %s", got)
	}
	t.Setenv("TMPDIR", filepath.Join(dir, strings.Repeat("x", 60)))
	if got := slurmRuntimeDir(given("default"), env("XDG_RUNTIME_DIR=/run/user/not-there")); !strings.HasPrefix(got, "/tmp/penstock-") {
		t.Errorf("a long TMPDIR, and none of the user's own: %s", got)
	}
}
