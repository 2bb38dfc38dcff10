package server

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/penstock/penstock/jobspecs"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/fleet"
	"github.com/penstock/penstock/scheduler/identity"
	"github.com/penstock/penstock/scheduler/keys"
	"github.com/penstock/penstock/scheduler/ledger"
	"github.com/penstock/penstock/scheduler/plan"
)

func TestMain(m *testing.M) {
	if socket := os.Getenv(strangerSocket); socket != "" {
		os.Exit(knock(socket)) // this is the other user of TestOwnerListenerDropsOthers
	}
	goleak.VerifyTestMain(m)
}

// patience bounds every wait of the tests; nothing depends on how much of it is used.
const patience = time.Minute

// fakeLoop answers as a reconcile loop that never runs.
type fakeLoop struct {
	mu        sync.Mutex
	wakes     int
	refreshes int
	last      []plan.Action
	dry       []plan.Action
	dryErr    error
	warns     []string
	handovers []plan.Handover
	excluded  []plan.Excluded
	applied   *jobspecs.Deployment // what DryRun was asked
}

func (l *fakeLoop) Wake()               { l.mu.Lock(); defer l.mu.Unlock(); l.wakes++ }
func (l *fakeLoop) Refresh()            { l.mu.Lock(); defer l.mu.Unlock(); l.refreshes++ }
func (l *fakeLoop) Last() []plan.Action { l.mu.Lock(); defer l.mu.Unlock(); return l.last }
func (l *fakeLoop) Warnings() []string  { return l.warns }

func (l *fakeLoop) Handovers() []plan.Handover { return l.handovers }
func (l *fakeLoop) Excluded() []plan.Excluded  { return l.excluded }
func (l *fakeLoop) woken() (wakes, fresh int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.wakes, l.refreshes
}

func (l *fakeLoop) DryRun(_ context.Context, d *jobspecs.Deployment) ([]plan.Action, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.applied = d
	return l.dry, l.dryErr
}

func (l *fakeLoop) Supports(k jobspecs.ClusterKind) error {
	if k == jobspecs.LocalCluster {
		return nil
	}
	return fmt.Errorf("this controller cannot use cluster %s", k)
}

// fakeCluster has the capacity that a test gives it.
type fakeCluster struct {
	cluster.Cluster
	capacity cluster.Capacity
	err      error
}

func (c fakeCluster) Capacity(context.Context) (cluster.Capacity, error) { return c.capacity, c.err }

// world is a Server on a real ledger, fleet, CA and key store, behind real TLS and a real unix socket.
type world struct {
	*Server
	dir      string
	url      string
	ledger   *ledger.Ledger
	fleet    *fleet.Fleet
	ca       *identity.CA
	tokens   *identity.JoinTokens
	keys     *keys.Store
	loop     *fakeLoop
	control  apiv1.ControlServiceClient // over the unix socket
	owner    *http.Client               // over the unix socket
	shutdown chan struct{}
	agents   *http.Server
}

// shortDir is a folder whose path leaves room for a unix socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pss")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func newWorld(t *testing.T, change ...func(*Options)) *world {
	t.Helper()
	w := &world{dir: shortDir(t), loop: &fakeLoop{}, fleet: fleet.New(fleet.Options{}), shutdown: make(chan struct{}, 8)}
	state := filepath.Join(w.dir, "state")
	var err error
	if w.ledger, err = ledger.Open(state, ledger.Options{Log: zerolog.Nop()}); err != nil {
		t.Fatal(err)
	}
	holder, err := ledger.ThisProcess(time.Now())
	if err == nil {
		_, err = w.ledger.Acquire(t.Context(), holder)
	}
	if err == nil {
		w.ca, err = identity.OpenCA(filepath.Join(state, "ca"))
	}
	if err == nil {
		w.tokens, err = identity.OpenJoinTokens(filepath.Join(state, "ca"))
	}
	if err == nil {
		w.keys, err = keys.Open(filepath.Join(state, "keys"))
	}
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	publisher := fleet.NewPublisher(fleet.PublisherOptions{
		Source: func(now time.Time) fleet.View {
			return fleet.View{Settled: true}
		},
		Changed: w.fleet.Changed, Term: w.ledger.Term(), Gap: time.Millisecond,
	})
	o := Options{
		Ledger: w.ledger, Fleet: w.fleet, Publisher: publisher, Loop: w.loop, CA: w.ca, Tokens: w.tokens, Keys: w.keys, StateDir: state,
		LogDir: func(l cluster.Launch) string { return filepath.Join(state, "logs", string(l.ID)) },
		Endpoint: func() *apiv1.EndpointResponse {
			return &apiv1.EndpointResponse{Url: "http://127.0.0.1:1/v1", Controller: w.url}
		},
		Shutdown: func() { w.shutdown <- struct{}{} },
		Version:  "test", StartedAt: time.Now(), Log: zerolog.Nop(), Metrics: registry, Gatherer: registry,
	}
	for _, c := range change {
		c(&o)
	}
	if w.Server, err = New(o); err != nil {
		t.Fatal(err)
	}
	w.listen(t)
	run(t, publisher.Run)
	return w
}

