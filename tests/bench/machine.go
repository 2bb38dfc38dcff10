package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// machine says where and with what the figures were taken.
func machine(r *report, o *options) {
	r.note("%s, %d cores, %s, %s, Linux %s", processor(), runtime.NumCPU(), memory(), runtime.Version(), kernel())
	r.note("commit %s, %s", commit(), time.Now().UTC().Format("2006-01-02 15:04 UTC"))
	r.note("command: %s", strings.Join(append([]string{"go run ./tests/bench"}, os.Args[1:]...), " "))
	if o.profile != "" {
		r.note("profiles go to %s; these figures are not worth recording", o.profile)
	}
}

func processor() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.SplitSeq(string(text), "\n") {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func memory() string {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return "memory unknown"
	}
	return fmt.Sprintf("%.0f GiB", float64(info.Totalram)*float64(info.Unit)/(1<<30))
}

func kernel() string {
	text, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(text))
}

func commit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// neighbours says how busy the machine is before anything of ours runs.
func neighbours(r *report, part string) {
	busy, begin := busyTime(), time.Now()
	time.Sleep(time.Second)
	load, _ := os.ReadFile("/proc/loadavg")
	r.note("%s: before it, others keep %.1f of %d cores busy (load %s)", part,
		(busyTime()-busy).Seconds()/time.Since(begin).Seconds(), runtime.NumCPU(), strings.Fields(string(load) + " ?")[0])
}

// busyTime is the CPU time of all processes since the machine's start.
func busyTime() (busy time.Duration) {
	text, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(text), "\n")
	for i, f := range strings.Fields(line) {
		n, err := strconv.Atoi(f)
		if err != nil || i == 4 || i == 5 || i > 7 {
			continue // the name, what is idle, and what is counted elsewhere: time that others took of a virtual machine, guests
		}
		busy += time.Duration(n) * tick
	}
	return busy
}

// takePriority begins this program anew with the lowest real-time priority, which all that it starts inherits: on a machine
// that others use, what is measured runs before their work. It returns only when that is so already, or cannot be.
func takePriority(self string) error {
	attr, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		return fmt.Errorf("read the scheduling policy: %w", err)
	}
	if attr.Policy == unix.SCHED_RR {
		return nil
	}
	runtime.LockOSThread() // the policy is this thread's, and stays over exec
	defer runtime.UnlockOSThread()
	attr = &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: 1}
	if err := unix.SchedSetAttr(0, attr, 0); err != nil {
		return fmt.Errorf("take real-time priority, which only root may: %w", err)
	}
	return syscall.Exec(self, os.Args, os.Environ())
}
