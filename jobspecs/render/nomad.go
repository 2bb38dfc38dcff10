package render

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/penstock/penstock/jobspecs"
)

// NomadSite is what all jobs of an installation on one Nomad have in common.
type NomadSite struct {
	Installation   string        // goes into each job's meta
	Penstock       string        // path of the program on the clients, or in nomad.image
	MaxKillTimeout time.Duration // the clients' max_kill_timeout; 0 = 30s, Nomad's default
	// Disconnect: servers and clients are of 1.8 or later, which know the disconnect block.
	Disconnect bool
	MinHealthy time.Duration // for how long a replica must be ready to count as healthy; 0 = 10s
}

func (s NomadSite) minHealthy() *time.Duration {
	d := s.MinHealthy
	if d <= 0 {
		d = 10 * time.Second
	}
	return &d
}

// The keys of meta by which jobs, groups and allocations are found again.
const (
	NomadInstallation = "penstock_installation" // of jobs
	NomadDeployment   = "penstock_deployment"   // of jobs
	NomadLaunchMeta   = "penstock_launch"       // of jobs of one launch
	NomadRevision     = "penstock_revision"     // of groups
)

// NomadTask is the name of the one task of each group, and NomadVariable where the job's join material is: only tasks of
// that job, and who may read variables, can read it.
const NomadTask = "agent"

// NomadVariable is the path of a job's variable.
func NomadVariable(job string) string { return "nomad/jobs/" + job }

// NomadJobID names the job of a deployment's counted roles.
func NomadJobID(deployment string) string { return "penstock-" + deployment }

// NomadCounted reports whether Nomad keeps the role at a count by itself; else each of its replicas is a job.
func NomadCounted(r jobspecs.Role) bool { return r.Nodes <= 1 }

// NomadCount is what a counted role should be.
type NomadCount struct{ Revision, N int }

// NomadService is the job of a deployment's counted roles, a group for each.
func NomadService(s NomadSite, d jobspecs.Deployment, counts map[jobspecs.RoleKind]NomadCount) (*api.Job, error) {
	j := s.job(d, NomadJobID(d.Name), "service")
	for _, kind := range jobspecs.RoleKinds {
		c, ok := counts[kind]
		if !ok {
			continue
		}
		g, err := NomadGroup(s, d, kind, c)
		if err != nil {
			return nil, err
		}
		j.TaskGroups = append(j.TaskGroups, g)
	}
	return j, nil
}

// job is a job without its groups.
func (s NomadSite) job(d jobspecs.Deployment, id, kind string) *api.Job {
	n := d.Nomad
	j := &api.Job{
		ID: &id, Name: &id, Type: &kind, Datacenters: n.Datacenters,
		Meta: map[string]string{NomadInstallation: s.Installation, NomadDeployment: d.Name},
	}
	if len(j.Datacenters) == 0 {
		j.Datacenters = []string{"*"}
	}
	if n.Namespace != "" {
		j.Namespace = &n.Namespace
	}
	if n.NodePool != "" {
		j.NodePool = &n.NodePool
	}
	if n.Priority > 0 {
		j.Priority = &n.Priority
	}
	for _, c := range n.Constraints {
		j.Constraints = append(j.Constraints, &api.Constraint{LTarget: c.Attribute, Operand: orEquals(c.Operator), RTarget: c.Value})
	}
	if n.Spread != "" {
		j.Spreads = []*api.Spread{{Attribute: n.Spread, Weight: new(int8(100))}}
	}
	return j
}

func orEquals(operator string) string {
	if operator == "" {
		return "="
	}
	return operator
}

// NomadLaunch is one replica over several nodes.
type NomadLaunch struct {
	Role    jobspecs.RoleKind
	Launch  string
	Run     string // nonce that all its members share
	Exclude []string
}

