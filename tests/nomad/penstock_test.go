package nomad

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/penstock/penstock/jobspecs/render"
	"github.com/penstock/penstock/tests/installation"
	"github.com/penstock/penstock/tests/traffic"
)

// penstockScenarios are about the whole of Penstock on a Nomad, with simulated engines, under traffic whose answers are
// known: nothing may be lost, altered or doubled.
var penstockScenarios = []scenario{
	{"penstock: scale up and down under traffic", penstockScales, nil},
	{"penstock: somebody else's scale becomes what is wanted", penstockFollows, nil},
	{"penstock: a new revision under traffic", penstockRolls, nil},
	{"penstock: kill -9 of a replica's agent under traffic", penstockKilled, nil},
	{"penstock: a client agent is killed and comes back, under traffic", penstockLosesClient, []ability{holdingAgents}},
	{"penstock: a client is drained under traffic", penstockDrained, nil},
	{"penstock: a replica over two clients serves; one over four is refused in words", penstockGang, nil},
	{"penstock: run of what has no place ends with 2 and says why", penstockBlocked, nil},
}

// ps is an installation of Penstock on a world's Nomad.
type ps struct {
	*world
	*installation.Installation
	name    string
	client  *installation.Client
	traffic *traffic.Traffic
}

// penstock starts a controller. Nothing is deployed yet.
func (w *world) penstock() *ps {
	w.Helper()
	in := installation.ForTest(w.T)
	in.Extra = append(in.Extra, w.env...)
	p := &ps{world: w, Installation: in, name: w.prefix + "web"}
	p.must("serve", "--detach", "--listen", "127.0.0.1:0")
	w.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if p.traffic != nil && !p.traffic.Over() {
			p.traffic.End()
		}
		if w.Failed() {
			out, err := p.Run(ctx, "status")
			w.Logf("--- penstock status\n%s %v", out, err)
		}
		_, _ = p.Run(ctx, "stop", "--all", "--wait", "--timeout", "30s")
		_, _ = p.Run(ctx, "serve", "--stop")
	})
	return p
}

func (p *ps) must(args ...string) string {
	p.world.Helper()
	return p.MustRun(p.ctx, p.T, args...)
}

// file writes a deployment of one role.
func (p *ps) file(role string, more ...string) string {
	p.world.Helper()
	path, err := p.Write("web.yaml", fmt.Sprintf(`apiVersion: penstock/v1
name: %s
cluster: nomad
nomad: {driver: raw_exec}
model: {id: %s}
engine: {kind: sim, args: [--speedup, "0.5"]}
serving: {drainTimeout: 15s}
roles: {mixed: {%s}}
%s
`, p.name, traffic.Model, role, strings.Join(more, "\n")))
	p.no(err)
	return path
}

// serves deploys and begins the traffic.
func (p *ps) serves(n int) []installation.Replica {
	p.world.Helper()
	p.must("run", "--timeout", "120s", p.file(fmt.Sprintf("replicas: %d", n)))
	p.ready(n)
	var err error
	p.client, err = p.Connect(p.ctx, "tests")
	p.no(err)
	p.settledJob()
	p.traffic = traffic.Begin(p.ctx, p.T, p.client, traffic.Prompts(p.T))
	p.traffic.Middle(p.ctx)
	p.traffic.Mark()
	return p.replicas()
}

// settledJob waits until Nomad's deployment of it is over, so that a scale is taken at once.
func (p *ps) settledJob() {
	p.world.Helper()
	p.deployed(render.NomadJobID(p.name))
}

func (p *ps) replicas() []installation.Replica {
	p.world.Helper()
	st, err := p.Status(p.ctx)
	p.no(err)
	return p.of(st)
}

func (p *ps) of(st installation.Status) []installation.Replica {
	for _, d := range st.Deployments {
		if d.Name == p.name {
			return d.Replicas
		}
	}
	return nil
}

// ready waits for so many ready replicas and no other, none of them of an old launch.
func (p *ps) ready(n int, old ...string) {
	p.world.Helper()
	_, err := p.Until(p.ctx, fmt.Sprintf("%d ready replicas", n), func(st installation.Status) bool {
		ready := 0
		for _, r := range p.of(st) {
			for _, o := range old {
				if r.Launch == o {
					return false
				}
			}
			if r.State == "ready" {
				ready++
			}
		}
		return ready == n && len(p.of(st)) == n
	})
	p.no(err)
}

// finish ends the traffic and the deployment in good order and looks at what is left.
func (p *ps) finish(what string) string {
	p.world.Helper()
	verdicts := map[traffic.Verdict]int{}
	if p.traffic != nil {
		p.traffic.Finished(p.ctx, traffic.Streams)
		p.traffic.End()
		for _, f := range p.traffic.Flights() {
			verdicts[f.Verdict]++
		}
		what += fmt.Sprintf("; %d requests complete, %d refused clearly, longest without a ready replica %.1f s", verdicts[traffic.Complete],
			verdicts[traffic.Refused], p.traffic.Downtime().Seconds())
	}
	p.must("stop", "--all", "--wait", "--timeout", "90s")
	p.until("nothing of it runs", func() bool { return len(withVariable("NOMAD_JOB_ID", render.NomadJobID(p.name))) == 0 })
	p.until("its job is stopped", func() bool { // it is not dead while an evaluation of a client's disconnection waits
		j, _, err := p.c.Jobs().Info(render.NomadJobID(p.name), nil)
		return err != nil || j.Stop != nil && *j.Stop
	})
	p.must("serve", "--stop")
	return what
}

