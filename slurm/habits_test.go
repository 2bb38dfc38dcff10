package slurm

import (
	"strings"
	"testing"

	"github.com/penstock/penstock/jobspecs"
)

func TestHabits(t *testing.T) {
	t.Parallel()
	d := jobspecs.Deployment{Slurm: jobspecs.Slurm{Partition: "gpu", QOS: "late"}}
	got, used, ignored := Habits(d, []string{
		"SBATCH_ACCOUNT=proj42", "SBATCH_PARTITION=cpu", "SBATCH_QOS=late", "SBATCH_EXPORT=ALL", "SBATCH_CONSTRAINT=a\nb", "SBATCH_RESERVATION=", "HOME=/x",
	})
	if got.Slurm.Account != "proj42" || got.Slurm.Partition != "gpu" || got.Slurm.QOS != "late" || got.Slurm.Constraint != "" || d.Slurm.Account != "" {
		t.Errorf("got %+v", got.Slurm)
	}
	if len(used) != 1 || used[0] != "slurm.account: proj42, from SBATCH_ACCOUNT" {
		t.Errorf("used %q", used)
	}
	if text := strings.Join(ignored, "\n"); len(ignored) != 3 || !strings.Contains(text, "the file says slurm.partition: gpu") || !strings.Contains(text, "SBATCH_EXPORT is not heeded") {
		t.Errorf("ignored %q", ignored)
	}
}
