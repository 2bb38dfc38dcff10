package attack

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

type socketArgs struct {
	Paths   []string
	Control bool
}

// attackSockets goes for every unix socket of the victim's, those that the kernel lists for everybody among them.
func attackSockets(t *testing.T, s *siege) {
	var paths []string
	for _, b := range s.belongings(t) {
		if b.info.Mode()&os.ModeSocket != 0 {
			paths = append(paths, b.path)
		}
	}
	if len(paths) < 3 {
		t.Errorf("only %d sockets to attack: %v", len(paths), paths)
	}
	for _, listed := range socketsOf(t, s.alice.home, s.runtimeDir(s.alice)) {
		if strings.HasPrefix(listed, "@") {
			t.Errorf("HOLE: an abstract socket has no owner: %s", listed)
		}
		paths = append(paths, listed)
	}
	s.fails(t, "connect to unix sockets", socketArgs{Paths: paths}, denied...)
	s.works(t, "connect to unix sockets", socketArgs{Paths: paths, Control: true})
}

// socketsOf lists what the kernel shows everybody in /proc/net/unix of paths below the folders.
func socketsOf(t *testing.T, dirs ...string) (names []string) {
	t.Helper()
	text, err := os.ReadFile("/proc/net/unix")
	must(t, err)
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		name := f[len(f)-1]
		for _, dir := range dirs {
			if len(f) == 8 && strings.HasPrefix(strings.TrimPrefix(name, "@"), dir) {
				names = append(names, name)
			}
		}
	}
	return names
}

func init() { tricks["connect to unix sockets"] = tryUnixSockets }

func tryUnixSockets(in []byte, n *notes) error {
	var args socketArgs
	if err := json.Unmarshal(in, &args); err != nil {
		return err
	}
	for _, path := range args.Paths {
		conn, err := net.DialTimeout("unix", path, time.Second)
		if err == nil {
			_ = conn.Close()
		}
		n.try("connect to a unix socket", path, err)
		if args.Control {
			continue
		}
		// Where it is bound, another one could take its place.
		l, err := net.Listen("unix", filepath.Join(filepath.Dir(path), "mine.sock"))
		if err == nil {
			_ = l.Close()
		}
		n.try("listen beside a unix socket", path, err)
		n.try("remove a unix socket", path, os.Remove(path))
	}
	return nil
}

// listPorts compares the TCP ports that the victim has open with those that it should have, and lets the attacker listen
// at the same addresses.
func listPorts(t *testing.T, s *siege) {
	open := listeners(t, s.alice.uid)
	for _, address := range open {
		s.tried++
		host, _, err := net.SplitHostPort(address)
		must(t, err)
		known := s.ports[address]
		t.Logf("open: %s for %s, protection: %s", address, known.Purpose, known.Protection)
		if ip := net.ParseIP(host); !ip.IsLoopback() {
			t.Errorf("HOLE: %s is open beyond this machine", address)
		}
		if known.Purpose == "" {
			t.Errorf("HOLE: %s is open and nobody knows why", address)
		}
	}
	if len(open) != len(s.ports) {
		t.Errorf("%d ports are open, expected %v", len(open), s.ports)
	}
	s.fails(t, "listen at the same ports", open, syscall.EADDRINUSE.Error())
}

// listeners are the TCP addresses at which a user listens.
func listeners(t *testing.T, uid uint32) (addresses []string) {
	t.Helper()
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6", "/proc/net/udp", "/proc/net/udp6"} {
		text, err := os.ReadFile(file)
		if os.IsNotExist(err) {
			continue // without IPv6
		}
		must(t, err)
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			listens := len(f) > 7 && (f[3] == "0A" || strings.Contains(file, "udp"))
			if listens && f[7] == fmt.Sprint(uid) {
				addresses = append(addresses, addressOf(t, f[1]))
			}
		}
	}
	return addresses
}

// addressOf reads an address as /proc/net/tcp writes it: words in the machine's order, which is little endian here.
func addressOf(t *testing.T, text string) string {
	t.Helper()
	host, port, _ := strings.Cut(text, ":")
	var ip net.IP
	for i := 0; i+8 <= len(host); i += 8 {
		var b [4]byte
		_, err := fmt.Sscanf(host[i:i+8], "%02X%02X%02X%02X", &b[3], &b[2], &b[1], &b[0])
		must(t, err)
		ip = append(ip, b[:]...)
	}
	var n int
	_, err := fmt.Sscanf(port, "%X", &n)
	must(t, err)
	return net.JoinHostPort(ip.String(), fmt.Sprint(n))
}

func init() { tricks["listen at the same ports"] = tryListen }

func tryListen(in []byte, n *notes) error {
	var addresses []string
	if err := json.Unmarshal(in, &addresses); err != nil {
		return err
	}
	for _, address := range addresses {
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			return err
		}
		for _, host := range []string{"127.0.0.1", "0.0.0.0"} {
			for _, option := range []int{0, syscall.SO_REUSEADDR, 15 /* SO_REUSEPORT */} {
				n.try(fmt.Sprintf("listen at the same port of %s with option %d", host, option), address, listenWith(net.JoinHostPort(host, port), option))
			}
		}
	}
	return nil
}

// listenWith listens for a moment, with a socket option set.
func listenWith(address string, option int) error {
	conf := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		cerr := c.Control(func(fd uintptr) {
			if option != 0 {
				err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, option, 1)
			}
		})
		if cerr != nil {
			return cerr
		}
		return err
	}}
	l, err := conf.Listen(timeless, "tcp", address)
	if err == nil {
		_ = l.Close()
	}
	return err
}
