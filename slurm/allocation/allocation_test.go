package allocation

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/cluster/clustertest"
	"github.com/penstock/penstock/scheduler/statefile"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) clustertest.Harness {
		w := newWorld(t, 3, 2*time.Second)
		h := clustertest.Harness{
			Cluster: w.cluster, Submission: w.submission, Patience: 30 * time.Second,
			Refused: func(t *testing.T) cluster.Submission {
				s := w.submission(t, clustertest.Behaviour{})
				s.Launch.Placement[0].GPUs = []string{"no-such-card"}
				return s
			},
			Restart: func(t *testing.T) cluster.Cluster { return w.controller(t) },
			Silence: func(_ *testing.T, on bool) { w.silent.Store(on) },
			Hang:    func(_ *testing.T, on bool) { w.hang(on) },
			KillNode: func(_ *testing.T, node string) {
				w.nodes[node].off()
			},
			ReturnNode: func(t *testing.T, node string) { w.nodes[node].on(t) },
			Processes:  func(_ *testing.T, l cluster.LaunchID) int { return w.processes(l) },
			Cannot: map[clustertest.Ability]string{
				clustertest.Waiting:  "nothing waits in an allocation that is held: what has no room is refused",
				clustertest.Doubling: "keepers refuse a launch that they have",
			},
		}
		return h
	})
}

// world is an allocation whose keepers live in this process and whose agents are goroutines.
type world struct {
	dir     string
	nodes   map[string]*node
	names   []string
	cluster *Cluster
	own     tls.Certificate
	lost    time.Duration
	silent  atomic.Bool
	count   atomic.Int64

	mu    sync.Mutex
	gate  chan struct{} // closed = answers pass
	alive map[cluster.LaunchID]int
}

// node is one machine with its keeper.
type node struct {
	w      *world
	name   string
	keeper *Keeper
	server *httptest.Server
	stop   context.CancelFunc
	done   chan error
}

func newWorld(t *testing.T, nodes int, lost time.Duration) *world {
	t.Helper()
	w := &world{dir: filepath.Join(t.TempDir(), "job"), nodes: map[string]*node{}, lost: lost, gate: make(chan struct{}), alive: map[cluster.LaunchID]int{}}
	close(w.gate)
	if err := statefile.SecureDir(w.dir); err != nil {
		t.Fatal(err)
	}
	var err error
	if w.own, _, err = NewCertificate(time.Now()); err != nil {
		t.Fatal(err)
	}
	for i := range nodes {
		name := fmt.Sprintf("node%d", i+1)
		w.names = append(w.names, name)
		w.nodes[name] = &node{w: w, name: name}
		w.nodes[name].on(t)
	}
	w.cluster = w.controller(t)
	t.Cleanup(func() {
		w.hang(false)
		for _, n := range w.nodes {
			n.off()
		}
	})
	return w
}

// controller is a new controller on the same allocation.
func (w *world) controller(t *testing.T) *Cluster {
	t.Helper()
	c, err := New(Options{
		Dir: w.dir, Nodes: w.names, Certificate: func() *tls.Certificate { return &w.own }, LostAfter: w.lost, Log: zerolog.Nop(),
		AgentCommand: func(s cluster.Submission, _ string, rank int) []string {
			return append([]string{"agent", strconv.Itoa(rank)}, s.Deployment.Engine.Args...)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, name := range c.names() {
			if client := c.client(name); client != nil {
				client.CloseIdleConnections()
			}
		}
	})
	return c
}

// on starts the node's keeper and writes its file.
func (n *node) on(t *testing.T) {
	t.Helper()
	k, err := NewKeeper(KeeperOptions{Node: cluster.Node{
		CPUs: 64, Memory: 1 << 40, Name: n.name,
		GPUs: []cluster.GPU{{ID: n.name + "-gpu0"}, {ID: n.name + "-gpu1"}},
	}, Start: n.w.agent, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	cert, certPEM, err := NewCertificate(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	n.keeper = k
	n.server = httptest.NewUnstartedServer(n.w.between(k.Handler(func(s *tls.ConnectionState) error {
		if s == nil || len(s.PeerCertificates) == 0 {
			return errors.New("nobody")
		}
		return nil
	})))
	n.server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert}
	n.server.StartTLS()
	if err := WriteMember(n.w.dir, Member{Node: n.name, Addresses: []string{"127.0.0.1:1", n.server.Listener.Addr().String()}, CertificatePEM: certPEM}); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	n.stop, n.done = stop, make(chan error, 1)
	go func() { n.done <- k.Run(ctx) }()
}

// off ends the node with all that runs there.
func (n *node) off() {
	if n.server == nil {
		return
	}
	n.server.CloseClientConnections()
	n.server.Close()
	n.stop()
	<-n.done
	n.server = nil
}

// between keeps answers back.
func (w *world) between(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		gate := w.gate
		w.mu.Unlock()
		select {
		case <-gate:
		case <-r.Context().Done():
			return
		}
		if w.silent.Load() {
			http.Error(rw, "", http.StatusServiceUnavailable)
			return
		}
		next.ServeHTTP(rw, r)
	})
}

func (w *world) hang(on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.gate:
		if on {
			w.gate = make(chan struct{})
		}
	default:
		if !on {
			close(w.gate)
		}
	}
}

