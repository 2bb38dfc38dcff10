package render

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/penstock/penstock/jobspecs"
)

// SlurmAllocation is a deployment in one Slurm allocation, with controller and gateway in it. Paths are absolute and the
// same on all nodes.
type SlurmAllocation struct {
	Deployment jobspecs.Deployment
	Text       string // of the deployment file, as the script carries it
	Penstock   string // the program
	// Root is the folder with the state of all jobs of this script, on a filesystem that the nodes share.
	Root string

	// Nodes is how many, and CPUs, Memory and GPUs are of each, as package place has worked them out; 0 CPUs or bytes = the
	// site's default.
	Nodes, GPUs, CPUs int
	Memory            uint64
	GPUType           string // Slurm's own word; empty = the deployment's
}

// Allocation is the batch script of a whole deployment, for a person to read, edit and hand to sbatch, as often as they
// like. Everything that tells one job of it from another is made when the job starts.
//
// The keepers are started by one srun. Slurm sends TERM to that srun too, which would then kill all that it has started
// at once; so `penstock serve` ends it by force as soon as every node is there, and what it has started lives on as what it
// is to Slurm: a step of the job.
func Allocation(a SlurmAllocation) (string, error) {
	d := a.Deployment
	options := a.options()
	for _, o := range append(options, a.Penstock, a.Root) {
		if strings.ContainsAny(o, "\n\r\x00") {
			return "", fmt.Errorf("render the allocation: %q does not fit on one line", o)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "#!/bin/bash\n# Deployment %s in one Slurm allocation: %s.\n", d.Name, a.contents())
	b.WriteString("# Submit it as it is or edited, as often as you like, at the same time too. Nothing here is secret.\n")
	for _, o := range options {
		b.WriteString("#SBATCH " + directive(o) + "\n")
	}
	fmt.Fprintf(&b, "\numask 077\npenstock=%s\nroot=%s # state: keys, revisions, usage; one folder for each job that runs at a time\n",
		quote(a.Penstock), quote(a.Root))
	b.WriteString("job=$root/jobs/$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}\nmkdir -p \"$job\" || exit\n")
	a.carry(&b)
	endTime(&b)
	slurmSetup(&b, d.Slurm.Setup)
	b.WriteString(allocationBody)
	return b.String(), nil
}

// contents says in the head of the script what the job holds.
func (a SlurmAllocation) contents() string {
	var roles []string
	for _, kind := range jobspecs.RoleKinds {
		if r, ok := a.Deployment.Roles[kind]; ok {
			roles = append(roles, fmt.Sprintf("%d %s", r.Replicas, kind))
		}
	}
	where := count(a.Nodes, "node")
	if a.GPUs > 0 {
		where += " with " + count(a.GPUs, "GPU")
		if a.Nodes > 1 {
			where += " each"
		}
	}
	return where + " for " + strings.Join(roles, " and ")
}

// options are those of sbatch, Penstock's first and the user's last.
func (a SlurmAllocation) options() []string {
	list := sbatchOptions{"--job-name=penstock-" + a.Deployment.Name}
	list.addSite(a.Deployment.Slurm)
	list = append(list, "--nodes="+strconv.Itoa(a.Nodes), "--ntasks-per-node=1")
	list.addSize(a.CPUs, a.Memory)
	one := SlurmJob{Deployment: a.Deployment, GPUType: a.GPUType}
	list = append(list, one.gpus(jobspecs.Role{GPUs: jobspecs.GPURequest{Count: a.GPUs, Type: a.gpuType()}})...)
	list.addWarning(a.Deployment)
	// One lost node does not end the others; a job that is put back into the queue goes on with the same state.
	list = append(list, "--no-kill", "--requeue", "--export=NONE", "--open-mode=append")
	return append(list, a.Deployment.Slurm.Sbatch...)
}

// gpuType is the type that the roles ask for.
func (a SlurmAllocation) gpuType() string {
	for _, kind := range jobspecs.RoleKinds {
		if r := a.Deployment.Roles[kind]; r.GPUs.Type != "" {
			return r.GPUs.Type
		}
	}
	return ""
}

// carry writes the deployment file into the script.
func (a SlurmAllocation) carry(b *strings.Builder) {
	mark := "END_OF_DEPLOYMENT"
	for strings.Contains("\n"+a.Text+"\n", "\n"+mark+"\n") {
		mark += "_"
	}
	fmt.Fprintf(b, "\n# What this job serves. A changed text becomes a new revision.\ncat >\"$job/deployment.yaml\" <<'%s' || exit\n%s\n%s\n\n",
		mark, strings.TrimRight(a.Text, "\n"), mark)
}

// WarningBefore is how long before the time limit Slurm's warning comes in scripts of this package.
func WarningBefore(drain time.Duration) time.Duration {
	return time.Duration(warnSeconds(drain)) * time.Second
}

const allocationBody = `
# One keeper on each node starts and ends replicas there, at the controller's word.
srun --overlap "--nodes=$SLURM_JOB_NUM_NODES" "--ntasks=$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
  "--cpus-per-task=$SLURM_CPUS_ON_NODE" --gpu-bind=none --export=ALL --no-kill --kill-on-bad-exit=1 --input=none \
  "$penstock" keeper --job-dir "$job" &
srun=$!
disown

# Controller and gateway, on this node. Slurm's last word, TERM, comes to all processes of the job; its warning to this shell alone.
over=
trap 'over=1' TERM
trap 'kill -s USR2 "$serve"' USR2
while :; do
  "$penstock" serve --allocation "$job" --launcher "$srun" &
  serve=$!
  while kill -0 "$serve" 2>/dev/null; do
    wait "$serve" # comes back at every signal
    code=$?
  done
  wait "$serve" 2>/dev/null # where a signal was what came last
  last=$?
  [ "$last" -eq 127 ] || code=$last
  if [ -n "$over" ] || [ "$code" -le 128 ]; then
    break
  fi
  sleep 1 # it has been killed; the replicas serve on, and the next one finds them
done
exit "$code"
`