func penstockScales(w *world) string {
	p := w.penstock()
	p.serves(2)
	begin := time.Now()
	p.must("scale", p.name, "mixed=3")
	p.ready(3)
	up := time.Since(begin)
	p.settledJob()
	begin = time.Now()
	p.must("scale", p.name, "mixed=1")
	p.ready(1)
	return p.finish(fmt.Sprintf("2 to 3 in %.0f s, 3 to 1 in %.0f s", up.Seconds(), time.Since(begin).Seconds()))
}

func penstockFollows(w *world) string {
	p := w.penstock()
	p.serves(1)
	_, _, err := w.c.Jobs().Scale(render.NomadJobID(p.name), "mixed", ptr(2), "for the fair", false, nil, nil)
	w.no(err)
	p.ready(2)
	w.until("an event tells of it", func() bool {
		text, err := os.ReadFile(filepath.Join(p.State(), "events.jsonl"))
		return err == nil && strings.Contains(string(text), "for the fair")
	})
	p.traffic.Finished(p.ctx, 2*traffic.Streams)
	p.ready(2)
	return p.finish("followed, an event tells who and when, not fought")
}

func penstockRolls(w *world) string {
	p := w.penstock()
	before := p.serves(2)
	begin := time.Now()
	p.must("run", "--timeout", "180s", p.file("replicas: 2, memory: 300MiB"))
	p.ready(2, before[0].Launch, before[1].Launch)
	return p.finish(fmt.Sprintf("replaced in %.0f s", time.Since(begin).Seconds()))
}

func penstockKilled(w *world) string {
	p := w.penstock()
	victim := p.serves(2)[0]
	begin := time.Now()
	killed := withVariable("NOMAD_ALLOC_ID", victim.Job)
	for _, pid := range killed {
		_ = syscall.Kill(pid, syscall.SIGKILL) // some end with others
	}
	// Nomad starts the task again in the same allocation, or another allocation; the first may be too quick to be seen in a status.
	w.until("it is gone, or runs anew", func() bool {
		now := withVariable("NOMAD_ALLOC_ID", victim.Job)
		return !slices.ContainsFunc(killed, func(pid int) bool { return slices.Contains(now, pid) })
	})
	p.traffic.Finished(p.ctx, 2*traffic.Streams)
	p.ready(2)
	return p.finish(fmt.Sprintf("two ready again after %.0f s", time.Since(begin).Seconds()))
}

// clientOf is the client that a replica runs on.
func (p *ps) clientOf(r installation.Replica) string {
	p.world.Helper()
	return p.allocation(r.Job).NodeName
}

func penstockLosesClient(w *world) string {
	p := w.penstock()
	victim := p.serves(2)[0]
	node := p.clientOf(victim)
	w.Cleanup(w.untilReady)
	begin := time.Now()
	w.no(w.hands.LoseClient(node))
	w.until("Nomad misses the client", func() bool {
		status := w.allocation(victim.Job).ClientStatus
		return status == "unknown" || status == "lost"
	})
	missed := time.Since(begin)
	p.traffic.Finished(p.ctx, 2*traffic.Streams)
	w.no(w.hands.ReturnClient(node))
	w.untilReady()
	p.ready(2)
	return p.finish(fmt.Sprintf("missed after %.0f s, two ready when it was back after %.0f s", missed.Seconds(), time.Since(begin).Seconds()))
}

func penstockDrained(w *world) string {
	p := w.penstock()
	victim := p.serves(2)[0]
	node := w.allocation(victim.Job).NodeID
	begin := time.Now()
	_, err := w.c.Nodes().UpdateDrain(node, &api.DrainSpec{Deadline: time.Minute}, false, nil)
	w.no(err)
	w.Cleanup(func() {
		_, err := w.c.Nodes().UpdateDrain(node, nil, true, nil)
		w.no(err)
	})
	p.ready(2, victim.Launch)
	return p.finish(fmt.Sprintf("moved after %.0f s", time.Since(begin).Seconds()))
}

func penstockGang(w *world) string {
	p := w.penstock()
	p.must("run", "--timeout", "120s", p.file("nodes: 2"))
	p.ready(1)
	var err error
	p.client, err = p.Connect(p.ctx, "tests")
	w.no(err)
	p.traffic = traffic.Begin(p.ctx, p.T, p.client, traffic.Prompts(p.T))
	p.traffic.Middle(p.ctx)
	p.traffic.End()
	p.must("stop", "--all", "--wait", "--timeout", "90s")
	_, err = p.Run(p.ctx, "run", "--timeout", "20s", p.file("nodes: 4"))
	var exit *installation.ExitError
	if !errors.As(err, &exit) || !strings.Contains(exit.Out+exit.Err, "could be placed") {
		w.Errorf("run of a replica over four clients: %v", err)
		return ""
	}
	p.traffic = nil
	return p.finish(fmt.Sprintf("exit %d", exit.Code))
}

func penstockBlocked(w *world) string {
	p := w.penstock()
	_, err := p.Run(p.ctx, "run", "--timeout", "20s", p.file("memory: 900GiB"))
	var exit *installation.ExitError
	if !errors.As(err, &exit) || exit.Code != 2 || !strings.Contains(exit.Out+exit.Err, "memory") {
		w.Errorf("run of what has no place: %v", err)
		return ""
	}
	return p.finish("exit 2, and why")
}
