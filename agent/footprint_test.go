package agent

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// BenchmarkFootprint measures what an agent of its own costs that samples 8 GPUs and an idle simulated engine once a
// second: share of one core in per cent, and resident memory. It takes half a minute.
func BenchmarkFootprint(b *testing.B) {
	c := startController(b, testCA(b), simYAML)
	cmd := startChild(b, writeJoin(b, c, newLaunch()))
	eventually(b, "the agent serves", func() bool { return c.phase(0) == started })
	for b.Loop() {
		before, at := cpuOf(b, cmd.Process.Pid), time.Now()
		time.Sleep(20 * time.Second)
		used := cpuOf(b, cmd.Process.Pid) - before
		b.ReportMetric(100*used.Seconds()/time.Since(at).Seconds(), "%core")
		b.ReportMetric(float64(rssOf(b, cmd.Process.Pid))/(1<<20), "MiB")
	}
	if n := len(c.state(0).GetGpus().GetGpus()); n != 8 {
		b.Fatalf("%d GPUs are reported", n)
	}
}

// cpuOf is the user and system time of a process, its children left out.
func cpuOf(b *testing.B, pid int) time.Duration {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+2:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

func rssOf(b *testing.B, pid int) int {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		b.Fatal(err)
	}
	pages, _ := strconv.Atoi(strings.Fields(string(text))[1])
	return pages * os.Getpagesize()
}
