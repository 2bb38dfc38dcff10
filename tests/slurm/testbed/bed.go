// Package testbed builds a small real Slurm cluster on this machine, out of nothing but Debian's packages and Linux
// namespaces: a login node, where slurmctld runs too, and compute nodes with declared (fake) GPUs. Each machine has a
// network, UTS, PID and mount namespace of its own: host name, address, ports, /tmp, /run and /etc/passwd. Beds know
// nothing of each other, so any number runs side by side, and none of them changes the machine: users, hosts and
// addresses of a bed exist inside it only.
//
// It needs root and knows nothing of Penstock. The command tests/slurm/bed and the tests of tests/slurm use it.
package testbed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Base holds the folder of every bed. It lies outside /tmp, because each machine of a bed has a /tmp of its own.
const Base = "/var/tmp/penstock-bed"

// Nodes is how many compute nodes a bed has, and GPUs how many fake GPUs each of them declares.
const (
	Nodes = 4
	GPUs  = 8
)

// Options say what bed to build. The zero value is one of this machine's own Slurm that ends with this process.
type Options struct {
	Version  string        // "" = this machine's own Slurm; else "24.11" or "26.05", in a chroot that is made once
	ShortMax time.Duration // MaxTime of the partition short; 0 = 2 minutes
	// Accounting: with slurmdbd, where all users have the account Account. This machine's own Slurm only; some seconds more.
	Accounting bool
	Keep       bool // the bed outlives this process; else the kernel ends it with it
}

// Bed is one cluster. Its methods may be called from several goroutines, except those on one and the same machine.
type Bed struct {
	Dir      string // shared by all machines, under the same path
	opts     Options
	root     string // chroot with another Slurm; "" = this machine's own
	release  string // "22.05"
	machines []*Machine
}

// Up builds a bed and returns once all its nodes are idle. What it has built of a bed that fails, it removes.
func Up(ctx context.Context, opts Options) (*Bed, error) {
	if os.Getuid() != 0 {
		return nil, errors.New("a test bed needs root: it makes namespaces and device files")
	}
	if opts.ShortMax == 0 {
		opts.ShortMax = 2 * time.Minute
	}
	b := &Bed{opts: opts}
	if err := b.build(ctx); err != nil {
		if b.Dir != "" {
			err = errors.Join(err, b.Down())
		}
		return nil, fmt.Errorf("build a Slurm test bed: %w", err)
	}
	return b, nil
}

func (b *Bed) build(ctx context.Context) (err error) {
	if b.root, err = rootOf(ctx, b.opts.Version); err != nil {
		return err
	}
	if b.release, err = releaseOf(ctx, b.root); err != nil {
		return err
	}
	if err := os.MkdirAll(Base, 0o755); err != nil {
		return err
	}
	if b.Dir, err = os.MkdirTemp(Base, "b"); err != nil {
		return err
	}
	if err := b.furnish(); err != nil {
		return err
	}
	for n := range Nodes + 1 {
		m := newMachine(b, n)
		b.machines = append(b.machines, m)
		if err := m.PowerOn(ctx); err != nil {
			return err
		}
		if n > 0 {
			continue
		}
		if err := b.startSlurm(ctx); err != nil { // first of all: a slurmd that finds no slurmctld asks again after 8 s
			return err
		}
	}
	return b.Until(ctx, "all nodes are idle", func() (bool, error) {
		out, err := b.Root(ctx, "sinfo", "-h", "-p", "gpu", "-t", "idle", "-o", "%D")
		return err == nil && out == strconv.Itoa(Nodes), err
	})
}

// record is what Open needs to know, in bed.json.
type record struct {
	Version  string
	ShortMax time.Duration
	Owner    int    // process that made it
	Since    string // when that process was started, in ticks; "" with Keep
}

func (b *Bed) writeRecord() error {
	r := record{Version: b.opts.Version, ShortMax: b.opts.ShortMax, Owner: os.Getpid()}
	if !b.opts.Keep {
		r.Since = startOf(os.Getpid())
	}
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return os.WriteFile(b.path("bed.json"), text, 0o600)
}

func readRecord(dir string) (r record, err error) {
	text, err := os.ReadFile(filepath.Join(dir, "bed.json"))
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(text, &r)
}

// Open finds a bed that runs already.
func Open(ctx context.Context, dir string) (*Bed, error) {
	r, err := readRecord(dir)
	if err != nil {
		return nil, fmt.Errorf("open the test bed %s: %w", dir, err)
	}
	b := &Bed{Dir: dir, opts: Options{Version: r.Version, ShortMax: r.ShortMax, Keep: r.Since == ""}}
	if b.root, err = rootOf(ctx, r.Version); err != nil {
		return nil, err
	}
	if b.release, err = releaseOf(ctx, b.root); err != nil {
		return nil, err
	}
	for n := range Nodes + 1 {
		m := newMachine(b, n)
		m.find()
		b.machines = append(b.machines, m)
	}
	if b.Login().pid == 0 {
		return nil, fmt.Errorf("open the test bed %s: its login node does not run; remove it with down", dir)
	}
	return b, nil
}

// Release is the version of Slurm that runs, as in "22.05".
func (b *Bed) Release() string { return b.release }

// Login is the node where users work and slurmctld runs.
func (b *Bed) Login() *Machine { return b.machines[0] }

// Node is a compute node; the first is 1, as in its name node1.
func (b *Bed) Node(n int) *Machine { return b.machines[n] }

// All lists all machines, the login node first.
func (b *Bed) All() []*Machine { return b.machines }

// path is a path in the bed's folder, which is the same for every machine.
func (b *Bed) path(parts ...string) string {
	return filepath.Join(append([]string{b.Dir}, parts...)...)
}

// Home is the home folder of a user, shared by all machines.
func (b *Bed) Home(u User) string { return b.path("home", u.Name) }

// Root runs a command as root on the login node and returns its trimmed output.
func (b *Bed) Root(ctx context.Context, argv ...string) (string, error) {
	return b.Login().Run(ctx, Root, argv...)
}

// RunAs runs a command as a user on the login node and returns its trimmed output.
func (b *Bed) RunAs(ctx context.Context, u User, argv ...string) (string, error) {
	return b.Login().Run(ctx, u, argv...)
}

// Down ends every process of the bed and removes its folder.
func (b *Bed) Down() error {
	for _, m := range b.machines {
		m.kill()
	}
	return remove(b.Dir)
}

// releaseOf asks the Slurm in a chroot for its version.
func releaseOf(ctx context.Context, root string) (string, error) {
	out, err := output(ctx, append(inRoot(root), "slurmctld", "-V")...)
	if err != nil {
		return "", fmt.Errorf("ask slurmctld for its version (apt packages are in tests/needs.sh): %w", err)
	}
	parts := strings.Split(strings.TrimPrefix(out, "slurm-wlm "), ".")
	if len(parts) < 2 {
		return "", fmt.Errorf("slurmctld -V: no version in %q", out)
	}
	return parts[0] + "." + parts[1], nil
}
