package server

import (
	"fmt"
	"time"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/fleet"
)

// openPorts warns of ports that nothing protects. An ended launch has none left, nor has an agent that has ended its engine;
// of one that is silent nobody knows, and the warning says so.
func openPorts(launches []cluster.Launch, s fleet.Snapshot) (out []string) {
	for _, l := range launches {
		r, known := s.Replicas[l.ID]
		if l.Phase == cluster.Ended || !known {
			continue
		}
		for _, rank := range r.Ranks {
			if p := rank.State.GetHealth().GetPhase(); p == apiv1.Phase_PHASE_STOPPED || p == apiv1.Phase_PHASE_FAILED {
				continue
			}
			silent := ""
			if since := s.At.Sub(rank.SeenAt); since > s.StaleAfter {
				silent = fmt.Sprintf(", last heard of %s ago", since.Round(time.Second))
			}
			for _, p := range rank.State.GetPorts().GetPorts() {
				if p.Protection == "none" {
					out = append(out, fmt.Sprintf("%s is open to every user who can reach it: %s (%s%s)", p.Address, p.Purpose, l.ID, silent))
				}
			}
		}
	}
	return out
}
