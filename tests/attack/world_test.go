package attack

import (
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// person is a user of the machine.
type person struct {
	name     string
	uid, gid uint32
	home     string // 0755, so that nothing but Penstock's own modes keeps others out
}

// credential has no other groups.
func (p *person) credential() *syscall.Credential { return &syscall.Credential{Uid: p.uid, Gid: p.gid} }

// worldDir is a folder that everybody may enter. Its path is short, for the sake of unix sockets.
func worldDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ps-")
	must(t, err)
	must(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	return dir
}

// freeUIDs finds two user IDs, and a group ID, that nobody has. Nothing has to be removed for them at the end.
func freeUIDs(t *testing.T) uint32 {
	t.Helper()
	taken := map[uint32]bool{}
	passwd, err := os.ReadFile("/etc/passwd")
	must(t, err)
	for line := range strings.SplitSeq(string(passwd), "\n") {
		if f := strings.Split(line, ":"); len(f) > 2 {
			n, _ := strconv.ParseUint(f[2], 10, 32)
			taken[uint32(n)] = true
		}
	}
	entries, err := os.ReadDir("/proc")
	must(t, err)
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				taken[st.Uid] = true
			}
		}
	}
	first := 61184 + uint32(os.Getpid()%2000)*2
	for uid := first; uid < first+100; uid += 2 {
		if !taken[uid] && !taken[uid+1] {
			return uid
		}
	}
	t.Fatal("no two free user IDs")
	return 0
}

// newPerson makes a user's home. Both users have the same group, as on many clusters.
func (s *siege) newPerson(t *testing.T, name string, uid uint32) *person {
	t.Helper()
	p := &person{name: name, uid: uid, gid: 61183, home: filepath.Join(s.world, name)}
	must(t, os.Mkdir(p.home, 0o755))
	must(t, os.Chown(p.home, int(p.uid), int(p.gid)))
	return p
}

func executable(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	must(t, err)
	return path
}

// share copies a program to where everybody may execute it.
func (s *siege) share(t *testing.T, name, from string) string {
	t.Helper()
	to := filepath.Join(s.world, name)
	in, err := os.Open(from)
	must(t, err)
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	must(t, err)
	_, err = io.Copy(out, in)
	must(t, err)
	must(t, out.Close())
	must(t, os.Chmod(to, 0o755))
	return to
}

// withoutUmask is a program that runs penstock with a umask of 0.
func (s *siege) withoutUmask(t *testing.T, binary string) string {
	t.Helper()
	path := filepath.Join(s.world, "open")
	must(t, os.WriteFile(path, []byte("#!/bin/sh\numask 0\nexec "+binary+" \"$@\"\n"), 0o755))
	must(t, os.Chmod(path, 0o755))
	return path
}

// waitFor polls until a condition holds.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("waited in vain: %s", what)
			return
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
