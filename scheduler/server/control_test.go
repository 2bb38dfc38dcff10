package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/penstock/penstock/jobspecs"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/identity"
	"github.com/penstock/penstock/scheduler/plan"
)

// event tells whether an event of a kind was recorded, with a message that holds text.
func (w *world) event(kind, text string) bool {
	return slices.ContainsFunc(w.ledger.Events(0), func(e *apiv1.Event) bool {
		return e.Kind == kind && strings.Contains(e.Message, text)
	})
}

func TestApply(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.loop.dry = []plan.Action{
		{Verb: plan.Start, Deployment: "demo", Role: jobspecs.Mixed, Reason: "wanted", New: &cluster.Launch{Placement: []cluster.Placement{{Node: "n0", GPUs: []string{"g0", "g1"}}}}},
		{Verb: plan.Wait, Deployment: "other", Index: -1, Reason: "of no interest"},
	}
	resp, err := w.control.Apply(t.Context(), &apiv1.ApplyRequest{Yaml: file("demo", 2), Source: "demo.yaml"})
	if err != nil {
		t.Fatal(err)
	}
	if resp.Deployment != "demo" || resp.Revision != 1 || !resp.Changed || len(resp.Actions) != 1 {
		t.Fatalf("answer: %v", resp)
	}
	if a := resp.Actions[0]; a.Verb != "start" || a.Nodes[0] != "n0" || a.Gpus != 2 || a.Reason != "wanted" {
		t.Errorf("action: %v", a)
	}
	if d, ok := w.ledger.Deployment("demo"); !ok || d.Wanted(jobspecs.Mixed) != 2 || !w.event("applied", "demo.yaml") {
		t.Errorf("ledger: %+v", d)
	}
	if _, fresh := w.loop.woken(); fresh != 1 || w.loop.applied == nil || w.loop.applied.Name != "demo" {
		t.Errorf("the loop was woken %d times, planned for %v", fresh, w.loop.applied)
	}
	again, err := w.control.Apply(t.Context(), &apiv1.ApplyRequest{Yaml: file("demo", 2), Source: "demo.yaml"})
	if err != nil || again.Changed || again.Revision != 1 {
		t.Errorf("again: %v, %v", again, err)
	}
}

// TestFilesRefused: Plan and Apply take the same files, and a refused one changes nothing.
func TestFilesRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, c := range []struct {
		name, text string
		want       connect.Code
		says       string
	}{
		{"no YAML", "{", connect.CodeInvalidArgument, "f.yaml"},
		{"unknown key", strings.Replace(file("demo", 1), "model:", "modle:", 1), connect.CodeInvalidArgument, "model"},
		{"an argument that is ours", strings.Replace(file("demo", 1), "kind: sim", "kind: sim, args: [--uds, x]", 1), connect.CodeInvalidArgument, "--uds"},
		{"weights that are not there", strings.Replace(file("demo", 1), "model: {id: tiny-demo}", "model: {path: /nowhere/w.bin, servedName: x}", 1), connect.CodeFailedPrecondition, "/nowhere/w.bin"},
		{"a cluster that is not here", file("demo", 1) + "cluster: slurm\n", connect.CodeFailedPrecondition, "slurm"},
	} {
		_, err := w.control.Apply(t.Context(), &apiv1.ApplyRequest{Yaml: c.text, Source: "f.yaml"})
		_, perr := w.control.Plan(t.Context(), &apiv1.PlanRequest{Yaml: c.text, Source: "f.yaml"})
		for _, err := range []error{err, perr} {
			if connect.CodeOf(err) != c.want || !strings.Contains(fmt.Sprint(err), c.says) {
				t.Errorf("%s: %v", c.name, err)
			}
		}
	}
	if len(w.ledger.Deployments()) != 0 {
		t.Error("a refused file is in the ledger")
	}
}

