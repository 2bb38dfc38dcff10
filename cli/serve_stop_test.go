package cli

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// TestServeStopSaysWhatGoesOn: only what is not stopped goes on.
func TestServeStopSaysWhatGoesOn(t *testing.T) {
	t.Parallel()
	of := func(name, state string) *apiv1.DeploymentStatus {
		return &apiv1.DeploymentStatus{Name: name, State: state}
	}
	for want, deployments := range map[string][]*apiv1.DeploymentStatus{
		"of term 1 has ended; nothing of it runs any more": {of("a", "stopped")},
		"has ended; b goes on without it":                  {of("a", "stopped"), of("b", "degraded")},
		"has ended; a, b go on without it":                 {of("a", "ready"), of("b", "ready"), of("c", "stopped")},
	} {
		ended := false
		f := &fakeControl{status: func(context.Context, *apiv1.StatusRequest) (*apiv1.StatusResponse, error) {
			return &apiv1.StatusResponse{At: at(0), Deployments: deployments}, nil
		}}
		f.shutdown = func() { ended = true }
		f.answersVersion = func() *apiv1.VersionResponse {
			if ended {
				return nil
			}
			return &apiv1.VersionResponse{Hostname: "another", Term: 1}
		}
		if code, _, talk := newTerminal(t, f).run("serve", "--stop"); code != 0 || !strings.Contains(talk, want) {
			t.Errorf("exit %d: %s, want %q", code, talk, want)
		}
	}
}

// A node that does not answer any more would keep a deployment stopping, and this command waiting, for ever.
func TestServeStopDoesNotWaitForEver(t *testing.T) {
	t.Parallel()
	stuck := &apiv1.DeploymentStatus{
		Name: "demo", State: "stopping", Reason: "1 replica is still ending", DrainTimeout: durationpb.New(time.Minute),
		Replicas: []*apiv1.ReplicaStatus{{Name: "mixed/0", Launch: "l-1", State: "draining", Reason: "node n1 does not answer"}},
	}
	looks := 0
	tt := newTerminal(t, &fakeControl{
		version: &apiv1.VersionResponse{Hostname: "another", Term: 1},
		status: func(context.Context, *apiv1.StatusRequest) (*apiv1.StatusResponse, error) {
			looks++
			return statusOf(stuck)(nil, nil)
		},
	})
	now := noon
	tt.Now = func() time.Time { now = now.Add(30 * time.Second); return now }
	code, _, talk := tt.run("serve", "--stop")
	if code != ExitTimeout {
		t.Errorf("exit %d, want %d", code, ExitTimeout)
	}
	if looks < 3 || looks > 6 {
		t.Errorf("it looked %d times in steps of 30 s, want for a minute of draining and a little more", looks)
	}
	for _, want := range []string{
		"waiting for the end of demo: 1 replica is still ending", "demo mixed/0: draining: node n1 does not answer",
		"still stopping after 1m40s: demo (1 replica is still ending)", "penstock stop demo --now", "the controller runs on",
	} {
		if strings.Count(talk, want) != 1 {
			t.Errorf("want once %q in:\n%s", want, talk)
		}
	}
}
