package attack

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

type processArgs struct {
	PIDs     []int
	Harmless bool // for the control
}

// attackProcesses goes for the memory, the environment, the open files and the life of each process of the victim's.
func attackProcesses(t *testing.T, s *siege) {
	pids := s.processes(t)
	if len(pids) < 8 { // controller, gateway, and for each replica a shim, an agent and an engine
		t.Fatalf("only %d processes to attack", len(pids))
	}
	s.fails(t, "processes", processArgs{PIDs: pids}, denied...)
	s.works(t, "processes", processArgs{PIDs: pids, Harmless: true})
	if now := s.processes(t); len(now) != len(pids) {
		t.Errorf("HOLE: of %d processes %d are left", len(pids), len(now))
	}
}

func init() { tricks["processes"] = tryProcesses }

func tryProcesses(in []byte, n *notes) error {
	var args processArgs
	if err := json.Unmarshal(in, &args); err != nil {
		return err
	}
	for _, pid := range args.PIDs {
		target := fmt.Sprint(pid)
		dir := filepath.Join("/proc", target)
		_, err := os.ReadFile(filepath.Join(dir, "environ"))
		n.try("read the environment of a process", target, err)
		_, err = os.ReadDir(filepath.Join(dir, "fd"))
		n.try("list the open files of a process", target, err)
		n.try("ask whether a process may be signalled", target, syscall.Kill(pid, 0))
		if !args.Harmless {
			robProcess(pid, dir, n)
			harmProcess(pid, n)
		}
	}
	return nil
}

// robProcess tries to read what a process has.
func robProcess(pid int, dir string, n *notes) {
	target := fmt.Sprint(pid)
	for _, name := range []string{"mem", "maps", "io", "auxv", "syscall", "fd/0", "fd/3", "fd/5", "map_files"} {
		f, err := os.Open(filepath.Join(dir, name))
		if err == nil {
			_, err = f.Read(make([]byte, 1))
			_ = f.Close()
		}
		n.try("open "+name+" of a process", target, err)
	}
	for _, name := range []string{"exe", "cwd", "root"} {
		_, err := os.Readlink(filepath.Join(dir, name))
		n.try("follow "+name+" of a process", target, err)
	}
	b := make([]byte, 8)
	_, err := unix.ProcessVMReadv(pid, []unix.Iovec{{Base: &b[0], Len: 8}}, []unix.RemoteIovec{{Base: 0x400000, Len: 8}}, 0)
	n.try("read the memory of a process", target, err)
	n.try("take a file out of a process", target, takeFile(pid))
}

func takeFile(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	got, err := unix.PidfdGetfd(fd, 3, 0)
	if err == nil {
		_ = unix.Close(got)
	}
	return err
}

// harmProcess tries to stop, bend or kill a process.
func harmProcess(pid int, n *notes) {
	target := fmt.Sprint(pid)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	n.try("trace a process", target, unix.PtraceSeize(pid))
	limit := unix.Rlimit{Cur: 3, Max: 3}
	n.try("lower the limits of a process", target, unix.Prlimit(pid, unix.RLIMIT_NOFILE, &limit, nil))
	n.try("lower the priority of a process", target, unix.Setpriority(unix.PRIO_PROCESS, pid, 19))
	var set unix.CPUSet
	set.Set(0)
	n.try("bind a process to a processor", target, unix.SchedSetaffinity(pid, &set))
	n.try("say out of memory falls on it first", target, os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte("1000"), 0))
	for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGSTOP, syscall.SIGUSR1, syscall.SIGTERM, syscall.SIGKILL} {
		n.try("send "+sig.String(), target, syscall.Kill(pid, sig))
	}
	if fd, err := unix.PidfdOpen(pid, 0); err == nil {
		n.try("send killed by pidfd", target, unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0))
		_ = unix.Close(fd)
	}
	n.try("queue a signal", target, queueSignal(pid))
}

// queueSignal is sigqueue(3).
func queueSignal(pid int) error {
	info := [128]byte{}
	*(*int32)(unsafe.Pointer(&info[0])) = int32(unix.SIGTERM)
	*(*int32)(unsafe.Pointer(&info[8])) = -1 // SI_QUEUE
	_, _, errno := unix.Syscall(unix.SYS_RT_SIGQUEUEINFO, uintptr(pid), uintptr(unix.SIGTERM), uintptr(unsafe.Pointer(&info[0])))
	if errno != 0 {
		return errno
	}
	return nil
}
