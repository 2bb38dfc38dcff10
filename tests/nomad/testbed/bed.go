// Package testbed runs a small Nomad cluster on this machine out of a nomad binary that somebody has: one server and some
// clients, each with a data folder, ports and a configuration of its own, all on loopback. With Options it has ACLs and TLS.
// It needs root, as Nomad's clients do. tests/nomad and tests/nomad/bed use it; it knows nothing of Penstock.
package testbed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"
)

// Options are of Up.
type Options struct {
	Binary  string // path of nomad
	Plugins string // folder of external plugins; empty = none
	// Devices is the name of a device plugin in Plugins that is configured with dir, a folder with a file for each device.
	// GPUs is how many files each client gets.
	Devices string
	GPUs    int
	Clients int // default 3
	ACL     bool
	TLS     bool
}

// Bed is a running cluster. Its folder holds everything; another process opens it by that.
type Bed struct {
	Dir     string
	Options Options
	Version string
	Token   string // of the management kind; empty = no ACLs
	Server  Agent
	Clients []Agent
}

// Agent is one nomad process.
type Agent struct {
	Name     string
	HTTP     int // port
	RPC      int
	Serf     int
	MinPort  int
	PID      int
	StartsAt int64 // of the process, as /proc shows it: a PID alone may be another's by now
}

// Up starts a cluster in a new folder and waits until all clients are ready.
func Up(ctx context.Context, o Options) (*Bed, error) {
	if os.Getuid() != 0 {
		return nil, errors.New("a Nomad test bed needs root")
	}
	if o.Clients == 0 {
		o.Clients = 3
	}
	out, err := exec.CommandContext(ctx, o.Binary, "version").Output()
	if err != nil {
		return nil, fmt.Errorf("ask %s for its version: %w", o.Binary, err)
	}
	first, _, _ := strings.Cut(string(out), "\n")
	dir, err := os.MkdirTemp("", "nomad-bed-")
	if err != nil {
		return nil, err
	}
	b := &Bed{Dir: dir, Options: o, Version: strings.TrimSpace(first)}
	if err := b.up(ctx); err != nil {
		return nil, errors.Join(err, b.lastWords(), b.Down())
	}
	return b, nil
}

func (b *Bed) up(ctx context.Context) error {
	if err := b.furnish(); err != nil {
		return err
	}
	if err := b.start(&b.Server); err != nil {
		return err
	}
	if err := b.bootstrap(ctx); err != nil {
		return err
	}
	for i := range b.Clients {
		if err := b.start(&b.Clients[i]); err != nil {
			return err
		}
	}
	return b.Ready(ctx, len(b.Clients))
}

