package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// refuse answers every Status with an error of a code.
func refuse(code connect.Code) func(context.Context, *apiv1.StatusRequest) (*apiv1.StatusResponse, error) {
	return func(context.Context, *apiv1.StatusRequest) (*apiv1.StatusResponse, error) {
		return nil, connect.NewError(code, errors.New("because"))
	}
}

func applied(*apiv1.ApplyRequest) (*apiv1.ApplyResponse, error) {
	return &apiv1.ApplyResponse{Deployment: "demo", Revision: 2, Changed: true}, nil
}

func planned(resp *apiv1.PlanResponse, err error) *fakeControl {
	return &fakeControl{plan: func(*apiv1.PlanRequest) (*apiv1.PlanResponse, error) { return resp, err }}
}

// runs answers Apply, and every Status after it with d.
func runs(d *apiv1.DeploymentStatus) *fakeControl {
	d.Name = "demo"
	return &fakeControl{apply: applied, status: statusOf(d)}
}

// TestExitCodes has a case for each code that --help documents, plan's own among them.
func TestExitCodes(t *testing.T) {
	t.Parallel()
	replica := func(state string) []*apiv1.ReplicaStatus {
		return []*apiv1.ReplicaStatus{{Name: "mixed/0", Role: "mixed", Launch: "l-1", State: state, LastLines: []string{"CUDA error"}}}
	}
	ready := &apiv1.DeploymentStatus{State: "ready", Replicas: replica("ready"), Revision: 2}
	for _, c := range []struct {
		args string
		f    *fakeControl // nil = no controller runs
		want int
		says string // on stderr
	}{
		{"status", runs(ready), 0, ""},
		{"run f.yaml", runs(ready), 0, "demo mixed/0: ready"},
		{"run --detach f.yaml", &fakeControl{apply: applied}, 0, ""},
		{"wait demo", runs(ready), 0, ""},
		{"wait demo --for stopped", runs(&apiv1.DeploymentStatus{State: "stopped"}), 0, ""},
		{"wait demo --for stopped", &fakeControl{status: refuse(connect.CodeNotFound)}, 0, ""},

		{"status", nil, 1, "no controller answers"},
		{"status", &fakeControl{status: refuse(connect.CodeInternal)}, 1, "penstock: because"},
		{"render bad.yaml", nil, 1, "nmae"},
		{"run bad.yaml", runs(ready), 1, "nmae"},
		{"render slurm.yaml --cluster moon", nil, 64, "use local, slurm or nomad"},
		{"render slurm.yaml --role decode", nil, 3, "its roles: mixed"},

		{"run f.yaml --timeout 1ms", runs(&apiv1.DeploymentStatus{State: "starting", Reason: "no room"}), 2, "not placed after 1ms: no room"},
		{"run f.yaml --timeout 1ms", runs(&apiv1.DeploymentStatus{State: "starting", Replicas: replica("pending")}), 2, "not placed"},

		{"status nobody", &fakeControl{status: refuse(connect.CodeNotFound)}, 3, "because"},
		{"run absent.yaml", runs(ready), 3, "absent.yaml does not exist"},
		{"why nothing", &fakeControl{}, 3, "not found"},
		{"endpoint", &fakeControl{endpoint: &apiv1.EndpointResponse{}}, 3, "penstock gateway"},

		{"status", &fakeControl{status: refuse(connect.CodeUnauthenticated)}, 4, "because"},
		{"status", &fakeControl{status: refuse(connect.CodePermissionDenied)}, 4, "because"},

		{"run f.yaml --timeout 1ms", runs(&apiv1.DeploymentStatus{State: "starting", Replicas: replica("loading")}), 5, "demo is starting, not ready, after 1ms"},
		{"wait demo --for stopped --timeout 1ms", runs(&apiv1.DeploymentStatus{State: "stopping"}), 5, "not stopped"},
		{"status", &fakeControl{status: refuse(connect.CodeDeadlineExceeded)}, 5, "because"},

		{"run f.yaml", runs(&apiv1.DeploymentStatus{State: "failed", Reason: "3 starts failed", Replicas: replica("failed")}), 6, "CUDA error"},
		{"run f.yaml", runs(&apiv1.DeploymentStatus{State: "ready", Revision: 1, RolledBackFrom: 2}), 6, "revision 2 failed and was rolled back to 1"},
		{"wait demo", runs(&apiv1.DeploymentStatus{State: "stopped"}), 6, "was stopped"},

		{"statsu", nil, 64, `did you mean "penstock status"?`},
		{"-- statsu", nil, 64, `did you mean "penstock status"?`},
		{"config -- veiw", nil, 64, `did you mean "penstock config view"?`},
		{"status --wid", nil, 64, "did you mean --wide?"},
		{"run", nil, 64, "needs a deployment file"},
		{"key craete me", nil, 64, `did you mean "penstock key create"?`},
		{"status a b", nil, 64, "takes one argument"},
		{"scale demo mixed=-1", nil, 64, "mixed=-1"},
		{"scale demo lead=1", nil, 64, "lead"},
		{"drain demo", nil, 64, "needs a deployment and a replica"},
		{"drain demo mixed/0 --node n", nil, 64, "not both"},
		{"stop", nil, 64, "needs deployments, or --all"},
		{"stop demo --all", nil, 64, "needs deployments, or --all"},
		{"wait demo --for rain", nil, 64, "ready or stopped"},
		{"status --log-level", nil, 64, "needs a value"},
		{"run f.yaml --timeout soon", nil, 64, "soon"},
		{"status --json=maybe", nil, 64, "maybe"},
		{"serve now", nil, 64, "takes no arguments"},
		{"serve --tls=maybe", nil, 64, `--tls cannot be "maybe"`},
		{"logs demo --tail x", nil, 64, `--tail cannot be "x"`},
		{"wait demo --timeout soon", nil, 64, `--timeout cannot be "soon"`},
		{"serve --log-level loud", nil, 64, "loud"},
		{"serve --local-nodes a:b", nil, 64, "a:b"},
		{"serve --gateway-listen here", nil, 64, "here"},
		{"agent", nil, 64, "--join"},
		{"engine sim --block-size -1", nil, 64, "block"},
		{"completion tcsh", nil, 64, "bash, zsh or fish"},

		{"plan f.yaml", planned(&apiv1.PlanResponse{Deployment: "demo", Revision: 1}, nil), 0, ""},
		{"plan", planned(&apiv1.PlanResponse{Actions: []*apiv1.Action{{Verb: "wait"}}}, nil), 0, ""},
		{"plan f.yaml", planned(&apiv1.PlanResponse{Deployment: "demo", Revision: 1, Changed: true}, nil), 1, ""},
		{"plan", planned(&apiv1.PlanResponse{Actions: []*apiv1.Action{{Verb: "start"}}}, nil), 1, ""},
		{"run f.yaml --dry-run", planned(&apiv1.PlanResponse{Changed: true}, nil), 1, ""},
		{"plan f.yaml", nil, 255, "no controller answers"},
		{"plan bad.yaml", planned(nil, nil), 255, "nmae"},
		{"plan f.yaml", planned(nil, connect.NewError(connect.CodeUnavailable, errors.New("because"))), 255, "because"},
		{"plan absent.yaml", planned(nil, nil), 255, "does not exist"},
		{"plan a b", nil, 64, "one argument"},
	} {
		t.Run(fmt.Sprintf("%s is %d", c.args, c.want), func(t *testing.T) {
			t.Parallel()
			tt := newTerminal(t, c.f)
			tt.write(t, "f.yaml", demoFile)
			tt.write(t, "bad.yaml", strings.Replace(demoFile, "name", "nmae", 1))
			tt.write(t, "slurm.yaml", demoFile+"cluster: slurm\n")
			code, out, talk := tt.run(strings.Fields(c.args)...)
			if code != c.want || !strings.Contains(talk, c.says) {
				t.Errorf("exit %d, want %d; stderr %q, want %q in it", code, c.want, talk, c.says)
			}
			if strings.Contains(out, "penstock:") {
				t.Errorf("an error on stdout: %s", out)
			}
		})
	}
}

