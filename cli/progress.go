package cli

import (
	"fmt"
	"time"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// progress says on stderr how a deployment gets along: each thing once, when it changes.
type progress struct {
	inv   *invocation
	until string // ready, stopped

	said  map[string]string // by launch; the deployment's own under ""
	steps map[string]loadStep
	stood map[string]standing // reasons by what they are about
}

// standing is a reason and for how many looks it has stood.
type standing struct {
	reason string
	looks  int
}

// loadStep is how far a replica's loading was when it was last told.
type loadStep struct {
	tenth uint64
	at    time.Time
}

const (
	reasonStands = 4 // looks, a second in all
	tellLoading  = 30 * time.Second
)

func newProgress(inv *invocation, o followOptions) *progress {
	p := &progress{inv: inv, until: o.until, said: map[string]string{}, steps: map[string]loadStep{}, stood: map[string]standing{}}
	if o.said != "" {
		p.said[""] = o.deployment + ": " + o.said
	}
	return p
}

// show tells what is new in a status.
func (p *progress) show(d *apiv1.DeploymentStatus, now time.Time) {
	for _, r := range d.Replicas {
		if p.until == "stopped" && r.State != "draining" && r.State != "ended" {
			continue // who waits for the end does not want to hear of what has not begun to end
		}
		p.replica(d.Name, r, now)
	}
	if p.stands("", d.Reason) && lacks(d) {
		p.once("", d.Name+": "+d.Reason)
	}
}

// stands tells at each look whether there is a reason that has been the same for some looks: between two plans one may be a
// moment old.
func (p *progress) stands(about, reason string) bool {
	s := p.stood[about]
	if s.reason != reason {
		s = standing{reason: reason}
	}
	s.looks++
	p.stood[about] = s
	return reason != "" && s.looks >= reasonStands
}

// lacks tells whether replicas are wanted that nobody has begun to start: then only the deployment's own reason says why.
func lacks(d *apiv1.DeploymentStatus) bool {
	var wanted, live uint32
	for _, r := range d.Roles {
		wanted += r.Wanted
	}
	for _, r := range d.Replicas {
		if r.State != "failed" && r.State != "ended" && r.State != "draining" {
			live++
		}
	}
	return live < wanted && d.State != "failed"
}

func (p *progress) replica(deployment string, r *apiv1.ReplicaStatus, now time.Time) {
	text := r.State
	if reason := loadingOr(r, r.Reason); reason != "" && r.State != "ready" {
		text += ": " + reason
	}
	if r.State != "loading" {
		delete(p.steps, r.Launch)
	} else if !p.tellsLoading(r, now) {
		return
	}
	p.once(r.Launch, fmt.Sprintf("%s %s: %s", deployment, r.Name, text))
}

// tellsLoading is true at the first word, then at each tenth that is done, and now and then between.
func (p *progress) tellsLoading(r *apiv1.ReplicaStatus, now time.Time) bool {
	step := loadStep{at: now}
	if total := r.Loading.GetBytesTotal(); total > 0 {
		step.tenth = 10 * r.Loading.GetBytesDone() / total
	}
	last, told := p.steps[r.Launch]
	if told && last.tenth == step.tenth && now.Sub(last.at) < tellLoading {
		return false
	}
	p.steps[r.Launch] = step
	return true
}

// once says something unless it was the last thing said under its key.
func (p *progress) once(key, text string) {
	if p.said[key] != text {
		p.said[key] = text
		p.inv.say("%s", text)
	}
}
