package server

import (
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/penstock/penstock/jobspecs"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/identity"
)

func TestJoin(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.apply(t, file("demo", 1))
	id := w.launch(t, "l-1", "demo", 0, 2)
	api := apiv1.NewAgentServiceClient(w.client(t, nil), w.url)
	req, key := w.joinRequest(t, id, "run-a", 1, 2)
	req.Job = "job-7"
	resp, err := api.Join(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.Epoch == 0 || resp.Term != w.ledger.Term() || resp.Deployment != "demo" || resp.Role != "mixed" || resp.Revision != 1 {
		t.Errorf("answer: %v", resp)
	}
	if len(resp.Gpus) != 1 || resp.Gpus[0] != "l-1-gpu1" || !strings.HasSuffix(resp.LogDir, "l-1") || string(resp.CaPem) != string(w.ca.PEM()) {
		t.Errorf("answer: %v", resp)
	}
	back, err := jobspecs.ParseDocument("wire", []byte(resp.DeploymentYaml))
	if err != nil || jobspecs.Hash(back.Deployment) != jobspecs.Hash(d) {
		t.Errorf("the deployment changed on the wire: %v", err)
	}
	cert, err := identity.KeyPair(resp.CertificatePem, key)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := identity.FromCert(cert.Leaf); err != nil || got != (identity.ID{Role: identity.Agent, Launch: "l-1", Run: "run-a", Rank: 1}) {
		t.Errorf("certificate of %v, %v", got, err)
	}
	stored, _ := w.ledger.Launch(id)
	if stored.Run != "run-a" || stored.Epoch != resp.Epoch || stored.Job != "job-7" {
		t.Errorf("ledger has %+v", stored)
	}
	if wakes, _ := w.loop.woken(); wakes == 0 {
		t.Error("nobody told the loop")
	}
	again, err := api.Join(t.Context(), req)
	if err != nil || again.Epoch != resp.Epoch {
		t.Errorf("again: epoch %d, %v; want %d", again.GetEpoch(), err, resp.Epoch)
	}
}

// TestJoinRefused: what is refused changes nothing: the launch can still be joined by a good run, with the first epoch.
func TestJoinRefused(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, c := range []struct {
		name   string
		change func(*world, *apiv1.JoinRequest)
		want   connect.Code
	}{
		{"no token", func(_ *world, r *apiv1.JoinRequest) { r.Token = "" }, connect.CodeUnauthenticated},
		{"made-up token", func(_ *world, r *apiv1.JoinRequest) { r.Token = "pst-abc" }, connect.CodeUnauthenticated},
		{"expired", func(w *world, r *apiv1.JoinRequest) { r.Token = w.tokens.Mint("l-1", now.Add(-time.Second)) }, connect.CodeUnauthenticated},
		{"another launch's token", func(w *world, r *apiv1.JoinRequest) { r.Token = w.tokens.Mint("l-2", now.Add(time.Hour)) }, connect.CodeUnauthenticated},
		{"a gateway's token", func(w *world, r *apiv1.JoinRequest) { r.Token = w.tokens.MintGateway("l-1", now.Add(time.Hour)) }, connect.CodeUnauthenticated},
		{"a launch that is forgotten", func(w *world, r *apiv1.JoinRequest) {
			r.Launch, r.Token = "gone", w.tokens.Mint("gone", now.Add(time.Hour))
		}, connect.CodeFailedPrecondition},
		{"too few nodes", func(_ *world, r *apiv1.JoinRequest) { r.Nodes = 1 }, connect.CodeInvalidArgument},
		{"rank beyond", func(_ *world, r *apiv1.JoinRequest) { r.NodeRank = 2 }, connect.CodeInvalidArgument},
		{"no run", func(_ *world, r *apiv1.JoinRequest) { r.Run = "" }, connect.CodeInvalidArgument},
		{"a run that can stand in no certificate", func(_ *world, r *apiv1.JoinRequest) { r.Run = "a/b" }, connect.CodeInvalidArgument},
		{"no key", func(_ *world, r *apiv1.JoinRequest) { r.CsrDer = []byte("x") }, connect.CodeInvalidArgument},
		{"an endless job", func(_ *world, r *apiv1.JoinRequest) { r.Job = strings.Repeat("j", 1000) }, connect.CodeInvalidArgument},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.apply(t, file("demo", 1))
			id := w.launch(t, "l-1", "demo", 0, 2)
			req, _ := w.joinRequest(t, id, "run-a", 0, 2)
			c.change(w, req)
			_, err := apiv1.NewAgentServiceClient(w.client(t, nil), w.url).Join(t.Context(), req)
			wantCode(t, err, c.want)
			if l, _ := w.ledger.Launch(id); l.Run != "" || l.Job != "" || l.Epoch != 0 {
				t.Errorf("the ledger changed: %+v", l)
			}
			if a := w.join(t, id, "run-b", 0, 2); a.epoch != 1 {
				t.Errorf("epoch %d was given away", a.epoch)
			}
		})
	}
}

