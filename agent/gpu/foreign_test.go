package gpu

import (
	"os"
	"os/exec"
	"os/user"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestForeign(t *testing.T) {
	t.Parallel()
	s := Sample{GPUs: []GPU{
		{UUID: "GPU-a", Processes: []Process{{PID: 1}, {PID: 2, Memory: of(3 * gib / 2)}, {PID: 3}}},
		{UUID: "GPU-b", Processes: []Process{}},
		{UUID: "GPU-c"},
		{UUID: "GPU-d", Processes: []Process{{PID: 2}}},
		{UUID: "MIG-1", MIGParent: "GPU-d", Processes: []Process{{PID: 4}}},
	}}
	ours := func(pid int) bool { return pid == 1 }
	who := func(pid int) (string, string) {
		if pid == 2 {
			return "alice", "python3"
		}
		return "", ""
	}
	for _, test := range []struct {
		uuids   string
		found   string
		unknown string
	}{
		{"GPU-a", "process 2 (python3 of user alice, 1.5 GiB) on GPU-a; process 3 (unknown of user unknown, unknown memory) on GPU-a", ""},
		{"GPU-b", "", ""},
		{"GPU-c GPU-none GPU-b", "", "GPU-c GPU-none"},
		{"MIG-1", "process 4 (unknown of user unknown, unknown memory) on MIG-1", ""},
		{"", "", ""},
	} {
		found, unknown := Foreign(s, strings.Fields(test.uuids), ours, who)
		var names []string
		for _, f := range found {
			names = append(names, f.String())
		}
		if got := strings.Join(names, "; "); got != test.found {
			t.Errorf("%s: got %q, want %q", test.uuids, got, test.found)
		}
		if diff := cmp.Diff(test.unknown, strings.Join(unknown, " ")); diff != "" {
			t.Errorf("%s: unknown %s", test.uuids, diff)
		}
	}
}

func TestWho(t *testing.T) {
	t.Parallel()
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	name, command := Who(os.Getpid())
	if name != me.Username || command == "" {
		t.Errorf("this process is %q of %q, want of %q", command, name, me.Username)
	}
	if name, command := Who(1 << 30); name != "" || command != "" {
		t.Errorf("no process is %q of %q", command, name)
	}
}

func TestWhoIsFitForATerminal(t *testing.T) {
	t.Parallel()
	link := t.TempDir() + "/a\x1b[2Jb\xff"
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(sleep, link); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(link, "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	if _, command := Who(cmd.Process.Pid); command != "a?[2Jb?" {
		t.Errorf("got %q", command)
	}
}
