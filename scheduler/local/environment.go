package local

import (
	"slices"
	"strconv"
	"strings"
)

// Names of the variables that jobs get beside the allowed ones. None holds a secret.
const (
	EnvLaunch = "PENSTOCK_LAUNCH"  // launch token
	EnvRun    = "PENSTOCK_RUN"     // nonce of the run, the same for all ranks
	EnvRank   = "PENSTOCK_RANK"    // rank in the job
	EnvLock   = "PENSTOCK_LOCK"    // path for HoldLock
	EnvEndsAt = "PENSTOCK_ENDS_AT" // when the job's time is over, in seconds since 1970; not set where it has no limit

	envShim = "PENSTOCK_LOCAL_JOB" // job/rank; in shims only, which carry none of the others, so that no sweep ends them
)

// allowed are the variables that jobs inherit; a star at the end stands for anything.
var allowed = strings.Fields("PATH HOME USER LOGNAME LANG LC_* TZ TMPDIR LD_LIBRARY_PATH XDG_RUNTIME_DIR " +
	"CUDA_* NVIDIA_* NCCL_* HF_HOME")

// Environment returns the entries of environ that jobs may inherit. Nothing else of the controller's passes, and so
// neither does a secret that its environment happens to hold.
func Environment(environ []string) (kept []string) {
	for _, entry := range environ {
		name, _, ok := strings.Cut(entry, "=")
		if ok && slices.ContainsFunc(allowed, func(a string) bool {
			prefix, star := strings.CutSuffix(a, "*")
			return name == a || star && strings.HasPrefix(name, prefix)
		}) {
			kept = append(kept, entry)
		}
	}
	return kept
}

// environ are the variables that carry the mark.
func (m mark) environ() []string {
	return []string{EnvLaunch + "=" + m.Launch, EnvRun + "=" + m.Run, EnvRank + "=" + m.Rank}
}

func rankName(rank int) string { return strconv.Itoa(rank) }
