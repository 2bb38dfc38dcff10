package fleet

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/penstock/penstock/jobspecs"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
)

// The states of a model, as gateways and clients read them.
const (
	stateReady    = "ready"
	stateStarting = "starting"
	stateQueued   = "queued"
	stateStopped  = "stopped"
	stateFailed   = "failed"
)

// How long a client is told to wait where nothing better is known.
const (
	retryStarting = 10 * time.Second
	retryQueued   = 30 * time.Second
	retryStep     = 5 * time.Second // estimates are rounded up to it, so that they are not news every second
)

// state is how far a deployment is, why not further, and when to ask again (0 = asking again is no use).
type state struct {
	word   string
	reason string
	retry  time.Duration
}

func (s state) retryAfter() *durationpb.Duration {
	if s.retry <= 0 {
		return nil
	}
	return durationpb.New((s.retry + retryStep - 1).Truncate(retryStep))
}

// modelState sums a deployment up: ready if its roles serve, else how far the most advanced launch is.
func modelState(s Snapshot, d Deployed, launches []cluster.Launch, waits []Wait) state {
	if serves(s, d, launches) {
		return state{word: stateReady}
	}
	if d.Stopped {
		is := state{word: stateStopped, reason: fmt.Sprintf("deployment %s is stopped", d.Spec.Name)}
		if d.StopReason != "" {
			is.reason += ": " + d.StopReason
		}
		return is
	}
	if total(d.Wanted) == 0 {
		return state{word: stateStopped, reason: fmt.Sprintf("deployment %s is scaled to zero", d.Spec.Name)}
	}
	best := state{}
	for _, l := range launches {
		if l.Phase == cluster.Ended || l.Phase == cluster.Draining {
			continue
		}
		if is := launchState(s, l, waits); best.word == "" || further(is, best) {
			best = is
		}
	}
	if best.word != "" {
		return best
	}
	return absent(s, launches, waits)
}

// serves reports whether requests can be answered: by a mixed replica, or by one of each role that is wanted.
func serves(s Snapshot, d Deployed, launches []cluster.Launch) bool {
	have := map[jobspecs.RoleKind]bool{}
	for _, l := range launches {
		if l.Phase != cluster.Ended && l.Phase != cluster.Draining && s.Replicas[l.ID].Serving() {
			have[l.Role] = true
		}
	}
	if have[jobspecs.Mixed] || len(have) == 0 {
		return have[jobspecs.Mixed]
	}
	for role, n := range d.Wanted {
		if n > 0 && role != jobspecs.Mixed && !have[role] {
			return false
		}
	}
	return true
}

func total(wanted map[jobspecs.RoleKind]int) (n int) {
	for _, w := range wanted {
		n += w
	}
	return n
}

// launchState is how far one live launch is that does not serve yet.
func launchState(s Snapshot, l cluster.Launch, waits []Wait) state {
	r, admitted := s.Replicas[l.ID]
	if !admitted {
		for _, w := range waits {
			if w.Launch == l.ID {
				return state{stateQueued, replicaName(l) + ": " + w.Reason, until(w.Until, s.At, retryQueued)}
			}
		}
		return state{stateQueued, replicaName(l) + " has been submitted and has not started", retryQueued}
	}
	h := r.Health()
	switch {
	case r.Serving():
		return state{stateStarting, replicaName(l) + " is ready, other roles are not", retryStarting}
	case r.Phase == apiv1.Phase_PHASE_FAILED:
		return state{stateFailed, replicaName(l) + " has failed: " + words(h, l.LastLines), retryQueued}
	case r.NotReady != "":
		return state{stateStarting, replicaName(l) + " has started and does not answer: " + r.NotReady, retryStarting}
	case r.Phase == apiv1.Phase_PHASE_LOADING:
		return state{stateStarting, replicaName(l) + " is loading" + progress(h.GetLoading()), remaining(h)}
	case h.GetRetryAt() != nil:
		return state{
			stateFailed, fmt.Sprintf("%s is started again after %d failures: %s", replicaName(l), h.GetFailures(), words(h, nil)),
			until(h.GetRetryAt().AsTime(), s.At, retryStarting),
		}
	case r.Phase == apiv1.Phase_PHASE_STARTED:
		return state{stateStarting, replicaName(l) + " has started and is being probed", retryStarting}
	}
	reason := replicaName(l) + " is joining"
	if m := h.GetMessage(); m != "" {
		reason += ": " + m
	}
	return state{stateStarting, reason, retryStarting}
}

// absent explains a deployment without a launch that is to serve: by the failure of the last one, or by what the planner
// waits for.
func absent(s Snapshot, launches []cluster.Launch, waits []Wait) state {
	is := state{stateQueued, "no replica has been started yet", retryStarting}
	for _, w := range waits {
		if w.Launch == "" {
			is.reason, is.retry = w.Reason, until(w.Until, s.At, retryQueued)
			break
		}
	}
	if len(launches) == 0 {
		return is
	}
	last := slices.MaxFunc(launches, func(a, b cluster.Launch) int {
		return cmp.Or(a.EndedAt.Compare(b.EndedAt), cmp.Compare(a.ID, b.ID))
	})
	if !last.Failed { // an older failure does not explain why nothing runs now
		return is
	}
	is.word, is.reason = stateFailed, replicaName(last)+" has failed: "+last.EndReason
	return is
}

// further orders states by how close they are to serving.
func further(a, b state) bool {
	order := []string{stateFailed, stateQueued, stateStarting, stateReady}
	if ia, ib := slices.Index(order, a.word), slices.Index(order, b.word); ia != ib {
		return ia > ib
	}
	if a.retry != b.retry {
		return a.retry < b.retry
	}
	return a.reason < b.reason
}

// words are an engine's own account of its end.
func words(h *apiv1.Health, lines []string) string {
	if h.GetMessage() != "" {
		return h.GetMessage()
	}
	if l := h.GetLastLines(); len(l) > 0 {
		lines = l
	}
	if len(lines) > 0 {
		return lines[len(lines)-1]
	}
	return cmp.Or(h.GetExit(), "no reason given")
}

func progress(p *apiv1.Progress) string {
	const giga = 1e9
	switch {
	case p.GetBytesDone() == 0:
		return ""
	case p.GetBytesTotal() == 0:
		return fmt.Sprintf(", %.1f GB read", float64(p.GetBytesDone())/giga)
	}
	return fmt.Sprintf(", %.1f of %.1f GB read", float64(p.GetBytesDone())/giga, float64(p.GetBytesTotal())/giga)
}

func remaining(h *apiv1.Health) time.Duration {
	if d := h.GetLoading().GetRemaining(); d != nil {
		return max(d.AsDuration(), time.Second)
	}
	return retryStarting
}

func until(t, now time.Time, otherwise time.Duration) time.Duration {
	if t.IsZero() || !t.After(now) {
		return otherwise
	}
	return t.Sub(now)
}
