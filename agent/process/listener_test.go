package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// helpListen listens at $NETWORK $ADDRESS and prints the address it got.
func helpListen() error {
	l, err := net.Listen(os.Getenv("NETWORK"), os.Getenv("ADDRESS"))
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		_ = conn.Close()
	}
}

// listener starts a tree in which a descendant listens, and returns the address.
func listener(t *testing.T, script, network, address string) (*Process, string) {
	t.Helper()
	out := NewTail(1, 200)
	p, _ := start(t, Spec{
		Argv: []string{"sh", "-c", script, os.Args[0]}, Stdout: out, Stderr: out,
		Env: []string{envHelper + "=listen", "NETWORK=" + network, "ADDRESS=" + address},
	}, "")
	eventually(t, "it listens", func() bool { return len(out.Lines()) > 0 })
	return p, out.Lines()[0]
}

// socketPath gives a path that is short enough for a unix socket.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "penstock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

func TestOwnListenersAreOwned(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		"first process": `exec "$0"`,
		"child":         `"$0"`,
		"daemon":        `(setsid "$0" &) ; sleep 1000`,
	} {
		for _, network := range []string{"unix", "tcp"} {
			t.Run(name+" "+network, func(t *testing.T) {
				t.Parallel()
				address := "127.0.0.1:0"
				if network == "unix" {
					address = socketPath(t)
				}
				p, address := listener(t, script, network, address)
				if err := p.Owns(within(t), network, address); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func TestForeignListenersAreFound(t *testing.T) {
	t.Parallel()
	p, _ := start(t, Spec{}, `sleep 1000`)
	for network, address := range map[string]string{"unix": socketPath(t), "tcp": "127.0.0.1:0"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			l, err := net.Listen(network, address)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
			if err := p.Owns(within(t), network, l.Addr().String()); !errors.Is(err, ErrForeignListener) {
				t.Errorf("this test's own listener: %v", err)
			}
		})
	}
}

func TestAnotherTreesListenerIsForeign(t *testing.T) {
	t.Parallel()
	p, _ := start(t, Spec{}, `sleep 1000`)
	for network, address := range map[string]string{"unix": socketPath(t), "tcp": "127.0.0.1:0"} {
		_, address := listener(t, `exec "$0"`, network, address)
		if err := p.Owns(within(t), network, address); !errors.Is(err, ErrForeignListener) {
			t.Errorf("%s: %v", network, err)
		}
	}
}

func TestAnotherUsersListenerIsForeign(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("needs root to listen as another user")
	}
	p, _ := start(t, Spec{}, `sleep 1000`)
	const nobody = 65534
	for network, address := range map[string]string{"unix": socketPath(t), "tcp": "127.0.0.1:0"} {
		if network == "unix" {
			if err := os.Chown(filepath.Dir(address), nobody, nobody); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.Command(readable(t, os.Args[0]))
		cmd.Env = []string{envHelper + "=listen", "NETWORK=" + network, "ADDRESS=" + address}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		out := NewTail(1, 200)
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		eventually(t, "it listens", func() bool { return len(out.Lines()) > 0 })
		err := p.Owns(within(t), network, out.Lines()[0])
		if !errors.Is(err, ErrForeignListener) || !strings.Contains(err.Error(), "of user 65534") {
			t.Errorf("%s: %v", network, err)
		}
	}
}

// readable copies a program to where every user can run it.
func readable(t *testing.T, program string) string {
	t.Helper()
	b, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	to := socketPath(t)
	syscall.ForkLock.RLock() // a child forked meanwhile would hold the file open for writing: "text file busy"
	defer syscall.ForkLock.RUnlock()
	if err := errors.Join(os.WriteFile(to, b, 0o755), os.Chmod(filepath.Dir(to), 0o755)); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestNoListener(t *testing.T) {
	t.Parallel()
	p, _ := start(t, Spec{}, `sleep 1000`)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free := l.Addr().String()
	_ = l.Close()
	stale := socketPath(t)
	ul, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ul.SetUnlinkOnClose(false)
	_ = ul.Close()
	for _, at := range [][2]string{{"tcp", free}, {"unix", stale}, {"unix", stale + "-none"}} {
		// A child that is being forked by another test may hold the closed listener for a moment.
		eventually(t, fmt.Sprintf("nothing listens at %s", at), func() bool {
			return errors.Is(p.Owns(within(t), at[0], at[1]), ErrNoListener)
		})
	}
	for _, at := range [][2]string{{"udp", free}, {"tcp", "localhost:80"}, {"tcp", "127.0.0.1"}} {
		if err := p.Owns(within(t), at[0], at[1]); err == nil || errors.Is(err, ErrNoListener) {
			t.Errorf("%s: %v, want an error about the address", at, err)
		}
	}
}

func TestEndedTreeOwnsNothing(t *testing.T) {
	t.Parallel()
	p, _ := start(t, Spec{}, `exit 0`)
	if _, err := p.Wait(within(t)); err != nil {
		t.Fatal(err)
	}
	if ours, err := p.contains(p.PID()); ours || err != nil {
		t.Errorf("%v, %v", ours, err)
	}
}

func TestContains(t *testing.T) {
	t.Parallel()
	p, dir := start(t, Spec{Env: nestEnv}, nest["daemon of a daemon"].script)
	for _, q := range pids(t, dir, 3) {
		if ours, err := p.contains(q.PID); !ours || err != nil {
			t.Errorf("%s: %v, %v", describe([]Proc{q}), ours, err)
		}
	}
	other, _ := start(t, Spec{}, `sleep 1000`)
	for _, pid := range []int{1, os.Getpid(), other.PID(), 1 << 30} {
		if ours, err := p.contains(pid); ours || err != nil {
			t.Errorf("process %d: %v, %v", pid, ours, err)
		}
	}
}

func TestOwnsConnRefusesOtherConnections(t *testing.T) {
	t.Parallel()
	p, _ := start(t, Spec{}, `sleep 1000`)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := p.OwnsConn(conn); err == nil || !strings.Contains(err.Error(), "no unix connection") {
		t.Error(err)
	}
}

const tcpTable = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4242 1 0000000000000000 100 0 0 10 0
   1: 0100007F:1F90 0100007F:D431 01 00000000:00000000 00:00000000 00000000  1000        0 4243 1 0000000000000000 20 4 30 10 -1
   2: 00000000000000000000000000000000:1F91 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 77 1
   3: 0000000000000000FFFF00000100007F:1F92 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 78 1
`

func TestParseTCP(t *testing.T) {
	t.Parallel()
	got, err := parseTCP(strings.NewReader(tcpTable))
	if err != nil {
		t.Fatal(err)
	}
	want := []tcpListener{
		{netip.MustParseAddrPort("127.0.0.1:8080"), 1000, 4242},
		{netip.MustParseAddrPort("[::]:8081"), 0, 77},
		{netip.MustParseAddrPort("127.0.0.1:8082"), 0, 78},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(tcpListener{}), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

func TestServes(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		listener, addr string
		want           bool
	}{
		{"127.0.0.1:80", "127.0.0.1:80", true},
		{"127.0.0.1:81", "127.0.0.1:80", false},
		{"127.0.0.2:80", "127.0.0.1:80", false},
		{"0.0.0.0:80", "127.0.0.1:80", true},
		{"0.0.0.0:80", "[::1]:80", false},
		{"[::]:80", "127.0.0.1:80", true},
		{"[::]:80", "[::1]:80", true},
		{"[::1]:80", "127.0.0.1:80", false},
	} {
		l := tcpListener{local: netip.MustParseAddrPort(test.listener)}
		if got := l.serves(netip.MustParseAddrPort(test.addr)); got != test.want {
			t.Errorf("%s serves %s: %v", test.listener, test.addr, got)
		}
	}
}

func FuzzParseTCP(f *testing.F) {
	f.Add([]byte(tcpTable))
	f.Add([]byte("a 0100007F:1F90 b 0A c d e 1 f 2"))
	f.Fuzz(func(t *testing.T, b []byte) {
		found, err := parseTCP(bytes.NewReader(b))
		if err != nil {
			return
		}
		for _, l := range found {
			if !l.local.IsValid() {
				t.Errorf("a listener without an address: %+v", l)
			}
		}
	})
}
