package jobspecs

import (
	"fmt"
	"slices"

	"pgregory.net/rapid"
)

// drawDeployment makes valid deployments of every shape that Parse can return.
func drawDeployment(t *rapid.T) Deployment {
	v := blank(typeOfDeployment).Interface().(Deployment)
	v.APIVersion = APIVersion
	v.Name = match(t, "name", rules["name"].form)
	v.Model = drawModel(t)
	v.Cluster = ClusterKind(rapid.SampledFrom(enums[typeOfCluster]).Draw(t, "cluster"))
	v.Engine = drawEngine(t, v.Cluster)
	v.Roles = map[RoleKind]Role{}
	for _, kind := range rapid.SampledFrom([][]RoleKind{{Mixed}, {Prefill, Decode}}).Draw(t, "roles") {
		v.Roles[kind] = drawRole(t, string(kind))
	}
	v.KV = drawKV(t)
	v.SLO = SLO{TTFT: drawDuration(t, "ttft"), ITL: drawDuration(t, "itl")}
	v.Serving.DrainTimeout += drawDuration(t, "drain") / 2
	v.Serving.Restarts = new(rapid.IntRange(0, 9).Draw(t, "restarts"))
	v.Serving.MaxContext = rapid.IntRange(0, 1<<20).Draw(t, "context")
	v.Serving.Tenant = maybe(t, "tenant", plainName)
	v.Serving.AllowForeignGPUProcesses = rapid.Bool().Draw(t, "foreign")
	for i := range rapid.IntRange(0, 3).Draw(t, "local nodes") {
		v.Local.Nodes = append(v.Local.Nodes, LocalNode{Name: fmt.Sprintf("node-%d", i), GPUs: i})
	}
	v.Slurm = Slurm{Partition: maybe(t, "partition", plainName), Time: drawDuration(t, "time"), Constraint: maybe(t, "constraint", constraints)}
	if rapid.Bool().Draw(t, "sbatch") {
		v.Slurm.Sbatch = []string{"--exclusive", "--licenses=tape:1, disk:2 #x"}
	}
	v.Nomad = Nomad{Namespace: maybe(t, "namespace", plainName), Priority: rapid.IntRange(0, 100).Draw(t, "priority")}
	derive(&v)
	return v
}

func drawModel(t *rapid.T) Model {
	m := Model{ID: maybe(t, "id", hubName), ServedName: match(t, "served", servedName)}
	if m.ID == "" || rapid.Bool().Draw(t, "both") {
		m.Path = match(t, "path", absolute)
	}
	for i := range rapid.IntRange(0, 2).Draw(t, "adapters") {
		m.Adapters = append(m.Adapters, Adapter{Name: fmt.Sprintf("%s+%d", m.ServedName[:min(len(m.ServedName), 100)], i), Path: match(t, "adapter", absolute)})
	}
	return m
}

func drawEngine(t *rapid.T, cluster ClusterKind) Engine {
	e := Engine{
		Kind:    EngineKind(rapid.SampledFrom(enums[typeOfEngine]).Draw(t, "kind")),
		Version: maybe(t, "version", versionName),
		Args:    drawArgs(t, "args"),
		Setup:   drawArgs(t, "setup"),
	}
	if rapid.Bool().Draw(t, "env") {
		e.Env = map[string]string{"UCX_NET_DEVICES": text(t, "value"), "n": text(t, "value"), "no": text(t, "value")}
	}
	e.Container.Runtime = ContainerRuntime(rapid.SampledFrom(enums[typeOfRuntime]).Draw(t, "runtime"))
	if e.Container.Runtime == Pyxis && cluster != SlurmCluster {
		e.Container.Runtime = Enroot
	}
	if e.Container.Runtime != NoContainer {
		e.Container.Image = match(t, "image", imageName)
	}
	return e
}

func drawRole(t *rapid.T, name string) Role {
	r := blank(roleType).Interface().(Role)
	r.Replicas = rapid.IntRange(0, 9).Draw(t, name+" replicas")
	r.Min = rapid.IntRange(0, r.Replicas).Draw(t, name+" min")
	r.Nodes = rapid.IntRange(1, 4).Draw(t, name+" nodes")
	r.GPUs.Count = rapid.IntRange(0, 8).Draw(t, name+" gpus")
	if r.GPUs.Count > 0 {
		r.GPUs.Type = maybe(t, name+" type", plainName)
		r.GPUs.Memory = drawBytes(t, name+" card")
	}
	r.CPUs = rapid.IntRange(0, 256).Draw(t, name+" cpus")
	r.Memory = drawBytes(t, name+" memory")
	r.Args = drawArgs(t, name+" args")
	r.Rollout.Surge = new(rapid.IntRange(1, 3).Draw(t, name+" surge"))
	return r
}

func drawKV(t *rapid.T) KV {
	kv := KV{BlockTokens: rapid.IntRange(0, 256).Draw(t, "block"), Host: drawBytes(t, "host")}
	if rapid.Bool().Draw(t, "disk") {
		kv.Disk = KVDisk{Path: match(t, "disk", absolute), Size: max(drawBytes(t, "disk size"), 1)}
	}
	if rapid.Bool().Draw(t, "object") {
		kv.Object = &KVObject{URL: match(t, "url", objectURL), Size: drawBytes(t, "object size")}
	}
	return kv
}

func drawArgs(t *rapid.T, name string) []string {
	var args []string
	for range rapid.IntRange(0, 3).Draw(t, name) {
		args = append(args, text(t, name))
	}
	return args
}

// awkward holds what YAML readers like to take for something else.
var awkward = []string{
	"", " ", "~", "null", "yes", "no", "on", "y", "true", "1", "0.10", "1e3", "0x10", ".inf", "-", "- a", "a: b", "a #b", "#", "&a", "*a", "!a",
	"|", ">", "%a", "@a", "`a", "'", `"`, `\`, `\n`, "{a}", "[a]", "a\nb\n", "\ta", "a\n\n  b", "ümlaut", "漢字 🚰", "<<", "?", "? a", "2001-01-01", "1_000", "012",
	" a ", "\n", "a: |\n  b", "---", "...", "24:00:00", "=", "a\u00a0b",
}

func text(t *rapid.T, name string) string {
	s := rapid.OneOf(rapid.SampledFrom(awkward), rapid.StringMatching(`[ -~]{0,20}`), rapid.String()).Draw(t, name)
	var kept []rune
	for _, u := range s {
		if !unprintable(u, true) {
			kept = append(kept, u)
		}
	}
	s = string(kept)
	if secretFlag.MatchString(s) || secretLine.MatchString(s) {
		return ""
	}
	return s
}

func match(t *rapid.T, name string, f *form) string {
	return rapid.StringMatching(f.pattern).Filter(func(s string) bool {
		return len(s) < 200 && !slices.ContainsFunc([]rune(s), func(u rune) bool { return unprintable(u, false) })
	}).Draw(t, name)
}

func maybe(t *rapid.T, name string, f *form) string {
	if rapid.Bool().Draw(t, name+" given") {
		return match(t, name, f)
	}
	return ""
}
