package nomad

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/rs/zerolog"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/nomad"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/cluster/clustertest"
	"github.com/penstock/penstock/tests/nomad/testbed"
)

// TestACLLive runs the adapter on a Nomad with ACLs and TLS, in a namespace, with a token of nothing but nomad/policy.
func TestACLLive(t *testing.T) {
	if os.Getenv("NOMAD_BIN") == "" {
		t.Skip("the live part did not run: NOMAD_BIN names no nomad to make a bed of")
	}
	begin := time.Now()
	live := openBed(t, testbed.Options{ACL: true, TLS: true})
	const namespace = "llm"
	token := leastToken(t, live.client, namespace)
	s := limited{suite{live, random(16)}, namespace, token}
	c := s.open(t)
	s.counts(t, c)
	s.launches(t, c)
	s.watches(t, c)
	s.mayNot(t)
	s.noSecretInJobs(t)
	w := &world{T: t, live: true}
	results.note(w, "ACLs, TLS and a namespace: the adapter with a token of nomad/policy/penstock.hcl", "counts, launches, events and capacity; drains, other variables and other namespaces are refused", time.Since(begin))
}

// leastToken makes a token of the policy file, for a namespace.
func leastToken(t *testing.T, c *api.Client, namespace string) string {
	t.Helper()
	_, err := c.Namespaces().Register(&api.Namespace{Name: namespace}, nil)
	check(t, err)
	text, err := os.ReadFile("../../nomad/policy/penstock.hcl")
	check(t, err)
	rules := strings.Replace(string(text), `namespace "default"`, fmt.Sprintf("namespace %q", namespace), 1)
	_, err = c.ACLPolicies().Upsert(&api.ACLPolicy{Name: "penstock", Rules: rules}, nil)
	check(t, err)
	made, _, err := c.ACLTokens().Create(&api.ACLToken{Name: "penstock", Type: "client", Policies: []string{"penstock"}}, nil)
	check(t, err)
	return made.SecretID
}

// limited is an adapter with few rights.
type limited struct {
	suite
	namespace, token string
}

func (s limited) config() *api.Config {
	c := s.live.bed.Config()
	c.SecretID, c.Namespace = s.token, s.namespace
	return c
}

func (s limited) open(t *testing.T) *nomad.Cluster {
	t.Helper()
	self, err := os.Executable()
	check(t, err)
	c, err := nomad.Open(nomad.Options{
		API: s.config(), Installation: s.installation, Penstock: self, MinHealthy: time.Second,
		Join:     func(string) ([]byte, error) { return []byte(`{"Stubborn": false}`), nil },
		Endpoint: func() ([]byte, error) { return []byte("{}"), nil }, Log: zerolog.New(zerolog.NewTestWriter(t)),
	})
	check(t, err)
	return c
}

func (s limited) ctx(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// reach waits until so many of the installation's jobs are in a state.
func (s limited) reach(t *testing.T, c *nomad.Cluster, state cluster.JobState, n int) {
	t.Helper()
	var jobs []cluster.Job
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		var err error
		jobs, err = c.Jobs(s.ctx(t))
		check(t, err)
		are := 0
		for _, j := range jobs {
			if j.State == state {
				are++
			}
		}
		if are == n {
			return
		}
	}
	t.Fatalf("waited in vain for %d jobs %s: %+v", n, state, jobs)
}

func (s limited) counts(t *testing.T, c *nomad.Cluster) {
	t.Helper()
	capacity, err := c.Capacity(s.ctx(t))
	check(t, err)
	if len(capacity.Nodes) != 3 {
		t.Errorf("capacity of %d nodes", len(capacity.Nodes))
	}
	sub := submission(t, "nodes: 1", clustertest.Behaviour{})
	role := cluster.RoleRef{Deployment: sub.Deployment.Name, Role: jobspecs.Mixed}
	check(t, c.SetCount(s.ctx(t), role, sub.Deployment, 1, 2))
	s.reach(t, c, cluster.JobRunning, 2)
	jobs, err := c.Jobs(s.ctx(t))
	check(t, err)
	check(t, c.Stop(s.ctx(t), jobs[0].ID, time.Second))
	s.reach(t, c, cluster.JobEnded, 1)
	s.reach(t, c, cluster.JobRunning, 2)
	check(t, c.SetCount(s.ctx(t), role, sub.Deployment, 1, 0))
	s.reach(t, c, cluster.JobRunning, 0)
}

func (s limited) launches(t *testing.T, c *nomad.Cluster) {
	t.Helper()
	sub := submission(t, "nodes: 2", clustertest.Behaviour{Stubborn: true})
	id, err := c.Submit(s.ctx(t), sub)
	check(t, err)
	s.reach(t, c, cluster.JobRunning, 1)
	check(t, c.Stop(s.ctx(t), id, time.Second))
	s.reach(t, c, cluster.JobRunning, 0)
}

// watches: the controller hears of a change.
func (s limited) watches(t *testing.T, c *nomad.Cluster) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	heard := make(chan struct{}, 100)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = c.Watch(ctx, func() {
			select {
			case heard <- struct{}{}:
			default:
			}
		})
	}()
	defer func() { cancel(); <-ended }()
	_, err := c.Submit(s.ctx(t), submission(t, "nodes: 2", clustertest.Behaviour{}))
	check(t, err)
	select {
	case <-heard:
	case <-time.After(30 * time.Second):
		t.Error("nothing was heard of a submit")
	}
}

// mayNot: the token is good for nothing else.
func (s limited) mayNot(t *testing.T) {
	t.Helper()
	c, err := api.NewClient(s.config())
	check(t, err)
	defer c.Close()
	nodes, _, err := c.Nodes().List(nil)
	check(t, err)
	for what, err := range map[string]error{
		"drain a node":               func() error { _, err := c.Nodes().UpdateDrain(nodes[0].ID, &api.DrainSpec{}, false, nil); return err }(),
		"read another job's secrets": func() error { _, _, err := c.Variables().Read("nomad/jobs/other", nil); return err }(),
		"run in another namespace": func() error {
			_, _, err := c.Jobs().Register((&world{prefix: "other-"}).sleeper("x", 1), &api.WriteOptions{Namespace: "default"})
			return err
		}(),
		"make tokens": func() error { _, _, err := c.ACLTokens().Create(&api.ACLToken{Type: "management"}, nil); return err }(),
	} {
		if err == nil || !strings.Contains(err.Error(), "Permission denied") && !strings.Contains(err.Error(), "403") {
			t.Errorf("the token may %s: %v", what, err)
		}
	}
}

// noSecretInJobs: neither the token nor what the agents join with is in what everybody who reads jobs can see.
func (s limited) noSecretInJobs(t *testing.T) {
	t.Helper()
	list, _, err := s.live.client.Jobs().List(&api.QueryOptions{Namespace: s.namespace})
	check(t, err)
	if len(list) == 0 {
		t.Error("there are no jobs to look at")
	}
	for _, stub := range list {
		text, err := s.live.client.Raw().Response("/v1/job/"+stub.ID, &api.QueryOptions{Namespace: s.namespace})
		check(t, err)
		b := make([]byte, 1<<20)
		n, _ := text.Read(b)
		_ = text.Close()
		for _, secret := range []string{s.token, s.live.bed.Token, "Stubborn"} {
			if strings.Contains(string(b[:n]), secret) {
				t.Errorf("job %s tells %s", stub.ID, secret)
			}
		}
	}
}
