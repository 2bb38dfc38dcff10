package testbed

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Machine is one node of a bed: the login node (0) or a compute node. Its process 1 holds its namespaces; when that
// process is killed, the kernel kills every other one on it.
type Machine struct {
	Name string
	Addr string // IPv4
	bed  *Bed
	n    int
	pid  int // of its process 1, as this machine counts; 0 = off
	cmd  *exec.Cmd
}

func newMachine(b *Bed, n int) *Machine {
	if n == 0 {
		return &Machine{Name: "login", Addr: "10.77.0.1", bed: b}
	}
	return &Machine{Name: fmt.Sprintf("node%d", n), Addr: fmt.Sprintf("10.77.0.%d", 10+n), bed: b, n: n}
}

// mark stands in the arguments of every process 1, before the bed's folder and the machine's name.
const mark = "penstock-bed"

// birth is the script of a process 1: what a machine has for itself is mounted, then it waits for ever, and reaps.
const birth = `
set -e
dir=$1 name=$2 root=$3
hostname "$name"
mount --make-rprivate /
if [ -n "$root" ]; then
  mount --rbind /dev "$root/dev"
  mount --rbind /sys "$root/sys"
  mkdir -p "$root$dir"
  mount --bind "$dir" "$root$dir"
fi
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=0755 run "$root/run"
for f in hosts passwd group shadow; do [ -e "$root/etc/$f" ] || touch "$root/etc/$f"; mount --bind "$dir/etc/$f" "$root/etc/$f"; done
mount --bind "$dir/machines/$name/tmp" "$root/tmp"
ip link set lo up
exec chroot "${root:-/}" bash -c 'cd /; echo up; exec >&-; while :; do sleep 86400 & wait $!; done' "$0" "$dir" "$name"
`

// PowerOn starts a machine that is off, with its network; a compute node starts its slurmd.
func (m *Machine) PowerOn(ctx context.Context) error {
	if m.pid != 0 {
		return fmt.Errorf("%s is on", m.Name)
	}
	if err := m.boot(ctx); err != nil {
		return fmt.Errorf("start %s: %w", m.Name, err)
	}
	if err := m.plugIn(ctx); err != nil {
		return fmt.Errorf("connect %s: %w", m.Name, err)
	}
	if m.n == 0 {
		return nil
	}
	return m.StartSlurmd(ctx)
}

func (m *Machine) boot(ctx context.Context) error {
	cmd := exec.Command("bash", "-c", birth, mark, m.bed.Dir, m.Name, m.bed.root)
	cmd.Env = []string{path}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWIPC,
		Setsid:     true,
	}
	if !m.bed.opts.Keep {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "up\n" {
		_ = cmd.Process.Kill()
		return errors.Join(errors.New("its process 1 did not come up"), cmd.Wait())
	}
	m.pid, m.cmd = cmd.Process.Pid, cmd
	return ctx.Err()
}

// PowerOff cuts the power: the link goes first, so that nobody hears of it, then every process dies at once.
func (m *Machine) PowerOff(ctx context.Context) error {
	if err := m.CutLink(ctx); err != nil {
		return err
	}
	m.kill()
	return nil
}

// kill ends every process of the machine and waits until they are gone.
func (m *Machine) kill() {
	if m.pid == 0 {
		return
	}
	_ = syscall.Kill(m.pid, syscall.SIGKILL)
	if m.cmd != nil {
		_ = m.cmd.Wait()
	}
	for m.cmd == nil && alive(m.pid) {
		time.Sleep(5 * time.Millisecond)
	}
	m.pid, m.cmd = 0, nil
}

// On says whether the machine runs.
func (m *Machine) On() bool { return m.pid != 0 }

// path is the search path of every command on a bed.
const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Command makes a command on the machine, in the user's home folder, with an environment of its own: HOME, USER, PATH,
// SLURM_CONF, and env. The process that is started is nsenter; the command itself is its child.
func (m *Machine) Command(ctx context.Context, u User, env []string, argv ...string) *exec.Cmd {
	args := []string{"-t", strconv.Itoa(m.pid), "-m", "-u", "-i", "-n", "-p", "-r"}
	if u.UID != 0 {
		args = append(args, "-S", strconv.Itoa(u.UID), "-G", strconv.Itoa(u.UID))
	}
	home := m.bed.Home(u)
	args = append(args, "--wdns="+home, "--")
	cmd := exec.CommandContext(ctx, "nsenter", append(args, argv...)...)
	cmd.Env = append([]string{path, "HOME=" + home, "USER=" + u.Name, "LOGNAME=" + u.Name, "LANG=C.UTF-8", m.bed.slurmConf()}, env...)
	return cmd
}

// Run runs a command on the machine and returns its trimmed output. The error holds what it said.
func (m *Machine) Run(ctx context.Context, u User, argv ...string) (string, error) {
	if m.pid == 0 {
		return "", fmt.Errorf("%s is off", m.Name)
	}
	return collect(m.Command(ctx, u, nil, argv...))
}

// Processes lists the processes of the machine by what /proc of this machine calls them, process 1 left out.
func (m *Machine) Processes() (pids []int) {
	ns := namespace(m.pid)
	if ns == "" {
		return nil
	}
	for _, pid := range allProcesses() {
		if pid != m.pid && namespace(pid) == ns {
			pids = append(pids, pid)
		}
	}
	return pids
}

// find looks for the machine's process 1.
func (m *Machine) find() {
	for _, pid := range allProcesses() {
		if dir, name := birthplace(pid); dir == m.bed.Dir && name == m.Name {
			m.pid = pid
			return
		}
	}
}

// birthplace reads the bed and the name of a machine from the arguments of its process 1; empty for other processes.
func birthplace(pid int) (dir, name string) {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	argv := strings.Split(strings.TrimRight(string(text), "\x00"), "\x00")
	if i := slices.Index(argv, mark); i == 3 && len(argv) > 5 {
		return argv[4], argv[5]
	}
	return "", ""
}

func namespace(pid int) string {
	ns, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	return ns
}

func allProcesses() (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// alive is false for zombies too, but not for a process whose first thread has ended and whose others go on.
func alive(pid int) bool {
	state, _ := stat(pid)
	threads, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	return state != "" && (state != "Z" || len(threads) > 1)
}

// startOf is when a process was started, in clock ticks since boot; "" = there is none.
func startOf(pid int) string {
	_, start := stat(pid)
	return start
}

func stat(pid int) (state, start string) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return "", ""
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 20 {
		return "", ""
	}
	return fields[0], fields[19]
}

// output runs a command on this machine, not in the bed.
func output(ctx context.Context, argv ...string) (string, error) {
	return collect(exec.CommandContext(ctx, argv[0], argv[1:]...))
}

func collect(cmd *exec.Cmd) (string, error) {
	var out, talk bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &talk
	cmd.WaitDelay = 5 * time.Second // a daemon may hold the pipes
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	text := strings.TrimSpace(out.String())
	if err != nil {
		return text, fmt.Errorf("%s: %w\n%s%s", strings.Join(cmd.Args, " "), err, out.String(), talk.String())
	}
	return text, nil
}
