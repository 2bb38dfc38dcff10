package testbed

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// netCommand runs a command of this machine in the network namespace of a bed's machine.
func (m *Machine) netCommand(ctx context.Context, input string, argv ...string) error {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"-t", strconv.Itoa(m.pid), "-n", "--"}, argv...)...)
	cmd.Stdin = strings.NewReader(input)
	_, err := collect(cmd)
	return err
}

// plugIn connects a machine: the bridge is on the login node, and every compute node has a cable to it.
func (m *Machine) plugIn(ctx context.Context) error {
	login := m.bed.Login()
	if m == login {
		return m.netCommand(ctx, "link add br0 type bridge\naddr add 10.77.0.1/24 dev br0\nlink set br0 up\n", "ip", "-batch", "-")
	}
	// The old cable goes with the namespace of a machine that was killed, which the kernel removes when it likes.
	_ = login.netCommand(ctx, "", "ip", "link", "del", fmt.Sprintf("v%d", m.n))
	cable := fmt.Sprintf("link add v%d type veth peer name eth0 netns %d\nlink set v%d master br0\nlink set v%d up\n", m.n, m.pid, m.n, m.n)
	if err := login.netCommand(ctx, cable, "ip", "-batch", "-"); err != nil {
		return err
	}
	// The card keeps its address when the power was off: else the others ask for the old one for a while.
	return m.netCommand(ctx, fmt.Sprintf("link set eth0 address 02:00:00:00:00:%02x\naddr add %s/24 dev eth0\nlink set eth0 up\n", m.n, m.Addr),
		"ip", "-batch", "-")
}

// CutLink takes a compute node off the network. Nothing on it ends, and nobody is told.
func (m *Machine) CutLink(ctx context.Context) error { return m.setLink(ctx, "down") }

// HealLink connects a compute node again.
func (m *Machine) HealLink(ctx context.Context) error { return m.setLink(ctx, "up") }

func (m *Machine) setLink(ctx context.Context, state string) error {
	if m.n == 0 {
		return errors.New("the bridge is on the login node: it can't be cut off")
	}
	return m.bed.Login().netCommand(ctx, "", "ip", "link", "set", fmt.Sprintf("v%d", m.n), state)
}

// DropInbound makes a compute node drop what others begin to say to it, as firewalls between login and compute nodes do.
// Slurm's own port stays open, and so does what processes on the node begin themselves.
func (m *Machine) DropInbound(ctx context.Context) error {
	return m.netCommand(ctx, `table inet bed {
  chain inbound {
    type filter hook input priority 0; policy accept;
    iif lo accept
    tcp dport 6818 accept
    ip saddr `+m.bed.Login().Addr+` tcp flags & (syn | ack) == syn drop
  }
}
`, "nft", "-f", "-")
}

// AllowInbound undoes DropInbound.
func (m *Machine) AllowInbound(ctx context.Context) error {
	return m.netCommand(ctx, "", "nft", "delete", "table", "inet", "bed")
}

// DialContext dials from the machine: an address with an IP, since names are not resolved. It fits http.Transport.
func (m *Machine) DialContext(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	err = m.inNetwork(func() (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// inNetwork runs f on a thread that is in the machine's network namespace. f must not start goroutines that open sockets.
func (m *Machine) inNetwork(f func() error) error {
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer own.Close()
	other, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", m.pid))
	if err != nil {
		return fmt.Errorf("enter the network of %s: %w", m.Name, err)
	}
	defer other.Close()
	runtime.LockOSThread()
	if err := unix.Setns(int(other.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter the network of %s: %w", m.Name, err)
	}
	ferr := f()
	if err := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("leave the network of %s: %w", m.Name, err) // the thread stays locked and ends with its goroutine
	}
	runtime.UnlockOSThread()
	return ferr
}