// NomadGang is the job of one launch: as many members as nodes, each on a client of its own. Nomad starts none of them
// again: the replica lives and ends as a whole.
func NomadGang(s NomadSite, d jobspecs.Deployment, l NomadLaunch) (*api.Job, error) {
	j := s.job(d, "penstock-"+l.Launch, "batch")
	j.Meta[NomadLaunchMeta] = l.Launch
	g, err := s.group(d, l.Role)
	if err != nil {
		return nil, err
	}
	nodes := max(1, d.Roles[l.Role].Nodes)
	g.Count = &nodes
	g.RestartPolicy = &api.RestartPolicy{Attempts: new(0), Mode: new("fail")}
	g.ReschedulePolicy = &api.ReschedulePolicy{Attempts: new(0), Unlimited: new(false)}
	if nodes > 1 {
		g.Constraints = append(g.Constraints, &api.Constraint{Operand: "distinct_hosts", RTarget: "true"})
	}
	for _, node := range slices.Sorted(slices.Values(l.Exclude)) {
		g.Constraints = append(g.Constraints, &api.Constraint{LTarget: "${node.unique.name}", Operand: "!=", RTarget: node})
	}
	g.Tasks = []*api.Task{s.task(d, l.Role, map[string]string{"PENSTOCK_LAUNCH": l.Launch, "PENSTOCK_RUN": l.Run}, *j.ID)}
	j.TaskGroups = []*api.TaskGroup{g}
	return j, nil
}

// NomadGroup is the group of a counted role.
func NomadGroup(s NomadSite, d jobspecs.Deployment, kind jobspecs.RoleKind, c NomadCount) (*api.TaskGroup, error) {
	g, err := s.group(d, kind)
	if err != nil {
		return nil, err
	}
	r := d.Roles[kind]
	start := nomadStart(r)
	healthy := start + minute(r.Rollout.ProgressDeadline.Std())
	g.Count = &c.N
	g.Meta = map[string]string{NomadRevision: strconv.Itoa(c.Revision)}
	g.Scaling = nomadScaling(r, c.N)
	g.RestartPolicy = &api.RestartPolicy{Attempts: new(3), Interval: new(10 * time.Minute), Delay: new(15 * time.Second), Mode: new("fail")}
	g.ReschedulePolicy = &api.ReschedulePolicy{
		Delay: new(30 * time.Second), DelayFunction: new("exponential"), MaxDelay: new(10 * time.Minute), Unlimited: new(true),
	}
	g.Update = s.update(r, healthy)
	g.Migrate = &api.MigrateStrategy{
		MaxParallel: new(1), HealthCheck: new("checks"), MinHealthyTime: s.minHealthy(), HealthyDeadline: &healthy,
	}
	g.Services = []*api.Service{nomadService(d.Name, kind)}
	s.disconnect(g, d.Serving.OrphanAfter.Std())
	g.Tasks = []*api.Task{s.task(d, kind, nil, NomadJobID(d.Name))}
	return g, nil
}

// nomadScaling lets operators and autoscalers change the count within the file's bounds. The least is 0, which is also how
// Penstock stops a role.
func nomadScaling(r jobspecs.Role, n int) *api.ScalingPolicy {
	p := &api.ScalingPolicy{Enabled: new(true), Min: new(int64(min(r.Min, n)))}
	most := int64(r.Max)
	if most == 0 {
		most = int64(max(unboundedScale, n))
	}
	p.Max = &most
	return p
}

// unboundedScale stands for no bound: Nomad wants one.
const unboundedScale = 1000

// update rolls a revision out: canaries beside the old replicas, as many as may surge, and then the others.
func (s NomadSite) update(r jobspecs.Role, healthy time.Duration) *api.UpdateStrategy {
	surge, unavailable := deref(r.Rollout.Surge, 1), deref(r.Rollout.Unavailable, 0)
	u := &api.UpdateStrategy{
		MaxParallel: new(max(1, surge, unavailable)), HealthCheck: new("checks"), MinHealthyTime: s.minHealthy(),
		HealthyDeadline: &healthy, ProgressDeadline: new(healthy + 5*time.Minute), AutoRevert: new(true),
	}
	if surge > 0 {
		u.Canary, u.AutoPromote = &surge, new(true)
	}
	return u
}

