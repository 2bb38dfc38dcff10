package slurm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// presenceLimit bounds the look for a cluster: where one is configured, scontrol ping answers in milliseconds, also when
// slurmctld is down.
const presenceLimit = 5 * time.Second

// Present tells whether this host belongs to a Slurm cluster, be it that its controller answers or not. The error says why
// there is none.
func Present(ctx context.Context, environ []string) error {
	ctx, cancel := context.WithTimeout(ctx, presenceLimit)
	defer cancel()
	out, err := newRunner(environ, "", newMetrics(nil)).run(ctx, "", "scontrol", "ping")
	if strings.Contains(out, "lurmctld") { // code 1 is said of one that is down
		return nil
	}
	if err == nil {
		err = errors.New("scontrol ping names no controller")
	}
	return fmt.Errorf("no Slurm cluster is to be found: %w", err)
}