// furnish chooses ports and writes configurations, certificates and devices.
func (b *Bed) furnish() error {
	ports, err := freePorts(3 + 3*b.Options.Clients)
	if err != nil {
		return err
	}
	b.Server = Agent{Name: "server", HTTP: ports[0], RPC: ports[1], Serf: ports[2]}
	for i := range b.Options.Clients {
		p := ports[3+3*i:]
		b.Clients = append(b.Clients, Agent{
			Name: fmt.Sprintf("client%d", i+1), HTTP: p[0], RPC: p[1], Serf: p[2], MinPort: 20000 + 1000*i,
		})
	}
	if b.Options.TLS {
		if err := b.certificates(); err != nil {
			return err
		}
	}
	for _, a := range append([]Agent{b.Server}, b.Clients...) {
		if err := os.MkdirAll(filepath.Join(b.Dir, a.Name, "gpus"), 0o755); err != nil {
			return err
		}
		for i := range b.Options.GPUs {
			name := fmt.Sprintf("GPU-%s-%d", a.Name, i)
			if err := os.WriteFile(filepath.Join(b.Dir, a.Name, "gpus", name), nil, 0o644); err != nil {
				return err
			}
		}
		if err := os.WriteFile(b.config(a), []byte(b.configuration(a)), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (b *Bed) config(a Agent) string { return filepath.Join(b.Dir, a.Name, "agent.hcl") }

// bootstrap waits for a leader and, with ACLs, makes the first token.
func (b *Bed) bootstrap(ctx context.Context) error {
	c, err := b.Client()
	if err != nil {
		return err
	}
	defer c.Close()
	err = until(ctx, "a leader", func() error {
		leader, err := c.Status().Leader()
		if err == nil && leader == "" {
			err = errors.New("none yet")
		}
		return err
	})
	if err != nil || !b.Options.ACL {
		return errors.Join(err, b.save())
	}
	return errors.Join(until(ctx, "the first token", func() error {
		t, _, err := c.ACLTokens().Bootstrap(nil)
		if err == nil {
			b.Token = t.SecretID
		}
		return err
	}), b.save())
}

// Ready waits until so many clients are ready, with all their devices.
func (b *Bed) Ready(ctx context.Context, n int) error {
	c, err := b.Client()
	if err != nil {
		return err
	}
	defer c.Close()
	return until(ctx, fmt.Sprintf("%d ready clients", n), func() error {
		nodes, _, err := c.Nodes().List(&api.QueryOptions{Params: map[string]string{"resources": "true"}})
		if err != nil {
			return err
		}
		ready := 0
		for _, node := range nodes {
			gpus := 0
			if node.NodeResources != nil {
				for _, d := range node.NodeResources.Devices {
					gpus += len(d.Instances)
				}
			}
			if node.Status == api.NodeStatusReady && gpus == b.Options.GPUs {
				ready++
			}
		}
		if ready < n {
			return fmt.Errorf("%d of %d are", ready, n)
		}
		return nil
	})
}

// Addr belongs into NOMAD_ADDR.
func (b *Bed) Addr() string {
	if b.Options.TLS {
		return fmt.Sprintf("https://127.0.0.1:%d", b.Server.HTTP)
	}
	return fmt.Sprintf("http://127.0.0.1:%d", b.Server.HTTP)
}

// Environ is what a program needs to reach it, as NOMAD_* variables.
func (b *Bed) Environ() []string {
	env := []string{"NOMAD_ADDR=" + b.Addr()}
	if b.Token != "" {
		env = append(env, "NOMAD_TOKEN="+b.Token)
	}
	if b.Options.TLS {
		env = append(env, "NOMAD_CACERT="+b.tls("ca.pem"), "NOMAD_CLIENT_CERT="+b.tls("cli.pem"), "NOMAD_CLIENT_KEY="+b.tls("cli.key"))
	}
	return env
}

// Config is Environ for nomad/api.
func (b *Bed) Config() *api.Config {
	c := &api.Config{Address: b.Addr(), SecretID: b.Token, TLSConfig: &api.TLSConfig{}}
	if b.Options.TLS {
		c.TLSConfig = &api.TLSConfig{CACert: b.tls("ca.pem"), ClientCert: b.tls("cli.pem"), ClientKey: b.tls("cli.key")}
	}
	return c
}

// Client makes a client with all rights. The caller closes it.
func (b *Bed) Client() (*api.Client, error) { return api.NewClient(b.Config()) }

// save writes the bed down for Open.
func (b *Bed) save() error {
	text, err := json.MarshalIndent(b, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.Dir, "bed.json"), text, 0o600)
}

// Open finds a bed that another process has started.
func Open(dir string) (*Bed, error) {
	text, err := os.ReadFile(filepath.Join(dir, "bed.json"))
	if err != nil {
		return nil, err
	}
	b := &Bed{}
	return b, json.Unmarshal(text, b)
}

// until asks until there is no error.
func until(ctx context.Context, what string, ok func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		err := ok()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited in vain for %s: %w", what, errors.Join(err, ctx.Err()))
		case <-time.After(100 * time.Millisecond):
		}
	}
}
