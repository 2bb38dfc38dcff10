package plan

import (
	"fmt"
	"time"

	"github.com/penstock/penstock/jobspecs"
)

// retire stops a deployment whose lifetime is over, as `penstock stop` does, and says why. Applying its file, or starting
// it, begins a new lifetime.
func (p *planner) retire(d *deployment, roles []*role) bool {
	why := p.lifetimeOver(d, roles)
	if why == "" {
		return false
	}
	p.do(Action{
		Verb: Retire, Deployment: d.Name, Index: -1, Cluster: d.Spec.Cluster, Revision: d.Revision,
		Reason: why + "; apply its file again to go on",
	})
	return true
}

func (p *planner) lifetimeOver(d *deployment, roles []*role) string {
	life := d.Spec.Lifetime
	end := life.End()
	switch {
	case life == jobspecs.Lifetime{} || d.Since.IsZero():
	case !end.IsZero() && !p.now.Before(end):
		return fmt.Sprintf("it was to serve until %s (lifetime.until)", life.Until)
	case life.KeepAlive > 0 && p.now.Sub(d.Since) >= life.KeepAlive.Std():
		return fmt.Sprintf("it has served for %s since it was started (lifetime.keepAlive)", life.KeepAlive)
	case life.GPUHours > 0 && p.gpuTime(d, roles) >= time.Duration(life.GPUHours)*time.Hour:
		return fmt.Sprintf("its jobs have held GPUs for %d hours since it was started (lifetime.gpuHours)", life.GPUHours)
	case life.Idle > 0 && p.idle(d, roles) >= life.Idle.Std():
		return fmt.Sprintf("no request has come for %s (lifetime.idle)", life.Idle)
	}
	return ""
}

// gpuTime is for how long the deployment's jobs have held GPUs since it was started, summed over the cards.
func (p *planner) gpuTime(d *deployment, roles []*role) time.Duration {
	sum := d.GPUTime
	for _, r := range roles {
		for _, l := range r.launches() {
			spec, _ := d.spec(l.Revision)
			sum += l.NodeTime(d.Since, p.now) * time.Duration(spec.Roles[l.Role].GPUs.Count)
		}
	}
	return sum
}

// idle is for how long no request has come to a deployment that could have answered one.
func (p *planner) idle(d *deployment, roles []*role) time.Duration {
	last := latest(d.Since, d.AskedAt, p.seen.Since)
	ready := false
	for _, r := range roles {
		for _, s := range r.live {
			if s.health != serving {
				continue
			}
			ready = true
			if load := p.seen.Fleet.Load(s.replica); load.GetOpenRequests() > 0 {
				return 0
			}
		}
		for _, l := range r.launches() {
			if l.Replaces == "" { // a handover is no new start
				last = latest(last, l.ReadyAt)
			}
		}
	}
	if !ready {
		return 0
	}
	return p.now.Sub(last)
}
