package render

import (
	"maps"
	"slices"

	"github.com/hashicorp/nomad/api"
	"github.com/zclconf/go-cty/cty"
)

// The blocks of a job in HCL, with the fields that this package's jobs have. A test has them parsed and compared with the
// JSON of the same job.

func jobBlock(b body, j *api.Job) {
	b.set("type", j.Type)
	b.set("namespace", j.Namespace)
	b.set("datacenters", j.Datacenters)
	b.set("node_pool", j.NodePool)
	b.set("priority", j.Priority)
	constraintBlocks(b, j.Constraints)
	for _, s := range j.Spreads {
		x := b.section("spread")
		x.set("attribute", s.Attribute)
		x.set("weight", s.Weight)
	}
	b.table("meta", j.Meta)
	for _, g := range j.TaskGroups {
		groupBlock(b.section("group", *g.Name), g)
	}
}

func constraintBlocks(b body, list []*api.Constraint) {
	for _, c := range list {
		x := b.section("constraint")
		if c.Operand == "distinct_hosts" {
			x.SetAttributeValue("distinct_hosts", cty.True)
			continue
		}
		x.set("attribute", c.LTarget)
		x.set("operator", c.Operand)
		x.set("value", c.RTarget)
	}
}

func groupBlock(b body, g *api.TaskGroup) {
	b.set("count", g.Count)
	b.set("shutdown_delay", g.ShutdownDelay)
	//lint:ignore SA1019 servers and clients before 1.8 know this one only
	b.set("max_client_disconnect", g.MaxClientDisconnect)
	b.table("meta", g.Meta)
	constraintBlocks(b, g.Constraints)
	if s := g.Scaling; s != nil {
		x := b.section("scaling")
		x.set("enabled", s.Enabled)
		x.set("min", s.Min)
		x.set("max", s.Max)
	}
	policyBlocks(b, g)
	for _, n := range g.Networks {
		networkBlock(b.section("network"), n)
	}
	for _, name := range slices.Sorted(maps.Keys(g.Volumes)) {
		x := b.section("volume", name)
		x.set("type", g.Volumes[name].Type)
		x.set("source", g.Volumes[name].Source)
	}
	for _, s := range g.Services {
		serviceBlock(b.section("service"), s)
	}
	for _, t := range g.Tasks {
		taskBlock(b.section("task", t.Name), t)
	}
}

// policyBlocks say what happens on updates, drains, failures and lost clients.
func policyBlocks(b body, g *api.TaskGroup) {
	if u := g.Update; u != nil {
		x := b.section("update")
		x.set("max_parallel", u.MaxParallel)
		x.set("canary", u.Canary)
		x.set("auto_promote", u.AutoPromote)
		x.set("auto_revert", u.AutoRevert)
		x.set("health_check", u.HealthCheck)
		x.set("min_healthy_time", u.MinHealthyTime)
		x.set("healthy_deadline", u.HealthyDeadline)
		x.set("progress_deadline", u.ProgressDeadline)
	}
	if m := g.Migrate; m != nil {
		x := b.section("migrate")
		x.set("max_parallel", m.MaxParallel)
		x.set("health_check", m.HealthCheck)
		x.set("min_healthy_time", m.MinHealthyTime)
		x.set("healthy_deadline", m.HealthyDeadline)
	}
	if r := g.RestartPolicy; r != nil {
		x := b.section("restart")
		x.set("attempts", r.Attempts)
		x.set("interval", r.Interval)
		x.set("delay", r.Delay)
		x.set("mode", r.Mode)
	}
	if r := g.ReschedulePolicy; r != nil {
		x := b.section("reschedule")
		x.set("attempts", r.Attempts)
		x.set("delay", r.Delay)
		x.set("delay_function", r.DelayFunction)
		x.set("max_delay", r.MaxDelay)
		x.set("unlimited", r.Unlimited)
	}
	if d := g.Disconnect; d != nil {
		x := b.section("disconnect")
		x.set("lost_after", d.LostAfter)
		x.set("replace", d.Replace)
		x.set("reconcile", d.Reconcile)
	}
}

func networkBlock(b body, n *api.NetworkResource) {
	for _, p := range n.DynamicPorts {
		b.block("port", p.Label)
	}
	for _, p := range n.ReservedPorts {
		b.block("port", p.Label).set("static", &p.Value)
	}
}

func serviceBlock(b body, s *api.Service) {
	b.set("name", s.Name)
	b.set("provider", s.Provider)
	b.set("port", s.PortLabel)
	b.set("tags", s.Tags)
	for _, c := range s.Checks {
		x := b.section("check")
		x.set("name", c.Name)
		x.set("type", c.Type)
		x.set("port", c.PortLabel)
		x.set("interval", c.Interval)
		x.set("timeout", c.Timeout)
	}
}

func taskBlock(b body, t *api.Task) {
	b.set("driver", t.Driver)
	b.set("user", t.User)
	b.set("kill_signal", t.KillSignal)
	b.set("kill_timeout", t.KillTimeout)
	x := b.section("config")
	for _, k := range slices.Sorted(maps.Keys(t.Config)) {
		x.set(k, t.Config[k])
	}
	b.table("env", t.Env)
	for _, m := range t.VolumeMounts {
		x := b.section("volume_mount")
		x.set("volume", m.Volume)
		x.set("destination", m.Destination)
	}
	for _, tmpl := range t.Templates {
		templateBlock(b.section("template"), tmpl)
	}
	resourcesBlock(b.section("resources"), t.Resources)
}

func templateBlock(b body, t *api.Template) {
	b.heredoc("data", *t.EmbeddedTmpl)
	b.set("destination", t.DestPath)
	b.set("perms", t.Perms)
	b.set("uid", t.Uid)
	b.set("gid", t.Gid)
	b.set("env", t.Envvars)
	b.set("change_mode", t.ChangeMode)
}

func resourcesBlock(b body, r *api.Resources) {
	b.set("cpu", r.CPU)
	b.set("cores", r.Cores)
	b.set("memory", r.MemoryMB)
	for _, d := range r.Devices {
		x := b.section("device", d.Name)
		x.set("count", d.Count)
		constraintBlocks(x, d.Constraints)
		for _, a := range d.Affinities {
			y := x.section("affinity")
			y.set("attribute", a.LTarget)
			y.set("operator", a.Operand)
			y.set("value", a.RTarget)
			y.set("weight", a.Weight)
		}
	}
}
