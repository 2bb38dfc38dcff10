package slurm

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// examined lists findings as "level check: text → fix".
func (f *fake) examined() (lines []string) {
	f.t.Helper()
	for _, x := range Examine(f.t.Context(), []string{"PATH=" + f.dir}) {
		lines = append(lines, string(x.Level)+" "+x.Check+": "+x.Text+" → "+x.Fix)
	}
	return lines
}

func newSite(t *testing.T) *fake {
	t.Helper()
	f := newFake(t)
	// Commands find bash's own commands by their full names, since the PATH holds Slurm's alone.
	for _, name := range []string{"sbatch", "squeue", "scancel", "sinfo", "sacct", "srun", "sacctmgr", "scontrol"} {
		f.write(name, "#!/bin/bash\nPATH=/usr/bin:/bin\n"+strings.TrimPrefix(command, "#!/bin/bash\n"))
		if err := os.Chmod(filepath.Join(f.dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	f.works("sinfo", site)
	f.works("scontrol", "Slurmctld(primary) at ctl is UP\nKillWait = 30 sec\nMinJobAge = 5 sec\nAccountingStorageType = accounting_storage/slurmdbd\n")
	f.works("sacctmgr", "proj42|normal,serving\nproj43|\nproj42|normal,serving\n")
	return f
}

func TestExamine(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		spoil func(f *fake)
		want  []string // each is in a line
	}{
		"all is well": {func(*fake) {}, []string{
			"ok KillWait: ", "ok partition gpu: default; at most 1d; 4 nodes of 32 CPUs, 250 GiB, 8 nvidia_h100", "notice partition short: not up",
			"ok partition long: no time limit", "ok GPUs: types a100, nvidia_h100: write gpus: {count: N, type: nvidia_h100}",
			"ok accounts: proj42 (QOS normal,serving), proj43: choose by slurm.account",
		}},
		"slurmctld is down": {func(f *fake) {
			f.works("scontrol", "Slurmctld(primary) at ctl is DOWN\n")
			f.write("scontrol.rc", "1")
		}, []string{"problem slurmctld: Slurmctld(primary) at ctl is DOWN"}},
		"no cluster": {func(f *fake) {
			f.works("scontrol", "")
			f.fails("scontrol", "Could not establish a configuration source")
		}, []string{"notice slurmctld: this host belongs to no Slurm cluster"}},
		"no accounting, a short memory and a short KillWait": {func(f *fake) {
			f.works("scontrol", "Slurmctld(primary) at ctl is UP\nKillWait = 5 sec\nMinJobAge = 5 sec\nAccountingStorageType = accounting_storage/none\n")
		}, []string{"notice KillWait: ", "notice MinJobAge: Slurm forgets ended jobs after 5s", "notice accounting: there is none"}},
		"nothing up":      {func(f *fake) { f.works("sinfo", strings.ReplaceAll(site, "\x1fup\x1f", "\x1fdown\x1f")) }, []string{"problem partitions: no partition is up"}},
		"answers rubbish": {func(f *fake) { f.works("sinfo", "gpu up and so on") }, []string{"unknown partitions: "}},
		"a part of it":    {func(f *fake) { _ = os.Remove(filepath.Join(f.dir, "srun")) }, []string{"problem slurm commands: not on the PATH: srun"}},
		"accounts closed": {func(f *fake) { f.fails("sacctmgr", "Access denied") }, []string{"unknown accounts: sacctmgr: Access denied"}},
	} {
		f := newSite(t)
		test.spoil(f)
		got := f.examined()
		for _, want := range test.want {
			if !slices.ContainsFunc(got, func(line string) bool { return strings.HasPrefix(line, want) }) {
				t.Errorf("%s: no %q in\n%s", name, want, strings.Join(got, "\n"))
			}
		}
		for _, changes := range []string{"sbatch", "scancel", "srun"} {
			if asked := f.asked(changes); len(asked) > 0 {
				t.Errorf("%s: %s was run: %q", name, changes, asked)
			}
		}
	}
	if got := Examine(t.Context(), []string{"PATH=/nowhere"}); len(got) != 1 || got[0].Level != Notice {
		t.Errorf("without Slurm: %+v", got)
	}
}
