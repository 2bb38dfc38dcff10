package cli

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/slurm"
)

func doctorCommand(std IO) *cli.Command {
	return &cli.Command{
		Name: "doctor", Usage: "look whether everything is there that serving needs, and say what to do where not",
		Description: "Read-only: it writes nothing, submits nothing and changes nothing. Needs no controller.\n" +
			"Exit codes: 0 nothing is in the way, 1 something is.",
		Flags:  roleFlags("controller.advertise"),
		Action: action(std, nothing, runDoctor),
	}
}

func runDoctor(ctx context.Context, inv *invocation, _ struct{}) error {
	found := inv.examineHost(ctx)
	found = append(found, slurm.Examine(ctx, inv.Environ)...)
	if err := inv.printFindings(found); err != nil {
		return err
	}
	for _, f := range found {
		if f.Level == slurm.Problem {
			return exitWith(ExitError)
		}
	}
	return nil
}

func (inv *invocation) printFindings(found []slurm.Finding) error {
	if inv.json() {
		list := make([]map[string]any, len(found))
		for i, f := range found {
			list[i] = map[string]any{"check": f.Check, "level": string(f.Level), "text": f.Text, "fix": f.Fix}
		}
		return inv.printJSON("doctor", map[string]any{"findings": list})
	}
	for _, f := range found {
		if _, err := fmt.Fprintf(inv.Out, "%-8s %s: %s\n", f.Level, f.Check, f.Text); err != nil {
			return err
		}
		if f.Fix != "" && f.Level != slurm.Fine {
			if _, err := fmt.Fprintf(inv.Out, "%8s → %s\n", "", f.Fix); err != nil {
				return err
			}
		}
	}
	return nil
}

// examineHost looks at this machine and the folders that are to be used.
func (inv *invocation) examineHost(ctx context.Context) (found []slurm.Finding) {
	add := func(check string, level slurm.Level, fix, format string, args ...any) {
		found = append(found, slurm.Finding{Check: check, Level: level, Text: fmt.Sprintf(format, args...), Fix: fix})
	}
	inv.examineProgram(add)
	inv.examineState(add)
	inv.examineSockets(add)
	inv.examineName(ctx, add)
	inv.examineContainers(add)
	return found
}

// addFinding notes one finding.
type addFinding func(check string, level slurm.Level, fix, format string, args ...any)

func (inv *invocation) examineProgram(add addFinding) {
	kind, shared, known := filesystemOf(inv.Self)
	switch {
	case shared:
		add("program", slurm.Fine, "", "%s is on %s", inv.Self, kind)
	case known:
		add("program", slurm.Notice, "for jobs on other machines put it on a filesystem that they share", "%s is on %s", inv.Self, kind)
	default:
		add("program", slurm.Notice, "for jobs on other machines it must be on a filesystem that they share, under this path", "%s is on %s", inv.Self, kind)
	}
}

// leastSpace is what the state of an installation may need with its logs.
const leastSpace = 1 << 30

func (inv *invocation) examineState(add addFinding) {
	dir := inv.set.get("stateDir")
	kind, shared, _ := filesystemOf(dir)
	if shared {
		add("state folder", slurm.Fine, "", "%s is on %s", dir, kind)
	} else {
		add("state folder", slurm.Notice, "for jobs on other machines choose one on a filesystem that they share: --state-dir or PENSTOCK_STATE_DIR",
			"%s is on %s", dir, kind)
	}
	if problem := privateFolder(dir); problem != "" {
		add("state folder", slurm.Problem, "choose another one with --state-dir, or correct it", "%s", problem)
	}
	var st unix.Statfs_t
	at := dir
	for unix.Statfs(at, &st) != nil && at != "/" {
		at = filepath.Dir(at)
	}
	free := st.Bavail * uint64(max(st.Bsize, 1))
	switch {
	case st.Blocks == 0:
		add("free space", slurm.Unknown, "", "%s does not tell", at)
	case free < leastSpace:
		add("free space", slurm.Problem, "make room, or choose another --state-dir", "%.1f GiB at %s", float64(free)/(1<<30), at)
	default:
		add("free space", slurm.Fine, "", "%.0f GiB at %s; your own quota may be less", float64(free)/(1<<30), at)
	}
	if st.Files > 0 && st.Ffree < 1000 {
		add("free files", slurm.Problem, "remove files, or choose another --state-dir", "%d at %s", st.Ffree, at)
	}
}

