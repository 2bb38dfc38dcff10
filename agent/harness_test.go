package agent

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/identity"
)

// patience is how long a test waits for what must come. Nothing is measured by it.
const patience = 30 * time.Second

// world is a controller, a folder that steers engines, and the agents of one launch.
type world struct {
	t          *testing.T
	launch     string
	ca         *identity.CA
	controller *fakeController
	engine     string // see envEngine
	runtime    string
	endpoint   string // endpoint file
}

// deploymentYAML is a deployment whose engine is this test binary.
func deploymentYAML(engine, serving string) string {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf(`apiVersion: penstock/v1
name: d
model: {id: test-model}
engine: {kind: sim, command: [%q], env: {%s: %q}}
roles: {mixed: {replicas: 1}}
serving: {%s}
`, self, envEngine, engine, serving)
}

func newWorld(t *testing.T, serving string) *world {
	t.Helper()
	w := &world{t: t, ca: testCA(t), launch: newLaunch(), engine: shortDir(t), runtime: shortDir(t)}
	w.controller = startController(t, w.ca, deploymentYAML(w.engine, serving))
	w.endpoint = filepath.Join(shortDir(t), "endpoint.json")
	w.publish(1)
	return w
}

// newLaunch draws a launch token: agents sweep the processes of their launch, so that no two tests may share one, not even
// tests of two runs of this program at a time.
func newLaunch() string { return "t-" + strings.ToLower(rand.Text()[:12]) }

// publish writes where the controller is now.
func (w *world) publish(term uint64) {
	w.t.Helper()
	e := identity.Endpoint{Term: term, URL: w.controller.url, Hostname: "h", CAPEM: string(w.ca.PEM())}
	if err := identity.WriteEndpoint(w.endpoint, e); err != nil {
		w.t.Fatal(err)
	}
}

// steer puts a file into the engine's folder, or takes it away.
func (w *world) steer(name string, there bool) {
	w.t.Helper()
	path := filepath.Join(w.engine, name)
	var err error
	if there {
		err = os.WriteFile(path, nil, 0o600)
	} else {
		err = os.Remove(path)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// agentUnderTest is an agent that runs.
type agentUnderTest struct {
	*Agent
	w      *world
	rank   int
	cancel context.CancelFunc
	done   chan struct{}
	err    error
	log    *lockedBuffer
}

func (w *world) options() Options {
	return Options{
		Join: identity.JoinFile{
			Launch: w.launch, Token: "t0ken", EndpointFile: w.endpoint, CAPEM: string(w.ca.PEM()), Installation: w.ca.Installation(),
		},
		Run: "r1", Nodes: 1, Node: "n1", Hostname: "h1", Version: "test", RuntimeDir: w.runtime, ListenHost: "127.0.0.1",
		Environ:  append(os.Environ(), "HF_TOKEN=hf_secret"),
		Registry: prometheus.NewRegistry(), SamplerErr: fmt.Errorf("no GPU here"),
		Interval: 20 * time.Millisecond, Reach: ReachDirect, // nobody dials these ports but the tests
		Limits: Limits{
			Liveness: Liveness{Every: 50 * time.Millisecond, Deadline: patience, TokenDeadline: patience},
			LostRank: patience, Farewell: 10 * time.Second,
		},
	}
}

// start runs an agent until the test ends or it ends by itself.
func (w *world) start(change func(*Options)) *agentUnderTest {
	w.t.Helper()
	o := w.options()
	a := &agentUnderTest{w: w, done: make(chan struct{}), log: &lockedBuffer{}}
	o.Log = zerolog.New(a.log)
	if change != nil {
		change(&o)
	}
	a.rank = o.Rank
	var err error
	if a.Agent, err = New(o); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	a.cancel = cancel
	go func() {
		defer close(a.done)
		a.err = a.Run(ctx)
	}()
	w.t.Cleanup(func() {
		cancel()
		<-a.done
		if w.t.Failed() {
			w.t.Logf("agent %d ended with %v; its log:\n%s", a.rank, a.err, a.log)
		}
	})
	return a
}

// wait waits for the agent's end.
func (a *agentUnderTest) wait() error {
	a.w.t.Helper()
	select {
	case <-a.done:
		return a.err
	case <-time.After(patience):
		a.w.t.Fatalf("the agent does not end; phases: %s", a.w.controller.path(a.rank))
		return nil
	}
}

// reach waits until the controller has seen a phase.
func (a *agentUnderTest) reach(p apiv1.Phase) *agentUnderTest {
	a.w.t.Helper()
	for deadline := time.Now().Add(patience); a.w.controller.phase(a.rank) != p; time.Sleep(2 * time.Millisecond) {
		if closed(a.done) && a.w.controller.phase(a.rank) != p {
			a.w.t.Fatalf("the agent ended with %v; phases: %s, wanted %s", a.err, a.w.controller.path(a.rank), p)
		}
		if time.Now().After(deadline) {
			a.w.t.Fatalf("phases: %s, wanted %s; health %v", a.w.controller.path(a.rank), p, a.w.controller.state(a.rank).GetHealth())
		}
	}
	return a
}

// ask sends a request to the data port as a gateway does.
func (a *agentUnderTest) ask(c *http.Client, body string) (*http.Response, error) {
	a.w.t.Helper()
	p := portUnderTest{url: "https://" + a.w.controller.state(a.rank).GetIdentity().GetAddress()}
	return p.post(a.w.t, c, "/v1/completions", body, func(r *http.Request) { r.Header.Set(headerLaunch, a.w.launch) })
}

// lockedBuffer takes a log from several goroutines.
type lockedBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
