package cli

import (
	"fmt"
	"time"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// printHandovers says of each replica whose job has an end what will become of it.
func printHandovers(inv *invocation, reps []*apiv1.ReplicaStatus, now time.Time) {
	for _, r := range reps {
		if h := r.Handover; h != nil {
			fmt.Fprintf(inv.Out, "  %s of %s ends in %s; %s\n", r.Name, r.Launch, ageText(r.EndsAt.AsTime().Sub(now)), printable(successorText(h, now)))
		}
		if h := r.Handover; h.GetGap() != nil {
			fmt.Fprintf(inv.Out, "    about %s without it, beginning %s: %s\n",
				ageText(h.Gap.AsDuration()), inText(h.LeaveBy.AsTime().Sub(now)), printable(h.GapReason))
		}
	}
}

// successorText is how far the successor is, or when it is started and what that rests on.
func successorText(h *apiv1.Handover, now time.Time) string {
	if h.StartAt == nil {
		return h.GapReason
	}
	if h.Successor == "" {
		return fmt.Sprintf("its successor is started %s: expected are %s in the queue, %s to start and %s to drain",
			inText(h.StartAt.AsTime().Sub(now)), estimateText(h.Queue.AsDuration(), h.QueueSamples),
			estimateText(h.StartUp.AsDuration(), h.StartUpSamples), ageText(h.Drain.AsDuration()))
	}
	text := fmt.Sprintf("its successor %s is %s", h.Successor, h.SuccessorState)
	if h.SuccessorReason != "" {
		text += " (" + h.SuccessorReason + ")"
	}
	if h.SuccessorState != "ready" && h.ReadyAt != nil {
		text += ", expected to serve " + inText(h.ReadyAt.AsTime().Sub(now))
	}
	return text
}

func estimateText(d time.Duration, samples uint32) string {
	if samples == 0 {
		return ageText(d) + " (assumed)"
	}
	return fmt.Sprintf("%s (from %d)", ageText(d), samples)
}

func inText(d time.Duration) string {
	if d < time.Second {
		return "now"
	}
	return "in " + ageText(d)
}
