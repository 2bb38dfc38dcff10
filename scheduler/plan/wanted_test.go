package plan

import (
	"testing"
	"time"

	"github.com/penstock/penstock/jobspecs"
)

func TestWantedStaysInBounds(t *testing.T) {
	role := func(n, lo, hi int) jobspecs.Deployment {
		return jobspecs.Deployment{Roles: map[jobspecs.RoleKind]jobspecs.Role{jobspecs.Mixed: {Replicas: n, Min: lo, Max: hi}}}
	}
	to := func(n int) map[jobspecs.RoleKind]int { return map[jobspecs.RoleKind]int{jobspecs.Mixed: n} }
	tests := []struct {
		name string
		d    Deployment
		want int
	}{
		{"the file's", Deployment{Spec: role(3, 0, 0)}, 3},
		{"the override", Deployment{Spec: role(3, 0, 0), Scale: to(5)}, 5},
		{"zero is a count", Deployment{Spec: role(3, 0, 0), Scale: to(0)}, 0},
		{"no fewer than min", Deployment{Spec: role(3, 2, 4), Scale: to(0)}, 2},
		{"no more than max", Deployment{Spec: role(3, 2, 4), Scale: to(9)}, 4},
		{"stopped", Deployment{Spec: role(3, 2, 4), Stopped: true}, 0},
		{"no such role", Deployment{Scale: to(2)}, 0},
	}
	for _, tt := range tests {
		if got := tt.d.Wanted(jobspecs.Mixed); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

func TestBackOffDelays(t *testing.T) {
	timing := Timing{}.withDefaults()
	for failures, want := range map[int]time.Duration{
		2: 5 * time.Second, 3: 10 * time.Second, 4: 20 * time.Second, 5: 40 * time.Second, 8: 5 * time.Minute, 1000: 5 * time.Minute,
	} {
		if got := timing.delay(failures); got != want {
			t.Errorf("after %d failures %s, want %s", failures, got, want)
		}
	}
}

// Every field of a deployment either restarts replicas when it changes or does not; a new field must be put here.
func TestReplicaHash(t *testing.T) {
	spec := func(change func(*jobspecs.Deployment, *jobspecs.Role)) string {
		d := jobspecs.Deployment{
			Name: "d", Cluster: jobspecs.SlurmCluster, Engine: jobspecs.Engine{Env: map[string]string{"A": "1", "B": "2"}},
			Roles: map[jobspecs.RoleKind]jobspecs.Role{jobspecs.Decode: {Replicas: 9}},
		}
		r := jobspecs.Role{Replicas: 1}
		change(&d, &r)
		d.Roles[jobspecs.Mixed] = r
		return ReplicaHash(d, jobspecs.Mixed)
	}
	same := spec(func(*jobspecs.Deployment, *jobspecs.Role) {})
	tests := []struct {
		name     string
		restarts bool
		change   func(*jobspecs.Deployment, *jobspecs.Role)
	}{
		{"replicas", false, func(_ *jobspecs.Deployment, r *jobspecs.Role) { r.Replicas, r.Min, r.Max = 5, 1, 9 }},
		{"rollout", false, func(_ *jobspecs.Deployment, r *jobspecs.Role) { r.Rollout.ProgressDeadline = 1 }},
		{"slo", false, func(d *jobspecs.Deployment, _ *jobspecs.Role) { d.SLO.TTFT = 1 }},
		{"deadlines", false, func(d *jobspecs.Deployment, _ *jobspecs.Role) {
			d.Serving.DrainTimeout, d.Serving.LoadingStall, d.Serving.OrphanAfter = 1, 2, 3
		}},
		{"another role", false, func(d *jobspecs.Deployment, _ *jobspecs.Role) {
			d.Roles[jobspecs.Decode] = jobspecs.Role{CPUs: 7}
		}},
		{"local nodes", false, func(d *jobspecs.Deployment, _ *jobspecs.Role) { d.Local.Nodes = []jobspecs.LocalNode{{Name: "n"}} }},
		{"nomad's section on slurm", false, func(d *jobspecs.Deployment, _ *jobspecs.Role) { d.Nomad.Namespace = "x" }},
		{"empty instead of no list", false, func(d *jobspecs.Deployment, r *jobspecs.Role) {
			d.Engine.Args, d.Engine.Setup, r.Args, d.Model.Adapters = []string{}, []string{}, []string{}, []jobspecs.Adapter{}
		}},
		{"model", true, func(d *jobspecs.Deployment, _ *jobspecs.Role) { d.Model.Path = "/x" }},
		{"served name", true, func(d *jobspecs.Deployment, _ *jobspecs.Role) { d.Model.ServedName = "x" }},
		{"adapters", true, func(d *jobspecs.Deployment, _ *jobspecs.Role) { d.Model.Adapters = []jobspecs.Adapter{{Name: "a"}} }},
		{"engine", true, func(d *jobspecs.Deployment, _ *jobspecs.Role) { d.Engine.Version = "2" }},
		{"engine's environment", true, func(d *jobspecs.Deployment, _ *jobspecs.Role) { d.Engine.Env = map[string]string{"A": "2"} }},
		{"cluster", true, func(d *jobspecs.Deployment, _ *jobspecs.Role) { d.Cluster = jobspecs.LocalCluster }},
		{"partition", true, func(d *jobspecs.Deployment, _ *jobspecs.Role) { d.Slurm.Partition = "gpu" }},
		{"nodes", true, func(_ *jobspecs.Deployment, r *jobspecs.Role) { r.Nodes = 2 }},
		{"gpus", true, func(_ *jobspecs.Deployment, r *jobspecs.Role) { r.GPUs.Count = 2 }},
		{"parallel", true, func(_ *jobspecs.Deployment, r *jobspecs.Role) { r.Parallel.Tensor = 2 }},
		{"cpus", true, func(_ *jobspecs.Deployment, r *jobspecs.Role) { r.CPUs = 2 }},
		{"memory", true, func(_ *jobspecs.Deployment, r *jobspecs.Role) { r.Memory = 2 }},
		{"args", true, func(_ *jobspecs.Deployment, r *jobspecs.Role) { r.Args = []string{"x"} }},
		{"kv", true, func(d *jobspecs.Deployment, _ *jobspecs.Role) { d.KV.Host = 1 }},
		{"context", true, func(d *jobspecs.Deployment, _ *jobspecs.Role) { d.Serving.MaxContext = 1 }},
	}
	for _, tt := range tests {
		if restarts := spec(tt.change) != same; restarts != tt.restarts {
			t.Errorf("%s: restarts %v", tt.name, restarts)
		}
	}
}
