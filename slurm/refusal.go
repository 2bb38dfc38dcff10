package slurm

import (
	"strings"

	"github.com/penstock/penstock/scheduler/cluster"
)

// lostWords are what sbatch says when it has lost slurmctld: the job may or may not be there.
var lostWords = []string{
	"Unable to contact slurm controller", "Socket timed out", "Zero Bytes were transmitted", "Connection refused", "Connection reset",
	"Communication connection failure", "Communication shut down", "Message receive failure", "Message send failure", "Receive timeout",
	"Transport endpoint is not connected", "Unexpected message received", "Unspecified error", "backup controller", "standby mode",
	"temporarily unable to accept job", "Resource temporarily unavailable", "Connection timed out", "No route to host",
	"Broken pipe", "Insane message length", "unable to resolve", "failed to fetch remote configs",
}

// fixes are what helps against refusals, by Slurm's words.
var fixes = []struct{ words, fix string }{
	{"nvalid partition", "correct slurm.partition; `sinfo -s` lists the partitions"},
	{"o partition specified", "set slurm.partition; `sinfo -s` lists the partitions"},
	{"group not permitted to use this partition", "choose another slurm.partition; this one is not open to you"},
	{"nvalid account", "correct slurm.account; `sacctmgr show associations user=$USER` lists yours"},
	{"nvalid qos", "correct slurm.qos; `sacctmgr show associations user=$USER format=account,qos` lists yours"},
	{"time limit is invalid", "correct slurm.time; `sinfo -o '%P %l'` lists the partitions' limits"},
	{"time limit exceeds", "lower slurm.time; `sinfo -o '%P %l'` lists the partitions' limits"},
	{"nvalid generic resource", "correct roles.ROLE.gpus, or slurm.gpuOption; `sinfo -o '%P %G'` lists what there is"},
	{"nvalid GRES", "correct roles.ROLE.gpus, or slurm.gpuOption; `sinfo -o '%P %G'` lists what there is"},
	{"nvalid Trackable RESource", "correct roles.ROLE.gpus, or slurm.gpuOption; `sinfo -o '%P %G'` lists what there is"},
	{"node configuration is not available", "no node has what is asked for: see roles.ROLE.gpus, cpus, memory, and slurm.constraint; `penstock nodes` lists what there is"},
	{"nvalid feature specification", "correct slurm.constraint; `sinfo -o '%P %f'` lists the features"},
	{"Node count specification invalid", "lower roles.ROLE.nodes, or choose another slurm.partition"},
	{"More processors requested than permitted", "lower roles.ROLE.cpus or nodes"},
	{"CPU count per node can not be satisfied", "lower roles.ROLE.cpus"},
	{"emory specification can not be satisfied", "lower roles.ROLE.memory"},
	{"eservation is invalid", "correct slurm.reservation; `scontrol show reservation` lists them"},
	{"policy", "a limit of your account or QOS is reached; `sacctmgr show qos` and `squeue --me` show which"},
	{"ob dependency problem", "the job that it was to follow is not known to Slurm"},
	{"unrecognized option", "correct slurm.sbatch; `sbatch --help` lists the options of this release"},
	{"invalid option", "correct slurm.sbatch; `sbatch --help` lists the options of this release"},
	{"not found", ""},
	{"Access/permission denied", "ask the site who may submit, and where"},
	{"submit limit", "wait for other jobs of yours to end"},
}

// fixFor is what helps, to stand behind Slurm's words.
func fixFor(words string, s cluster.Submission) string {
	for _, f := range fixes {
		if strings.Contains(words, f.words) && f.fix != "" {
			return "; " + strings.ReplaceAll(f.fix, "ROLE", string(s.Launch.Role))
		}
	}
	return ""
}
