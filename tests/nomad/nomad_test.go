// Package nomad runs the same scenarios on the fake Nomad (package nomadtest) and on a real one: first what Penstock relies
// on of a server, then Penstock on it, under traffic whose answers are known.
//
//	go test ./tests/nomad                                    # on the fake
//	NOMAD_BIN=/usr/bin/nomad go test ./tests/nomad -v        # and on a bed of one server and three clients (as root)
//	NOMAD_ADDR=http://... go test ./tests/nomad -v           # and on any cluster, in NOMAD_NAMESPACE, with NOMAD_TOKEN
//	... -args -update                                        # RESULTS.md too, from what the real one did
//
// NOMAD_DEVICES=FOLDER:NAME gives the bed's clients two GPUs each, through a device plugin that shows the files of a folder.
// What only somebody who holds the agents can do (killing a client, restarting the server) needs the bed.
package nomad

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/penstock/penstock/nomad/nomadtest"
	"github.com/penstock/penstock/tests/installation"
	"github.com/penstock/penstock/tests/nomad/testbed"
)

var update = flag.Bool("update", false, "write RESULTS.md from what the real server did")

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "agent" {
		os.Exit(behave())
	}
	flag.Parse()
	code := m.Run()
	installation.RemoveBuild()
	if *update {
		if err := results.write("RESULTS.md"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// scenario is one story that is told of every Nomad. What it returns was measured and goes into the table.
type scenario struct {
	name string
	run  func(*world) string
	// needs says what the Nomad must let the test do, or have.
	needs []ability
}

type ability string

const (
	holdingAgents ability = "the agents of the clients in its hands"
	havingGPUs    ability = "nvidia/gpu devices"
)

// TestFake tells all stories of the fake.
func TestFake(t *testing.T) {
	t.Parallel()
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			s := nomadtest.Start(t, nomadtest.Options{Nodes: nomadtest.Nodes(3, 2)})
			w := newWorld(t, s.Client(t), fakeHands{s})
			w.kind, w.env, w.api = "fake", []string{"NOMAD_ADDR=" + s.Addr()}, &api.Config{Address: s.Addr()}
			sc.tell(w)
		})
	}
}

// TestLive tells the same stories of a real Nomad, one after the other.
func TestLive(t *testing.T) {
	live := openLive(t)
	if live == nil {
		t.Skip("the live part did not run: NOMAD_ADDR names no Nomad and NOMAD_BIN names no nomad to make a bed of")
	}
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			w := newWorld(t, live.client, live.hands)
			w.kind, w.env, w.live, w.api = "live", live.env, true, live.config
			sc.tell(w)
		})
	}
}

// tell runs a story and notes how it ended.
func (sc scenario) tell(w *world) {
	for _, a := range sc.needs {
		if !w.has(a) {
			w.Logf("NOT SHOWN on %s: it needs %s", w.kind, a)
			results.note(w, sc.name, "not shown: it needs "+string(a), 0)
			return
		}
	}
	begin := time.Now()
	w.Cleanup(func() {
		if w.Failed() {
			w.printState()
		}
	})
	measured := sc.run(w)
	results.note(w, sc.name, measured, time.Since(begin))
}

// liveNomad is a real one.
type liveNomad struct {
	client *api.Client
	hands  hands
	env    []string
	config *api.Config
	bed    *testbed.Bed
}

// say prints what a test runs on, and keeps it for the table.
func (l *liveNomad) say(t *testing.T) *liveNomad {
	t.Helper()
	on := l.describe(t)
	fmt.Println("tests/nomad: live on " + on)
	results.mu.Lock()
	defer results.mu.Unlock()
	results.on = on
	return l
}

// openLive finds the Nomad of NOMAD_ADDR, or makes one of NOMAD_BIN; nil = there is neither.
func openLive(t *testing.T) *liveNomad {
	t.Helper()
	if os.Getenv("NOMAD_ADDR") != "" {
		c, err := api.NewClient(api.DefaultConfig())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		l := &liveNomad{client: c, config: api.DefaultConfig()}
		for _, kv := range os.Environ() {
			if strings.HasPrefix(kv, "NOMAD_") {
				l.env = append(l.env, kv)
			}
		}
		if dir := os.Getenv("NOMAD_BED"); dir != "" {
			b, err := testbed.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			l.bed, l.hands = b, bedHands{b}
		}
		return l.say(t)
	}
	if os.Getenv("NOMAD_BIN") == "" {
		return nil
	}
	return openBed(t, testbed.Options{})
}

// openBed makes a bed of NOMAD_BIN that ends with the test.
func openBed(t *testing.T, o testbed.Options) *liveNomad {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	o.Binary = os.Getenv("NOMAD_BIN")
	if folder, name, ok := strings.Cut(os.Getenv("NOMAD_DEVICES"), ":"); ok {
		o.Plugins, o.Devices, o.GPUs = folder, name, 2
	}
	b, err := testbed.Up(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Down(); err != nil {
			t.Error(err)
		}
	})
	c, err := b.Client()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	l := &liveNomad{client: c, hands: bedHands{b}, env: b.Environ(), config: b.Config(), bed: b}
	return l.say(t)
}

// describe says what the tests run on.
func (l *liveNomad) describe(t *testing.T) string {
	t.Helper()
	nodes, _, err := l.client.Nodes().List(nil)
	if err != nil {
		t.Fatal(err)
	}
	ready, version := 0, ""
	for _, n := range nodes {
		if n.Status == api.NodeStatusReady {
			ready++
			version = n.Version
		}
	}
	return fmt.Sprintf("Nomad %s with %d ready clients", version, ready)
}
