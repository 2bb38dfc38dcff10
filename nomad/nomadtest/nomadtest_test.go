package nomadtest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a fake with a client.
type world struct {
	*testing.T
	s *Server
	c *api.Client
}

func start(t *testing.T, opts Options) world {
	t.Helper()
	t.Parallel()
	s := Start(t, opts)
	return world{t, s, s.Client(t)}
}

// sleeper is a job with n tasks that sleep until they are told to end.
func sleeper(id string, n int) *api.Job {
	return withScript(id, n, "exec sleep 1000")
}

func withScript(id string, n int, script string) *api.Job {
	j := api.NewServiceJob(id, id, "global", 50)
	g := api.NewTaskGroup("decode", n)
	g.Scaling = &api.ScalingPolicy{Min: ptr(int64(0)), Max: ptr(int64(200)), Enabled: ptr(true)}
	g.RestartPolicy = &api.RestartPolicy{Attempts: ptr(0), Mode: ptr("fail")}
	g.ReschedulePolicy = &api.ReschedulePolicy{Delay: ptr(5 * time.Second), DelayFunction: ptr("constant"), Unlimited: ptr(true)}
	t := api.NewTask("agent", "raw_exec")
	t.KillSignal = "SIGTERM"
	t.Config = map[string]any{"command": "/bin/sh", "args": []string{"-c", script}}
	t.Resources = &api.Resources{CPU: ptr(20), MemoryMB: ptr(20)}
	g.AddTask(t)
	return j.AddTaskGroup(g)
}

func (w world) no(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w world) register(j *api.Job) *api.JobRegisterResponse {
	w.Helper()
	r, _, err := w.c.Jobs().Register(j, nil)
	w.no(err)
	return r
}

func (w world) until(what string, ok func() bool) {
	w.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.Fatalf("waited in vain for: %s", what)
		}
	}
}

// allocs lists a job's allocations whose client status is one of these.
func (w world) allocs(id string, status ...string) (out []*api.AllocationListStub) {
	w.Helper()
	list, _, err := w.c.Jobs().Allocations(id, true, nil)
	w.no(err)
	for _, a := range list {
		if slices.Contains(status, a.ClientStatus) {
			out = append(out, a)
		}
	}
	return out
}

func (w world) running(id string, n int) []*api.AllocationListStub {
	w.Helper()
	w.until(fmt.Sprintf("%d running allocations of %s", n, id), func() bool { return len(w.allocs(id, "running")) == n })
	return w.allocs(id, "running")
}

func (w world) deployment(id, status string) (d *api.Deployment) {
	w.Helper()
	w.until("deployment of "+id+" "+status, func() bool {
		var err error
		d, _, err = w.c.Jobs().LatestDeployment(id, nil)
		w.no(err)
		return d != nil && d.Status == status
	})
	return d
}

func TestServiceJob(t *testing.T) {
	w := start(t, Options{})
	w.register(sleeper("web", 3))
	w.running("web", 3)
	w.deployment("web", "successful")
	first := w.allocs("web", "running")[0]
	w.s.KillTask(first.ID)
	w.until("the killed one is replaced", func() bool {
		a, _, err := w.c.Allocations().Info(first.ID, nil)
		w.no(err)
		return a.ClientStatus == "failed" && a.NextAllocation != ""
	})
	w.running("web", 3)
	_, _, err := w.c.Jobs().Deregister("web", false, nil)
	w.no(err)
	w.running("web", 0)
}

func TestScale(t *testing.T) {
	w := start(t, Options{})
	w.register(sleeper("web", 1))
	_, _, err := w.c.Jobs().Scale("web", "decode", ptr(2), "by hand", false, nil, nil)
	if err == nil {
		t.Error("a scale during a deployment was not refused")
	}
	w.deployment("web", "successful")
	_, _, err = w.c.Jobs().Scale("web", "decode", ptr(4), "by hand", false, nil, nil)
	w.no(err)
	w.running("web", 4)
	w.deployment("web", "successful")
	_, _, err = w.c.Jobs().Scale("web", "decode", ptr(1), "less", false, nil, nil)
	w.no(err)
	if left := w.running("web", 1); left[0].Name != "web.decode[0]" {
		t.Errorf("%s is left", left[0].Name)
	}
}

func TestCanary(t *testing.T) {
	w := start(t, Options{})
	j := func(script string) *api.Job {
		j := withScript("web", 2, script)
		j.TaskGroups[0].Update = &api.UpdateStrategy{Canary: ptr(1), MaxParallel: ptr(1)}
		return j
	}
	w.register(j("exec sleep 1000"))
	w.deployment("web", "successful")
	w.register(j("exec sleep 2000"))
	w.running("web", 3)
	d := w.deployment("web", "running")
	w.until("the canary is healthy", func() bool {
		_, _, err := w.c.Deployments().PromoteAll(d.ID, nil)
		return err == nil
	})
	w.deployment("web", "successful")
	for _, a := range w.running("web", 2) {
		if a.JobVersion != 1 {
			t.Errorf("%s is of version %d", a.Name, a.JobVersion)
		}
	}
}

func TestLostClient(t *testing.T) {
	w := start(t, Options{})
	w.register(sleeper("web", 3))
	lost := w.running("web", 3)[0]
	w.s.LoseClient(lost.NodeName)
	w.until("three run beside the lost one", func() bool {
		return len(w.allocs("web", "running")) == 3 && len(w.allocs("web", "lost")) == 1
	})
	if len(withVariable("NOMAD_ALLOC_ID", lost.ID)) == 0 {
		t.Error("the lost allocation's process is gone")
	}
	w.s.ReturnClient(lost.NodeID)
	w.until("the lost one has ended", func() bool {
		a, _, err := w.c.Allocations().Info(lost.ID, nil)
		w.no(err)
		return a.ClientStatus == "complete"
	})
	w.running("web", 3)
}

func TestNoRoom(t *testing.T) {
	w := start(t, Options{Nodes: Nodes(1, 2)})
	j := sleeper("web", 3)
	j.TaskGroups[0].Tasks[0].Resources.Devices = []*api.RequestedDevice{{Name: "nvidia/gpu", Count: ptr(uint64(1))}}
	p, _, err := w.c.Jobs().Plan(j, false, nil)
	w.no(err)
	if m := p.FailedTGAllocs["decode"]; m == nil || m.NodesExhausted != 1 {
		t.Errorf("plan: %+v", p.FailedTGAllocs)
	}
	w.register(j)
	w.running("web", 2)
	list, _, err := w.c.Jobs().Evaluations("web", nil)
	w.no(err)
	if list[0].Status != "blocked" || list[0].FailedTGAllocs["decode"] == nil {
		t.Errorf("evaluations %+v", list[0])
	}
}