// TestInterrupted: ctrl-c ends what waits and follows with 130, and nothing is asked of the controller.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	d := &apiv1.DeploymentStatus{Name: "demo", State: "starting", Replicas: []*apiv1.ReplicaStatus{{Name: "mixed/0", State: "loading"}}}
	for args, says := range map[string]string{
		"run f.yaml": "the deployment goes on", "wait demo": "the deployment goes on", "logs -f demo": "", "events -f": "", "status": "", "plan": "",
		"stop demo --wait": "the deployment goes on",
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var looks atomic.Int32
			f := &fakeControl{
				apply: applied, follows: true,
				logs: []*apiv1.LogsResponse{{Line: "x"}}, events: []*apiv1.Event{{At: at(0)}},
				stop: func(q *apiv1.StopDeploymentRequest) (*apiv1.StopDeploymentResponse, error) {
					return &apiv1.StopDeploymentResponse{Deployments: []string{q.Deployment}}, nil
				},
				plan: func(*apiv1.PlanRequest) (*apiv1.PlanResponse, error) {
					cancel()
					<-t.Context().Done()
					return nil, errNothing
				},
				status: func(ctx context.Context, _ *apiv1.StatusRequest) (*apiv1.StatusResponse, error) {
					if looks.Add(1) > 1 || args == "status" { // the call itself is under way
						cancel()
						<-ctx.Done()
						return nil, ctx.Err()
					}
					return &apiv1.StatusResponse{At: at(0), Deployments: []*apiv1.DeploymentStatus{d}}, nil
				},
			}
			tt := newTerminal(t, f)
			tt.ctx = ctx
			tt.write(t, "f.yaml", demoFile)
			if strings.Contains(args, " -f") {
				tt.onOutput = cancel
			}
			code, _, talk := tt.run(strings.Fields(args)...)
			if code != ExitInterrupted || !strings.Contains(talk, says) {
				t.Errorf("exit %d: %s", code, talk)
			}
		})
	}
}