// TestSecondRun: one token runs twice. The run that is connected stays; one that is gone is superseded and cannot report
// any more.
func TestSecondRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply(t, file("demo", 1))
	id := w.launch(t, "l-1", "demo", 0, 1)
	first := w.join(t, id, "run-a", 0, 1).open()
	first.full(apiv1.Phase_PHASE_LOADING)
	first.acked()

	api := apiv1.NewAgentServiceClient(w.client(t, nil), w.url)
	req, _ := w.joinRequest(t, id, "run-b", 0, 1)
	_, err := api.Join(t.Context(), req)
	wantCode(t, err, connect.CodeFailedPrecondition)

	_ = first.stream.CloseRequest()
	until(t, "the fleet sees the first run go", func() bool {
		return !w.fleet.Snapshot(time.Now()).Replicas[id].Connected()
	})
	second := w.join(t, id, "run-b", 0, 1).open()
	if second.epoch <= first.epoch {
		t.Errorf("epoch %d after %d", second.epoch, first.epoch)
	}
	second.full(apiv1.Phase_PHASE_LOADING)
	second.acked()

	first.open()
	if code := first.ended(); code != connect.CodeFailedPrecondition {
		t.Errorf("the fenced run's report: %s", code)
	}
	_, err = first.api.Renew(t.Context(), &apiv1.RenewRequest{})
	wantCode(t, err, connect.CodeFailedPrecondition)
}

// TestSupersededWhileReporting: a stream that is still open when a newer run is admitted ends at its next word.
func TestSupersededWhileReporting(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply(t, file("demo", 1))
	id := w.launch(t, "l-1", "demo", 0, 1)
	a := w.join(t, id, "run-a", 0, 1).open()
	a.full(apiv1.Phase_PHASE_LOADING)
	a.acked()
	epoch, err := w.ledger.Admit(id, "run-b", true)
	if err != nil {
		t.Fatal(err)
	}
	w.fleet.Admit(id, "run-b", epoch, 1)
	a.delta(health(apiv1.Phase_PHASE_STARTED))
	if code := a.ended(); code != connect.CodeFailedPrecondition {
		t.Errorf("stale run: %s", code)
	}
}

func TestJoinOfLaunchThatLeaves(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply(t, file("demo", 1))
	api := apiv1.NewAgentServiceClient(w.client(t, nil), w.url)
	for _, phase := range []cluster.LaunchPhase{cluster.Draining, cluster.Ended} {
		id := w.launch(t, "l-"+string(phase), "demo", 0, 1)
		a := w.join(t, id, "run-a", 0, 1)
		w.update(t, id, func(l *cluster.Launch) { l.Phase, l.EndReason = phase, "cancelled" })
		other, _ := w.joinRequest(t, id, "run-b", 0, 1)
		_, err := api.Join(t.Context(), other)
		wantCode(t, err, connect.CodeFailedPrecondition)

		same, _ := w.joinRequest(t, id, "run-a", 0, 1)
		resp, err := api.Join(t.Context(), same)
		csr, _, cerr := identity.NewCSR()
		if cerr != nil {
			t.Fatal(cerr)
		}
		_, rerr := a.api.Renew(t.Context(), &apiv1.RenewRequest{CsrDer: csr})
		a.open()
		if phase == cluster.Ended { // it learns so wherever it asks, and ends its job
			wantCode(t, err, connect.CodeFailedPrecondition)
			wantCode(t, rerr, connect.CodeFailedPrecondition)
			if code := a.ended(); code != connect.CodeFailedPrecondition {
				t.Errorf("report of an ended launch: %s", code)
			}
			continue
		}
		if err != nil || resp.Epoch != a.epoch || rerr != nil { // it drains on, and may come back meanwhile
			t.Errorf("draining: epoch %d, %v, renew %v", resp.GetEpoch(), err, rerr)
		}
		a.full(apiv1.Phase_PHASE_DRAINING)
		a.acked()
	}
}

