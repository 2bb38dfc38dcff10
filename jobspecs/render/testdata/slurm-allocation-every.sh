#!/bin/bash
# Deployment x in one Slurm allocation: 1 node for 1 mixed.
# Submit it as it is or edited, as often as you like, at the same time too. Nothing here is secret.
#SBATCH --job-name=penstock-x
#SBATCH --partition=gpu,spare
#SBATCH --account=proj42
#SBATCH --qos=serving
#SBATCH --constraint=ib&(h100|h200)
#SBATCH --reservation=maintenance
#SBATCH --time=0-00:02:00
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --signal=B:USR2@130
#SBATCH --no-kill
#SBATCH --requeue
#SBATCH --export=NONE
#SBATCH --open-mode=append
#SBATCH --exclusive
#SBATCH --comment="{\"keep\": true} #1"
#SBATCH --exclude=bad1
#SBATCH --licenses="a\\b"
#SBATCH -H
#SBATCH -w node7

umask 077
penstock='/home/it'\''s "me"/penstock'
root="/home/it's \"me\" \$HOME/x" # state: keys, revisions, usage; one folder for each job that runs at a time
job=$root/jobs/$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}
mkdir -p "$job" || exit

# What this job serves. A changed text becomes a new revision.
cat >"$job/deployment.yaml" <<'END_OF_DEPLOYMENT' || exit
apiVersion: penstock/v1
name: x
model: {id: a/b}
engine: {kind: sim}
cluster: slurm

roles: {mixed: {gpus: {count: 2, type: h100}, cpus: 16, memory: 100500KiB}}
slurm:
  partition: gpu,spare
  account: proj42
  qos: serving
  time: 90s
  constraint: "ib&(h100|h200)"
  reservation: maintenance
  setup: ["module load slurm", "export NCCL_DEBUG=INFO\nulimit -l unlimited"]
  sbatch: [--exclusive, "--comment={\"keep\": true} #1", --exclude=bad1, "--licenses=a\\b", -H, -w node7]
END_OF_DEPLOYMENT

if [ -z "${SLURM_JOB_END_TIME:-}" ]; then # older Slurms do not say when the job ends
  SLURM_JOB_END_TIME=$(SLURM_TIME_FORMAT=%s timeout 30 squeue --noheader --job="$SLURM_JOB_ID" --format=%e)
  export SLURM_JOB_END_TIME
fi

# shellcheck disable=all # slurm.setup, the deployment's own lines
{
module load slurm
export NCCL_DEBUG=INFO
ulimit -l unlimited
}

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
