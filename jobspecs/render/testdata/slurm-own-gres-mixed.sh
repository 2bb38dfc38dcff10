#!/bin/bash
# Deployment x, role mixed, revision content 0cde71f68b6e.
# Penstock's agent starts the engine, restarts it, drains it, and ends it with all it started. Nothing here is secret.
#SBATCH --job-name=x-mixed-0-k3v9x2mq
#SBATCH --comment=penstock:0123456789ab:x
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --ntasks-per-node=1
#SBATCH --signal=B:USR2@130
#SBATCH --no-requeue
#SBATCH --export=NONE
#SBATCH --open-mode=append
#SBATCH --chdir=/home/ada/.local/state/penstock/logs/x
#SBATCH --output=/home/ada/.local/state/penstock/logs/x/agent-0.log
#SBATCH --gres=gpu:a100_80:4,lscratch:100

umask 077
export PENSTOCK_LAUNCH=x-mixed-0-k3v9x2mq
PENSTOCK_RUN=$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}-$(od -An -N6 -tx1 /dev/urandom | tr -d ' ')
export PENSTOCK_RUN
if [ -z "${SLURM_JOB_END_TIME:-}" ]; then # older Slurms do not say when the job ends
  SLURM_JOB_END_TIME=$(SLURM_TIME_FORMAT=%s timeout 30 squeue --noheader --job="$SLURM_JOB_ID" --format=%e)
  export SLURM_JOB_END_TIME
fi

exec /home/ada/bin/penstock agent \
  --cluster slurm \
  --join /home/ada/.local/state/penstock/join/x.json \
  --nodes 1 \
  --warning 2m10s