func TestRenewAgent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply(t, file("demo", 1))
	a := w.join(t, w.launch(t, "l-1", "demo", 0, 2), "run-a", 1, 2)
	csr, key, err := identity.NewCSR()
	if err != nil {
		t.Fatal(err)
	}
	resp, err := a.api.Renew(t.Context(), &apiv1.RenewRequest{CsrDer: csr})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := identity.KeyPair(resp.CertificatePem, key)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := identity.FromCert(cert.Leaf); err != nil || id.Run != "run-a" || id.Rank != 1 {
		t.Errorf("renewed as %v, %v", id, err)
	}
	block, _ := pem.Decode(resp.CertificatePem)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil || time.Until(leaf.NotAfter) < certificateTTL-time.Hour {
		t.Errorf("valid until %v, %v", leaf.NotAfter, err)
	}
	_, err = a.api.Renew(t.Context(), &apiv1.RenewRequest{CsrDer: []byte("x")})
	wantCode(t, err, connect.CodeInvalidArgument)
}

// TestReport: the full state, changes, a gap, and the end of the stream reach the fleet.
func TestReport(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply(t, file("demo", 1))
	id := w.launch(t, "l-1", "demo", 0, 1)
	a := w.join(t, id, "run-a", 0, 1).open()
	seen := func() (apiv1.Phase, bool) {
		r := w.fleet.Snapshot(time.Now()).Replicas[id]
		return r.Phase, r.Connected()
	}
	a.full(apiv1.Phase_PHASE_LOADING)
	a.acked()
	if phase, connected := seen(); phase != apiv1.Phase_PHASE_LOADING || !connected {
		t.Errorf("after the full state: %s, connected %v", phase, connected)
	}
	a.delta(health(apiv1.Phase_PHASE_STARTED))
	a.acked()
	if phase, _ := seen(); phase != apiv1.Phase_PHASE_STARTED {
		t.Errorf("after a change: %s", phase)
	}
	a.seq++ // a message that is lost
	a.delta(health(apiv1.Phase_PHASE_DRAINING))
	if r := a.next().GetResend(); r.GetFrom() != 3 || r.GetTo() != 4 {
		t.Errorf("gap answered by %v", r)
	}
	if phase, _ := seen(); phase != apiv1.Phase_PHASE_STARTED {
		t.Errorf("a change after a gap was applied: %s", phase)
	}
	a.seq = 2
	a.delta(health(apiv1.Phase_PHASE_STARTED))
	a.delta(health(apiv1.Phase_PHASE_DRAINING))
	a.acked()
	if phase, _ := seen(); phase != apiv1.Phase_PHASE_DRAINING {
		t.Errorf("after the range was sent again: %s", phase)
	}
	if n := gauge(t, w, "penstock_controller_agents"); n != 1 {
		t.Errorf("%v agents counted", n)
	}
	if err := a.stream.CloseRequest(); err != nil {
		t.Fatal(err)
	}
	until(t, "the fleet sees it go", func() bool { _, connected := seen(); return !connected })
	if phase, _ := seen(); phase != apiv1.Phase_PHASE_DRAINING {
		t.Errorf("what was known is forgotten: %s", phase)
	}
	until(t, "it is counted no more", func() bool { return gauge(t, w, "penstock_controller_agents") == 0 })
}

// TestReportFirstWord: a run that starts with a change has to send everything; one that lies about itself is cut off.
func TestReportFirstWord(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply(t, file("demo", 1))
	a := w.join(t, w.launch(t, "l-1", "demo", 0, 1), "run-a", 0, 1).open()
	a.delta(health(apiv1.Phase_PHASE_STARTED))
	if r := a.next().GetResend(); r == nil || r.From != 0 {
		t.Errorf("got %v, want a request for the full state", r)
	}
	s := health(apiv1.Phase_PHASE_STARTED)
	s.Identity = a.identity()
	s.Identity.Launch = "another"
	a.send(&apiv1.ReportRequest{Body: &apiv1.ReportRequest_Full{Full: s}})
	if code := a.ended(); code != connect.CodeInvalidArgument {
		t.Errorf("a lie: %s", code)
	}
}

// TestAfterRestart: a controller that has just started knows runs from its ledger: nobody has to join again.
func TestAfterRestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply(t, file("demo", 1))
	id := w.launch(t, "l-1", "demo", 0, 1)
	a := w.join(t, id, "run-a", 0, 1)
	w.fleet.Remove(id) // what a new process does not know
	a.open().full(apiv1.Phase_PHASE_STARTED)
	a.acked()
	if r := w.fleet.Snapshot(time.Now()).Replicas[id]; r.Epoch != a.epoch || r.Phase != apiv1.Phase_PHASE_STARTED {
		t.Errorf("fleet has %+v", r)
	}
}

