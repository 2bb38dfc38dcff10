package cli

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/slurm"
)

func TestJoinRuns(t *testing.T) {
	t.Parallel()
	at := time.Unix(1795522790, 0).UTC()
	code, nine := int32(0), int32(9)
	known := []*apiv1.PastLaunch{
		{Launch: "web-1", Deployment: "web", Job: "7", Cause: "asked", Reason: "it was drained", EndedAt: timestamppb.New(at)},
		{Launch: "web-2", Deployment: "web", Job: "local-1", Cause: "failed", Reason: "killed", Nodes: []string{"n1", "n2"}, EndedAt: timestamppb.New(at), ExitCode: &code, ExitSignal: &nine},
		{Launch: "web-3", Deployment: "web", Cause: "lost", Reason: "nobody knows"},
	}
	accounts := []slurm.Past{
		{Launch: "old-1", Job: "3", State: "TIMEOUT", Cause: cluster.EndedWalltime, Reason: "its time limit was reached", Ended: at},
		{Launch: "web-1", Job: "6", State: "REQUEUED", Cause: cluster.EndedPreempted, Reason: "requeued", Ended: at},
		{Launch: "web-1", Job: "7", State: "COMPLETED", Exit: &cluster.Exit{}, Reason: "exited with code 0", Nodes: "node1", Ended: at},
	}
	zero, killed := 0, 9
	want := []pastRun{
		{Deployment: "web", Launch: "web-1", Job: "7", State: "COMPLETED", Cause: "asked", Code: &zero, Signal: &zero, Ended: &at, Nodes: "node1", Reason: "it was drained", Source: "accounting"},
		{Deployment: "web", Launch: "web-1", Job: "6", State: "REQUEUED", Cause: "preempted", Ended: &at, Reason: "requeued", Source: "accounting"},
		{Deployment: "web", Launch: "web-2", Job: "local-1", Cause: "failed", Code: &zero, Signal: &killed, Ended: &at, Nodes: "n1,n2", Reason: "killed", Source: "controller"},
		{Deployment: "web", Launch: "web-3", Cause: "lost", Reason: "nobody knows", Source: "controller"},
	}
	if diff := cmp.Diff(want, joinRuns(known, accounts, "web")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if all := joinRuns(known, accounts, ""); len(all) != 5 || all[2].Launch != "old-1" {
		t.Errorf("all: %+v", all)
	}
	for want, exit := range map[string][2]*int{"?": {}, "code 0": {&zero, &zero}, "signal 9": {&zero, &killed}} {
		if got := exitText(exit[0], exit[1]); got != want {
			t.Errorf("exit %q, want %q", got, want)
		}
	}
}
