package cli

import (
	"bytes"
	"context"
	"flag"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/identity"
)

var update = flag.Bool("update", false, "rewrite golden files")

func TestMain(m *testing.M) {
	time.Local = time.UTC // times of events are shown as the user's clock has them
	goleak.VerifyTestMain(m)
}

// noon is the time of all fixed messages, and of the command line that shows them.
var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// patience bounds every wait of the tests; nothing depends on how much of it is used.
const patience = time.Minute

// fakeControl answers with what a test gives it; what it has no answer for is not implemented. Fields must not change while
// it serves.
type fakeControl struct {
	history *apiv1.HistoryResponse
	apiv1.UnimplementedControlServiceHandler
	apply     func(*apiv1.ApplyRequest) (*apiv1.ApplyResponse, error)
	plan      func(*apiv1.PlanRequest) (*apiv1.PlanResponse, error)
	status    func(context.Context, *apiv1.StatusRequest) (*apiv1.StatusResponse, error)
	nodes     *apiv1.NodesResponse
	logs      []*apiv1.LogsResponse
	events    []*apiv1.Event
	follows   bool // streams stay open until the caller goes
	scale     func(*apiv1.ScaleRequest) (*apiv1.ScaleResponse, error)
	drain     func(*apiv1.DrainReplicaRequest) (*apiv1.DrainReplicaResponse, error)
	stop      func(*apiv1.StopDeploymentRequest) (*apiv1.StopDeploymentResponse, error)
	endpoint  *apiv1.EndpointResponse
	createKey func(*apiv1.CreateKeyRequest) (*apiv1.CreateKeyResponse, error)
	keys      *apiv1.ListKeysResponse
	why       *apiv1.WhyResponse
	version   *apiv1.VersionResponse
	kv        func(*apiv1.KVRequest) ([]*apiv1.KVResponse, error)

	shutdown       func()
	answersVersion func() *apiv1.VersionResponse // in place of version
}

func (f *fakeControl) KV(_ context.Context, q *apiv1.KVRequest, stream *connect.ServerStream[apiv1.KVResponse]) error {
	all, err := f.kv(q)
	for _, part := range all {
		if err := stream.Send(part); err != nil {
			return err
		}
	}
	return err
}

// answer is a fixed answer, or not found where there is none.
func answer[T any](m *T) (*T, error) {
	if m == nil {
		return nil, connect.NewError(connect.CodeNotFound, errNothing)
	}
	return m, nil
}

var errNothing = fail(ExitNotFound, "", "not found")

// do is a function's answer, or not implemented where there is none.
func do[Q, A any](f func(*Q) (*A, error), q *Q) (*A, error) {
	if f == nil {
		return nil, connect.NewError(connect.CodeUnimplemented, errNothing)
	}
	return f(q)
}

func (f *fakeControl) Apply(_ context.Context, q *apiv1.ApplyRequest) (*apiv1.ApplyResponse, error) {
	return do(f.apply, q)
}

func (f *fakeControl) Plan(_ context.Context, q *apiv1.PlanRequest) (*apiv1.PlanResponse, error) {
	return do(f.plan, q)
}

func (f *fakeControl) Status(ctx context.Context, q *apiv1.StatusRequest) (*apiv1.StatusResponse, error) {
	return do(func(q *apiv1.StatusRequest) (*apiv1.StatusResponse, error) { return f.status(ctx, q) }, q)
}

func (f *fakeControl) Nodes(context.Context, *apiv1.NodesRequest) (*apiv1.NodesResponse, error) {
	return answer(f.nodes)
}

func (f *fakeControl) Scale(_ context.Context, q *apiv1.ScaleRequest) (*apiv1.ScaleResponse, error) {
	return do(f.scale, q)
}

func (f *fakeControl) DrainReplica(_ context.Context, q *apiv1.DrainReplicaRequest) (*apiv1.DrainReplicaResponse, error) {
	return do(f.drain, q)
}

func (f *fakeControl) StopDeployment(_ context.Context, q *apiv1.StopDeploymentRequest) (*apiv1.StopDeploymentResponse, error) {
	return do(f.stop, q)
}

func (f *fakeControl) Endpoint(context.Context, *apiv1.EndpointRequest) (*apiv1.EndpointResponse, error) {
	return answer(f.endpoint)
}