// TestHeadAddress: the other ranks hear where rank 0 is as soon as it says so, and late ones at Join.
func TestHeadAddress(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply(t, file("demo", 1))
	id := w.launch(t, "l-1", "demo", 0, 2)
	worker := w.join(t, id, "run-a", 1, 2).open()
	worker.full(apiv1.Phase_PHASE_JOINING)
	worker.acked()
	head := w.join(t, id, "run-a", 0, 2).open()
	s := health(apiv1.Phase_PHASE_JOINING)
	s.Identity = head.identity()
	s.Identity.HeadAddress = "node0:1234"
	head.send(&apiv1.ReportRequest{Body: &apiv1.ReportRequest_Full{Full: s}})
	head.acked()
	if got := worker.next().GetAck().GetHeadAddress(); got != "node0:1234" {
		t.Errorf("the worker hears %q", got)
	}
	req, _ := w.joinRequest(t, id, "run-a", 1, 2)
	resp, err := apiv1.NewAgentServiceClient(w.client(t, nil), w.url).Join(t.Context(), req)
	if err != nil || resp.HeadAddress != "node0:1234" {
		t.Errorf("at join: %q, %v", resp.GetHeadAddress(), err)
	}
}

func drainCommand(id string) *apiv1.Command {
	return &apiv1.Command{Id: id, Term: 1, Verb: &apiv1.Command_Drain{Drain: &apiv1.Drain{Deadline: durationpb.New(time.Second)}}}
}

// TestCommands: a command reaches every stream of its launch that is open, and every one that opens later, until the launch
// is forgotten.
func TestCommands(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply(t, file("demo", 2))
	id := w.launch(t, "l-1", "demo", 0, 2)
	other := w.join(t, w.launch(t, "l-2", "demo", 1, 1), "run-x", 0, 1).open()
	other.full(apiv1.Phase_PHASE_STARTED)
	other.acked()
	if err := w.Send(string(id), drainCommand("d-1")); err == nil {
		t.Error("nobody is connected, and Send says that it was sent")
	}
	first := w.join(t, id, "run-a", 0, 2).open()
	first.full(apiv1.Phase_PHASE_STARTED)
	if got := first.next().GetCommand().GetId(); got != "d-1" {
		t.Errorf("a later stream gets %q", got)
	}
	first.acked()
	second := w.join(t, id, "run-a", 1, 2).open()
	second.full(apiv1.Phase_PHASE_STARTED)
	if got := second.next().GetCommand().GetId(); got != "d-1" {
		t.Errorf("the other rank gets %q", got)
	}
	second.acked()
	if err := w.Send(string(id), drainCommand("d-2")); err != nil {
		t.Fatal(err)
	}
	for _, a := range []*agent{first, second} {
		if got := a.next().GetCommand().GetId(); got != "d-2" {
			t.Errorf("rank %d gets %q", a.rank, got)
		}
	}
	w.Forget(string(id))
	_ = first.stream.CloseRequest()
	first.ended()
	first.open()
	first.seq = 10
	first.full(apiv1.Phase_PHASE_STOPPED)
	if m := first.next(); m.GetAck().GetSeq() != 11 {
		t.Errorf("after Forget: %v", m)
	}
	other.delta(health(apiv1.Phase_PHASE_STARTED))
	if m := other.next(); m.GetCommand() != nil {
		t.Errorf("another launch gets %v", m)
	}
}

// TestCloseEndsStreams: a controller that shuts down does not wait for agents to hang up.
func TestCloseEndsStreams(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply(t, file("demo", 1))
	a := w.join(t, w.launch(t, "l-1", "demo", 0, 1), "run-a", 0, 1).open()
	a.full(apiv1.Phase_PHASE_STARTED)
	a.acked()
	w.Close()
	w.Close()
	if code := a.ended(); code != connect.CodeUnavailable {
		t.Errorf("the agent hears %s", code)
	}
	until(t, "the stream is counted no more", func() bool { return gauge(t, w, "penstock_controller_agents") == 0 })
	late := w.join(t, "l-1", "run-a", 0, 1).open()
	_ = late.stream.Send(&apiv1.ReportRequest{Body: &apiv1.ReportRequest_Full{Full: health(apiv1.Phase_PHASE_STARTED)}}) // may come too late
	if code := late.ended(); code != connect.CodeUnavailable {
		t.Errorf("a stream that opens then hears %s", code)
	}
}

// TestSlowAgent: what waits for an agent that does not read is bounded.
func TestSlowAgent(t *testing.T) {
	t.Parallel()
	c := newCommands()
	s := c.open("l-1")
	for range 3 * streamBacklog {
		if err := c.send("l-1", drainCommand("d")); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(s.out); n != streamBacklog {
		t.Errorf("%d wait", n)
	}
	c.close("l-1", s)
	if len(c.streams) != 0 {
		t.Error("a closed stream is kept")
	}
}

// gauge reads one of the server's own metrics as /metrics on the unix socket shows it.
func gauge(t *testing.T, w *world, name string) float64 {
	t.Helper()
	families, err := w.o.Gatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}
