package fleet

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/penstock/penstock/jobspecs"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
)

// viewed builds one deployment with the launches, as their agents report them.
type viewed struct {
	stopped  bool
	why      string                    // it is stopped
	wanted   map[jobspecs.RoleKind]int // default one mixed
	launches []cluster.Launch
	health   map[cluster.LaunchID]*apiv1.Health // of admitted runs; nil health = nothing reported
	ready    map[cluster.LaunchID]error         // probed: nil = ready
	waits    []Wait
	age      time.Duration // of the reports
}

func (v viewed) view(t *testing.T) View {
	t.Helper()
	f := New(Options{})
	for id, h := range v.health {
		f.Admit(id, "r", 1, 1)
		if h == nil {
			continue
		}
		m := &apiv1.ReportRequest{Seq: 1, Body: &apiv1.ReportRequest_Full{Full: &apiv1.RunState{
			Identity: &apiv1.Identity{Launch: string(id), Run: "r", Epoch: 1, Address: "host:1", Node: "node0", EngineKind: "sim"},
			Health:   h, Load: &apiv1.EngineLoad{OpenRequests: 3},
		}}}
		if _, err := f.Apply(id, "r", 1, 0, m, t0.Add(-v.age)); err != nil {
			t.Fatal(err)
		}
		if err, probed := v.ready[id]; probed {
			f.SetReady(id, "r", h.EngineStarts, t0, err)
		}
	}
	if v.wanted == nil {
		v.wanted = map[jobspecs.RoleKind]int{jobspecs.Mixed: 1}
	}
	d := Deployed{Wanted: v.wanted, Stopped: v.stopped, StopReason: v.why, Spec: jobspecs.Deployment{
		Name:  "d",
		Model: jobspecs.Model{ServedName: "m", Adapters: []jobspecs.Adapter{{Name: "m-law"}}},
	}}
	return Gateways(f.Snapshot(t0), v.launches, []Deployed{d}, v.waits)
}

func launch(id string, role jobspecs.RoleKind, phase cluster.LaunchPhase) cluster.Launch {
	return cluster.Launch{ID: cluster.LaunchID(id), Deployment: "d", Role: role, Revision: 1, Phase: phase}
}

func TestModelStates(t *testing.T) {
	one := []cluster.Launch{launch("a", jobspecs.Mixed, cluster.Submitted)}
	pair := []cluster.Launch{launch("p", jobspecs.Prefill, cluster.Submitted), launch("d", jobspecs.Decode, cluster.Submitted)}
	pairWanted := map[jobspecs.RoleKind]int{jobspecs.Prefill: 1, jobspecs.Decode: 1}
	up := &apiv1.Health{Phase: started, EngineStarts: 1}
	loading := &apiv1.Health{Phase: apiv1.Phase_PHASE_LOADING, EngineStarts: 1, Loading: &apiv1.Progress{
		BytesDone: 4e9, BytesTotal: 16e9, Remaining: durationpb.New(91 * time.Second),
	}}
	again := &apiv1.Health{
		Phase: apiv1.Phase_PHASE_JOINING, Failures: 2, Exit: "exit 1", LastLines: []string{"CUDA out of memory"},
		RetryAt: timestamppb.New(t0.Add(17 * time.Second)),
	}
	failed := launch("old", jobspecs.Mixed, cluster.Ended)
	failed.Failed, failed.EndReason, failed.EndedAt = true, "job 7 ended: exit 1", t0
	later := launch("a", jobspecs.Mixed, cluster.Ended)
	later.EndedAt = t0.Add(time.Hour)
	type health = map[cluster.LaunchID]*apiv1.Health
	type probes = map[cluster.LaunchID]error
	tests := []struct {
		name          string
		v             viewed
		state, reason string
		retry         time.Duration
	}{
		{"ready", viewed{launches: one, health: health{"a": up}, ready: probes{"a": nil}}, "ready", "", 0},
		{"ready, then silent: gateways probe themselves", viewed{launches: one, health: health{"a": up}, ready: probes{"a": nil}, age: time.Hour}, "ready", "", 0},
		{"stopped", viewed{stopped: true}, "stopped", "deployment d is stopped", 0},
		{"stopped by itself", viewed{stopped: true, why: "no request has come for 30m"}, "stopped", "deployment d is stopped: no request has come for 30m", 0},
		{"zero", viewed{wanted: map[jobspecs.RoleKind]int{jobspecs.Mixed: 0}}, "stopped", "deployment d is scaled to zero", 0},
		{"nothing yet", viewed{}, "queued", "no replica has been started yet", 10 * time.Second},
		{"no room", viewed{waits: []Wait{{Deployment: "d", Reason: "no node has 4 free GPUs"}}}, "queued", "no node has 4 free GPUs", 30 * time.Second},
		{
			"pending",
			viewed{launches: one, waits: []Wait{{Deployment: "d", Launch: "a", Reason: "job 12 is pending (Priority)"}}},
			"queued", "mixed/0: job 12 is pending (Priority)", 30 * time.Second,
		},
		{"submitted", viewed{launches: one}, "queued", "mixed/0 has been submitted and has not started", 30 * time.Second},
		{"joining", viewed{launches: one, health: health{"a": nil}}, "starting", "mixed/0 is joining", 10 * time.Second},
		{"loading", viewed{launches: one, health: health{"a": loading}}, "starting", "mixed/0 is loading, 4.0 of 16.0 GB read", 95 * time.Second},
		{"probing", viewed{launches: one, health: health{"a": up}}, "starting", "mixed/0 has started and is being probed", 10 * time.Second},
		{
			"probe fails",
			viewed{launches: one, health: health{"a": up}, ready: probes{"a": errors.New("HTTP 500")}},
			"starting", "mixed/0 has started and does not answer: HTTP 500", 10 * time.Second,
		},
		{
			"engine in back-off",
			viewed{launches: one, health: health{"a": again}},
			"failed",
			"mixed/0 is started again after 2 failures: CUDA out of memory", 20 * time.Second,
		},
		{
			"launch in back-off",
			viewed{launches: []cluster.Launch{failed}, waits: []Wait{{Deployment: "d", Reason: "back-off", Until: t0.Add(time.Minute)}}},
			"failed", "mixed/0 has failed: job 7 ended: exit 1", time.Minute,
		},
		{
			"one of a pair",
			viewed{wanted: pairWanted, launches: pair, health: health{"p": up}, ready: probes{"p": nil}},
			"starting", "prefill/0 is ready, other roles are not", 10 * time.Second,
		},
		{"a pair", viewed{wanted: pairWanted, launches: pair, health: health{"p": up, "d": up}, ready: probes{"p": nil, "d": nil}}, "ready", "", 0},
		{
			"draining",
			viewed{launches: []cluster.Launch{launch("a", jobspecs.Mixed, cluster.Draining)}, health: health{"a": up}, ready: probes{"a": nil}},
			"queued", "no replica has been started yet", 10 * time.Second,
		},
		{
			"its job is over, and a limit holds the successor back",
			viewed{
				launches: []cluster.Launch{launch("a", jobspecs.Mixed, cluster.Draining), launch("b", jobspecs.Mixed, cluster.Submitted)},
				health:   health{"a": up}, ready: probes{"a": nil},
				waits: []Wait{{Deployment: "d", Launch: "b", Reason: "job 11 is pending (QOSMaxJobsPerUserLimit); it starts once job 10 is over", Until: t0.Add(200 * time.Second)}},
			},
			"queued", "mixed/0: job 11 is pending (QOSMaxJobsPerUserLimit); it starts once job 10 is over", 200 * time.Second,
		},
		{
			"its job is over, and there was no room for a successor; an older failure explains nothing",
			viewed{
				launches: []cluster.Launch{failed, later}, waits: []Wait{{Deployment: "d", Reason: "no room for 1 replica", Until: t0.Add(40 * time.Second)}},
			},
			"queued", "no room for 1 replica", 40 * time.Second,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			v := tt.v.view(t)
			m := v.Models["m"]
			if m.State != tt.state || m.Reason != tt.reason || m.RetryAfter.AsDuration() != tt.retry {
				t.Errorf("%s, %q, retry after %s", m.State, m.Reason, m.RetryAfter.AsDuration())
			}
			if a := v.Models["m-law"]; a.Parent != "m" || a.State != m.State {
				t.Errorf("adapter: %v", a)
			}
		})
	}
}

