package ledger

import (
	"fmt"

	"github.com/penstock/penstock/scheduler/cluster"
)

// Admit makes a run the one that may serve for its launch and returns its epoch, which is on disk by then. The run that
// is admitted already gets the same epoch again, also while its launch drains. Another run is refused with ErrOtherRun,
// unless supersede says that the older one is to be fenced: then it gets a higher epoch than any run of the
// installation before. ErrLaunchOver: the launch drains or has ended. ErrNotFound: there is no such launch.
func (l *Ledger) Admit(id cluster.LaunchID, run string, supersede bool) (epoch uint64, err error) {
	l.writing.Lock()
	defer l.writing.Unlock()
	if _, err := l.held(); err != nil {
		return 0, fmt.Errorf("admit run %s of launch %s: %w", run, id, err)
	}
	x, ok := l.Launch(id)
	switch {
	case !ok:
		return 0, fmt.Errorf("admit run %s of launch %s: %w", run, id, ErrNotFound)
	case run == "" || len(run) > 128:
		return 0, fmt.Errorf("admit run %q of launch %s: %w: a run's nonce is 1 to 128 characters", run, id, ErrInvalid)
	case x.Phase == cluster.Ended:
		return 0, fmt.Errorf("admit run %s of launch %s: %w: %s", run, id, ErrLaunchOver, x.EndReason)
	case x.Run == run:
		if err := l.settleLaunch(x); err != nil {
			return 0, err
		}
		return x.Epoch, nil
	case x.Phase == cluster.Draining:
		return 0, fmt.Errorf("admit run %s of launch %s: %w: it drains: %s", run, id, ErrLaunchOver, x.DrainReason)
	case x.Run != "" && !supersede:
		return 0, fmt.Errorf("admit run %s of launch %s: %w: run %s, epoch %d", run, id, ErrOtherRun, x.Run, x.Epoch)
	}
	x = cloneLaunch(x)
	x.Run, x.Epoch, x.AdmittedAt = run, l.highestEpoch()+1, l.o.Now()
	if err := l.putLaunch(x); err != nil {
		return 0, err
	}
	return x.Epoch, nil
}

func (l *Ledger) highestEpoch() uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.state.epoch
}
