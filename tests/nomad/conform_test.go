package nomad

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/jobspecs/render"
	"github.com/penstock/penstock/nomad"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/cluster/clustertest"
	"github.com/penstock/penstock/tests/nomad/testbed"
)

// TestConformsLive runs the suite of all clusters on the adapter and a real Nomad: a fresh bed for each check.
func TestConformsLive(t *testing.T) {
	if os.Getenv("NOMAD_BIN") == "" {
		t.Skip("the live part did not run: NOMAD_BIN names no nomad to make beds of")
	}
	begin := time.Now()
	t.Run("suite", func(t *testing.T) {
		clustertest.Run(t, func(t *testing.T) clustertest.Harness {
			o := testbed.Options{}
			return conformed(t, openBed(t, o))
		})
	})
	w := &world{T: t, live: true}
	results.note(w, "the conformance suite of all clusters (scheduler/cluster/clustertest)", "a fresh bed for each check", time.Since(begin))
}

// suite is an adapter on a bed.
type suite struct {
	live         *liveNomad
	installation string
}

func conformed(t *testing.T, live *liveNomad) clustertest.Harness {
	t.Helper()
	s := suite{live, random(16)}
	return clustertest.Harness{
		Cluster: s.open(t), Patience: 2 * time.Minute,
		Submission: func(t *testing.T, b clustertest.Behaviour) cluster.Submission {
			return submission(t, fmt.Sprintf("nodes: %d", max(1, b.Nodes)), b)
		},
		Refused: func(t *testing.T) cluster.Submission { return submission(t, "nodes: 4", clustertest.Behaviour{}) },
		Waiting: func(t *testing.T) cluster.Submission {
			return submission(t, "gpus: {count: 1, memory: 900GB}", clustertest.Behaviour{})
		},
		Restart:    func(t *testing.T) cluster.Cluster { return s.open(t) },
		Silence:    func(t *testing.T, on bool) { s.silence(t, on) },
		Hang:       func(t *testing.T, on bool) { check(t, live.bed.FreezeServer(on)) },
		Twice:      func(t *testing.T, job string) { s.twice(t, job) },
		KillNode:   func(t *testing.T, node string) { check(t, live.bed.KillClient(node)) },
		ReturnNode: func(t *testing.T, node string) { check(t, live.bed.StartClient(node)) },
		Processes: func(_ *testing.T, launch cluster.LaunchID) int {
			return len(withVariable("PENSTOCK_LAUNCH", string(launch)))
		},
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func random(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

func (s suite) open(t *testing.T) *nomad.Cluster {
	t.Helper()
	self, err := os.Executable()
	check(t, err)
	c, err := nomad.Open(nomad.Options{
		API: s.live.bed.Config(), Installation: s.installation, Penstock: self, MinHealthy: time.Second,
		Join:     func(string) ([]byte, error) { return []byte("{}"), nil },
		Endpoint: func() ([]byte, error) { return []byte(`{"url": "https://controller:1"}`), nil },
		Log:      zerolog.New(zerolog.NewTestWriter(t)),
	})
	check(t, err)
	return c
}

// silence takes the server away, and brings it and its clients back.
func (s suite) silence(t *testing.T, on bool) {
	t.Helper()
	if on {
		check(t, s.live.bed.StopServer())
		return
	}
	check(t, s.live.bed.StartServer())
	check(t, s.live.bed.Ready(t.Context(), len(s.live.bed.Clients)))
}

// twice registers the job of a launch again under another ID, with a variable of its own.
func (s suite) twice(t *testing.T, id string) {
	t.Helper()
	name, _, _ := strings.Cut(id, "@")
	j, _, err := s.live.client.Jobs().Info(name, nil)
	check(t, err)
	v, _, err := s.live.client.Variables().Read(render.NomadVariable(name), nil)
	check(t, err)
	other := name + "-again"
	v.Path = render.NomadVariable(other)
	_, _, err = s.live.client.Variables().Create(v, nil)
	check(t, err)
	j.ID, j.Name = &other, &other
	for _, tmpl := range j.TaskGroups[0].Tasks[0].Templates {
		*tmpl.EmbeddedTmpl = strings.ReplaceAll(*tmpl.EmbeddedTmpl, name, other)
	}
	_, _, err = s.live.client.Jobs().Register(j, nil)
	check(t, err)
}

// submission is a launch of a deployment with a name of its own, whose agent behaves so.
func submission(t *testing.T, role string, b clustertest.Behaviour) cluster.Submission {
	t.Helper()
	d, err := jobspecs.Parse("test", fmt.Appendf(nil, `apiVersion: penstock/v1
name: d%s
model: {id: a/b}
engine: {kind: sim}
cluster: nomad
nomad: {driver: raw_exec}
serving: {drainTimeout: 20s}
roles: {mixed: {%s}}
`, random(4), role))
	check(t, err)
	text, err := json.Marshal(b)
	check(t, err)
	file := filepath.Join(t.TempDir(), "join.json")
	check(t, os.WriteFile(file, text, 0o600))
	return cluster.Submission{
		Deployment: d, JoinFile: file, LogDir: t.TempDir(),
		Launch: cluster.Launch{
			ID: cluster.LaunchID(d.Name + "-mixed-0-" + random(4)), Deployment: d.Name, Role: jobspecs.Mixed, Revision: 1,
			Cluster: jobspecs.NomadCluster, Nodes: max(1, d.Roles[jobspecs.Mixed].Nodes),
		},
	}
}

// behave is what this test binary does as an agent: its join file says how. It opens the ready port, and obeys or does not.
func behave() int {
	text, err := os.ReadFile(filepath.Join(os.Getenv("NOMAD_SECRETS_DIR"), "join.json"))
	if err != nil {
		return 70
	}
	var b clustertest.Behaviour
	if err := json.Unmarshal(text, &b); err != nil {
		return 71
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM)
	l, err := net.Listen("tcp", os.Getenv("NOMAD_ADDR_ready"))
	if err != nil {
		return 72
	}
	defer l.Close()
	switch {
	case b.Exit != nil && b.Exit.Signal != 0:
		_ = syscall.Kill(os.Getpid(), syscall.Signal(b.Exit.Signal))
		time.Sleep(time.Minute)
	case b.Exit != nil:
		return b.Exit.Code
	}
	for range signals {
		if !b.Stubborn {
			return 0
		}
	}
	return 73
}
