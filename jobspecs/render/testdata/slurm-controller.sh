#!/bin/bash
# Penstock's controller, with a gateway, as a Slurm job. Nothing here is secret.
#SBATCH --job-name=penstock-controller
#SBATCH --ntasks=1
#SBATCH --no-requeue
#SBATCH --export=NONE
#SBATCH --open-mode=append
#SBATCH --chdir="/home/it's me/100%/state"
#SBATCH --output="/home/it's me/100%%/state/serve.log"
#SBATCH --partition=cpu
#SBATCH --time=7-0
#SBATCH --comment="do not kill"

umask 077
script='/home/it is me/state/controller.sbatch'
successor=
trap 'successor=$(sbatch --parsable "$script")' USR2
over=
trap 'over=1' TERM # Slurm ends the job; the program has the same signal

'/home/it'\''s me/penstock' serve \
  --replace \
  --state-dir '/home/it'\''s me/100%/state' \
  --runtime-dir "/tmp/penstock-controller-${UID}" \
  --slurm on \
  --gateway-listen :0 &
serve=$!

end=${SLURM_JOB_END_TIME:-$(SLURM_TIME_FORMAT=%s timeout 30 squeue --noheader --job="$SLURM_JOB_ID" --format=%e)}
if [[ $end =~ ^[0-9]+$ ]]; then
  left=$((end - $(date +%s)))
  early=$((left / 4 < 900 ? left / 4 : 900))
  ( # nothing of it is left when the job is over
    trap 'kill "$nap"; exit' TERM
    sleep "$((left - early))" &
    nap=$!
    wait "$nap"
    kill -s USR2 $$
  ) &
  timer=$!
fi

while kill -0 "$serve" 2>/dev/null; do
  wait "$serve" # comes back at every signal
  code=$?
done
wait "$serve" 2>/dev/null # where a signal was what came last
last=$?
[ "$last" -eq 127 ] || code=$last
if [ -z "$over" ] && [ -n "$successor" ]; then # it was told to stop, or the successor runs
  scancel --state=PENDING "${successor%%;*}"
fi
[ -z "${timer:-}" ] || kill "$timer" 2>/dev/null
exit "$code"
