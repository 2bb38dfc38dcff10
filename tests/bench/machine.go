package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
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
	busy, idle := ticks()
	time.Sleep(time.Second)
	busy2, idle2 := ticks()
	total := busy2 - busy + idle2 - idle
	if total == 0 {
		return
	}
	load, _ := os.ReadFile("/proc/loadavg")
	fields := strings.Fields(string(load) + " ?")
	r.note("%s: before it, others keep %.1f of %d cores busy (load %s)", part,
		float64(busy2-busy)/float64(total)*float64(runtime.NumCPU()), runtime.NumCPU(), fields[0])
}

// ticks are the machine's busy and idle time since its start.
func ticks() (busy, idle int) {
	text, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(text), "\n")
	for i, f := range strings.Fields(line) {
		n, err := strconv.Atoi(f)
		switch {
		case err != nil || i > 8: // the name; guests are counted in user time
		case i == 4 || i == 5:
			idle += n
		default:
			busy += n
		}
	}
	return busy, idle
}

// prefer gives processes the machine before those of other sessions, as far as the kernel has groups for sessions
// (autogroup) and this user may: else they run as everything else does.
func prefer(pids ...int) {
	for _, pid := range pids {
		_ = os.WriteFile(fmt.Sprintf("/proc/%d/autogroup", pid), []byte("-19"), 0)
	}
}
