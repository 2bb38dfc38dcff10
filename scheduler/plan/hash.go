package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	"github.com/penstock/penstock/jobspecs"
)

// ReplicaHash sums up all of a deployment that a running replica of the role depends on. Two revisions with the same hash
// differ in counts, bounds, objectives and deadlines only, so that a change from one to the other restarts nothing.
func ReplicaHash(d jobspecs.Deployment, kind jobspecs.RoleKind) string {
	r := d.Roles[kind]
	depends := struct {
		Model      jobspecs.Model
		Engine     jobspecs.Engine
		Cluster    jobspecs.ClusterKind
		Nodes      int
		GPUs       jobspecs.GPURequest
		Parallel   jobspecs.Parallel
		CPUs       int
		Memory     jobspecs.Bytes
		Args       []string
		KV         jobspecs.KV
		MaxContext int
		Slurm      *jobspecs.Slurm
		Nomad      *jobspecs.Nomad
	}{
		Model: d.Model, Engine: d.Engine, Cluster: d.Cluster,
		Nodes: r.Nodes, GPUs: r.GPUs, Parallel: r.Parallel, CPUs: r.CPUs, Memory: r.Memory, Args: orEmpty(r.Args),
		KV: d.KV, MaxContext: d.Serving.MaxContext,
	}
	switch d.Cluster {
	case jobspecs.SlurmCluster:
		depends.Slurm = &d.Slurm
		depends.Slurm.Sbatch, depends.Slurm.Setup = orEmpty(d.Slurm.Sbatch), orEmpty(d.Slurm.Setup)
	case jobspecs.NomadCluster:
		depends.Nomad = &d.Nomad
		depends.Nomad.Datacenters, depends.Nomad.Mounts = orEmpty(d.Nomad.Datacenters), orEmpty(d.Nomad.Mounts)
		if depends.Nomad.Constraints == nil {
			depends.Nomad.Constraints = []jobspecs.NomadConstraint{}
		}
	}
	e := &depends.Engine
	e.Command, e.Args, e.Setup, e.Container.Mounts = orEmpty(e.Command), orEmpty(e.Args), orEmpty(e.Setup), orEmpty(e.Container.Mounts)
	if e.Env == nil {
		e.Env = map[string]string{}
	}
	if depends.Model.Adapters == nil {
		depends.Model.Adapters = []jobspecs.Adapter{}
	}
	text, err := json.Marshal(depends)
	if err != nil {
		panic("plan: a deployment cannot be written as JSON: " + err.Error()) // strings, numbers, lists and maps can
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16])
}

// orEmpty makes a list that is left out the same as an empty one.
func orEmpty(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

// hashOf names a role of a revision.
type hashOf struct {
	revision int
	role     jobspecs.RoleKind
}

// current reports whether replicas of the revision are what the deployment's current revision asks for.
func (d *deployment) current(revision int, kind jobspecs.RoleKind) bool {
	if _, ok := d.Spec.Roles[kind]; !ok || d.gone {
		return false
	}
	if revision == d.Revision {
		return true
	}
	h := d.hashed(revision, kind)
	return h != "" && h == d.hashed(d.Revision, kind)
}

// hashed is ReplicaHash of a revision, worked out once; "" = the revision is not known.
func (d *deployment) hashed(revision int, kind jobspecs.RoleKind) string {
	key := hashOf{revision, kind}
	if h, ok := d.hash[key]; ok {
		return h
	}
	if d.hash == nil {
		d.hash = map[hashOf]string{}
	}
	h := ""
	if spec, ok := d.spec(revision); ok {
		h = ReplicaHash(spec, kind)
	}
	d.hash[key] = h
	return h
}