func TestPlanCall(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.loop.warns = []string{"cluster local is slow"}
	w.loop.dry = []plan.Action{{Verb: plan.Start, Deployment: "demo", Role: jobspecs.Mixed}, {Verb: plan.Wait, Deployment: "other"}}
	ask := func(text string) *apiv1.PlanResponse {
		t.Helper()
		resp, err := w.control.Plan(t.Context(), &apiv1.PlanRequest{Yaml: text, Source: "f.yaml"})
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	if resp := ask(file("demo", 1)); !resp.Changed || resp.Revision != 1 || len(resp.Actions) != 1 || !slices.Contains(resp.Warnings, "cluster local is slow") {
		t.Errorf("new: %v", resp)
	}
	if len(w.ledger.Deployments()) != 0 {
		t.Error("a plan is in the ledger")
	}
	w.apply(t, file("demo", 1))
	if resp := ask(file("demo", 1)); resp.Changed || resp.Revision != 1 {
		t.Errorf("the same: %v", resp)
	}
	if resp := ask(file("demo", 2)); !resp.Changed || resp.Revision != 2 {
		t.Errorf("another: %v", resp)
	}
	if err := w.ledger.SetStopped("demo", true); err != nil {
		t.Fatal(err)
	}
	if resp := ask(file("demo", 1)); !resp.Changed || resp.Revision != 1 {
		t.Errorf("the same, stopped: %v", resp)
	}
	if resp := ask(""); resp.Deployment != "" || len(resp.Actions) != 2 || w.loop.applied != nil {
		t.Errorf("as things are: %v", resp)
	}
	w.loop.dryErr = cluster.ErrUnknown
	_, err := w.control.Plan(t.Context(), &apiv1.PlanRequest{})
	wantCode(t, err, connect.CodeUnavailable)
}

// TestNames: deployments and replicas are found by name, by their beginning, by launch and job; what is meant by nothing,
// or could be two things, is an error in every call.
func TestNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, name := range []string{"qwen-a", "qwen-b", "llama"} {
		w.apply(t, file(name, 2))
	}
	w.launch(t, "zz-1", "llama", 0, 1)
	w.launch(t, "zz-2", "llama", 1, 1)
	w.update(t, "zz-2", func(l *cluster.Launch) { l.Job = "4711" })
	calls := map[string]func(name string) error{
		"status": func(n string) error {
			_, err := w.control.Status(t.Context(), &apiv1.StatusRequest{Deployment: n})
			return err
		},
		"scale": func(n string) error {
			_, err := w.control.Scale(t.Context(), &apiv1.ScaleRequest{Deployment: n})
			return err
		},
		"stop": func(n string) error {
			_, err := w.control.StopDeployment(t.Context(), &apiv1.StopDeploymentRequest{Deployment: n})
			return err
		},
		"drain": func(n string) error {
			_, err := w.control.DrainReplica(t.Context(), &apiv1.DrainReplicaRequest{Deployment: n, Replica: "mixed/0"})
			return err
		},
		"logs": func(n string) error {
			s, err := w.control.Logs(t.Context(), &apiv1.LogsRequest{Deployment: n})
			if err != nil {
				return err
			}
			defer s.Close()
			for s.Receive() {
			}
			return s.Err()
		},
		"events": func(n string) error {
			s, err := w.control.Events(t.Context(), &apiv1.EventsRequest{Deployment: n})
			if err != nil {
				return err
			}
			defer s.Close()
			for s.Receive() {
			}
			return s.Err()
		},
	}
	for name, f := range calls {
		if code := connect.CodeOf(f("absent")); code != connect.CodeNotFound {
			t.Errorf("%s of what is not there: %s", name, code)
		}
		if code := connect.CodeOf(f("qwen")); code != connect.CodeInvalidArgument {
			t.Errorf("%s of two: %s", name, code)
		}
		if err := f("lla"); err != nil && connect.CodeOf(err) != connect.CodeFailedPrecondition { // it may have been stopped by then
			t.Errorf("%s by a beginning: %v", name, err)
		}
	}
	d, err := w.deployment("llama")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"": "zz-1 zz-2", "mixed/1": "zz-2", "zz-1": "zz-1", "4711": "zz-2", "zz": "ambiguous", "mixed/9": "not found", "mixed": "not found",
	} {
		found, err := w.launches(d, name, false)
		var ids []string
		for _, l := range found {
			ids = append(ids, string(l.ID))
		}
		if got := strings.Join(ids, " "); err == nil && got != want || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %s, %v; want %s", name, got, err, want)
		}
	}
}

