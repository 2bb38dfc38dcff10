package gpu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// program writes a shell script that plays nvidia-smi.
func program(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "nvidia-smi")
	syscall.ForkLock.RLock() // a child forked meanwhile would hold the file open for writing: "text file busy"
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// answers is a script with an answer to each of the three questions.
func answers(cards, apps, list string) string {
	return fmt.Sprintf("case $1 in\n--query-gpu=*) cat <<'E'\n%sE\n;; --query-compute-apps=*) cat <<'E'\n%sE\n;; -L) cat <<'E'\n%sE\n;; *) exit 2;; esac\n", cards, apps, list)
}

const (
	smiCards = `GPU-a, 0, 81559, 1024, 37, 41, 123.45, 700.00, 1980, 2619, 3, 0, Disabled, NVIDIA H100 80GB HBM3
GPU-b, 1, 40960, 512, [N/A], 35, 60.10, 400.00, 1410, 1215, 0, 0, Enabled, NVIDIA A100-SXM4-40GB
GPU-c, 2, [N/A], [Not Supported], 5, ERR!, [Unknown Error], [N/A], [N/A], [N/A], [N/A], [N/A], [N/A], Tesla T4, special
`
	smiApps = `GPU-a, 4242, 512
GPU-a, 4243, [N/A]
GPU-c, 4300, 1
GPU-c, 4300, 2
`
	smiList = `GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-a)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-b)
  MIG 3g.20gb     Device  0: (UUID: MIG-1)
  MIG 1g.5gb      Device  1: (UUID: MIG-2)
GPU 2: Tesla T4, special (UUID: GPU-c)
`
)

func newSMI(t *testing.T, script string, timeout time.Duration) *SMI {
	t.Helper()
	s, err := NewSMI(SMIOptions{Program: program(t, script), Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSMI(t *testing.T) {
	t.Parallel()
	got := checkSampler(t, newSMI(t, answers(smiCards, smiApps, smiList), time.Minute))
	const mib = 1 << 20
	want := []GPU{
		{
			UUID: "GPU-a", Name: "NVIDIA H100 80GB HBM3", MemoryTotal: of(uint64(81559 * mib)), MemoryUsed: of(gib),
			Utilization: of(0.37), TemperatureC: of(41.0), PowerW: of(123.45), PowerLimitW: of(700.0),
			SMClockMHz: of(uint32(1980)), MemClockMHz: of(uint32(2619)), ECCCorrected: of(uint64(3)), ECCUncorrected: of(uint64(0)),
			Processes: []Process{{4242, of(uint64(512 * mib))}, {4243, nil}},
		},
		{
			UUID: "GPU-b", Name: "NVIDIA A100-SXM4-40GB", Index: 1, MemoryTotal: of(uint64(40960 * mib)), MemoryUsed: of(uint64(512 * mib)),
			TemperatureC: of(35.0), PowerW: of(60.1), PowerLimitW: of(400.0), SMClockMHz: of(uint32(1410)), MemClockMHz: of(uint32(1215)),
			ECCCorrected: of(uint64(0)), ECCUncorrected: of(uint64(0)),
		},
		{UUID: "MIG-1", Name: "NVIDIA A100-SXM4-40GB MIG 3g.20gb", Index: 1, MIGParent: "GPU-b"},
		{UUID: "MIG-2", Name: "NVIDIA A100-SXM4-40GB MIG 1g.5gb", Index: 1, MIGParent: "GPU-b"},
		{UUID: "GPU-c", Name: "Tesla T4, special", Index: 2, Utilization: of(0.05), Processes: []Process{{4300, of(uint64(3 * mib))}}},
	}
	if diff := cmp.Diff(want, got.GPUs); diff != "" {
		t.Error(diff)
	}
}

func TestSMIWithoutProcessesSaysNone(t *testing.T) {
	t.Parallel()
	got := checkSampler(t, newSMI(t, answers(strings.SplitAfter(smiCards, "\n")[0], "", "exit 1\n"), time.Minute))
	if len(got.GPUs) != 1 || got.GPUs[0].Processes == nil || len(got.GPUs[0].Processes) != 0 {
		t.Errorf("got %+v", got.GPUs)
	}
}

func TestSMISaysWhyItCannot(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		script string
		want   string
		noGPU  bool
	}{
		"no driver":      {"echo 'NVIDIA-SMI has failed because it could not communicate'; echo more; exit 9", "exit 9: NVIDIA-SMI has failed because it could not communicate", true},
		"no card":        {"echo No devices were found; exit 6", "exit 6: No devices were found", true},
		"lost card":      {"echo 'GPU is lost.'; exit 15", "exit 15: GPU is lost.", false},
		"says on stderr": {"echo oops >&2; exit 255", "exit 255: oops", false},
		"says nothing":   {"exit 1", "it says nothing", false},
		"killed":         {"kill -KILL $$", "exit -1", false},
		"too few fields": {answers("GPU-a, 0\n", "", ""), `line "GPU-a, 0" has 2 fields, want 14`, false},
		"no index":       {answers(strings.Replace(smiCards, "GPU-a, 0", "GPU-a, x", 1), "", ""), `no UUID and index: "GPU-a", "x"`, false},
		"bad process":    {answers(smiCards, "GPU-a, -1, 5\n", ""), `process ID "-1"`, false},
		"endless":        {"cat /dev/zero | head -c 5000000", "more than 4194304 bytes", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := newSMI(t, test.script, time.Minute).Sample(t.Context())
			if err == nil || !strings.Contains(err.Error(), test.want) || errors.Is(err, ErrNoGPU) != test.noGPU {
				t.Errorf("got %v, want %q, no GPU: %v", err, test.want, test.noGPU)
			}
		})
	}
}

func TestNewSMIWithoutAProgram(t *testing.T) {
	t.Parallel()
	if _, err := NewSMI(SMIOptions{Program: filepath.Join(t.TempDir(), "none")}); !errors.Is(err, ErrNoGPU) {
		t.Error(err)
	}
	s := newSMI(t, "exit 0", time.Minute)
	if err := os.Remove(s.program); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Sample(t.Context()); !errors.Is(err, ErrNoGPU) {
		t.Errorf("program that went away: %v", err)
	}
}

func TestSMIThatHangsIsKilledWithItsChildren(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newSMI(t, `sh -c 'echo $$ >`+dir+`/pid.new; mv `+dir+`/pid.new `+dir+`/pid; while :; do sleep 0.1; done' & wait`, time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() {
		_, err := s.Sample(ctx)
		failed <- err
	}()
	var child int
	for end := time.Now().Add(30 * time.Second); child == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the script has not started its child")
		}
		b, _ := os.ReadFile(dir + "/pid")
		child, _ = strconv.Atoi(strings.TrimSpace(string(b)))
	}
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child))
		if err != nil || bytes.Contains(stat, []byte(") Z ")) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("process %d lives on", child)
		}
	}
}