// run has a loop run for as long as the test.
func run(t *testing.T, loop func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- loop(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("loop: %v", err)
		}
	})
}

// listen serves agents over TLS and the owner over a unix socket, as the command line's own wiring does.
func (w *world) listen(t *testing.T) {
	own, err := w.ca.Issue(identity.ID{Role: identity.Controller, Name: "controller"}, time.Hour, time.Now(), "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.url = "https://" + tcp.Addr().String()
	config := identity.ServerConfig(func() *tls.Certificate { return &own }, w.ca.Pool(), false)
	config.NextProtos = []string{"h2", "http/1.1"}
	w.agents = w.serve(t, tls.NewListener(tcp, config), w.Agents())
	path := filepath.Join(w.dir, "o.sock")
	unix, err := OwnerListener(path, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	w.serve(t, unix, w.Owner())
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}
	t.Cleanup(tr.CloseIdleConnections)
	w.owner = &http.Client{Transport: tr}
	w.control = apiv1.NewControlServiceClient(w.owner, "http://control")
}

func (w *world) serve(t *testing.T, l net.Listener, h http.Handler) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	srv := &http.Server{Handler: h, Protocols: protocols, ReadHeaderTimeout: patience, ErrorLog: log.New(io.Discard, "", 0)}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() {
		w.Close()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			t.Errorf("streams outlive Close: %v", err)
			_ = srv.Close()
		}
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serve: %v", err)
		}
	})
	return srv
}