func TestScale(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	text := strings.Replace(file("demo", 1), "{mixed: {replicas: 1}}", "{prefill: {replicas: 1}, decode: {replicas: 1, min: 1, max: 3}}", 1)
	w.apply(t, text)
	scale := func(roles map[string]uint32) error {
		_, err := w.control.Scale(t.Context(), &apiv1.ScaleRequest{Deployment: "demo", Roles: roles})
		return err
	}
	if err := scale(map[string]uint32{"prefill": 2, "decode": 3}); err != nil {
		t.Fatal(err)
	}
	counts := func() string {
		d, _ := w.ledger.Deployment("demo")
		return fmt.Sprint(d.Wanted(jobspecs.Prefill), d.Wanted(jobspecs.Decode))
	}
	if counts() != "2 3" || !w.event("scaled", "decode: 3 wanted, was 1") {
		t.Errorf("%s wanted", counts())
	}
	for _, bad := range []map[string]uint32{{"prefill": 5, "decode": 4}, {"prefill": 5, "decode": 0}, {"prefill": 5, "mixed": 1}} {
		wantCode(t, scale(bad), connect.CodeInvalidArgument)
		if counts() != "2 3" {
			t.Errorf("%v was refused, and now %s are wanted", bad, counts())
		}
	}
	before := len(w.ledger.Events(0))
	if err := scale(map[string]uint32{"decode": 3}); err != nil || len(w.ledger.Events(0)) != before {
		t.Errorf("the same again: %v, %d events more", err, len(w.ledger.Events(0))-before)
	}

	notes := func() string {
		t.Helper()
		resp, err := w.control.Plan(t.Context(), &apiv1.PlanRequest{Yaml: text})
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(resp.Warnings, "\n")
	}
	if got, want := notes(), "prefill of demo: 2 replicas by `penstock scale`; the file says 1\ndecode of demo: 3 replicas by `penstock scale`; the file says 1"; got != want {
		t.Errorf("planned again: %q, want %q", got, want)
	}
	if err := w.ledger.SetStopped("demo", true); err != nil {
		t.Fatal(err)
	}
	wantCode(t, scale(map[string]uint32{"prefill": 3}), connect.CodeFailedPrecondition)
	if got, want := notes(), "prefill of demo: 1 replica, as the file says; the 2 of `penstock scale` ended when it was stopped"; !strings.Contains(got, want) {
		t.Errorf("planned after a stop: %q, want %q", got, want)
	}
	resp, err := w.control.Apply(t.Context(), &apiv1.ApplyRequest{Yaml: text})
	if err != nil || len(resp.Notes) != 2 || counts() != "1 1" {
		t.Errorf("after a stop and a start %s are wanted; %q, %v", counts(), resp.GetNotes(), err)
	}
}

func TestDrainReplica(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply(t, file("demo", 3))
	for i := range 3 {
		w.launch(t, fmt.Sprintf("l-%d", i), "demo", i, 1+i%2)
	}
	drain := func(r *apiv1.DrainReplicaRequest) ([]string, error) {
		resp, err := w.control.DrainReplica(t.Context(), r)
		return resp.GetLaunches(), err
	}
	by := func(id cluster.LaunchID) time.Duration {
		l, _ := w.ledger.Launch(id)
		if l.Phase != cluster.Draining {
			return -1
		}
		return time.Until(l.DrainBy)
	}
	if got, err := drain(&apiv1.DrainReplicaRequest{Deployment: "demo", Replica: "mixed/0"}); err != nil || !slices.Equal(got, []string{"l-0"}) {
		t.Errorf("got %v, %v", got, err)
	}
	d, _ := w.ledger.Deployment("demo")
	if left := by("l-0"); left > d.Spec.Serving.DrainTimeout.Std() || left < d.Spec.Serving.DrainTimeout.Std()-patience || by("l-1") != -1 {
		t.Errorf("drains for %v", left)
	}
	for _, deadline := range []time.Duration{5 * time.Second, time.Hour} { // it can only come sooner
		_, err := drain(&apiv1.DrainReplicaRequest{Deployment: "demo", Replica: "l-0", Deadline: durationpb.New(deadline)})
		if err != nil || by("l-0") > 5*time.Second {
			t.Errorf("deadline %v: drains for %v, %v", deadline, by("l-0"), err)
		}
	}
	if got, err := drain(&apiv1.DrainReplicaRequest{Node: "node1"}); err != nil || !slices.Equal(got, []string{"l-1"}) || by("l-2") != -1 {
		t.Errorf("by node: %v, %v", got, err)
	}
	_, err := drain(&apiv1.DrainReplicaRequest{Node: "node9"})
	wantCode(t, err, connect.CodeNotFound)
	_, err = drain(&apiv1.DrainReplicaRequest{Deployment: "demo"})
	wantCode(t, err, connect.CodeInvalidArgument) // never all of them by a slip
	_, err = drain(&apiv1.DrainReplicaRequest{Deployment: "demo", Replica: "mixed/7"})
	wantCode(t, err, connect.CodeNotFound)
}

