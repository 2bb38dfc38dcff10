#!/bin/bash
# Deployment deepseek-v3, role mixed, revision content 4a71659fa029.
# Penstock's agent starts the engine, restarts it, drains it, and ends it with all it started. Nothing here is secret.
#SBATCH --job-name=deepseek-v3-mixed-0-k3v9x2mq
#SBATCH --comment=penstock:0123456789ab:deepseek-v3
#SBATCH --partition=gpu-large
#SBATCH --constraint=ib&h200
#SBATCH --time=2-00:00:00
#SBATCH --nodes=2
#SBATCH --ntasks=2
#SBATCH --ntasks-per-node=1
#SBATCH --mem=1536000M
#SBATCH --gres=gpu:8
#SBATCH --signal=B:USR2@130
#SBATCH --no-requeue
#SBATCH --export=NONE
#SBATCH --open-mode=append
#SBATCH --chdir=/home/ada/.local/state/penstock/logs/x
#SBATCH --output=/home/ada/.local/state/penstock/logs/x/agent-0.log

umask 077
export PENSTOCK_LAUNCH=deepseek-v3-mixed-0-k3v9x2mq
PENSTOCK_RUN=$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}-$(od -An -N6 -tx1 /dev/urandom | tr -d ' ')
export PENSTOCK_RUN
if [ -z "${SLURM_JOB_END_TIME:-}" ]; then # older Slurms do not say when the job ends
  SLURM_JOB_END_TIME=$(SLURM_TIME_FORMAT=%s timeout 30 squeue --noheader --job="$SLURM_JOB_ID" --format=%e)
  export SLURM_JOB_END_TIME
fi

# Ranks 1 to 1, one on each further node.
(
  # shellcheck disable=SC2016 # the ranks expand it
  srun --overlap --relative=1 --nodes=1 --ntasks=1 --ntasks-per-node=1 \
    "--cpus-per-task=$SLURM_CPUS_ON_NODE" \
    --export=ALL --kill-on-bad-exit=1 --input=none \
    --gres=gpu:8 --gpu-bind=none \
    bash -c 'exec "$@" >>"$0/agent-$((SLURM_PROCID + 1)).log" 2>&1' /home/ada/.local/state/penstock/logs/x \
    /home/ada/bin/penstock agent \
      --cluster slurm \
      --join /home/ada/.local/state/penstock/join/x.json \
      --nodes 2 \
      --warning 2m10s \
      --first-rank 1 ||
    kill -s TERM $$
) &

exec /home/ada/bin/penstock agent \
  --cluster slurm \
  --join /home/ada/.local/state/penstock/join/x.json \
  --nodes 2 \
  --warning 2m10s
