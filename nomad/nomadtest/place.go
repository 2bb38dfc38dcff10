package nomadtest

import (
	"net"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/nomad/api"
)

// find looks for the node with the fewest allocations that a group fits on, and says why the others do not do.
func (s *Server) find(spec *api.Job, group string) (best *node, devices map[string][]*api.AllocatedDeviceResource, m *api.AllocationMetric) {
	m = &api.AllocationMetric{
		NodesAvailable: map[string]int{}, ConstraintFiltered: map[string]int{}, DimensionExhausted: map[string]int{},
		ClassExhausted: map[string]int{}, ClassFiltered: map[string]int{}, NodePool: *spec.NodePool,
	}
	g := spec.LookupTaskGroup(group)
	least := 0
	for _, n := range s.sortedNodes() {
		if !s.available(spec, n) {
			continue
		}
		m.NodesInPool++
		m.NodesEvaluated++
		m.NodesAvailable[n.Datacenter]++
		if why := s.filtered(spec, g, n); why != "" {
			m.NodesFiltered++
			m.ConstraintFiltered[why]++
			continue
		}
		granted, lacking := s.fits(g, n)
		if lacking != "" {
			m.NodesExhausted++
			m.DimensionExhausted[lacking]++
			if n.NodeClass != "" {
				m.ClassExhausted[n.NodeClass]++
			}
			continue
		}
		if load := len(s.onNode(n)); best == nil || load < least {
			best, least, devices = n, load, granted
		}
	}
	return best, devices, m
}

// available leaves out nodes that are down, draining, or elsewhere.
func (s *Server) available(spec *api.Job, n *node) bool {
	if n.Status != api.NodeStatusReady || n.SchedulingEligibility != api.NodeSchedulingEligible || n.Drain {
		return false
	}
	if p := *spec.NodePool; p != "" && p != "all" && p != n.NodePool {
		return false
	}
	return len(spec.Datacenters) == 0 || slices.ContainsFunc(spec.Datacenters, func(dc string) bool {
		ok, err := path.Match(dc, n.Datacenter)
		return ok && err == nil
	})
}

// filtered says which constraint a node does not meet, in the server's words; empty = none.
func (s *Server) filtered(spec *api.Job, g *api.TaskGroup, n *node) string {
	constraints := slices.Concat(spec.Constraints, g.Constraints)
	for _, t := range g.Tasks {
		if n.Drivers[t.Driver] == nil {
			return "missing drivers"
		}
		constraints = append(constraints, t.Constraints...)
		if t.Resources == nil {
			continue
		}
		for _, d := range t.Resources.Devices {
			if matching(n, d) == nil {
				return "missing devices"
			}
		}
	}
	for _, c := range constraints {
		switch c.Operand {
		case "distinct_hosts":
			for _, a := range s.onNode(n) {
				if a.JobID == *spec.ID && a.Namespace == *spec.Namespace && a.DesiredStatus == api.AllocDesiredStatusRun && c.RTarget != "false" {
					return "distinct_hosts"
				}
			}
		default:
			if !holds(n, c) {
				return c.LTarget + " " + c.Operand + " " + c.RTarget
			}
		}
	}
	return ""
}

// holds tests a constraint on a node. Operands that no test has needed hold.
func holds(n *node, c *api.Constraint) bool {
	left, right := n.interpolate(c.LTarget), n.interpolate(c.RTarget)
	switch c.Operand {
	case "=", "==", "is", "":
		return left == right
	case "!=", "not":
		return left != right
	case "regexp":
		ok, err := regexp.MatchString(right, left)
		return ok && err == nil
	case "set_contains":
		for want := range strings.SplitSeq(right, ",") {
			if !slices.Contains(strings.Split(left, ","), strings.TrimSpace(want)) {
				return false
			}
		}
	case "is_set":
		return left != "" && left != c.LTarget
	}
	return true
}

// interpolate replaces ${attr.x}, ${meta.x} and ${node.x}.
func (n *node) interpolate(text string) string {
	return regexp.MustCompile(`\$\{(attr|meta|node)\.([^}]+)\}`).ReplaceAllStringFunc(text, func(m string) string {
		kind, name, _ := strings.Cut(m[2:len(m)-1], ".")
		switch kind {
		case "attr":
			return n.Attributes[name]
		case "meta":
			return n.Meta[name]
		}
		return map[string]string{
			"unique.id": n.ID, "unique.name": n.Name, "datacenter": n.Datacenter, "class": n.NodeClass, "pool": n.NodePool, "region": "global",
		}[name]
	})
}

