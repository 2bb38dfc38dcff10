package nomad

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/penstock/penstock/jobspecs/render"
)

// world is a Nomad as one test sees it: its jobs have names that no other test uses, and are purged at the end.
type world struct {
	*testing.T
	ctx   context.Context
	c     *api.Client
	hands hands
	kind  string // fake or live
	live  bool
	env   []string // NOMAD_*
	api   *api.Config

	installation string // of the adapter

	prefix string
}

// patience bounds each test.
const patience = 4 * time.Minute

func newWorld(t *testing.T, c *api.Client, h hands) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	b := make([]byte, 4)
	_, _ = rand.Read(b)
	w := &world{T: t, ctx: ctx, c: c, hands: h, prefix: "ps" + hex.EncodeToString(b) + "-", installation: random(16)}
	t.Cleanup(func() {
		cancel()
		w.purge()
	})
	return w
}

func (w *world) has(a ability) bool {
	switch a {
	case holdingAgents:
		return w.hands != nil
	case havingGPUs:
		for _, n := range w.nodes() {
			if n.NodeResources != nil && len(n.NodeResources.Devices) > 0 {
				return true
			}
		}
	}
	return false
}

// purge takes away the test's jobs.
func (w *world) purge() {
	list, _, err := w.c.Jobs().PrefixList(w.prefix)
	if err != nil {
		w.Error(err)
	}
	ours, _, err := w.c.Jobs().List(&api.QueryOptions{Prefix: "penstock-", Params: map[string]string{"meta": "true"}})
	if err != nil {
		w.Error(err)
	}
	for _, j := range ours {
		if j.Meta[render.NomadInstallation] == w.installation || strings.HasPrefix(j.ID, "penstock-"+w.prefix) {
			list = append(list, j)
		}
	}
	for _, j := range list {
		if _, _, err := w.c.Jobs().Deregister(j.ID, true, nil); err != nil {
			w.Error(err)
		}
	}
}

