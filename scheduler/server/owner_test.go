package server

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// strangerSocket names the variable that makes this test binary the other user of TestOwnerListenerDropsOthers.
const strangerSocket = "PENSTOCK_TEST_STRANGER"

// What the other user finds out.
const (
	knockHungUp = 10 + iota
	knockAnswered
	knockFailed
)

// knock asks for the metrics at a socket and tells by its exit code what came of it.
func knock(socket string) int {
	conn, err := net.DialTimeout("unix", socket, patience)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return knockFailed
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(conn, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
	if n, _ := conn.Read(make([]byte, 1)); n > 0 {
		return knockAnswered
	}
	return knockHungUp
}

// TestOwnerListenerDropsOthers: even where folder and socket are open to all, the kernel's word on who called decides.
func TestOwnerListenerDropsOthers(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	dir, err := os.MkdirTemp("/tmp", "pso") // not below TMPDIR, which other users may not enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket, binary := filepath.Join(dir, "s"), filepath.Join(dir, "test")
	var log bytes.Buffer
	l, err := OwnerListener(socket, zerolog.New(zerolog.SyncWriter(&log)))
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket has mode %v, %v", info.Mode(), err)
	}
	srv := &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: patience}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	defer func() { _ = srv.Close(); <-done }()
	self, err := os.ReadFile(os.Args[0])
	if err == nil {
		syscall.ForkLock.RLock() // a child forked meanwhile would hold the program open for writing: "text file busy"
		err = os.WriteFile(binary, self, 0o700)
		syscall.ForkLock.RUnlock()
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{dir, binary, socket} {
		if err := os.Chmod(p, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for uid, want := range map[uint32]int{0: knockAnswered, 65534: knockHungUp} {
		cmd := exec.CommandContext(t.Context(), binary)
		cmd.Dir, cmd.Env = "/", []string{strangerSocket + "=" + socket}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, _ := cmd.CombinedOutput()
		if got := cmd.ProcessState.ExitCode(); got != want {
			t.Errorf("uid %d: exit %d, want %d: %s", uid, got, want, out)
		}
	}
	_ = srv.Close()
	<-done
	if !strings.Contains(log.String(), "another user dropped") {
		t.Errorf("log: %s", &log)
	}
}

// TestOwnerListenerReplaces: a socket that a killed controller left behind is in nobody's way; a folder that is not there is.
func TestOwnerListenerReplaces(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	path := filepath.Join(dir, "s")
	for range 2 {
		l, err := OwnerListener(path, zerolog.Nop())
		if err != nil {
			t.Fatal(err)
		}
		l.(ownerListener).Listener.(*net.UnixListener).SetUnlinkOnClose(false)
		l.Close()
	}
	if _, err := OwnerListener(filepath.Join(dir, "no", "s"), zerolog.Nop()); err == nil {
		t.Error("no folder, no error")
	}
}

// TestOwnersMetrics: the owner reads the process's metrics; nobody else does, over TLS either.
func TestOwnersMetrics(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for url, client := range map[string]*http.Client{"http://control": w.owner, w.url: w.client(t, nil)} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(string(text), "penstock_controller_agents"); got != (client == w.owner) {
			t.Errorf("%s: %s", url, text)
		}
	}
}
