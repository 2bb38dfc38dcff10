package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of the kernel's CPU times: USER_HZ is 100 wherever Go runs.
const tick = 10 * time.Millisecond

// cpuOf is the user and system time of a process, its children left out.
func cpuOf(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read the CPU time of process %d: %w", pid, err)
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("read the CPU time of process %d: %d fields", pid, len(fields))
	}
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * tick, nil
}

// memoryOf is the resident memory of a process, in MiB.
func memoryOf(pid int) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, fmt.Errorf("read the memory of process %d: %w", pid, err)
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0, fmt.Errorf("read the memory of process %d: %q", pid, text)
	}
	pages, err := strconv.Atoi(fields[1])
	return float64(pages*os.Getpagesize()) / (1 << 20), err
}

// usage is the CPU time that processes have used so far, by name.
type usage map[string]time.Duration

// usageOf sums the processes of each name up. One that has ended counts nothing.
func usageOf(pids map[string][]int) usage {
	u := usage{}
	for name, list := range pids {
		for _, pid := range list {
			if t, err := cpuOf(pid); err == nil {
				u[name] += t
			}
		}
	}
	return u
}

// cores is the share of a core that was used since before.
func (u usage) cores(before usage, name string, during time.Duration) float64 {
	return (u[name] - before[name]).Seconds() / during.Seconds()
}
