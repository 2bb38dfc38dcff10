package cli

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/slurm"
)

// slurmrestd is where --slurm rest:... says that it is; nil = Slurm's commands are used.
func (inv *invocation) slurmrestd() (*slurm.REST, error) {
	at, ok := strings.CutPrefix(inv.set.get("slurm.use"), "rest:")
	if !ok {
		return nil, nil
	}
	file := inv.set.get("slurm.tokenFile")
	if file != "" {
		file = inv.path(file)
	}
	rest, err := slurm.ParseREST(at, file)
	if err != nil {
		return nil, usageError("--slurm: %v", err)
	}
	return rest, nil
}

// openSlurm makes the adapter for Slurm where there is one: with --slurm on or rest:..., always; with auto, where this host
// belongs to a cluster.
func (c *controller) openSlurm(ctx context.Context) error {
	rest, err := c.inv.slurmrestd()
	if err != nil {
		return err
	}
	switch mode := c.inv.set.get("slurm.use"); {
	case mode == "off":
		return nil
	case rest != nil:
	case mode == "auto", mode == "on":
		if err := slurm.Present(ctx, c.inv.Environ); err != nil {
			if mode == "on" {
				return &exitError{code: ExitError, err: err, hint: "`penstock doctor` looks for the reason"}
			}
			return nil
		}
	default:
		return usageError("--slurm %s: use auto, on, off, or rest:unix:PATH", mode)
	}
	adapter, err := slurm.New(slurm.Options{
		Installation: c.ca.Installation(), LogRoot: filepath.Join(c.state, "logs"), Penstock: c.inv.Self, Environ: c.inv.Environ,
		REST: rest, Log: c.log, Registerer: c.registry,
	})
	if err != nil {
		return err
	}
	c.clusters[jobspecs.SlurmCluster] = adapter
	return nil
}

// readForCluster reads a deployment file and, for Slurm, fills what it leaves open as the user's shell tells sbatch.
func (inv *invocation) readForCluster(file string) (string, error) {
	text, d, err := inv.readDeployment(file)
	if err != nil || d.Cluster != jobspecs.SlurmCluster {
		return text, err
	}
	filled, used, ignored := slurm.Habits(d, inv.Environ)
	for _, line := range append(used, ignored...) {
		inv.say("%s", line)
	}
	if len(used) == 0 {
		return text, nil
	}
	return string(jobspecs.Encode(filled)), nil
}

// agentsAddress is where the controller listens for agents: for those of this machine on loopback, for those of other
// machines on every interface. Only who shows a certificate of ours, or a launch's token, gets beyond the handshake.
func (c *controller) agentsAddress() string {
	address := c.inv.set.get("controller.listen")
	switch {
	case address != "auto":
		return address
	case c.clusters[jobspecs.SlurmCluster] != nil || c.nomad != nil:
		return ":0"
	}
	return "127.0.0.1:0"
}

// mostAddresses bounds how many addresses an agent may have to try.
const mostAddresses = 8

// controllerURLs are where agents may find the controller, the likeliest first: a login node has several addresses, and
// only a site knows which of them its nodes can dial.
func (c *controller) controllerURLs(l jobspecs.ClusterKind) []string {
	urls := []string{c.endpoint.URL}
	tcp, ok := c.agents.Addr().(*net.TCPAddr)
	if !ok || !tcp.IP.IsUnspecified() {
		return urls
	}
	at := func(host string) string { return "https://" + net.JoinHostPort(host, strconv.Itoa(tcp.Port)) }
	if l == jobspecs.LocalCluster {
		return append(urls, at("127.0.0.1"))
	}
	for _, ip := range ownAddresses() {
		if len(urls) < mostAddresses && !slices.Contains(urls, at(ip)) {
			urls = append(urls, at(ip))
		}
	}
	return urls
}

// advertised is the name under which this host is reached by nodes.
func (c *controller) advertised() (string, error) {
	name := orDefault(c.inv.set.get("controller.advertise"), c.endpoint.Hostname)
	if strings.ContainsAny(name, "/:@ ") && net.ParseIP(name) == nil {
		return "", usageError("--advertise %q is no host name", name)
	}
	return name, nil
}

// sharedOrWarn says what makes a state folder useless for jobs on other machines.
func (c *controller) sharedOrWarn() (warning string) {
	if _, others := c.clusters[jobspecs.SlurmCluster]; !others {
		return ""
	}
	kind, node := localFilesystem(c.state)
	if !node {
		return ""
	}
	return fmt.Sprintf("the state folder %s is on %s, which other machines do not see: jobs of Slurm will not find their join files; "+
		"choose a folder on a shared filesystem with --state-dir", c.state, kind)
}
