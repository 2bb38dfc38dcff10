package server

import (
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/penstock/penstock/jobspecs"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/fleet"
	"github.com/penstock/penstock/scheduler/ledger"
	"github.com/penstock/penstock/scheduler/plan"
)

// now is the time of all cases.
var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// picture is what a case sees; its methods add to it.
type picture struct {
	statusInput
	d ledger.Deployment
}

// spec is a deployment whose replicas depend on model.
func spec(model string, replicas int) jobspecs.Deployment {
	return jobspecs.Deployment{
		Name: "demo", Model: jobspecs.Model{ID: model, ServedName: "tiny"}, Engine: jobspecs.Engine{Kind: jobspecs.Sim},
		Cluster: jobspecs.LocalCluster, Roles: map[jobspecs.RoleKind]jobspecs.Role{jobspecs.Mixed: {Replicas: replicas, Nodes: 1}},
	}
}

func newPicture(replicas int) *picture {
	p := &picture{d: ledger.Deployment{Name: "demo", Revision: 2, Spec: spec("new", replicas)}}
	p.fleet = fleet.Snapshot{At: now, StaleAfter: 3 * time.Second, Replicas: map[cluster.LaunchID]fleet.Replica{}}
	p.revision = func(_ string, n int) (jobspecs.Deployment, error) {
		switch n {
		case 1:
			return spec("old", replicas), nil
		case 3:
			return spec("new", replicas+1), nil // the same replicas, another count
		}
		return jobspecs.Deployment{}, errors.New("not kept")
	}
	return p
}

// launch adds a launch of mixed/index, admitted a minute ago.
func (p *picture) launch(id string, index int, change ...func(*cluster.Launch)) *picture {
	l := cluster.Launch{
		ID: cluster.LaunchID(id), Deployment: "demo", Role: jobspecs.Mixed, Index: index, Revision: 2, Nodes: 1, Phase: cluster.Submitted,
		Run: "run", Epoch: 1, CreatedAt: now.Add(-time.Hour), AdmittedAt: now.Add(-time.Minute),
	}
	for _, c := range change {
		c(&l)
	}
	p.launches = append(p.launches, l)
	return p
}

// seen adds what the last launch's agent reported so long ago.
func (p *picture) seen(ago time.Duration, h *apiv1.Health, change ...func(*fleet.Replica)) *picture {
	l := p.launches[len(p.launches)-1]
	at := now.Add(-ago)
	r := fleet.Replica{
		Launch: l.ID, Run: l.Run, Epoch: l.Epoch, Nodes: l.Nodes, Phase: h.Phase, Since: now.Add(-30 * time.Second), SeenAt: at,
		Ranks: map[int]fleet.Rank{0: {State: &apiv1.RunState{Health: h}, SeenAt: at, Connected: true}},
	}
	for _, c := range change {
		c(&r)
	}
	p.fleet.Replicas[l.ID] = r
	return p
}

func (p *picture) ready() *picture {
	return p.seen(time.Second, &apiv1.Health{Phase: apiv1.Phase_PHASE_STARTED}, func(r *fleet.Replica) { r.Ready = true })
}

func (p *picture) waits(a plan.Action) *picture {
	a.Verb, a.Deployment = plan.Wait, "demo"
	p.statusInput.waits = append(p.statusInput.waits, a)
	return p
}

func phase(ph cluster.LaunchPhase) func(*cluster.Launch) {
	return func(l *cluster.Launch) { l.Phase = ph }
}

func failed(reason string, lines ...string) func(*cluster.Launch) {
	return func(l *cluster.Launch) {
		l.Phase, l.Failed, l.EndReason, l.LastLines, l.EndedAt = cluster.Ended, true, reason, lines, now.Add(-time.Minute)
	}
}

func unjoined(l *cluster.Launch) { l.Run, l.Epoch, l.AdmittedAt = "", 0, time.Time{} }

func revision(n int) func(*cluster.Launch) { return func(l *cluster.Launch) { l.Revision = n } }