func deref(p *int, def int) int {
	if p == nil {
		return def
	}
	return *p
}

// nomadStart is how long a replica's weights may take to load: as much as its cards hold, off a shared filesystem on a bad day.
// Nomad's own deadlines, 5 and 10 minutes, would kill big models on their way.
func nomadStart(r jobspecs.Role) time.Duration {
	const (
		usualCard = 80 << 30  // bytes
		badDay    = 400 << 20 // bytes/s
	)
	card := uint64(r.GPUs.Memory)
	if card == 0 {
		card = usualCard
	}
	return minute(time.Duration(uint64(r.GPUs.Count)*card/badDay) * time.Second)
}

// minute rounds up.
func minute(d time.Duration) time.Duration { return (d + time.Minute - 1).Truncate(time.Minute) }

func nomadService(deployment string, kind jobspecs.RoleKind) *api.Service {
	return &api.Service{
		Name: "penstock-" + deployment + "-" + string(kind), Provider: "nomad", PortLabel: "data", Tags: []string{string(kind)},
		Checks: []api.ServiceCheck{{
			// The agent opens this port when its engine has answered with a real token, and closes it when it serves no more.
			Name: "ready", Type: "tcp", PortLabel: "ready", Interval: 5 * time.Second, Timeout: 2 * time.Second,
		}},
	}
}

// group is what groups of counted roles and of gangs have in common.
func (s NomadSite) group(d jobspecs.Deployment, kind jobspecs.RoleKind) (*api.TaskGroup, error) {
	if _, ok := d.Roles[kind]; !ok {
		return nil, fmt.Errorf("render for Nomad: deployment %s has no role %s", d.Name, kind)
	}
	name := string(kind)
	g := &api.TaskGroup{
		Name: &name, Networks: []*api.NetworkResource{{DynamicPorts: []api.Port{{Label: "data"}, {Label: "ready"}}}},
	}
	if _, delay := s.killing(d); delay > 0 {
		g.ShutdownDelay = &delay
	}
	return g, nil
}

// stopMargin is what an agent needs beside its drain: to end the engine and to report.
const stopMargin = 15 * time.Second

// killing divides the time that a drain may take between kill_timeout, which the clients bound, and shutdown_delay, during
// which the replica is drained by Penstock, which sees that Nomad wants it to stop.
func (s NomadSite) killing(d jobspecs.Deployment) (timeout, delay time.Duration) {
	most := s.MaxKillTimeout
	if most <= 0 {
		most = 30 * time.Second
	}
	need := d.Serving.DrainTimeout.Std() + stopMargin
	timeout = min(need, most)
	return timeout, need - timeout
}

// disconnect keeps replicas whose client has lost its servers: they serve on, and Nomad has them again when it returns.
func (s NomadSite) disconnect(g *api.TaskGroup, longest time.Duration) {
	if longest <= 0 {
		return
	}
	if !s.Disconnect {
		//lint:ignore SA1019 servers and clients before 1.8 know this one only
		g.MaxClientDisconnect = &longest
		return
	}
	g.Disconnect = &api.DisconnectStrategy{LostAfter: &longest, Replace: new(true), Reconcile: new("keep_original")}
}

// task is Penstock's agent, which starts the engine and ends it.
func (s NomadSite) task(d jobspecs.Deployment, kind jobspecs.RoleKind, env map[string]string, job string) *api.Task {
	n := d.Nomad
	timeout, _ := s.killing(d)
	t := &api.Task{
		Name: NomadTask, Driver: n.TaskDriver(), User: n.User, KillSignal: "SIGTERM", KillTimeout: &timeout,
		Config: s.config(d, kind), Resources: nomadResources(d, kind),
		Env: map[string]string{"PENSTOCK_NODE": "${node.unique.name}"},
		Templates: []*api.Template{
			nomadTemplate(n, job, "join"), nomadTemplate(n, job, "endpoint"),
		},
	}
	maps.Copy(t.Env, env)
	return t
}

