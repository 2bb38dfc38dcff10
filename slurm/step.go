package slurm

import (
	"context"
	"fmt"
)

// SignalStep sends a signal (TERM, KILL) to all tasks of a step, JOB.STEP. A step that is gone is no error.
func SignalStep(ctx context.Context, environ []string, step, signal string) error {
	_, err := newRunner(environ, "", newMetrics(nil)).run(ctx, "", "scancel", "--quiet", "--signal="+signal, step)
	if err != nil {
		return fmt.Errorf("signal step %s: %w", step, err)
	}
	return nil
}