// TestFollowOutlivesController: who waits goes on waiting while the controller is away.
func TestFollowOutlivesController(t *testing.T) {
	t.Parallel()
	var looks atomic.Int32
	f := &fakeControl{status: func(context.Context, *apiv1.StatusRequest) (*apiv1.StatusResponse, error) {
		if looks.Add(1) < 3 {
			return nil, connect.NewError(connect.CodeUnavailable, errors.New("away"))
		}
		return &apiv1.StatusResponse{At: at(0), Deployments: []*apiv1.DeploymentStatus{{Name: "demo", State: "ready"}}}, nil
	}}
	code, _, talk := newTerminal(t, f).run("wait", "demo")
	if code != 0 || strings.Count(talk, "the controller does not answer") != 1 {
		t.Errorf("exit %d: %s", code, talk)
	}
}

// TestImpossible: what can never be placed is told at once and ends the waiting with its own code; what is only busy is
// waited for.
func TestImpossible(t *testing.T) {
	t.Parallel()
	wait := func(cause string) *apiv1.Action {
		return &apiv1.Action{Verb: "wait", Deployment: "demo", Role: "mixed", Reason: "no node has 9 GPUs", Cause: cause}
	}
	starting := &apiv1.DeploymentStatus{Name: "demo", State: "starting", Reason: "no node has 9 GPUs"}
	never := &apiv1.DeploymentStatus{Name: "demo", State: "starting", Reason: "no node has 9 GPUs", Impossible: "no node has 9 GPUs"}
	for _, tt := range []struct {
		args   string
		cause  string
		status *apiv1.DeploymentStatus
		code   int
		says   string
	}{
		{"run f.yaml", "never-fits", starting, ExitNotPlaced, "can never be placed on what there is: no node has 9 GPUs"},
		{"run f.yaml", "", never, ExitNotPlaced, "penstock stop demo"},
		{"run f.yaml --detach", "never-fits", starting, ExitOK, "no node has 9 GPUs"},
		{"run f.yaml --timeout 10ms", "no-room", starting, ExitNotPlaced, "accepted but not placed after 10ms"},
		{"wait demo", "", never, ExitNotPlaced, "can never be placed"},
	} {
		f := everythingWorks()
		f.apply = func(*apiv1.ApplyRequest) (*apiv1.ApplyResponse, error) {
			return &apiv1.ApplyResponse{Deployment: "demo", Revision: 1, Changed: true, Actions: []*apiv1.Action{wait(tt.cause)}}, nil
		}
		f.status = statusOf(tt.status)
		cmd := newTerminal(t, f)
		cmd.write(t, "f.yaml", demoFile)
		code, out, talk := cmd.run(strings.Fields(tt.args)...)
		if code != tt.code || !strings.Contains(talk, tt.says) {
			t.Errorf("%s: exit %d, want %d: %s", tt.args, code, tt.code, talk)
		}
		if strings.HasPrefix(tt.args, "run") && out != "demo revision 1\n" {
			t.Errorf("%s prints %q", tt.args, out)
		}
	}
}