// privateFolder says what keeps a folder from being used; empty = nothing, or it is not there yet.
func privateFolder(dir string) string {
	info, err := os.Lstat(dir)
	if err != nil {
		if os.IsNotExist(err) {
			return ""
		}
		return err.Error()
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir():
		return dir + " is no folder"
	case ok && int(st.Uid) != os.Geteuid():
		return fmt.Sprintf("%s belongs to uid %d and not to you", dir, st.Uid)
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Sprintf("%s is open to others (mode %04o): chmod 700 %s", dir, info.Mode().Perm(), dir)
	}
	return ""
}

// Sockets' paths end at 107 bytes. Below the runtime folder stand a folder, a run's name and a socket's.
const (
	longestSocketPath = 107
	roomInRuntimeDir  = len("/agent/0123456789/") + 20
)

func (inv *invocation) examineSockets(add addFinding) {
	dir := inv.set.get("runtimeDir")
	if over := len(dir) + roomInRuntimeDir - longestSocketPath; over > 0 {
		add("runtime folder", slurm.Problem, "choose a shorter one with --runtime-dir or PENSTOCK_RUNTIME_DIR, such as /tmp/penstock-$USER",
			"%s is %d bytes too long for unix sockets", dir, over)
		return
	}
	if problem := privateFolder(dir); problem != "" {
		add("runtime folder", slurm.Problem, "choose another one with --runtime-dir or PENSTOCK_RUNTIME_DIR", "%s", problem)
		return
	}
	if kind, shared, _ := filesystemOf(dir); shared {
		add("runtime folder", slurm.Problem, "choose one of this machine's own, such as /tmp/penstock-$USER", "%s is on %s, where sockets and locks do not work", dir, kind)
		return
	}
	add("runtime folder", slurm.Fine, "", "%s", dir)
}

// examineName looks whether nodes can find this host by its name.
func (inv *invocation) examineName(ctx context.Context, add addFinding) {
	host, err := os.Hostname()
	if err != nil {
		add("host name", slurm.Unknown, "", "%v", err)
		return
	}
	name := orDefault(inv.set.get("controller.advertise"), host)
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupHost(ctx, name)
	if err != nil {
		add("host name", slurm.Notice, "name one that nodes can dial with --advertise; agents also try this host's addresses", "%s does not resolve here: %v", name, err)
		return
	}
	for _, a := range addresses {
		if ip := net.ParseIP(a); ip != nil && !ip.IsLoopback() {
			add("host name", slurm.Fine, "", "%s is %s; whether nodes can dial it, only a job can tell", name, strings.Join(addresses, ", "))
			return
		}
	}
	add("host name", slurm.Notice, "name one that nodes can dial with --advertise; agents also try this host's addresses", "%s is %s on this machine", name, strings.Join(addresses, ", "))
}

// containerPrograms are the runtimes that engines can run in.
var containerPrograms = []string{"apptainer", "singularity", "enroot", "podman"}

func (inv *invocation) examineContainers(add addFinding) {
	var have []string
	for _, name := range containerPrograms {
		for dir := range strings.SplitSeq(inv.Getenv("PATH"), ":") {
			if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil && filepath.IsAbs(path) {
				have = append(have, name)
				break
			}
		}
	}
	if len(have) == 0 {
		add("containers", slurm.Notice, "engines run without; compute nodes may have one that this host has not", "no apptainer, singularity, enroot or podman on the PATH")
		return
	}
	add("containers", slurm.Fine, "", "%s", strings.Join(have, ", "))
}
