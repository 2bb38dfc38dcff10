package nomad

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/rs/zerolog"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/nomad/nomadtest"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/cluster/clustertest"
)

const installation = "0123456789abcdef0123456789abcdef"

// open makes an adapter on a fake; its allocations join with what behaves as the zero Behaviour.
func open(t *testing.T, s *nomadtest.Server, change ...func(*Options)) *Cluster {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		API: &api.Config{Address: s.Addr()}, Installation: installation, Penstock: self, MaxKillTimeout: 2 * time.Minute,
		Join:     func(string) ([]byte, error) { return []byte("{}"), nil },
		Endpoint: func() ([]byte, error) { return []byte(`{"url": "https://controller:1"}`), nil },
		Log:      zerolog.New(zerolog.NewTestWriter(t)),
	}
	for _, f := range change {
		f(&o)
	}
	c, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.api.Close)
	return c
}

var names atomic.Int64

// deployment parses a deployment of one role, with a name of its own.
func deployment(t *testing.T, role string) jobspecs.Deployment {
	t.Helper()
	d, err := jobspecs.Parse("test", fmt.Appendf(nil, `apiVersion: penstock/v1
name: d%d
model: {id: a/b}
engine: {kind: sim}
cluster: nomad
serving: {drainTimeout: 20s}
roles: {mixed: {%s}}
`, names.Add(1), role))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// submission is a launch of a deployment whose agent behaves so.
func submission(t *testing.T, d jobspecs.Deployment, b clustertest.Behaviour) cluster.Submission {
	t.Helper()
	text, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "join.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return cluster.Submission{
		Deployment: d, JoinFile: file, LogDir: t.TempDir(),
		Launch: cluster.Launch{
			ID: cluster.LaunchID(d.Name + "-mixed-0-k3v9x2mq"), Deployment: d.Name, Role: jobspecs.Mixed, Revision: 1, Cluster: jobspecs.NomadCluster,
			Nodes: d.Roles[jobspecs.Mixed].Nodes,
		},
	}
}

func TestConforms(t *testing.T) {
	t.Parallel()
	clustertest.Run(t, func(t *testing.T) clustertest.Harness {
		s := nomadtest.Start(t, nomadtest.Options{})
		c := open(t, s)
		return clustertest.Harness{
			Cluster: c,
			Submission: func(t *testing.T, b clustertest.Behaviour) cluster.Submission {
				return submission(t, deployment(t, fmt.Sprintf("nodes: %d", max(1, b.Nodes))), b)
			},
			Refused: func(t *testing.T) cluster.Submission {
				return submission(t, deployment(t, "nodes: 4"), clustertest.Behaviour{})
			},
			Waiting: func(t *testing.T) cluster.Submission {
				return submission(t, deployment(t, "gpus: 1"), clustertest.Behaviour{})
			},
			Restart:    func(t *testing.T) cluster.Cluster { return open(t, s) },
			Silence:    func(_ *testing.T, on bool) { s.Silence(on) },
			Hang:       func(_ *testing.T, on bool) { s.Hang(on) },
			Twice:      func(t *testing.T, job string) { twice(t, c, job) },
			KillNode:   func(_ *testing.T, node string) { s.LoseClient(node) },
			ReturnNode: func(_ *testing.T, node string) { s.ReturnClient(node) },
			Processes:  func(t *testing.T, launch cluster.LaunchID) int { return processes(t, string(launch)) },
		}
	})
}

// twice registers a launch's job again under another ID.
func twice(t *testing.T, c *Cluster, id string) {
	t.Helper()
	key, _ := parseNative(id)
	j, err := c.readJob(t.Context(), key)
	if err != nil || j == nil {
		t.Fatalf("job %s: %v", id, err)
	}
	v, err := c.variable(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	other := jobKey{key.namespace, key.id + "-again"}
	if err := c.putVariable(t.Context(), other, []byte(v.Items[joinItem])); err != nil {
		t.Fatal(err)
	}
	j.ID, j.Name = &other.id, &other.id
	for _, tmpl := range j.TaskGroups[0].Tasks[0].Templates {
		*tmpl.EmbeddedTmpl = strings.ReplaceAll(*tmpl.EmbeddedTmpl, key.id, other.id)
	}
	if err := c.register(t.Context(), other, j, 0); err != nil {
		t.Fatal(err)
	}
}

// processes counts those with the launch in their environment.
func processes(t *testing.T, launch string) (n int) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err == nil && strings.Contains(string(text), "PENSTOCK_LAUNCH="+launch+"\x00") {
			n++
		}
	}
	return n
}
