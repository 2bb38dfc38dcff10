// Package nomadtest is a fake Nomad: server and clients in one process, which speak the JSON of Nomad's HTTP API on
// nomad/api's types. Jobs, plans, scaling, deployments with canaries, evaluations with reasons, drains, variables, the event
// stream and blocking queries behave as a real server of the 1.6 line was seen to behave (tests/nomad/RESULTS.md; where a
// rule was not measured its comment says so). Tasks of the raw_exec driver are real processes.
//
// It is a fake: it has one server without raft, no ACL policies beyond one token, no bin packing, and it parses no HCL.
// What only a real one can show is shown by tests/nomad with NOMAD_ADDR. It knows nothing of Penstock; tests of package
// nomad and of the whole program use it.
package nomadtest

import (
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
)

// Options are of Start. The zero value is three ready nodes without GPUs.
type Options struct {
	Nodes      []Node   // nil = Nodes(3, 0)
	Namespaces []string // besides "default"
	Token      string   // that every request must carry; empty = ACLs are off
	// Longest bounds the waits that job files ask for and that tests would only sleep through: healthy time, delays of
	// restarts and reschedules, shutdown delay. Kill timeouts and deadlines stay. Default 100 ms.
	Longest time.Duration
	// Marks: no process is started, a task is only marked as running until it is stopped.
	Marks bool
	// Address to listen on; default a free port on loopback.
	Address string
}

// Node is one client.
type Node struct {
	Name, Datacenter, Pool, Class string // default dc1, default
	CPU, MemoryMB                 int    // default 20000 MHz, 16384 MB
	GPUs                          int
	GPU                           string // model; default "H100"
	GPUMemoryGiB                  int    // default 80
	Meta                          map[string]string
}

// Nodes makes n equal nodes with so many GPUs each.
func Nodes(n, gpus int) (nodes []Node) {
	for i := range n {
		nodes = append(nodes, Node{Name: "client" + string(rune('1'+i)), GPUs: gpus})
	}
	return nodes
}

// Server is a running fake. Its methods may be called from any goroutine.
type Server struct {
	opts Options
	dir  string
	http *http.Server
	addr string

	running sync.WaitGroup // goroutines that watch tasks, and open answers

	mu sync.Mutex
	*state
	changed chan struct{} // closed and replaced at every change
	faults  faults
	closed  bool
}

// Start starts a fake that ends with the test, together with all its tasks.
func Start(t testing.TB, opts Options) *Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "nomad-") // short, for the sake of unix sockets
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(dir, opts)
	if err := s.listen(s.opts.Address); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.close()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return s
}

func newServer(dir string, opts Options) *Server {
	if opts.Nodes == nil {
		opts.Nodes = Nodes(3, 0)
	}
	if opts.Longest == 0 {
		opts.Longest = 100 * time.Millisecond
	}
	if opts.Address == "" {
		opts.Address = "127.0.0.1:0"
	}
	s := &Server{opts: opts, dir: dir, state: newState(), changed: make(chan struct{})}
	for _, n := range opts.Nodes {
		s.addNode(n)
	}
	return s
}

func (s *Server) listen(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	s.addr = l.Addr().String()
	server := &http.Server{Handler: s.handler(), ReadHeaderTimeout: time.Minute}
	s.mu.Lock()
	s.http = server
	s.mu.Unlock()
	s.running.Go(func() { _ = server.Serve(l) })
	return nil
}

// Addr is what belongs into NOMAD_ADDR.
func (s *Server) Addr() string { return "http://" + s.addr }

// Client makes a client of it, with its token.
func (s *Server) Client(t testing.TB) *api.Client {
	t.Helper()
	c, err := api.NewClient(&api.Config{Address: s.Addr(), SecretID: s.opts.Token})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func (s *Server) close() {
	s.mu.Lock()
	s.closed = true
	for _, a := range s.allocs {
		a.kill()
	}
	s.wake()
	server := s.http
	s.mu.Unlock()
	_ = server.Close()
	s.running.Wait()
}

// after runs do under the lock once d has passed, unless the server has been closed by then.
func (s *Server) after(d time.Duration, do func()) *time.Timer {
	return time.AfterFunc(d, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.closed {
			do()
		}
	})
}

// wait is how long a wait that a job asks for is here.
func (s *Server) wait(d *time.Duration) time.Duration {
	if d == nil {
		return 0
	}
	return min(*d, s.opts.Longest)
}

// key names a job, or a variable, in its namespace.
type key struct{ namespace, id string }

func indexOfName(name string) string {
	_, rest, _ := strings.Cut(name[max(0, strings.LastIndex(name, "[")):], "[")
	return strings.TrimSuffix(rest, "]")
}