func TestGatewayReplicas(t *testing.T) {
	up := &apiv1.Health{Phase: started, EngineStarts: 2}
	v := viewed{
		launches: []cluster.Launch{
			launch("ready", jobspecs.Mixed, cluster.Submitted), launch("drained", jobspecs.Mixed, cluster.Draining),
			launch("ended", jobspecs.Mixed, cluster.Ended), launch("silent", jobspecs.Mixed, cluster.Submitted),
			launch("queued", jobspecs.Mixed, cluster.Submitted),
		},
		health: map[cluster.LaunchID]*apiv1.Health{"ready": up, "drained": up, "ended": up, "silent": nil},
		ready:  map[cluster.LaunchID]error{"ready": nil, "drained": nil},
	}
	got := map[string][3]bool{}
	for id, r := range v.view(t).Replicas {
		got[id] = [3]bool{r.Ready, r.Draining, r.Load != nil}
		if r.Address != "host:1" || r.EngineStarts != 2 || r.EngineKind != "sim" || r.Role != "mixed" {
			t.Errorf("%v", r)
		}
	}
	want := map[string][3]bool{"ready": {true, false, true}, "drained": {true, true, true}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	v.age = time.Minute
	if r := v.view(t).Replicas["ready"]; !r.Ready || r.Load != nil {
		t.Errorf("a load of a minute ago is passed on: %v", r)
	}
}

// Two deployments may claim one name while the second takes over from the first: the one that serves has it.
func TestNameOfTwoDeployments(t *testing.T) {
	f := New(Options{})
	f.Admit("l", "r", 1, 1)
	mustApply(t, f, 0, full(1, started, 1), t0)
	f.SetReady("l", "r", 1, t0, nil)
	l := launch("l", jobspecs.Mixed, cluster.Submitted)
	l.Deployment = "z"
	var both []Deployed
	for _, name := range []string{"a", "z", "b"} {
		both = append(both, Deployed{
			Spec:   jobspecs.Deployment{Name: name, Model: jobspecs.Model{ServedName: "m"}},
			Wanted: map[jobspecs.RoleKind]int{jobspecs.Mixed: 1},
		})
	}
	if m := Gateways(f.Snapshot(t0), []cluster.Launch{l}, both, nil).Models["m"]; m.Deployment != "z" {
		t.Errorf("%v", m)
	}
	if m := Gateways(f.Snapshot(t0), nil, both, nil).Models["m"]; m.Deployment != "a" {
		t.Errorf("none serves: %v", m)
	}
}
