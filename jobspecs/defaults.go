package jobspecs

import (
	"path"
	"reflect"
	"time"
)

// blank returns the value that a section starts from before the file's own keys are read into it. An explicit value in
// the file thus always wins, also a zero.
func blank(t reflect.Type) reflect.Value {
	v := reflect.New(t).Elem()
	switch p := v.Addr().Interface().(type) {
	case *Deployment:
		p.Cluster = LocalCluster
		p.Engine.Container.Runtime = NoContainer
		p.Serving = Serving{
			LoadingStall: Duration(15 * time.Minute),
			DrainTimeout: Duration(time.Minute),
			OrphanAfter:  Duration(time.Hour),
			Restarts:     new(3),
		}
	case *Role:
		p.Replicas = 1
		p.Nodes = 1
		p.Rollout = Rollout{Surge: new(1), Unavailable: new(0), ProgressDeadline: Duration(15 * time.Minute)}
	}
	return v
}

// derive fills in what follows from other fields.
func derive(d *Deployment) {
	if d.Model.ServedName == "" {
		d.Model.ServedName = d.Model.ID
		if d.Model.ID == "" && d.Model.Path != "" {
			d.Model.ServedName = path.Base(d.Model.Path)
		}
	}
	for kind, role := range d.Roles {
		role.Parallel = spread(role)
		d.Roles[kind] = role
	}
}

// spread fills in the parallel sizes that are left out, so that their product is nodes * gpus where that is possible:
// data 1, tensor inside a node, pipeline over what remains.
func spread(r Role) Parallel {
	p := r.Parallel
	if p.Data < 1 {
		p.Data = 1
	}
	rest := r.Nodes * r.GPUs.Count / p.Data // GPUs of one data parallel copy
	if rest < 1 {
		p.Tensor, p.Pipeline = max(p.Tensor, 1), max(p.Pipeline, 1)
		return p
	}
	switch {
	case p.Tensor > 0 && p.Pipeline > 0:
	case p.Tensor > 0:
		p.Pipeline = max(rest/p.Tensor, 1)
	case p.Pipeline > 0:
		p.Tensor = max(rest/p.Pipeline, 1)
	default:
		for p.Tensor = min(rest, r.GPUs.Count); rest%p.Tensor > 0; p.Tensor-- {
		}
		p.Pipeline = rest / p.Tensor
	}
	return p
}