func TestStopDeployment(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, name := range []string{"a", "b", "c"} {
		w.apply(t, file(name, 1))
		w.launch(t, "l-"+name, name, 0, 1)
	}
	stop := func(r *apiv1.StopDeploymentRequest) ([]string, error) {
		resp, err := w.control.StopDeployment(t.Context(), r)
		return resp.GetDeployments(), err
	}
	if got, err := stop(&apiv1.StopDeploymentRequest{Deployment: "a"}); err != nil || !slices.Equal(got, []string{"a"}) {
		t.Errorf("got %v, %v", got, err)
	}
	if l, _ := w.ledger.Launch("l-a"); l.Phase != cluster.Submitted {
		t.Errorf("the planner drains, and the launch is %s already", l.Phase)
	}
	if got, err := stop(&apiv1.StopDeploymentRequest{Deployment: "b", Now: true}); err != nil || !slices.Equal(got, []string{"b"}) {
		t.Errorf("got %v, %v", got, err)
	}
	if l, _ := w.ledger.Launch("l-b"); l.Phase != cluster.Draining || time.Until(l.DrainBy) > 0 {
		t.Errorf("now: %s by %v", l.Phase, l.DrainBy)
	}
	if got, err := stop(&apiv1.StopDeploymentRequest{All: true}); err != nil || !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("all: %v, %v", got, err)
	}
	for _, d := range w.ledger.Deployments() {
		if !d.Stopped {
			t.Errorf("%s is not stopped", d.Name)
		}
	}
}

func TestEndpoint(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply(t, file("a", 1))
	w.apply(t, strings.Replace(file("b", 1), "{id: tiny-b}", "{id: tiny-b, adapters: [{name: lora, path: /x}]}", 1))
	w.apply(t, file("c", 1))
	if err := w.ledger.SetStopped("c", true); err != nil {
		t.Fatal(err)
	}
	resp, err := w.control.Endpoint(t.Context(), &apiv1.EndpointRequest{})
	if err != nil || resp.Url != "http://127.0.0.1:1/v1" || strings.Join(resp.Models, " ") != "tiny-a tiny-b lora" {
		t.Errorf("got %v, %v", resp, err)
	}
}

