package nomadtest

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"
)

// node is a client and what happened on it while the server could not hear of it.
type node struct {
	*api.Node
	away  bool
	later []func()
}

const mebi = 1 << 20

func (s *Server) addNode(n Node) {
	n.Datacenter, n.Pool = cmp.Or(n.Datacenter, "dc1"), cmp.Or(n.Pool, "default")
	n.CPU, n.MemoryMB = cmp.Or(n.CPU, 20000), cmp.Or(n.MemoryMB, 16384)
	index := s.touch(tableNodes)
	driver := &api.DriverInfo{
		Attributes: map[string]string{"driver.raw_exec": "true"}, Detected: true, Healthy: true, HealthDescription: "Healthy", UpdateTime: time.Now(),
	}
	made := &api.Node{
		ID: newID(), Name: n.Name, Datacenter: n.Datacenter, NodePool: n.Pool, NodeClass: n.Class, Meta: n.Meta,
		HTTPAddr: "127.0.0.1:1", Links: map[string]string{}, Status: api.NodeStatusReady, StatusUpdatedAt: time.Now().Unix(),
		SchedulingEligibility: api.NodeSchedulingEligible, CreateIndex: index, ModifyIndex: index,
		Attributes: map[string]string{
			"kernel.name": "linux", "cpu.arch": "amd64", "nomad.version": "1.6.3", "driver.raw_exec": "1", "unique.hostname": n.Name,
			"unique.network.ip-address": "127.0.0.1", "nomad.service_discovery": "true",
			"os.signals": "SIGTERM,SIGINT,SIGKILL,SIGUSR1,SIGUSR2,SIGHUP,SIGQUIT", "memory.totalbytes": fmt.Sprint(n.MemoryMB * mebi),
		},
		Drivers: map[string]*api.DriverInfo{"raw_exec": driver},
		NodeResources: &api.NodeResources{
			Cpu:    api.NodeCpuResources{CpuShares: int64(n.CPU), TotalCpuCores: 4, ReservableCpuCores: []uint16{0, 1, 2, 3}},
			Memory: api.NodeMemoryResources{MemoryMB: int64(n.MemoryMB)}, Disk: api.NodeDiskResources{DiskMB: 50000},
			MinDynamicPort: 20000, MaxDynamicPort: 32000,
		},
		Events: []*api.NodeEvent{{Message: "Node registered", Subsystem: "Cluster", Timestamp: time.Now()}},
	}
	if n.GPUs > 0 {
		made.NodeResources.Devices = []*api.NodeDeviceResource{cards(n)}
	}
	s.nodes[made.ID] = &node{Node: made}
}

// cards are a node's GPUs as the nvidia device plugin shows them.
func cards(n Node) *api.NodeDeviceResource {
	d := &api.NodeDeviceResource{
		Vendor: "nvidia", Type: "gpu", Name: cmp.Or(n.GPU, "H100"),
		Attributes: map[string]*api.Attribute{
			"memory": {IntVal: ptr(int64(cmp.Or(n.GPUMemoryGiB, 80)) * 1024), Unit: "MiB"}, "driver_version": {StringVal: ptr("580.65.06")},
		},
	}
	for range n.GPUs {
		d.Instances = append(d.Instances, &api.NodeDevice{ID: "GPU-" + newID(), Healthy: true})
	}
	return d
}

// nodeNamed finds a node by its name or ID.
func (s *Server) nodeNamed(name string) *node {
	for id, n := range s.nodes {
		if id == name || n.Name == name {
			return n
		}
	}
	return nil
}

func (s *Server) sortedNodes() (list []*node) {
	for _, n := range s.nodes {
		list = append(list, n)
	}
	slices.SortFunc(list, func(a, b *node) int { return strings.Compare(a.Name, b.Name) })
	return list
}

func (s *Server) listNodes(c call) (any, uint64, error) {
	list := []*api.NodeListStub{}
	for _, n := range s.sortedNodes() {
		stub := &api.NodeListStub{
			Address: "127.0.0.1", ID: n.ID, Attributes: n.Attributes, Datacenter: n.Datacenter, Name: n.Name, NodeClass: n.NodeClass,
			NodePool: n.NodePool, Version: "1.6.3", Drain: n.Drain, SchedulingEligibility: n.SchedulingEligibility, Status: n.Status,
			StatusDescription: n.StatusDescription, Drivers: n.Drivers, LastDrain: n.LastDrain, CreateIndex: n.CreateIndex, ModifyIndex: n.ModifyIndex,
		}
		if c.URL.Query().Get("os") != "true" {
			stub.Attributes = nil
		}
		if c.URL.Query().Get("resources") == "true" {
			stub.NodeResources, stub.ReservedResources = n.NodeResources, &api.NodeReservedResources{}
		}
		list = append(list, stub)
	}
	return list, s.newest(tableNodes), nil
}