// submission is placed on the first nodes, without cards: many fit.
func (w *world) submission(t *testing.T, b clustertest.Behaviour) cluster.Submission {
	t.Helper()
	n := w.count.Add(1)
	s := cluster.Submission{LogDir: t.TempDir(), JoinFile: "join.json"}
	s.Launch = cluster.Launch{ID: cluster.LaunchID(fmt.Sprintf("launch-%d", n)), Deployment: "d", Role: "mixed", Nodes: max(1, b.Nodes)}
	for i := range s.Launch.Nodes {
		s.Launch.Placement = append(s.Launch.Placement, cluster.Placement{Node: w.names[(int(n)+i)%len(w.names)]})
	}
	if b.Exit != nil {
		s.Deployment.Engine.Args = []string{"exit", strconv.Itoa(b.Exit.Code), strconv.Itoa(b.Exit.Signal)}
	} else if b.Stubborn {
		s.Deployment.Engine.Args = []string{"stubborn"}
	}
	return s
}

// agent is a task's process: a goroutine.
type agent struct {
	asked  chan struct{}
	killed chan struct{}
	once   sync.Once
	kill   sync.Once
	done   chan struct{}
	exit   cluster.Exit
}

func (w *world) agent(o Order) (Tree, error) {
	a := &agent{asked: make(chan struct{}), killed: make(chan struct{}), done: make(chan struct{})}
	args := o.Argv[2:]
	w.mu.Lock()
	w.alive[o.Launch]++
	w.mu.Unlock()
	go func() {
		defer close(a.done)
		defer func() {
			w.mu.Lock()
			w.alive[o.Launch]--
			w.mu.Unlock()
		}()
		if len(args) == 3 && args[0] == "exit" {
			a.exit.Code, _ = strconv.Atoi(args[1])
			a.exit.Signal, _ = strconv.Atoi(args[2])
			return
		}
		asked := a.asked
		if len(args) > 0 && args[0] == "stubborn" {
			asked = nil
		}
		select {
		case <-asked:
		case <-a.killed:
			a.exit = cluster.Exit{Signal: 9}
		}
	}()
	return a, nil
}

func (a *agent) Wait(ctx context.Context) (cluster.Exit, error) {
	select {
	case <-a.done:
		return a.exit, nil
	case <-ctx.Done():
		return cluster.Exit{}, ctx.Err()
	}
}

func (a *agent) Stop(ctx context.Context, grace time.Duration) error {
	a.once.Do(func() { close(a.asked) })
	select {
	case <-a.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(grace):
	}
	a.kill.Do(func() { close(a.killed) })
	_, err := a.Wait(ctx)
	return err
}

func (w *world) processes(l cluster.LaunchID) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.alive[l]
}

// A gang of which one node says no leaves nothing behind on the others.
func TestGangIsWholeOrNothing(t *testing.T) {
	w := newWorld(t, 2, time.Minute)
	s := w.submission(t, clustertest.Behaviour{Nodes: 2})
	w.nodes[s.Launch.Placement[1].Node].keeper.gone = true // says no to every order
	_, err := w.cluster.Submit(t.Context(), s)
	if !errors.Is(err, cluster.ErrRefused) || errors.Is(err, cluster.ErrUnknown) {
		t.Errorf("Submit: %v, want ErrRefused", err)
	}
	if n := w.processes(s.Launch.ID); n != 0 {
		t.Errorf("%d agents are left", n)
	}
	if jobs, err := w.cluster.Jobs(t.Context()); err != nil || len(jobs) > 0 {
		t.Errorf("jobs %+v, %v", jobs, err)
	}
}

