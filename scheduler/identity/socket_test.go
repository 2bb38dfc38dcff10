package identity

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestSocketDir(t *testing.T) {
	t.Parallel()
	base, err := os.MkdirTemp("", "ps")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	dir, err := SocketDir(base, "l1")
	if err != nil || dir != filepath.Join(base, "l1") {
		t.Fatalf("got %s, %v", dir, err)
	}
	path, err := SocketPath(dir, "engine.sock")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	if _, err := SocketDir(base, strings.Repeat("x", 100)); err == nil || !strings.Contains(err.Error(), "bytes too long") {
		t.Errorf("long: %v", err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := SocketDir(base, "l1"); err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Errorf("open to others: %v", err)
	}
}

// TestSocketPathLimit: the longest path that is allowed can be listened on, and the kernel agrees that one more cannot.
func TestSocketPathLimit(t *testing.T) {
	t.Parallel()
	base, err := os.MkdirTemp("", "ps")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	longest := strings.Repeat("s", maxSocketPath-len(base)-1)
	path, err := SocketPath(base, longest)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	if _, err := SocketPath(base, longest+"s"); err == nil || !strings.Contains(err.Error(), "108 bytes, at most 107") {
		t.Errorf("one more: %v", err)
	}
}

func TestPeerUID(t *testing.T) {
	t.Parallel()
	client, server := unixPair(t)
	for _, c := range []net.Conn{client, server} {
		if uid, err := PeerUID(c); uid != os.Geteuid() || err != nil {
			t.Errorf("uid %d, %v", uid, err)
		}
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	tcp, _ := connected(t)
	for _, c := range []net.Conn{a, tcp} {
		if _, err := PeerUID(c); err == nil {
			t.Errorf("%T has a user", c)
		}
	}
}

// unixPair listens on a unix socket and connects to it.
func unixPair(t *testing.T) (client, server net.Conn) {
	t.Helper()
	dir, err := os.MkdirTemp("", "ps")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	ln, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	if client, err = net.Dial("unix", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = client.Close(), server.Close() })
	return client, server
}

// TestPeerOfAnotherUser connects as another user through a folder that lets everybody in.
func TestPeerOfAnotherUser(t *testing.T) {
	t.Parallel()
	if os.Getenv("IDENTITY_DIAL") != "" {
		conn, err := net.Dial("unix", os.Getenv("IDENTITY_DIAL"))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Read(make([]byte, 1)) // until the other end has seen who this is
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	dir, err := os.MkdirTemp("/tmp", "ps")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	binary := filepath.Join(dir, "test")
	path := filepath.Join(dir, "s")
	self, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	if err := ln.(*net.UnixListener).SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	syscall.ForkLock.RLock() // a child forked meanwhile would hold the program open for writing: "text file busy"
	err = os.WriteFile(binary, self, 0o755)
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{dir, binary, path} {
		if err := os.Chmod(p, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), binary, "-test.run", "^TestPeerOfAnotherUser$")
	cmd.Dir = "/"
	cmd.Env = []string{"IDENTITY_DIAL=" + path}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	uid, err := PeerUID(conn)
	_ = conn.Close()
	if uid != 65534 || err != nil {
		t.Errorf("uid %d, %v", uid, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
