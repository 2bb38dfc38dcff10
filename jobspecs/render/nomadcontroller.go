package render

import (
	"strconv"
	"time"

	"github.com/hashicorp/nomad/api"
)

// NomadControllerJob is the controller as a job of its own.
type NomadControllerJob struct {
	Namespace, Datacenter, NodePool string // empty = Nomad's default

	Driver   string // exec, docker or podman: raw_exec mounts no volumes
	Image    string // of docker and podman
	Penstock string // path of the program on the clients, or in the image
	// Volume is the host volume with the state. Whatever client has it runs the controller: the state outlives its job.
	Volume string
	// AgentsPort and GatewayPort are fixed, so that agents and clients find the controller again after it was moved.
	AgentsPort, GatewayPort int
	Policy                  string // path of the variable with the ACL token; empty = Nomad has no ACLs
}

// NomadController is `penstock serve` as a service job: one at a time, with its state on a volume. Nomad starts it again
// where the volume is; the term that it takes from its predecessor fences that one.
func NomadController(j NomadControllerJob) *api.Job {
	const id, state, target = "penstock-controller", "state", "/penstock"
	job := &api.Job{ID: new(id), Name: new(id), Type: new("service"), Datacenters: []string{"*"}, Priority: new(80)}
	if j.Datacenter != "" {
		job.Datacenters = []string{j.Datacenter}
	}
	if j.Namespace != "" {
		job.Namespace = &j.Namespace
	}
	if j.NodePool != "" {
		job.NodePool = &j.NodePool
	}
	port := func(label string, n int) api.Port { return api.Port{Label: label, Value: n} }
	config := map[string]any{"command": j.Penstock, "args": []string{
		"serve", "--nomad", "on", "--state-dir", target + "/state", "--runtime-dir", "${NOMAD_SECRETS_DIR}/run",
		"--listen", ":" + strconv.Itoa(j.AgentsPort), "--advertise", "${attr.unique.network.ip-address}",
		"--gateway-listen", ":" + strconv.Itoa(j.GatewayPort), "--gateway-advertise", "${attr.unique.network.ip-address}",
	}}
	if j.Image != "" {
		config["image"], config["network_mode"] = j.Image, "host"
	}
	task := &api.Task{
		Name: "serve", Driver: j.Driver, KillSignal: "SIGTERM", KillTimeout: new(30 * time.Second), Config: config,
		Env:          map[string]string{"NOMAD_ADDR": "unix://${NOMAD_SECRETS_DIR}/api.sock"},
		VolumeMounts: []*api.VolumeMount{{Volume: new(state), Destination: new(target)}},
		Resources:    &api.Resources{CPU: new(1000), MemoryMB: new(1024)},
	}
	if j.Policy != "" {
		data := "NOMAD_TOKEN={{ with nomadVar \"" + j.Policy + "\" }}{{ .token }}{{ end }}\n"
		task.Templates = []*api.Template{{
			EmbeddedTmpl: &data, DestPath: new("${NOMAD_SECRETS_DIR}/nomad.env"), Perms: new("0600"), Envvars: new(true), ChangeMode: new("restart"),
		}}
	}
	job.TaskGroups = []*api.TaskGroup{{
		Name: new("controller"), Count: new(1),
		Networks: []*api.NetworkResource{{ReservedPorts: []api.Port{port("agents", j.AgentsPort), port("gateway", j.GatewayPort)}}},
		Volumes:  map[string]*api.VolumeRequest{state: {Name: state, Type: "host", Source: j.Volume}},
		Services: []*api.Service{{
			Name: id, Provider: "nomad", PortLabel: "gateway",
			Checks: []api.ServiceCheck{{Name: "listens", Type: "tcp", PortLabel: "gateway", Interval: 10 * time.Second, Timeout: 2 * time.Second}},
		}},
		RestartPolicy:    &api.RestartPolicy{Attempts: new(10), Interval: new(10 * time.Minute), Delay: new(5 * time.Second), Mode: new("delay")},
		ReschedulePolicy: &api.ReschedulePolicy{Delay: new(5 * time.Second), DelayFunction: new("constant"), Unlimited: new(true)},
		Tasks:            []*api.Task{task},
	}}
	return job
}