// Two launches never hold one card, whoever asks first; the card is free again after the end.
func TestCardsAreGivenOnce(t *testing.T) {
	w := newWorld(t, 1, time.Minute)
	submit := func() (string, error) {
		s := w.submission(t, clustertest.Behaviour{})
		s.Launch.Placement = []cluster.Placement{{Node: "node1", GPUs: []string{"node1-gpu1"}}}
		return w.cluster.Submit(t.Context(), s)
	}
	var wg sync.WaitGroup
	ids := make([]string, 6)
	for i := range ids {
		wg.Go(func() { ids[i], _ = submit() })
	}
	wg.Wait()
	won := ""
	for _, id := range ids {
		if id != "" && won != "" {
			t.Fatalf("two jobs hold one card: %s and %s", won, id)
		} else if id != "" {
			won = id
		}
	}
	if won == "" {
		t.Fatal("nobody has got the card")
	}
	if err := w.cluster.Stop(t.Context(), won, time.Second); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := submit(); err == nil {
			return
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// What ran on a node that is lost has ended with it, by the node's fault, and nothing is placed there.
func TestLostNode(t *testing.T) {
	w := newWorld(t, 2, 100*time.Millisecond)
	s := w.submission(t, clustertest.Behaviour{})
	id, err := w.cluster.Submit(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	gone := s.Launch.Placement[0].Node
	w.nodes[gone].off()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		jobs, err := w.cluster.Jobs(t.Context())
		if err == nil && len(jobs) == 1 && jobs[0].State == cluster.JobEnded {
			if j := jobs[0]; j.ID != id || j.Cause != cluster.EndedNodeFailed || !strings.Contains(j.Reason, gone) {
				t.Errorf("job %+v", j)
			}
			break
		}
		if time.Now().After(end) {
			t.Fatalf("jobs %+v, %v", jobs, err)
		}
	}
	c, err := w.cluster.Capacity(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes {
		if n.Up != (n.Name != gone) {
			t.Errorf("node %s: up %v", n.Name, n.Up)
		}
	}
}

// Nothing is placed when the allocation's time is nearly over.
func TestNothingIsPlacedNearTheEnd(t *testing.T) {
	w := newWorld(t, 1, time.Minute)
	w.cluster.o.EndsAt, w.cluster.o.Closing = time.Now().Add(time.Minute), 2*time.Minute
	c, err := w.cluster.Capacity(t.Context())
	if err != nil || !c.Nodes[0].Leaving || !c.EndsAt.Equal(w.cluster.o.EndsAt) {
		t.Errorf("capacity %+v, %v", c, err)
	}
}

// A dismissed keeper ends what runs and then itself.
func TestDismiss(t *testing.T) {
	w := newWorld(t, 2, time.Minute)
	s := w.submission(t, clustertest.Behaviour{Nodes: 2})
	if _, err := w.cluster.Submit(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if err := w.cluster.Dismiss(t.Context(), time.Second); err != nil {
		t.Fatal(err)
	}
	for _, n := range w.nodes {
		if err := <-n.done; err != nil {
			t.Error(err)
		}
		n.done <- nil // for off
	}
	if n := w.processes(s.Launch.ID); n != 0 {
		t.Errorf("%d agents are left", n)
	}
}

// Who shows no certificate gets nothing, and a keeper's file of somebody else is not believed.
func TestStrangers(t *testing.T) {
	w := newWorld(t, 1, time.Minute)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // it plays a stranger
	defer client.CloseIdleConnections()
	resp, err := client.Get(w.nodes["node1"].server.URL + "/state")
	if err == nil {
		resp.Body.Close()
		t.Errorf("a stranger gets status %d", resp.StatusCode)
	}
	if _, err := readMember(w.dir, "node1"); err != nil {
		t.Fatal(err)
	}
	if err := WriteMember(w.dir, Member{Node: "node1", Addresses: make([]string, 99)}); err != nil {
		t.Fatal(err)
	}
	if _, err := readMember(w.dir, "node1"); err == nil {
		t.Error("a file with 99 addresses is believed")
	}
}
