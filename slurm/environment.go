package slurm

import (
	"slices"
	"strings"
)

// passed are the variables that Slurm's commands inherit: where Slurm is, and who asks. All others stay behind, among them
// SBATCH_*, SQUEUE_*, SALLOC_* and SLURM_*, by which a user's shell would change what the commands do and print.
var passed = strings.Fields("PATH HOME USER LOGNAME LD_LIBRARY_PATH TMPDIR TZ " +
	"SLURM_CONF SLURM_CONF_SERVER SLURM_JWT KRB5CCNAME XDG_RUNTIME_DIR MUNGE_SOCKET")

// own are the variables by which answers are the same everywhere: English, and times in seconds since 1970.
var own = []string{"LC_ALL=C", "SLURM_TIME_FORMAT=%s"}

// environment chooses from the controller's environment.
func environment(environ []string) []string {
	kept := slices.Clone(own)
	for _, entry := range environ {
		if name, _, ok := strings.Cut(entry, "="); ok && slices.Contains(passed, name) {
			kept = append(kept, entry)
		}
	}
	return kept
}