func TestReplicaStates(t *testing.T) {
	t.Parallel()
	loading := &apiv1.Health{
		Phase: apiv1.Phase_PHASE_LOADING, Message: "reading weights", Loading: &apiv1.Progress{BytesDone: 1 << 30, BytesTotal: 4 << 30},
	}
	for _, c := range []struct {
		name string
		p    *picture
		want string // state: reason
	}{
		{"written down only", newPicture(1).launch("a", 0, phase(cluster.Intended), unjoined), "submitting: waiting for its agent"},
		{"queued, and the planner knows why", newPicture(1).launch("a", 0, unjoined).waits(plan.Action{Launch: "a", Reason: "queued: Priority"}), "pending: queued: Priority"},
		{"another launch's wait", newPicture(1).launch("a", 0, unjoined).waits(plan.Action{Launch: "b", Reason: "queued: Priority"}), "pending: waiting for its agent"},
		{"just joined", newPicture(1).launch("a", 0, func(l *cluster.Launch) { l.AdmittedAt = now.Add(-time.Second) }), "joining: its agent has joined and not reported yet"},
		{"the controller has just started", newPicture(1).launch("a", 0), "unknown: its agent has not reported since the controller started"},
		{"loading", newPicture(1).launch("a", 0).seen(0, loading), "loading: reading weights"},
		{"silent while loading", newPicture(1).launch("a", 0).seen(time.Minute, loading), "unknown: its agent has not been heard of for 1m0s"},
		{"one of two ranks, silent", newPicture(1).launch("a", 0, func(l *cluster.Launch) { l.Nodes = 2 }).seen(time.Minute, loading), "unknown: its agent has not been heard of for 1m0s"},
		{"one of two ranks", newPicture(1).launch("a", 0, func(l *cluster.Launch) { l.Nodes = 2 }).seen(0, &apiv1.Health{}, func(r *fleet.Replica) { r.Phase = apiv1.Phase_PHASE_JOINING }), "joining: waiting for all nodes of the replica"},
		{"started, not probed", newPicture(1).launch("a", 0).seen(0, &apiv1.Health{Phase: apiv1.Phase_PHASE_STARTED}), "started: waiting for the controller's own token"},
		{"started, probe fails", newPicture(1).launch("a", 0).seen(0, &apiv1.Health{Phase: apiv1.Phase_PHASE_STARTED}, func(r *fleet.Replica) { r.NotReady = "502" }), "started: 502"},
		{"ready", newPicture(1).launch("a", 0).ready(), "ready: "},
		{"ready once, silent now", newPicture(1).launch("a", 0).seen(4*time.Second, &apiv1.Health{Phase: apiv1.Phase_PHASE_STARTED}, func(r *fleet.Replica) { r.Ready = true }), "unknown: its agent has not been heard of for 4s"},
		{"told to drain", newPicture(1).launch("a", 0, phase(cluster.Draining), func(l *cluster.Launch) { l.DrainReason = "scaled down" }).ready(), "draining: scaled down"},
		{"drains by itself", newPicture(1).launch("a", 0).seen(0, &apiv1.Health{Phase: apiv1.Phase_PHASE_DRAINING, Message: "signal terminated"}), "draining: signal terminated"},
		{"failed, says its agent", newPicture(1).launch("a", 0).seen(0, &apiv1.Health{Phase: apiv1.Phase_PHASE_FAILED, Message: "the engine ended", Exit: "exit 3"}), "failed: the engine ended exit 3"},
		{"its agent says how it ended in words", newPicture(1).launch("a", 0).seen(0, &apiv1.Health{Phase: apiv1.Phase_PHASE_FAILED, Message: "the engine ended: exit 3", Exit: "exit 3"}), "failed: the engine ended: exit 3"},
		{"stopped, says its agent", newPicture(1).launch("a", 0).seen(0, &apiv1.Health{Phase: apiv1.Phase_PHASE_STOPPED}), "ended: "},
		{"failed for good", newPicture(1).launch("a", 0, failed("exit 3")), "failed: exit 3"},
		{"tried again", newPicture(1).launch("a", 0, failed("exit 3")).launch("b", 0, unjoined), "pending: start 2, the last one failed: exit 3; waiting for its agent"},
	} {
		st := c.p.deployment(c.p.d)
		if len(st.Replicas) != 1 {
			t.Errorf("%s: %d replicas", c.name, len(st.Replicas))
			continue
		}
		if r := st.Replicas[0]; r.State+": "+r.Reason != c.want {
			t.Errorf("%s: %s: %s, want %s", c.name, r.State, r.Reason, c.want)
		}
	}
}

