#!/bin/bash
# Deployment x, role mixed, revision content a7cbbe407d17.
# Penstock's agent starts the engine, restarts it, drains it, and ends it with all it started. Nothing here is secret.
#SBATCH --job-name=x-mixed-0-k3v9x2mq
#SBATCH --comment="penstock:0123456789ab:x {\"keep\": true} #1"
#SBATCH --partition=gpu,spare
#SBATCH --account=proj42
#SBATCH --qos=serving
#SBATCH --constraint=ib&(h100|h200)
#SBATCH --reservation=maintenance
#SBATCH --time=0-00:02:00
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=99M
#SBATCH --gres=gpu:h100_80gb:2
#SBATCH --exclude=bad1,node3,node5
#SBATCH --dependency=afterany:4711
#SBATCH --signal=B:USR2@130
#SBATCH --no-requeue
#SBATCH --export=NONE
#SBATCH --open-mode=append
#SBATCH --chdir="/home/it's \"me\" 100%j\\/logs"
#SBATCH --output="/home/it's \"me\" 100%%j\\/logs/agent-0.log"
#SBATCH --exclusive
#SBATCH --licenses="a\\b"
#SBATCH -H
#SBATCH -w node7

umask 077
export PENSTOCK_LAUNCH=x-mixed-0-k3v9x2mq
PENSTOCK_RUN=$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}-$(od -An -N6 -tx1 /dev/urandom | tr -d ' ')
export PENSTOCK_RUN
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

exec /home/ada/bin/penstock agent \
  --cluster slurm \
  --join "/home/it's \"me\" \$HOME/join #1.json" \
  --nodes 1 \
  --kill-wait 1m0s \
  --warning 2m10s
