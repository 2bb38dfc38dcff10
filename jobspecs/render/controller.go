package render

import (
	"fmt"
	"strings"
)

// ControllerJob is a controller that lives in a Slurm job of its own. Paths are absolute and the same on all nodes.
type ControllerJob struct {
	Penstock string // the program
	StateDir string // shared with the nodes
	Script   string // where this very script lies, for its successor
	Sbatch   []string
}

// Controller is the batch script of a controller. Before its time is over, by a quarter of it and at most by fifteen minutes,
// it submits itself again; the new one asks the old one to go when it starts. Where it starts late, replicas serve on without
// a controller.
func Controller(j ControllerJob) (string, error) {
	options := append([]string{
		"--job-name=penstock-controller", "--ntasks=1", "--no-requeue", "--export=NONE", "--open-mode=append",
		"--chdir=" + j.StateDir, "--output=" + pattern(j.StateDir) + "/serve.log",
	}, j.Sbatch...)
	var b strings.Builder
	b.WriteString("#!/bin/bash\n# Penstock's controller, with a gateway, as a Slurm job. Nothing here is secret.\n")
	for _, o := range options {
		if strings.ContainsAny(o, "\n\r\x00") {
			return "", fmt.Errorf("render the controller's job: %q is no option on one line", o)
		}
		b.WriteString("#SBATCH " + directive(o) + "\n")
	}
	line := command([]string{
		j.Penstock, "serve", "--replace", "--state-dir", j.StateDir, "--runtime-dir", "/tmp/penstock-controller-@UID@", "--slurm", "on", "--gateway-listen", ":0",
	}, "  ", []variable{{"UID", "@UID@", "", ""}})
	b.WriteString(strings.NewReplacer("@SCRIPT@", quote(j.Script), "@SERVE@", line).Replace(controllerBody))
	return b.String(), nil
}

const controllerBody = `
umask 077
script=@SCRIPT@
successor=
trap 'successor=$(sbatch --parsable "$script")' USR2
over=
trap 'over=1' TERM # Slurm ends the job; the program has the same signal

@SERVE@ &
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
`