func TestDeploymentStates(t *testing.T) {
	t.Parallel()
	gone := func(l *cluster.Launch) { l.Phase = cluster.Ended }
	for _, c := range []struct {
		name string
		p    *picture
		set  func(*ledger.Deployment)
		want string // state: reason
	}{
		{"nothing yet", newPicture(2), nil, "starting: no replica is ready yet, 2 wanted"},
		{"no room", newPicture(2).waits(plan.Action{Reason: "no node has a free GPU"}), nil, "starting: no node has a free GPU"},
		{"all ready", newPicture(2).launch("a", 0).ready().launch("b", 1).ready(), nil, "ready: "},
		{"one of two", newPicture(2).launch("a", 0).ready().launch("b", 1, unjoined), nil, "degraded: 1 of 2 replicas are ready"},
		{"more ready than wanted", newPicture(1).launch("a", 0).ready().launch("b", 1).ready(), nil, "ready: "},
		{"scaled to zero", newPicture(0), nil, "ready: scaled to zero"},
		{"scaled to zero, one still there", newPicture(0).launch("a", 0, phase(cluster.Draining)).ready(), nil, "ready: scaled to zero; 1 replica is still ending"},
		{"a new revision", newPicture(1).launch("a", 0, revision(1)).ready(), nil, "updating: replicas move to revision 2"},
		{"a revision that nobody has kept", newPicture(1).launch("a", 0, revision(7)).ready(), nil, "updating: replicas move to revision 2"},
		{"a revision that changes counts only", newPicture(1).launch("a", 0, revision(3)).ready(), nil, "ready: "},
		{"the old ones only drain", newPicture(1).launch("a", 0, revision(1), phase(cluster.Draining)).ready().launch("b", 0).ready(), nil, "ready: "},
		{
			"rolled back", newPicture(1).launch("a", 0).ready(),
			func(d *ledger.Deployment) { d.RolledBackFrom, d.RollbackReason = 3, "exit 3" }, "ready: revision 3 was rolled back: exit 3",
		},
		{"silent", newPicture(2).launch("a", 0).launch("b", 1), nil, "unknown: nothing is known of 2 replicas"},
		{"one silent, one ready", newPicture(2).launch("a", 0).launch("b", 1).ready(), nil, "degraded: 1 of 2 replicas are ready"},
		{"failed twice", newPicture(1).launch("a", 0, failed("x")).launch("b", 0, failed("y")), nil, "starting: 2 starts in a row failed; it is tried again"},
		{"failed once, in back-off", newPicture(1).launch("a", 0, failed("x")).waits(plan.Action{Reason: "mixed/0 has failed once in a row"}), nil, "starting: mixed/0 has failed once in a row"},
		{
			"failed three times", newPicture(1).launch("a", 0, failed("x")).launch("b", 0, failed("x")).launch("c", 0, failed("y")),
			nil, "failed: crash-looping: 3 starts failed one after the other; it is tried again",
		},
		{
			"failed three times and tried again", newPicture(1).launch("a", 0, failed("x")).launch("b", 0, failed("x")).launch("c", 0, failed("y")).launch("d", 0, unjoined),
			nil, "failed: crash-looping: 3 starts failed one after the other; it is tried again",
		},
		{
			"an end in between that was asked for", newPicture(1).launch("a", 0, failed("x")).launch("b", 0, failed("x")).launch("c", 0, gone).launch("d", 0, failed("y")),
			nil, "starting: 1 start failed; it is tried again",
		},
		{
			"older revisions' failures", newPicture(1).launch("a", 0, failed("x"), revision(1)).launch("b", 0, failed("x"), revision(1)).launch("c", 0, failed("y"), revision(1)),
			nil, "starting: no replica is ready yet, 1 wanted",
		},
		{"stopping", newPicture(1).launch("a", 0, phase(cluster.Draining)).ready(), func(d *ledger.Deployment) { d.Stopped = true }, "stopping: 1 replica is still ending"},
		{
			"stopping, and its engine has failed already", newPicture(1).launch("a", 0).seen(0, &apiv1.Health{Phase: apiv1.Phase_PHASE_FAILED}),
			func(d *ledger.Deployment) { d.Stopped = true }, "stopping: 1 replica is still ending",
		},
		{"stopped", newPicture(1).launch("a", 0, gone), func(d *ledger.Deployment) { d.Stopped = true }, "stopped: "},
		{"damaged", newPicture(1).launch("a", 0).ready(), func(d *ledger.Deployment) { *d = ledger.Deployment{Name: "demo", Damaged: "no JSON"} }, "unknown: no JSON"},
	} {
		if c.set != nil {
			c.set(&c.p.d)
		}
		st := c.p.deployment(c.p.d)
		if got := st.State + ": " + st.Reason; got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		if c.name == "damaged" && len(st.Replicas) != 1 {
			t.Errorf("%s: its replicas are not shown", c.name)
		}
	}
}

