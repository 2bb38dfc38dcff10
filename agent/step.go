package agent

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"time"

	spec "github.com/penstock/penstock/jobspecs/engine"
)

// An engine that Slurm starts, in a container of its own or as one MPI world, is a step of the agent's job: its processes are
// slurmstepd's children, on this node and perhaps on others, and what the agent has started is only the srun. A TERM to an
// srun is KILL to its step. So the agent finds the step in the environment of its tasks, and ends it by its number.

// startedBySlurm tells whether a launch line makes a step.
func startedBySlurm(c spec.Command) bool {
	return len(c.Argv) > 0 && filepath.Base(c.Argv[0]) == "srun"
}

// endStep asks the engine's step to end and waits until it has, for at most the grace; what is left then is the caller's to kill.
func (r *run) endStep(ctx context.Context, e *engineRun, grace time.Duration) {
	if !e.step || closed(e.ended()) {
		return
	}
	step := r.stepOf(e)
	if step == "" {
		return
	}
	r.log.Info().Str("step", step).Dur("grace", grace).Msg("engine's step asked to end")
	if err := r.opts.SignalStep(ctx, step, "TERM"); err != nil {
		r.log.Warn().Err(err).Str("step", step).Msg("engine's step not asked to end")
		return
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-e.ended():
		return
	case <-timer.C:
	case <-ctx.Done():
	}
	if err := r.opts.SignalStep(ctx, step, "KILL"); err != nil {
		r.log.Warn().Err(err).Str("step", step).Msg("engine's step not killed")
	}
}

// stepOf is the number of the engine's step, JOB.STEP; empty = it has none, or none that can be told.
func (r *run) stepOf(e *engineRun) string {
	if r.opts.SignalStep == nil {
		return ""
	}
	jobs, err1 := e.proc.Values("SLURM_JOB_ID")
	steps, err2 := e.proc.Values("SLURM_STEP_ID")
	steps = slices.DeleteFunc(steps, func(s string) bool { return s == r.variable("SLURM_STEP_ID") }) // of the agent itself, which srun inherits
	if err1 == nil && err2 == nil && len(steps) == 0 {
		return "" // its tasks have ended
	}
	if err1 != nil || err2 != nil || len(jobs) != 1 || len(steps) != 1 {
		r.log.Warn().Strs("jobs", jobs).Strs("steps", steps).Msg("engine's step not found")
		return ""
	}
	return jobs[0] + "." + steps[0]
}

// variable looks into the job's environment.
func (r *run) variable(name string) string {
	for _, entry := range r.opts.Environ {
		if value, ok := strings.CutPrefix(entry, name+"="); ok {
			return value
		}
	}
	return ""
}
