package server

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
)

// TestPastLaunch: what is unknown of an end is absent, and not zero.
func TestPastLaunch(t *testing.T) {
	t.Parallel()
	at := time.Unix(1795522790, 0)
	l := cluster.Launch{ID: "l", Deployment: "d", Phase: cluster.Ended, EndedAt: at, CreatedAt: at, Cause: cluster.EndedLost, Exit: &cluster.Exit{Code: 3}}
	p := pastLaunch(l)
	if p.StartedAt != nil || p.GetExitCode() != 3 || p.ExitSignal == nil || p.Cause != "lost" || !p.EndedAt.AsTime().Equal(at) {
		t.Errorf("got %v", p)
	}
	if l.Exit = nil; pastLaunch(l).ExitCode != nil {
		t.Error("an unknown exit has a code")
	}
}

func TestHistory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	resp, err := w.control.History(t.Context(), &apiv1.HistoryRequest{Since: timestamppb.New(time.Now().Add(-time.Hour))})
	if err != nil || len(resp.Launches) > 0 {
		t.Errorf("nothing has ended: %v, %v", resp, err)
	}
	if _, err := w.control.History(t.Context(), &apiv1.HistoryRequest{Deployment: "nobody"}); err == nil {
		t.Error("a deployment that is not there has a history")
	}
}