func TestRoleCounts(t *testing.T) {
	t.Parallel()
	p := newPicture(5).launch("a", 0).ready().launch("b", 1, unjoined).launch("c", 2, phase(cluster.Draining)).ready().
		launch("d", 3).launch("e", 4, failed("exit 1"))
	p.d.Scale = map[jobspecs.RoleKind]int{jobspecs.Mixed: 4}
	st := p.deployment(p.d)
	r := st.Roles[0]
	if r.Wanted != 4 || r.Ready != 1 || r.Starting != 1 || r.Draining != 1 || r.Unknown != 1 || !r.Scaled {
		t.Errorf("got %v", r)
	}
	if len(st.Replicas) != 4 { // mixed/4 is wanted no more, and so its failure is history
		t.Errorf("%d replicas", len(st.Replicas))
	}
}

// TestReplicaFacts: what agents report stands in the status, and nothing that is too old.
func TestReplicaFacts(t *testing.T) {
	t.Parallel()
	three := uint32(3)
	half := 0.5
	facts := func(r *fleet.Replica) {
		s := r.Ranks[0].State
		s.Identity = &apiv1.Identity{Address: "127.0.0.1:7", Node: "node0", EndsAt: timestamppb.New(now.Add(time.Hour))}
		s.Load, s.Kv = &apiv1.EngineLoad{Running: &three}, &apiv1.KVState{Usage: &half}
		s.Ports = &apiv1.Ports{Ports: []*apiv1.Port{{Address: "127.0.0.1:7", Protection: "mtls"}}}
	}
	crashed := &apiv1.Health{
		Phase: apiv1.Phase_PHASE_JOINING, Message: "starts again", Failures: 2, RetryAt: timestamppb.New(now.Add(5 * time.Second)), LastLines: []string{"CUDA error"},
	}
	p := newPicture(2).launch("a", 0).seen(time.Second, &apiv1.Health{Phase: apiv1.Phase_PHASE_STARTED}, facts).
		launch("b", 1, func(l *cluster.Launch) { l.LastLines = []string{"older"} }).seen(time.Minute, crashed, facts)
	st := p.deployment(p.d)
	a, b := st.Replicas[0], st.Replicas[1]
	if a.Address != "127.0.0.1:7" || a.Nodes[0] != "node0" || a.EndsAt.AsTime() != now.Add(time.Hour) || len(a.Ports) != 1 {
		t.Errorf("a: %v", a)
	}
	if a.Load.GetRunning() != 3 || a.Kv.GetUsage() != 0.5 || a.Since.AsTime() != now.Add(-30*time.Second) || a.SeenAt.AsTime() != now.Add(-time.Second) {
		t.Errorf("a: %v", a)
	}
	if b.Load != nil || b.Kv != nil {
		t.Errorf("figures of a minute ago stand as if they were of now: %v", b)
	}
	if b.Failures != 2 || b.RetryAt.AsTime() != now.Add(5*time.Second) || strings.Join(b.LastLines, "") != "CUDA error" {
		t.Errorf("b: %v", b)
	}
}

// TestReplicaOrder: by role in the order of the pipeline, then by index.
func TestReplicaOrder(t *testing.T) {
	t.Parallel()
	role := func(r jobspecs.RoleKind) func(*cluster.Launch) { return func(l *cluster.Launch) { l.Role = r } }
	p := newPicture(2).launch("a", 1).launch("b", 10, role(jobspecs.Decode)).launch("c", 2, role(jobspecs.Decode)).
		launch("d", 0, role(jobspecs.Prefill)).launch("e", 0).launch("f", 0, func(l *cluster.Launch) { l.Deployment = "other" })
	var got []string
	for _, r := range p.deployment(p.d).Replicas {
		got = append(got, r.Name)
	}
	if text := strings.Join(got, " "); text != "prefill/0 decode/2 decode/10 mixed/0 mixed/1" {
		t.Error(text)
	}
}