// client dials as whoever holds a certificate; nil = nobody.
func (w *world) client(t *testing.T, own *tls.Certificate) *http.Client {
	t.Helper()
	tr := &http.Transport{
		TLSClientConfig:   identity.ClientConfig(func() *tls.Certificate { return own }, w.ca.Pool(), identity.WantRole(identity.Controller)),
		ForceAttemptHTTP2: true,
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// as dials with a certificate for the ID.
func (w *world) as(t *testing.T, id identity.ID) *http.Client {
	t.Helper()
	cert, err := w.ca.Issue(id, time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return w.client(t, &cert)
}

// file is a deployment file with so many replicas.
func file(name string, replicas int) string {
	return fmt.Sprintf("apiVersion: penstock/v1\nname: %s\nmodel: {id: tiny-%s}\nengine: {kind: sim}\nroles: {mixed: {replicas: %d}}\n", name, name, replicas)
}

// apply puts a deployment into the ledger.
func (w *world) apply(t *testing.T, text string) jobspecs.Deployment {
	t.Helper()
	doc, err := jobspecs.ParseDocument("test.yaml", []byte(text))
	if err == nil {
		_, _, err = w.ledger.Apply(doc.Deployment, "test.yaml")
	}
	if err != nil {
		t.Fatal(err)
	}
	return doc.Deployment
}

// launch puts a submitted launch of mixed/index into the ledger.
func (w *world) launch(t *testing.T, id, deployment string, index, nodes int) cluster.LaunchID {
	t.Helper()
	l := cluster.Launch{
		ID: cluster.LaunchID(id), Deployment: deployment, Role: jobspecs.Mixed, Index: index, Revision: 1, Cluster: jobspecs.LocalCluster,
		Nodes: nodes, Phase: cluster.Submitted,
	}
	for rank := range nodes {
		l.Placement = append(l.Placement, cluster.Placement{Node: fmt.Sprintf("node%d", rank), GPUs: []string{fmt.Sprintf("%s-gpu%d", id, rank)}})
	}
	if err := w.ledger.PutLaunch(l); err != nil {
		t.Fatal(err)
	}
	return l.ID
}

// update changes a launch.
func (w *world) update(t *testing.T, id cluster.LaunchID, change func(*cluster.Launch)) {
	t.Helper()
	if err := w.ledger.UpdateLaunch(id, func(l *cluster.Launch) error { change(l); return nil }); err != nil {
		t.Fatal(err)
	}
}

// joinRequest is a good request of one rank of a run.
func (w *world) joinRequest(t *testing.T, launch cluster.LaunchID, run string, rank, nodes int) (*apiv1.JoinRequest, crypto.Signer) {
	t.Helper()
	csr, key, err := identity.NewCSR()
	if err != nil {
		t.Fatal(err)
	}
	return &apiv1.JoinRequest{
		Token: w.tokens.Mint(string(launch), time.Now().Add(time.Hour)), Launch: string(launch), Run: run,
		NodeRank: uint32(rank), Nodes: uint32(nodes), CsrDer: csr, Hostname: "host", Node: fmt.Sprintf("node%d", rank), Version: "test",
	}, key
}

// agent is one agent that has joined.
type agent struct {
	t      *testing.T
	launch cluster.LaunchID
	run    string
	rank   int
	nodes  int
	epoch  uint64
	api    apiv1.AgentServiceClient
	stream *connect.BidiStreamForClientSimple[apiv1.ReportRequest, apiv1.ReportResponse]
	seq    uint64
}

// join admits a run and returns its agent.
func (w *world) join(t *testing.T, launch cluster.LaunchID, run string, rank, nodes int) *agent {
	t.Helper()
	req, key := w.joinRequest(t, launch, run, rank, nodes)
	resp, err := apiv1.NewAgentServiceClient(w.client(t, nil), w.url).Join(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := identity.KeyPair(resp.CertificatePem, key)
	if err != nil {
		t.Fatal(err)
	}
	api := apiv1.NewAgentServiceClient(w.client(t, &cert), w.url)
	return &agent{t: t, launch: launch, run: run, rank: rank, nodes: nodes, epoch: resp.Epoch, api: api}
}

// open opens the report stream.
func (a *agent) open() *agent {
	a.t.Helper()
	var err error
	if a.stream, err = a.api.Report(a.t.Context()); err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() {
		_ = a.stream.CloseRequest()
		_ = a.stream.CloseResponse()
	})
	return a
}

func (a *agent) identity() *apiv1.Identity {
	return &apiv1.Identity{
		Launch: string(a.launch), Run: a.run, Epoch: a.epoch, NodeRank: uint32(a.rank), Nodes: uint32(a.nodes), Node: fmt.Sprintf("node%d", a.rank),
		Address: "127.0.0.1:1",
	}
}

func health(p apiv1.Phase) *apiv1.RunState { return &apiv1.RunState{Health: &apiv1.Health{Phase: p}} }

// full sends the full state with a phase.
func (a *agent) full(p apiv1.Phase) {
	a.t.Helper()
	s := health(p)
	s.Identity = a.identity()
	a.send(&apiv1.ReportRequest{Body: &apiv1.ReportRequest_Full{Full: s}})
}

// delta sends a change.
func (a *agent) delta(s *apiv1.RunState) {
	a.t.Helper()
	a.send(&apiv1.ReportRequest{Body: &apiv1.ReportRequest_Delta{Delta: s}})
}

func (a *agent) send(m *apiv1.ReportRequest) {
	a.t.Helper()
	a.seq++
	m.Seq = a.seq
	if err := a.stream.Send(m); err != nil {
		a.t.Fatalf("report: %v", err)
	}
}

// next is the controller's next word.
func (a *agent) next() *apiv1.ReportResponse {
	a.t.Helper()
	m, err := a.stream.Receive()
	if err != nil {
		a.t.Fatalf("report stream: %v", err)
	}
	return m
}

// acked waits for an acknowledgement of everything that was sent.
func (a *agent) acked() {
	a.t.Helper()
	for {
		if ack := a.next().GetAck(); ack.GetSeq() == a.seq {
			return
		}
	}
}

// ended waits for the end of the stream and returns its code.
func (a *agent) ended() connect.Code {
	a.t.Helper()
	for {
		if _, err := a.stream.Receive(); err != nil {
			return connect.CodeOf(err)
		}
	}
}

// until waits for something to become true.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// wantCode fails the test unless an error has the code.
func wantCode(t *testing.T, err error, want connect.Code) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %s", want)
	}
	if got := connect.CodeOf(err); got != want {
		t.Fatalf("got %s (%v), want %s", got, err, want)
	}
}

// keysAgain opens the keys of a state folder as a controller that starts does.
func keysAgain(state string) (*keys.Store, error) { return keys.Open(filepath.Join(state, "keys")) }