func (s *Server) readNode(c call) (any, uint64, error) {
	n := s.nodes[c.PathValue("id")]
	if n == nil {
		return nil, 0, refuse(http.StatusNotFound, "node not found")
	}
	return n.Node, n.ModifyIndex, nil
}

func (s *Server) nodeAllocations(c call) (any, uint64, error) {
	list := []*api.Allocation{}
	for _, a := range s.allocs {
		if a.NodeID == c.PathValue("id") {
			list = append(list, &a.Allocation)
		}
	}
	return list, s.newest(tableAllocs), nil
}

func (s *Server) eligibility(c call) (any, uint64, error) {
	var req api.NodeUpdateEligibilityRequest
	if err := c.read(&req); err != nil {
		return nil, 0, err
	}
	n := s.nodes[c.PathValue("id")]
	if n == nil {
		return nil, 0, refuse(http.StatusNotFound, "node not found")
	}
	n.SchedulingEligibility = req.Eligibility
	s.nodeChanged(n, "NodeEligibility")
	s.retryBlocked()
	return api.NodeEligibilityUpdateResponse{NodeModifyIndex: n.ModifyIndex}, n.ModifyIndex, nil
}

func (s *Server) nodeChanged(n *node, what string) {
	n.ModifyIndex = s.touch(tableNodes)
	n.StatusUpdatedAt = time.Now().Unix()
	s.emit("Node", what, key{}, n.ID, map[string]any{"Node": n.Node})
}

// drain moves all allocations away at once; a real server takes migrate.max_parallel of each group at a time.
func (s *Server) drain(c call) (any, uint64, error) {
	var req api.NodeUpdateDrainRequest
	if err := c.read(&req); err != nil {
		return nil, 0, err
	}
	n := s.nodes[c.PathValue("id")]
	if n == nil {
		return nil, 0, refuse(http.StatusNotFound, "node not found")
	}
	if req.DrainSpec == nil {
		n.Drain, n.DrainStrategy = false, nil
		if req.MarkEligible {
			n.SchedulingEligibility = api.NodeSchedulingEligible
		}
		s.nodeChanged(n, "NodeDrain")
		s.retryBlocked()
		return api.NodeDrainUpdateResponse{NodeModifyIndex: n.ModifyIndex}, n.ModifyIndex, nil
	}
	n.Drain, n.SchedulingEligibility = true, api.NodeSchedulingIneligible
	n.DrainStrategy = &api.DrainStrategy{DrainSpec: *req.DrainSpec, StartedAt: time.Now()}
	n.LastDrain = &api.DrainMetadata{StartedAt: time.Now(), UpdatedAt: time.Now(), Status: api.DrainStatusDraining, Meta: req.Meta}
	s.nodeChanged(n, "NodeDrain")
	for _, a := range s.onNode(n) {
		a.DesiredTransition.Migrate = ptr(true)
	}
	s.evaluateAll(s.jobsOnNode(n), "node-update")
	s.drained(n)
	return api.NodeDrainUpdateResponse{NodeModifyIndex: n.ModifyIndex}, n.ModifyIndex, nil
}

// drained ends a drain once nothing is left on the node.
func (s *Server) drained(n *node) {
	if n.DrainStrategy == nil {
		return
	}
	for _, a := range s.onNode(n) {
		if !a.over() {
			return
		}
	}
	n.Drain, n.DrainStrategy, n.LastDrain.Status = false, nil, api.DrainStatusComplete
	s.nodeChanged(n, "NodeDrain")
}

// onNode lists the allocations of a node that have not ended.
func (s *Server) onNode(n *node) (list []*alloc) {
	for _, a := range s.allocs {
		if a.NodeID == n.ID && !a.over() {
			list = append(list, a)
		}
	}
	return list
}

func (s *Server) jobsOnNode(n *node) (keys []key) {
	for _, a := range s.allocs {
		if k := (key{a.Namespace, a.JobID}); a.NodeID == n.ID && !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	return keys
}
