package jobspecs

import (
	"slices"
	"strings"
)

// ownedBySlurmSection are options of sbatch that Penstock sets itself, and where the file says what they say; "" = nowhere,
// with the reason in sbatchReasons.
var ownedBySlurmSection = map[string]string{
	"partition": "slurm.partition", "account": "slurm.account", "qos": "slurm.qos", "time": "slurm.time",
	"constraint": "slurm.constraint", "reservation": "slurm.reservation",
	"nodes": "roles.ROLE.nodes", "cpus-per-task": "roles.ROLE.cpus", "mem": "roles.ROLE.memory",
	"job-name": "", "export": "", "export-file": "", "get-user-env": "", "ntasks": "", "ntasks-per-node": "",
	"dependency": "", "signal": "", "output": "", "error": "", "input": "", "open-mode": "", "requeue": "", "no-requeue": "",
	"array": "", "chdir": "", "wrap": "", "parsable": "", "wait": "", "test-only": "", "clusters": "", "no-kill": "",
	"uid": "", "gid": "", "ignore-pbs": "", "help": "", "usage": "", "version": "", "verbose": "", "quiet": "",
}

// sbatchReasons say why an option that no field stands for cannot be had.
var sbatchReasons = map[string]string{
	"job-name":   "the job's name is the launch token, by which the job is found again",
	"export":     "nothing of the submitting shell's environment goes into jobs; engine.env sets variables",
	"ntasks":     "there is one agent on each node",
	"dependency": "Penstock decides which job waits for which",
	"signal":     "Penstock's agent is warned before the end of the job's time by a signal of its own",
	"output":     "the job's output goes into the state folder, where `penstock logs` finds it",
	"requeue":    "Penstock replaces a job that is lost by a new one",
	"array":      "each replica is a job of its own",
	"clusters":   "the controller sees one cluster only",
}

// sameReason sends an option to the reason of another one.
var sameReason = map[string]string{
	"export-file": "export", "get-user-env": "export", "ntasks-per-node": "ntasks", "error": "output", "input": "output",
	"open-mode": "output", "chdir": "output", "no-requeue": "requeue", "no-kill": "requeue",
}

// gpuOptions ask for cards, which roles.ROLE.gpus does, unless slurm.gpuOption is none.
var gpuOptions = []string{"gres", "gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket", "ntasks-per-gpu", "gpu-bind"}

// shortOptions are sbatch's one-letter options by their long names, as far as they matter here.
var shortOptions = map[byte]string{
	'p': "partition", 'A': "account", 'q': "qos", 't': "time", 'C': "constraint", 'N': "nodes", 'c': "cpus-per-task", 'J': "job-name",
	'n': "ntasks", 'd': "dependency", 'o': "output", 'e': "error", 'i': "input", 'a': "array", 'D': "chdir", 'W': "wait", 'M': "clusters",
	'G': "gpus", 'k': "no-kill", 'h': "help", 'V': "version", 'v': "verbose", 'Q': "quiet",
}

// SbatchOption is the long name of an option of sbatch: --exclude=a -> exclude, -x -> x.
func SbatchOption(option string) string {
	if long, ok := strings.CutPrefix(option, "--"); ok {
		name, _, _ := strings.Cut(long, "=")
		name, _, _ = strings.Cut(name, " ")
		return name
	}
	if len(option) < 2 {
		return option
	}
	if long, ok := shortOptions[option[1]]; ok {
		return long
	}
	return option[1:2]
}

// slurm refuses options of sbatch that would undo what Penstock sets.
func (c *checker) slurm(d Deployment) {
	for i, option := range d.Slurm.Sbatch {
		path := place{path: "slurm.sbatch"}.item(i).path
		if !c.clean(path) {
			continue
		}
		name := SbatchOption(option)
		field, owned := ownedBySlurmSection[name]
		switch {
		case owned && field != "":
			c.addf(path, "use "+field, "--%s is set by Penstock", name)
		case owned:
			c.addf(path, sbatchReason(name), "--%s is set by Penstock", name)
		case slices.Contains(gpuOptions, name) && d.Slurm.GPUOption != "none":
			c.addf(path, "use roles.ROLE.gpus; or set slurm.gpuOption: none, and ask for cards here", "--%s is set by Penstock", name)
		case strings.ContainsAny(option, "\n\r\x00"):
			c.addf(path, "write each option as one item", "an option is one line")
		}
	}
}

func sbatchReason(name string) string {
	if other, ok := sameReason[name]; ok {
		name = other
	}
	if reason, ok := sbatchReasons[name]; ok {
		return reason
	}
	return "leave it out"
}