func (f *fakeControl) CreateKey(_ context.Context, q *apiv1.CreateKeyRequest) (*apiv1.CreateKeyResponse, error) {
	return do(f.createKey, q)
}

func (f *fakeControl) ListKeys(context.Context, *apiv1.ListKeysRequest) (*apiv1.ListKeysResponse, error) {
	return answer(f.keys)
}

func (f *fakeControl) RevokeKey(_ context.Context, q *apiv1.RevokeKeyRequest) (*apiv1.RevokeKeyResponse, error) {
	return &apiv1.RevokeKeyResponse{Id: q.Id}, nil
}

func (f *fakeControl) Why(context.Context, *apiv1.WhyRequest) (*apiv1.WhyResponse, error) {
	return answer(f.why)
}

func (f *fakeControl) History(context.Context, *apiv1.HistoryRequest) (*apiv1.HistoryResponse, error) {
	return answer(f.history)
}

func (f *fakeControl) Version(context.Context, *apiv1.VersionRequest) (*apiv1.VersionResponse, error) {
	if f.answersVersion != nil {
		return answer(f.answersVersion())
	}
	return answer(f.version)
}

func (f *fakeControl) Shutdown(_ context.Context, q *apiv1.ShutdownRequest) (*apiv1.ShutdownResponse, error) {
	return do(func(*apiv1.ShutdownRequest) (*apiv1.ShutdownResponse, error) {
		f.shutdown()
		return &apiv1.ShutdownResponse{}, nil
	}, q)
}

func (f *fakeControl) Logs(ctx context.Context, _ *apiv1.LogsRequest, s *connect.ServerStream[apiv1.LogsResponse]) error {
	for _, l := range f.logs {
		if err := s.Send(l); err != nil {
			return err
		}
	}
	return f.hold(ctx)
}

func (f *fakeControl) Events(ctx context.Context, _ *apiv1.EventsRequest, s *connect.ServerStream[apiv1.EventsResponse]) error {
	for _, e := range f.events {
		if err := s.Send(&apiv1.EventsResponse{Event: e}); err != nil {
			return err
		}
	}
	return f.hold(ctx)
}

func (f *fakeControl) hold(ctx context.Context) error {
	if f.follows {
		<-ctx.Done()
	}
	return nil
}

// terminal is a command line for tests: its folders, environment and what it is attached to.
type terminal struct {
	IO
	env      map[string]string
	ctx      context.Context
	onOutput func() // called at each write to stdout; may be nil
}

// newTerminal is a command line in a folder of its own, beside the controller f; nil = none runs.
func newTerminal(t *testing.T, f *fakeControl) *terminal {
	t.Helper()
	dir, err := os.MkdirTemp("", "psc") // short, for the sake of the socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	env := map[string]string{
		"HOME": dir, "PENSTOCK_STATE_DIR": filepath.Join(dir, "state"), "PENSTOCK_RUNTIME_DIR": filepath.Join(dir, "run"),
		"PENSTOCK_SITE_FILE": filepath.Join(dir, "site.yaml"),
	}
	std := testIO(env)
	std.Dir, std.Now = dir, func() time.Time { return noon }
	if f != nil {
		serveFake(t, env["PENSTOCK_STATE_DIR"], filepath.Join(dir, "c.sock"), f)
	}
	return &terminal{IO: std, env: env, ctx: t.Context()}
}