func TestSMITimeout(t *testing.T) {
	t.Parallel()
	_, err := newSMI(t, "while :; do sleep 0.1; done", 50*time.Millisecond).Sample(t.Context())
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no answer") {
		t.Error(err)
	}
}

func FuzzParseCards(f *testing.F) {
	f.Add([]byte(smiCards))
	f.Add([]byte("GPU-a, 0, NaN, 1e9, inf, -5, 0x1p9, , , , , , Enabled, \xff\n"))
	f.Fuzz(func(t *testing.T, out []byte) {
		cards, mig, err := parseCards(out)
		if err != nil {
			return
		}
		for uuid := range mig {
			if uuid == "" {
				t.Error("instances of no card")
			}
		}
		for _, g := range cards {
			if g.UUID == "" || g.Utilization != nil && (*g.Utilization < 0 || *g.Utilization > 1) {
				t.Errorf("%+v", g)
			}
			marshal(t, Sample{GPUs: []GPU{g}}) // NaN and Inf cannot be written
		}
	})
}

func FuzzParseApps(f *testing.F) {
	f.Add([]byte(smiApps))
	f.Fuzz(func(t *testing.T, out []byte) {
		apps, err := parseApps(out)
		if err != nil {
			return
		}
		for uuid, processes := range apps {
			checkSample(t, Sample{GPUs: []GPU{{UUID: uuid, Processes: processes}}})
		}
	})
}

func FuzzParseList(f *testing.F) {
	f.Add([]byte(smiList))
	f.Fuzz(func(t *testing.T, out []byte) {
		for _, g := range parseList(out) {
			if !strings.HasPrefix(g.UUID, "MIG-") || !strings.HasPrefix(g.MIGParent, "GPU-") {
				t.Errorf("%+v", g)
			}
		}
	})
}