// fits grants devices of the node, or names the dimension that is exhausted.
func (s *Server) fits(g *api.TaskGroup, n *node) (devices map[string][]*api.AllocatedDeviceResource, lacking string) {
	cpu, memory := n.NodeResources.Cpu.CpuShares, n.NodeResources.Memory.MemoryMB
	used := map[string]bool{}
	for _, a := range s.onNode(n) {
		if s.leaving[a] {
			continue
		}
		for _, r := range a.AllocatedResources.Tasks {
			cpu -= r.Cpu.CpuShares
			memory -= r.Memory.MemoryMB
			for _, d := range r.Devices {
				for _, id := range d.DeviceIDs {
					used[id] = true
				}
			}
		}
	}
	devices = map[string][]*api.AllocatedDeviceResource{}
	for _, t := range g.Tasks {
		cpu -= int64(*t.Resources.CPU)
		memory -= int64(*t.Resources.MemoryMB)
		for _, want := range t.Resources.Devices {
			d := matching(n, want)
			granted := &api.AllocatedDeviceResource{Vendor: d.Vendor, Type: d.Type, Name: d.Name}
			for _, i := range d.Instances {
				if !used[i.ID] && i.Healthy && len(granted.DeviceIDs) < int(*want.Count) {
					granted.DeviceIDs = append(granted.DeviceIDs, i.ID)
					used[i.ID] = true
				}
			}
			if len(granted.DeviceIDs) < int(*want.Count) {
				return nil, "devices: no devices match request"
			}
			devices[t.Name] = append(devices[t.Name], granted)
		}
	}
	switch {
	case cpu < 0:
		return nil, "cpu"
	case memory < 0:
		return nil, "memory"
	}
	return devices, ""
}

// matching is a device group of the node for a request by type, vendor/type or vendor/type/name, or nil.
func matching(n *node, want *api.RequestedDevice) *api.NodeDeviceResource {
	for _, d := range n.NodeResources.Devices {
		named := want.Name == d.Type || want.Name == d.Vendor+"/"+d.Type || want.Name == d.ID()
		if named && len(d.Instances) >= int(*want.Count) && !slices.ContainsFunc(want.Constraints, func(c *api.Constraint) bool { return !deviceHolds(d, c) }) {
			return d
		}
	}
	return nil
}

// deviceHolds tests a constraint on a device.
func deviceHolds(d *api.NodeDeviceResource, c *api.Constraint) bool {
	name := strings.TrimSuffix(strings.TrimPrefix(c.LTarget, "${device."), "}")
	left := map[string]string{"model": d.Name, "vendor": d.Vendor, "type": d.Type}[name]
	if attr, ok := strings.CutPrefix(name, "attr."); ok {
		a := d.Attributes[attr]
		if a == nil {
			return false
		}
		if a.IntVal != nil {
			return compare(mebibytes(strconv.FormatInt(*a.IntVal, 10)+" "+a.Unit), c.Operand, mebibytes(c.RTarget))
		}
		left = *a.StringVal
	}
	return holds(&node{}, &api.Constraint{LTarget: left, Operand: c.Operand, RTarget: c.RTarget})
}

func compare(a float64, operand string, b float64) bool {
	switch operand {
	case ">=":
		return a >= b
	case ">":
		return a > b
	case "<=":
		return a <= b
	case "<":
		return a < b
	case "!=":
		return a != b
	}
	return a == b
}

// mebibytes reads "80 GiB"; a number without a unit is itself.
func mebibytes(text string) float64 {
	number, unit, _ := strings.Cut(strings.TrimSpace(text), " ")
	if unit == "" {
		number = strings.TrimRight(text, "GMKTiB")
		unit = text[len(number):]
	}
	v, _ := strconv.ParseFloat(number, 64)
	return v * map[string]float64{"KiB": 1. / 1024, "MiB": 1, "GiB": 1024, "TiB": 1 << 20, "MB": 1e6 / mebi, "GB": 1e9 / mebi, "": 1}[unit]
}

// grant turns a group's request into what an allocation has got, with ports that are free now.
func (s *Server) grant(g *api.TaskGroup, devices map[string][]*api.AllocatedDeviceResource) *api.AllocatedResources {
	r := &api.AllocatedResources{Tasks: map[string]*api.AllocatedTaskResources{}}
	for _, t := range g.Tasks {
		r.Tasks[t.Name] = &api.AllocatedTaskResources{
			Cpu:     api.AllocatedCpuResources{CpuShares: int64(*t.Resources.CPU)},
			Memory:  api.AllocatedMemoryResources{MemoryMB: int64(*t.Resources.MemoryMB)},
			Devices: devices[t.Name],
		}
	}
	for _, want := range g.Networks {
		network := &api.NetworkResource{Mode: want.Mode, IP: "127.0.0.1"}
		for _, p := range want.DynamicPorts {
			p.Value = freePort()
			network.DynamicPorts = append(network.DynamicPorts, p)
			r.Shared.Ports = append(r.Shared.Ports, api.PortMapping{Label: p.Label, Value: p.Value, To: p.To, HostIP: "127.0.0.1"})
		}
		for _, p := range want.ReservedPorts {
			network.ReservedPorts = append(network.ReservedPorts, p)
			r.Shared.Ports = append(r.Shared.Ports, api.PortMapping{Label: p.Label, Value: p.Value, To: p.To, HostIP: "127.0.0.1"})
		}
		r.Shared.Networks = append(r.Shared.Networks, network)
	}
	return r
}

func freePort() int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
