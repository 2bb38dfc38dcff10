package server

import (
	"strings"
	"testing"
	"time"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/fleet"
)

// TestOpenPorts: only ports that may be open now are warned of.
func TestOpenPorts(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	for _, c := range []struct {
		name  string
		phase apiv1.Phase
		ended bool // the launch
		age   time.Duration
		want  string
	}{
		{"serving", apiv1.Phase_PHASE_STARTED, false, 0, "0.0.0.0:5 is open to every user who can reach it: metrics (l-1)"},
		{"silent", apiv1.Phase_PHASE_STARTED, false, 90 * time.Second, "0.0.0.0:5 is open to every user who can reach it: metrics (l-1, last heard of 1m30s ago)"},
		{"its launch has ended", apiv1.Phase_PHASE_STARTED, true, 0, ""},
		{"its agent has ended it", apiv1.Phase_PHASE_STOPPED, false, 0, ""},
		{"its engine has failed", apiv1.Phase_PHASE_FAILED, false, 0, ""},
	} {
		l := cluster.Launch{ID: "l-1", Phase: cluster.Submitted}
		if c.ended {
			l.Phase = cluster.Ended
		}
		s := fleet.Snapshot{At: now, StaleAfter: 15 * time.Second, Replicas: map[cluster.LaunchID]fleet.Replica{"l-1": {Ranks: map[int]fleet.Rank{0: {
			SeenAt: now.Add(-c.age),
			State: &apiv1.RunState{
				Health: &apiv1.Health{Phase: c.phase},
				Ports: &apiv1.Ports{Ports: []*apiv1.Port{
					{Address: "0.0.0.0:5", Purpose: "metrics", Protection: "none"}, {Address: "0.0.0.0:6", Protection: "mtls"},
				}},
			},
		}}}}}
		if got := strings.Join(openPorts([]cluster.Launch{l}, s), "\n"); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
