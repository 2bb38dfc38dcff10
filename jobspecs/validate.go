package jobspecs

import (
	"reflect"
	"strings"
	"time"
)

// deployment checks every field by its rule, and then what fields must have to do with each other.
func (c *checker) deployment(d Deployment) {
	c.walk(place{}, reflect.ValueOf(d))
	c.model(d.Model)
	c.container(d)
	c.together(d.Roles)
	for _, kind := range RoleKinds {
		if r, ok := d.Roles[kind]; ok {
			c.role("roles."+string(kind), r)
		}
	}
	c.kv(d.KV)
	c.lifetime(d)
	c.localNodes(d.Local.Nodes)
	c.slurm(d)
	c.nomad(d)
	c.secrets(d)
}

func (c *checker) model(m Model) {
	if m.ID == "" && m.Path == "" && c.clean("model.id", "model.path") {
		c.addf("model", "give id (a hub name) or path (local weights)", "names no weights")
	}
	taken := map[string]bool{m.ServedName: true}
	for i, a := range m.Adapters {
		path := place{path: "model.adapters"}.item(i).child("name").path
		if taken[a.Name] && c.clean(path, "model.servedName") {
			c.addf(path, "every adapter needs a name of its own", "%s is taken", quote(a.Name))
		}
		taken[a.Name] = true
	}
}

func (c *checker) container(d Deployment) {
	const path = "engine.container"
	box := d.Engine.Container
	if !c.clean(path) {
		return
	}
	switch {
	case box.Runtime == NoContainer && box.Image != "":
		c.addf(path+".runtime", "choose apptainer, enroot, pyxis or podman", "an image needs a runtime")
	case box.Runtime == NoContainer && len(box.Mounts) > 0:
		c.addf(path+".mounts", "without a container the engine sees every folder", "mounts need a runtime and an image")
	case box.Runtime != NoContainer && box.Image == "":
		c.addf(path+".image", "name the image that "+string(box.Runtime)+" runs", "is missing")
	case box.Runtime == Pyxis && d.Cluster != SlurmCluster && c.clean("cluster"):
		c.addf(path+".runtime", "use enroot, or cluster: slurm", "pyxis is a part of Slurm and can't run under cluster %s", d.Cluster)
	}
}

// together refuses roles that can't serve: a half of a pair, and a mixed role beside a pair, because then nothing says
// which of the two ways a request takes.
func (c *checker) together(roles map[RoleKind]Role) {
	_, prefill := roles[Prefill]
	_, decode := roles[Decode]
	_, mixed := roles[Mixed]
	switch {
	case !c.clean("roles"):
	case prefill && !decode:
		c.addf("roles.prefill", "add roles.decode, or call it mixed", "prefill can't answer without decode")
	case decode && !prefill:
		c.addf("roles.decode", "add roles.prefill, or call it mixed", "decode gets no work without prefill")
	case mixed && prefill:
		c.addf("roles.mixed", "make it a deployment of its own", "mixed can't stand beside prefill and decode")
	}
}

func (c *checker) role(path string, r Role) {
	if r.Min > r.Replicas && c.clean(path+".min", path+".replicas") {
		c.addf(path+".min", "", "%d is above replicas, which is %d", r.Min, r.Replicas)
	}
	if r.Max > 0 && r.Replicas > r.Max && c.clean(path+".max", path+".replicas") {
		c.addf(path+".max", "0 means no bound", "%d is below replicas, which is %d", r.Max, r.Replicas)
	}
	if r.GPUs.Count == 0 && (r.GPUs.Type != "" || r.GPUs.Memory > 0) && c.clean(path+".gpus") {
		c.addf(path+".gpus", "add count: 1 or more", "says which cards but not how many")
	}
	if ro := r.Rollout; ro.Surge != nil && ro.Unavailable != nil && *ro.Surge+*ro.Unavailable == 0 && c.clean(path+".rollout") {
		c.addf(path+".rollout", "raise one of them to 1", "with surge 0 and unavailable 0 no replica can ever be replaced")
	}
	c.spread(path, r)
}

func (c *checker) spread(path string, r Role) {
	have, p := r.Nodes*r.GPUs.Count, r.Parallel
	if have == 0 || p.Tensor*p.Pipeline*p.Data == have || !c.clean(path+".nodes", path+".gpus", path+".parallel") {
		return
	}
	c.addf(path+".parallel", "they must be equal; sizes that are left out are filled in",
		"tensor %d * pipeline %d * data %d = %d, but nodes %d * gpus %d = %d",
		p.Tensor, p.Pipeline, p.Data, p.Tensor*p.Pipeline*p.Data, r.Nodes, r.GPUs.Count, have)
}

func (c *checker) kv(kv KV) {
	switch disk := kv.Disk; {
	case !c.clean("kv.disk"):
	case disk.Path != "" && disk.Size == 0:
		c.addf("kv.disk.size", "say how much of the disk KV blocks may take", "is missing")
	case disk.Path == "" && disk.Size > 0:
		c.addf("kv.disk.path", "name a node-local folder", "is missing")
	}
	if o := kv.Object; o != nil && o.Endpoint != "" && strings.HasPrefix(o.URL, "file:") && c.clean("kv.object") {
		c.addf("kv.object.endpoint", "leave it out", "a file:// store has no endpoint")
	}
	if kv.KeyFile != "" && kv.Disk.Path == "" && kv.Object == nil && c.clean("kv.keyFile", "kv.disk", "kv.object") {
		c.addf("kv.keyFile", "name kv.disk or kv.object, or leave it out", "there is nothing to encrypt")
	}
}

func (c *checker) lifetime(d Deployment) {
	if _, err := time.Parse(time.RFC3339, d.Lifetime.Until); d.Lifetime.Until != "" && err != nil && c.clean("lifetime.until") {
		c.addf("lifetime.until", "write a day that there is, as 2026-12-24T18:00:00Z", "%s is no time", quote(d.Lifetime.Until))
	}
	if d.Lifetime.GPUHours == 0 || !c.clean("lifetime.gpuHours", "roles") {
		return
	}
	for _, r := range d.Roles {
		if r.GPUs.Count > 0 {
			return
		}
	}
	c.addf("lifetime.gpuHours", "leave it out, or use lifetime.keepAlive", "no role holds a GPU, so that none would ever be counted")
}

func (c *checker) localNodes(nodes []LocalNode) {
	seen := map[string]bool{}
	for i, n := range nodes {
		path := place{path: "local.nodes"}.item(i).child("name").path
		if seen[n.Name] && c.clean(path) {
			c.addf(path, "every node needs a name of its own", "%s is taken", quote(n.Name))
		}
		seen[n.Name] = true
	}
}