// TestEndpointElsewhere: a controller without a gateway of its own names one that watches.
func TestEndpointElsewhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *Options) { o.Endpoint = func() *apiv1.EndpointResponse { return &apiv1.EndpointResponse{} } })
	ask := func() *apiv1.EndpointResponse {
		resp, err := w.control.Endpoint(t.Context(), &apiv1.EndpointRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	if resp := ask(); resp.Url != "" || resp.CaFile != "" {
		t.Errorf("with no gateway: %v", resp)
	}
	s, err := w.gateway(t, "gw").Watch(t.Context(), &apiv1.WatchRequest{Url: "https://gw:1/v1"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.Receive()
	if resp := ask(); resp.Url != "https://gw:1/v1" || resp.CaFile != w.ca.File() {
		t.Errorf("got %v", resp)
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	made, err := w.control.CreateKey(t.Context(), &apiv1.CreateKeyRequest{Name: "me", RequestsPerMinute: 5, Ttl: durationpb.New(time.Hour)})
	if err != nil || made.Key.Hash != nil || !strings.HasPrefix(made.Secret, "psk-") || made.Key.RequestsPerMinute != 5 || made.Key.ExpiresAt == nil {
		t.Fatalf("got %v, %v", made, err)
	}
	_, err = w.control.CreateKey(t.Context(), &apiv1.CreateKeyRequest{Name: "me"})
	wantCode(t, err, connect.CodeAlreadyExists)
	_, err = w.control.CreateKey(t.Context(), &apiv1.CreateKeyRequest{})
	wantCode(t, err, connect.CodeInvalidArgument)
	list, err := w.control.ListKeys(t.Context(), &apiv1.ListKeysRequest{})
	if err != nil || len(list.Keys) != 1 || list.Keys[0].Name != "me" || list.Keys[0].Hash != nil {
		t.Errorf("got %v, %v", list, err)
	}
	gone, err := w.control.RevokeKey(t.Context(), &apiv1.RevokeKeyRequest{Id: "me"})
	if err != nil || gone.Id != made.Key.Id || !w.event("key", "revoked") {
		t.Errorf("got %v, %v", gone, err)
	}
	_, err = w.control.RevokeKey(t.Context(), &apiv1.RevokeKeyRequest{Id: "me"})
	wantCode(t, err, connect.CodeNotFound)
	for _, e := range w.ledger.Events(0) {
		if strings.Contains(e.Message, made.Secret) {
			t.Error("the secret stands in an event")
		}
	}
}

func TestVersionAndShutdown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v, err := w.control.Version(t.Context(), &apiv1.VersionRequest{})
	if err != nil || v.Version != "test" || v.Term != w.ledger.Term() || v.Pid != int64(os.Getpid()) || v.StartedAt == nil {
		t.Errorf("got %v, %v", v, err)
	}
	overTLS := apiv1.NewControlServiceClient(w.as(t, identity.ID{Role: identity.CLI, Name: "owner"}), w.url) // as from another host
	if _, err := overTLS.Shutdown(t.Context(), &apiv1.ShutdownRequest{}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-w.shutdown:
	case <-time.After(patience):
		t.Error("nobody was asked to end")
	}
}

// TestStatusCall: what the whole says beside the deployments.
func TestStatusCall(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *Options) {
		o.Notices = []string{"a notice"}
		if err := os.WriteFile(filepath.Join(o.StateDir, "keys", "bad.json"), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		var err error
		if o.Keys, err = keysAgain(o.StateDir); err != nil {
			t.Fatal(err)
		}
	})
	w.loop.warns = []string{"a warning of the loop"}
	w.apply(t, file("demo", 1))
	w.apply(t, file("other", 1))
	a := w.join(t, w.launch(t, "l-1", "demo", 0, 1), "run-a", 0, 1).open()
	s := health(apiv1.Phase_PHASE_STARTED)
	s.Identity = a.identity()
	s.Ports = &apiv1.Ports{Ports: []*apiv1.Port{{Address: "0.0.0.0:5", Purpose: "metrics", Protection: "none"}, {Address: "0.0.0.0:6", Protection: "mtls"}}}
	a.send(&apiv1.ReportRequest{Body: &apiv1.ReportRequest_Full{Full: s}})
	a.acked()
	st, err := w.control.Status(t.Context(), &apiv1.StatusRequest{})
	if err != nil || len(st.Deployments) != 2 || st.Term != w.ledger.Term() || st.At == nil {
		t.Fatalf("got %v, %v", st, err)
	}
	if r := st.Deployments[0].Replicas[0]; r.State != "started" || r.Epoch != a.epoch || len(r.Ports) != 2 {
		t.Errorf("got %v", r)
	}
	all := strings.Join(st.Warnings, "\n")
	for _, part := range []string{"a notice", "a warning of the loop", "0.0.0.0:5 is open", "bad.json"} {
		if !strings.Contains(all, part) {
			t.Errorf("no word of %s in %q", part, all)
		}
	}
	if strings.Contains(all, "0.0.0.0:6") || !slices.IsSorted(st.Warnings) {
		t.Errorf("warnings %q", all)
	}
	one, err := w.control.Status(t.Context(), &apiv1.StatusRequest{Deployment: "oth"})
	if err != nil || len(one.Deployments) != 1 || one.Deployments[0].Name != "other" {
		t.Errorf("one: %v, %v", one, err)
	}
}

// TestLogsCall: engines' logs and agents', of this launch and of the one before, to the end and on.
func TestLogsCall(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply(t, file("demo", 1))
	old := w.launch(t, "l-1", "demo", 0, 1)
	w.update(t, old, func(l *cluster.Launch) { l.Phase = cluster.Ended })
	now := w.launch(t, "l-2", "demo", 0, 1)
	for id, text := range map[cluster.LaunchID]string{old: "old\n", now: "one\ntwo\n"} {
		l, _ := w.ledger.Launch(id)
		if err := os.MkdirAll(w.o.LogDir(l), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(w.o.LogDir(l), "engine-0.log"), text)
		write(t, filepath.Join(w.o.LogDir(l), "agent-0.log"), "agent of "+text)
	}
	for want, req := range map[string]*apiv1.LogsRequest{
		"one two":          {},
		"two":              {Tail: 1},
		"old":              {Previous: true},
		"agent of one two": {Stream: "agent"},
	} {
		req.Deployment = "demo"
		s, err := w.control.Logs(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for s.Receive() {
			got = append(got, s.Msg().Line)
		}
		if err := errors.Join(s.Err(), s.Close()); err != nil || strings.Join(got, " ") != want {
			t.Errorf("%v: %q, %v", req, got, err)
		}
	}
	s, err := w.control.Logs(t.Context(), &apiv1.LogsRequest{Deployment: "demo", Replica: "mixed/0", Follow: true, Tail: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.Receive()
	l, _ := w.ledger.Launch(now)
	write(t, filepath.Join(w.o.LogDir(l), "engine-0.log"), "three\n")
	if !s.Receive() || s.Msg().Line != "three" || s.Msg().Replica != "mixed/0" {
		t.Errorf("got %v, %v", s.Msg(), s.Err())
	}
	w.Close()
	for s.Receive() {
	}
	wantCode(t, s.Err(), connect.CodeUnavailable)
}

func TestEventsCall(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply(t, file("demo", 1))
	for i := range 3 {
		w.note("test", "demo", "", fmt.Sprint(i))
		w.note("test", "other", "", fmt.Sprint(i))
	}
	s, err := w.control.Events(t.Context(), &apiv1.EventsRequest{Deployment: "demo", Tail: 2, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	next := func() string {
		t.Helper()
		if !s.Receive() {
			t.Fatal(s.Err())
		}
		return s.Msg().Event.Deployment + " " + s.Msg().Event.Message
	}
	if a, b := next(), next(); a != "demo 1" || b != "demo 2" {
		t.Errorf("past: %s, %s", a, b)
	}
	w.note("test", "other", "", "no")
	w.note("test", "demo", "", "yes")
	if got := next(); got != "demo yes" {
		t.Errorf("next: %s", got)
	}
	w.Close()
	for s.Receive() {
	}
	wantCode(t, s.Err(), connect.CodeUnavailable)

	past, err := newWorld(t).control.Events(t.Context(), &apiv1.EventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	defer past.Close()
	if !past.Receive() || past.Msg().Event.Kind != "term" || past.Receive() || past.Err() != nil {
		t.Errorf("without following: %v, %v", past.Msg(), past.Err())
	}
}

func TestPickLaunches(t *testing.T) {
	t.Parallel()
	l := func(id string, index int, p cluster.LaunchPhase) cluster.Launch {
		return cluster.Launch{ID: cluster.LaunchID(id), Role: jobspecs.Mixed, Index: index, Phase: p}
	}
	all := []cluster.Launch{
		l("a", 0, cluster.Ended), l("b", 0, cluster.Draining), l("c", 0, cluster.Ended), l("d", 0, cluster.Submitted), l("e", 1, cluster.Ended),
	}
	for previous, want := range map[bool]string{false: "b d e", true: "c"} {
		var got []string
		for _, p := range pickLaunches(all, previous) {
			got = append(got, string(p.ID))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("previous %v: %v, want %s", previous, got, want)
		}
	}
}