// TestOwnMistakesFirst: what is wrong with the command line or its files is told before anything about a controller.
func TestOwnMistakesFirst(t *testing.T) {
	t.Parallel()
	for args, says := range map[string]string{
		"run nofile.yaml":                   "nofile.yaml does not exist",
		"run nofile.yaml --controller job":  "nofile.yaml does not exist",
		"run nofile.yaml --dry-run":         "nofile.yaml does not exist",
		"plan nofile.yaml":                  "nofile.yaml does not exist",
		"plan bad.yaml":                     "bad.yaml:1",
		"render nofile.yaml":                "nofile.yaml does not exist",
		"key create me --out there":         "there",
		"key create me --ttl soon":          "soon",
		"scale demo mixed=x":                "mixed=x",
		"drain demo":                        "needs a deployment and a replica",
		"stop":                              "needs deployments, or --all",
		"wait demo --for rain":              "ready or stopped",
		"logs":                              "needs a deployment",
		"gateway --gateway-listen nonsense": "nonsense",
		"serve --local-nodes a:b":           "a:b",
		"serve --gateway-listen nonsense":   "nonsense",
	} {
		tt := newTerminal(t, nil)
		tt.write(t, "bad.yaml", "name: [")
		tt.write(t, "there", "")
		code, out, talk := tt.run(strings.Fields(args)...)
		if code == 0 || out != "" || !strings.Contains(talk, says) || strings.Contains(talk, "controller answers") {
			t.Errorf("%s: exit %d: %s%s", args, code, out, talk)
		}
	}
}

// TestProgress: each thing is said once, loading by tenths, countdowns never, and a deployment's own reason only where no
// replica's line says more.
func TestProgress(t *testing.T) {
	t.Parallel()
	var now time.Time
	var talk syncBuffer
	inv := &invocation{IO: IO{Err: &talk}}
	p := newProgress(inv, followOptions{deployment: "demo", until: "ready", said: "no room"})
	look := func(reason string, after time.Duration, reps ...*apiv1.ReplicaStatus) {
		now = now.Add(after)
		p.show(&apiv1.DeploymentStatus{
			Name: "demo", State: "starting", Reason: reason, Replicas: reps, Roles: []*apiv1.RoleStatus{{Role: "mixed", Wanted: 1}},
		}, now)
	}
	replica := func(state, reason string, done uint64) *apiv1.ReplicaStatus {
		r := &apiv1.ReplicaStatus{Launch: "l-1", Name: "mixed/0", State: state, Reason: reason}
		if done > 0 {
			r.Loading = &apiv1.Progress{BytesDone: done << 30, BytesTotal: 100 << 30}
		}
		return r
	}
	for range 9 {
		look("no room", 0) // said by run already
	}
	look("still no room", 0) // a moment only
	for range 9 {
		look("back-off", 0)
	}
	for range 9 {
		look("no replica is ready yet", 0, replica("pending", "queued: Priority", 0))
	}
	for done := range uint64(25) {
		look("", time.Second, replica("loading", "", done+1))
	}
	look("", time.Minute, replica("loading", "", 26))
	for _, s := range []string{"2s", "1s", "1s"} {
		r := replica("joining", "exit 1; starts again in 2s", 0)
		r.RetryAt = at(0)
		look("in "+s, 0, r)
	}
	look("", 0, replica("loading", "", 1))
	look("", 0, replica("ready", "x", 0))
	want := `demo: back-off
demo mixed/0: pending: queued: Priority
demo mixed/0: loading: 1 GiB of 100 GiB
demo mixed/0: loading: 10 GiB of 100 GiB
demo mixed/0: loading: 20 GiB of 100 GiB
demo mixed/0: loading: 26 GiB of 100 GiB
demo mixed/0: joining: exit 1; starts again in 2s
demo mixed/0: loading: 1 GiB of 100 GiB
demo mixed/0: ready
`
	if got := talk.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}