// config is the driver's.
func (s NomadSite) config(d jobspecs.Deployment, kind jobspecs.RoleKind) map[string]any {
	n := d.Nomad
	timeout, _ := s.killing(d)
	c := map[string]any{
		"command": s.Penstock,
		"args": []string{
			"agent", "--cluster", string(jobspecs.NomadCluster), "--join", "${NOMAD_SECRETS_DIR}/join.json",
			"--nodes", strconv.Itoa(max(1, d.Roles[kind].Nodes)), "--kill-wait", timeout.String(),
		},
	}
	if !n.InImage() {
		return c
	}
	c["image"], c["network_mode"] = n.Image, "host" // the ready port must be closed where nobody listens, and proxies of bridges listen always
	if len(n.Mounts) > 0 {
		c["volumes"] = n.Mounts
	}
	return c
}

// nomadTemplate renders one item of the job's variable into the task's secrets. Nomad lets a task read its own job's variable
// by its workload identity, so what Nomad starts again by itself finds it too. A new value is put there without a restart:
// the agent reads where the controller is again and again.
func nomadTemplate(n jobspecs.Nomad, job, item string) *api.Template {
	data := fmt.Sprintf("{{ with nomadVar %q }}{{ .%s }}{{ end }}\n", NomadVariable(job), item)
	t := &api.Template{
		EmbeddedTmpl: &data, DestPath: new("${NOMAD_SECRETS_DIR}/" + item + ".json"), ChangeMode: new("noop"), Perms: new("0600"),
	}
	if uid, err := strconv.Atoi(n.User); err == nil {
		t.Uid = &uid
	} else if n.TaskDriver() == jobspecs.Exec {
		t.Uid, t.Gid = new(nobody), new(nobody) // whom exec runs tasks as
	}
	return t
}

const nobody = 65534

func nomadResources(d jobspecs.Deployment, kind jobspecs.RoleKind) *api.Resources {
	r := d.Roles[kind]
	out := &api.Resources{MemoryMB: new(nomadMemory(d, r))}
	if r.CPUs > 0 {
		out.Cores = &r.CPUs
	} else {
		out.CPU = new(500)
	}
	if r.GPUs.Count == 0 {
		return out
	}
	dev := &api.RequestedDevice{Name: "nvidia/gpu", Count: new(uint64(r.GPUs.Count))}
	if r.GPUs.Memory > 0 {
		need := strconv.FormatUint((uint64(r.GPUs.Memory)+1<<20-1)>>20, 10) + " MiB"
		dev.Constraints = append(dev.Constraints, &api.Constraint{LTarget: "${device.attr.memory}", Operand: ">=", RTarget: need})
	}
	if r.GPUs.Type != "" {
		dev.Constraints = append(dev.Constraints, &api.Constraint{LTarget: "${device.model}", Operand: "regexp", RTarget: "(?i)" + quoteRegexp(r.GPUs.Type)})
	} else {
		// Of cards that all do, the one with the least memory leaves the bigger ones to who needs them.
		dev.Affinities = []*api.Affinity{{LTarget: "${device.attr.memory}", Operand: "<=", RTarget: "40 GiB", Weight: new(int8(10))}}
	}
	out.Devices = []*api.RequestedDevice{dev}
	return out
}

// quoteRegexp escapes what a card's name may hold of a regular expression's signs.
func quoteRegexp(s string) string { return strings.NewReplacer(".", `\.`, "+", `\+`).Replace(s) }

// nomadMemory is in MiB. Nomad's default, 300 MiB, is less than any engine needs.
func nomadMemory(d jobspecs.Deployment, r jobspecs.Role) int {
	const mib = 1 << 20
	switch kv := int((uint64(d.KV.Host) + mib - 1) / mib); {
	case r.Memory > 0:
		return int((uint64(r.Memory) + mib - 1) / mib)
	case d.Engine.Kind == jobspecs.Sim:
		return 256 + kv
	default:
		return 4096 + 8192*r.GPUs.Count + kv
	}
}