// serveFake has f answer for the controller of a state folder.
func serveFake(t *testing.T, state, socket string, f *fakeControl) {
	t.Helper()
	host, err := os.Hostname()
	if err == nil {
		err = os.MkdirAll(state, 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(apiv1.NewControlServiceHandler(f))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: patience}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
	e := identity.Endpoint{Term: 1, Hostname: host, Socket: socket, PID: os.Getpid(), StartedAt: noon, URL: "https://127.0.0.1:1", CAPEM: testCA(t)}
	if err := identity.WriteEndpoint(filepath.Join(state, endpointFile), e); err != nil {
		t.Fatal(err)
	}
}

var testCA = func() func(*testing.T) string {
	var once sync.Once
	var pem string
	return func(t *testing.T) string {
		once.Do(func() {
			ca, err := identity.OpenCA(filepath.Join(t.TempDir(), "ca"))
			if err != nil {
				t.Fatal(err)
			}
			pem = string(ca.PEM())
		})
		return pem
	}
}()

// run runs a command and returns its exit code and what it printed.
func (tt *terminal) run(args ...string) (code int, out, talk string) {
	var o, e syncBuffer
	o.hook = tt.onOutput
	std := tt.IO
	std.Out, std.Err = &o, &e
	code = runArgs(tt.ctx, append([]string{"penstock"}, args...), std)
	return code, o.String(), e.String()
}

// syncBuffer is a buffer that may be read while a command still writes.
type syncBuffer struct {
	hook func()
	mu   sync.Mutex
	buf  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	if b.hook != nil {
		b.hook()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// write puts a file into the working folder.
func (tt *terminal) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(tt.Dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// golden compares with testdata/NAME.golden.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (make golden rewrites it):\n%s", path, diff)
	}
}

// demoFile is a deployment file that is good.
const demoFile = "apiVersion: penstock/v1\nname: demo\nmodel: {id: tiny}\nengine: {kind: sim}\nroles: {mixed: {replicas: 1}}\n"

// statusOf answers every Status with one deployment.
func statusOf(d ...*apiv1.DeploymentStatus) func(context.Context, *apiv1.StatusRequest) (*apiv1.StatusResponse, error) {
	return func(context.Context, *apiv1.StatusRequest) (*apiv1.StatusResponse, error) {
		return &apiv1.StatusResponse{Term: 1, At: at(0), Deployments: d}, nil
	}
}

// answerWith answers every Status with one message.
func answerWith(st *apiv1.StatusResponse) func(context.Context, *apiv1.StatusRequest) (*apiv1.StatusResponse, error) {
	return func(context.Context, *apiv1.StatusRequest) (*apiv1.StatusResponse, error) { return st, nil }
}

// everythingWorks is a controller to which all goes well.
func everythingWorks() *fakeControl {
	ready := &apiv1.DeploymentStatus{
		Name: "demo", State: "ready", Revision: 1, Roles: []*apiv1.RoleStatus{{Role: "mixed", Wanted: 1, Ready: 1}},
		Replicas: []*apiv1.ReplicaStatus{{Name: "mixed/0", Role: "mixed", State: "ready", Launch: "l-1"}},
	}
	return &fakeControl{
		apply: func(*apiv1.ApplyRequest) (*apiv1.ApplyResponse, error) {
			return &apiv1.ApplyResponse{Deployment: "demo", Revision: 1}, nil
		},
		plan: func(*apiv1.PlanRequest) (*apiv1.PlanResponse, error) {
			return &apiv1.PlanResponse{Deployment: "demo"}, nil
		},
		status: statusOf(ready), nodes: fixedNodes(), logs: []*apiv1.LogsResponse{{Replica: "mixed/0", Line: "x"}}, events: fixedEvents()[:1],
		kv: func(*apiv1.KVRequest) ([]*apiv1.KVResponse, error) {
			return []*apiv1.KVResponse{{Tiers: []*apiv1.KVTier{{Tier: "host"}}, Moved: &apiv1.KVMoved{Done: true}}}, nil
		},
		scale: func(q *apiv1.ScaleRequest) (*apiv1.ScaleResponse, error) {
			return &apiv1.ScaleResponse{Deployment: q.Deployment}, nil
		},
		drain: func(*apiv1.DrainReplicaRequest) (*apiv1.DrainReplicaResponse, error) {
			return &apiv1.DrainReplicaResponse{Launches: []string{"l-1"}}, nil
		},
		stop: func(q *apiv1.StopDeploymentRequest) (*apiv1.StopDeploymentResponse, error) {
			return &apiv1.StopDeploymentResponse{Deployments: []string{q.Deployment}}, nil
		},
		createKey: func(q *apiv1.CreateKeyRequest) (*apiv1.CreateKeyResponse, error) {
			return &apiv1.CreateKeyResponse{Key: &apiv1.Key{Id: "abc", Name: q.Name}, Secret: "psk-abc-secret"}, nil
		},
		endpoint: &apiv1.EndpointResponse{Url: "http://127.0.0.1:1/v1", Models: []string{"tiny"}}, keys: fixedKeys(), why: fixedWhy(),
		version: &apiv1.VersionResponse{Version: "v1"}, history: &apiv1.HistoryResponse{Launches: []*apiv1.PastLaunch{{Launch: "l-0", Deployment: "demo", Cause: "asked"}}},
	}
}