func (w *world) no(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// until asks until it is so.
func (w *world) until(what string, ok func() bool) {
	w.Helper()
	for !ok() {
		select {
		case <-w.ctx.Done():
			w.Fatalf("waited in vain for: %s", what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// took waits for something and says how long that took.
func (w *world) took(what string, ok func() bool) string {
	w.Helper()
	begin := time.Now()
	w.until(what, ok)
	return fmt.Sprintf("%s after %.1f s", what, time.Since(begin).Seconds())
}

func ptr[T any](v T) *T { return &v }

// sleeper is a service job whose n tasks sleep until they are told to end; one more word in the script makes it another job.
func (w *world) sleeper(name string, n int, words ...string) *api.Job {
	script := strings.Join(append([]string{"exec sleep 1000"}, words...), " # ")
	j := api.NewServiceJob(w.prefix+name, w.prefix+name, "global", 50)
	j.Datacenters = []string{"*"}
	g := api.NewTaskGroup("decode", n)
	g.Scaling = &api.ScalingPolicy{Min: ptr(int64(0)), Max: ptr(int64(200)), Enabled: ptr(true)}
	g.RestartPolicy = &api.RestartPolicy{Attempts: ptr(0), Mode: ptr("fail")}
	g.ReschedulePolicy = &api.ReschedulePolicy{Delay: ptr(5 * time.Second), DelayFunction: ptr("constant"), Unlimited: ptr(true)}
	g.Update = &api.UpdateStrategy{
		MaxParallel: ptr(1), MinHealthyTime: ptr(time.Second), HealthyDeadline: ptr(20 * time.Second), ProgressDeadline: ptr(40 * time.Second),
		AutoRevert: ptr(true), HealthCheck: ptr("task_states"),
	}
	t := api.NewTask("agent", "raw_exec")
	t.KillSignal, t.KillTimeout = "SIGTERM", ptr(5*time.Second)
	t.Config = map[string]any{"command": "/bin/sh", "args": []string{"-c", script}}
	t.Resources = &api.Resources{CPU: ptr(20), MemoryMB: ptr(20)}
	g.AddTask(t)
	return j.AddTaskGroup(g)
}

func (w *world) register(j *api.Job) *api.JobRegisterResponse {
	w.Helper()
	r, _, err := w.c.Jobs().Register(j, nil)
	w.no(err)
	return r
}

func (w *world) job(id string) *api.Job {
	w.Helper()
	j, _, err := w.c.Jobs().Info(id, nil)
	w.no(err)
	return j
}

func (w *world) allocations(id string) []*api.AllocationListStub {
	w.Helper()
	list, _, err := w.c.Jobs().Allocations(id, true, nil)
	w.no(err)
	slices.SortFunc(list, func(a, b *api.AllocationListStub) int { return int(a.CreateIndex) - int(b.CreateIndex) })
	return list
}

// are lists a job's allocations that are wanted and running.
func (w *world) running(id string) (out []*api.AllocationListStub) {
	w.Helper()
	for _, a := range w.allocations(id) {
		if a.ClientStatus == "running" && a.DesiredStatus == "run" {
			out = append(out, a)
		}
	}
	return out
}

func (w *world) run(id string, n int) []*api.AllocationListStub {
	w.Helper()
	w.until(fmt.Sprintf("%d running allocations of %s", n, id), func() bool { return len(w.running(id)) == n })
	return w.running(id)
}

func (w *world) allocation(id string) *api.Allocation {
	w.Helper()
	a, _, err := w.c.Allocations().Info(id, nil)
	w.no(err)
	return a
}

func (w *world) deployment(id string) *api.Deployment {
	w.Helper()
	d, _, err := w.c.Jobs().LatestDeployment(id, nil)
	w.no(err)
	return d
}

func (w *world) deployed(id string) {
	w.Helper()
	w.until("a successful deployment of "+id, func() bool {
		d := w.deployment(id)
		return d != nil && d.Status == "successful"
	})
}

// scale changes a count; the error is the server's.
func (w *world) scale(id string, n int, message string) error {
	_, _, err := w.c.Jobs().Scale(id, "decode", &n, message, false, nil, nil)
	return err
}

func (w *world) nodes() []*api.NodeListStub {
	w.Helper()
	list, _, err := w.c.Nodes().List(&api.QueryOptions{Params: map[string]string{"resources": "true"}})
	w.no(err)
	return list
}

// pid is the process of an allocation's task, as it has written it down.
func (w *world) kill(a *api.AllocationListStub, sig syscall.Signal) {
	w.Helper()
	for _, p := range processesOf(a.ID) {
		w.no(syscall.Kill(p, sig))
	}
}

// refusal checks an error's status and words.
func (w *world) refusal(err error, status int, words string) {
	w.Helper()
	var no api.UnexpectedResponseError
	if !errors.As(err, &no) || no.StatusCode() != status || !strings.Contains(no.Body(), words) {
		w.Errorf("got %v, want %d with %q", err, status, words)
	}
}

// index is the number in an allocation's name.
func index(name string) int {
	_, rest, _ := strings.Cut(name, "[")
	n, err := strconv.Atoi(strings.TrimSuffix(rest, "]"))
	if err != nil {
		return -1
	}
	return n
}

// printState shows what the server has of the test's jobs.
func (w *world) printState() {
	list, _, err := w.c.Jobs().List(nil)
	if err != nil {
		return
	}
	for _, j := range list {
		if !strings.Contains(j.ID, w.prefix) {
			continue
		}
		w.Logf("job %s: %s, index %d", j.ID, j.Status, j.JobModifyIndex)
		allocs, _, _ := w.c.Jobs().Allocations(j.ID, true, nil)
		for _, a := range allocs {
			w.Logf("  %s %s v%d on %s: %s/%s (%s)", a.ID[:8], a.Name, a.JobVersion, a.NodeName, a.ClientStatus, a.DesiredStatus, a.DesiredDescription)
		}
	}
}
