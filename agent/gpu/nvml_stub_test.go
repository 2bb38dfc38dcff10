//go:build cgo && linux

package gpu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	envStub    = "GPU_TEST_NVML"
	exitNoGPU  = 3
	exitBroken = 4
)

// playStub is another process that opens a library, samples twice and prints the second sample. Each library gets a
// process of its own: go-nvml binds functions once for all, and a missing one would end the process.
func playStub(library string) int {
	n, err := OpenNVML(library)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		if errors.Is(err, ErrNoGPU) {
			return exitNoGPU
		}
		return exitBroken
	}
	var s Sample
	for range 2 {
		if s, err = n.Sample(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	if err := errors.Join(json.NewEncoder(os.Stdout).Encode(s), n.Close()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// stub compiles the stub library with switches.
func stub(t testing.TB, switches ...string) string {
	t.Helper()
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("needs gcc to compile the stub library")
	}
	library := filepath.Join(t.TempDir(), "libnvidia-ml.so.1")
	args := append([]string{"-shared", "-fPIC", "-O1", "-o", library, "testdata/nvmlstub/nvml.c"}, switches...)
	if out, err := exec.Command(gcc, args...).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	return library
}

// play lets another process sample a library.
func play(t *testing.T, library string) (s Sample, exit int, complaint string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envStub+"="+library)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		t.Fatal(err)
	}
	if err == nil {
		if err := json.Unmarshal(out, &s); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	return s, cmd.ProcessState.ExitCode(), stderr.String()
}

func TestNVMLThroughTheLibrary(t *testing.T) {
	t.Parallel()
	got, exit, complaint := play(t, stub(t))
	if exit != 0 {
		t.Fatalf("exit %d: %s", exit, complaint)
	}
	checkSample(t, got)
	card := func(i int) GPU { return GPU{UUID: fmt.Sprintf("GPU-%08d", i), Name: "Stub, 80GB", Index: i} }
	healthy := card(0)
	healthy.MemoryTotal, healthy.MemoryUsed = of(80*gib), of(0*gib)
	healthy.Utilization, healthy.TemperatureC = of(0.25), of(40.0)
	healthy.PowerW, healthy.PowerLimitW = of(300.5), of(700.0)
	healthy.SMClockMHz, healthy.MemClockMHz = of(uint32(1980)), of(uint32(2619))
	healthy.ECCCorrected, healthy.ECCUncorrected = of(uint64(7)), of(uint64(0))
	healthy.XIDs = []uint32{}
	healthy.Processes = []Process{{PID: 4242, Memory: of(gib)}, {PID: 4243}, {PID: 4300, Memory: of(gib / 2)}}

	split := card(1)
	split.MemoryTotal, split.MemoryUsed, split.TemperatureC = of(80*gib), of(gib), of(41.0)
	split.PowerW, split.PowerLimitW = of(301.5), of(700.0)
	split.SMClockMHz, split.MemClockMHz = of(uint32(1980)), of(uint32(2619))
	split.ECCCorrected, split.ECCUncorrected = of(uint64(7)), of(uint64(1))
	split.XIDs, split.Processes = []uint32{94}, []Process{}
	instance := func(i int, xids []uint32, processes ...Process) GPU {
		return GPU{
			UUID: fmt.Sprintf("MIG-00000001-%d", i), Name: "Stub MIG", Index: 1, MIGParent: split.UUID,
			MemoryTotal: of(80 * gib), MemoryUsed: of(gib), XIDs: xids, Processes: append([]Process{}, processes...),
		}
	}

	blind := card(2)
	blind.MemoryTotal, blind.MemoryUsed, blind.Utilization = of(80*gib), of(2*gib), of(0.25)
	blind.Processes = []Process{}

	lost := card(3)
	lost.XIDs = []uint32{79}

	want := []GPU{healthy, split, instance(1, []uint32{}), instance(2, []uint32{94}, Process{PID: 4244, Memory: of(2 * gib)}), blind, lost}
	if diff := cmp.Diff(want, got.GPUs); diff != "" {
		t.Error(diff)
	}
	if got.Source != "nvml" || time.Since(got.At) > time.Hour {
		t.Errorf("source %q at %v", got.Source, got.At)
	}
}

func TestNVMLOfAnOldLibrary(t *testing.T) {
	t.Parallel()
	got, exit, complaint := play(t, stub(t, "-DLACKS", "-DPLAIN", "-DCARDS=1"))
	if exit != 0 {
		t.Fatalf("a function that the library lacks was called: exit %d: %s", exit, complaint)
	}
	want := []GPU{{
		UUID: "GPU-00000000", Name: "Stub, 80GB",
		MemoryTotal: of(80 * gib), MemoryUsed: of(gib), Utilization: of(0.25), TemperatureC: of(40.0),
		SMClockMHz: of(uint32(1980)), MemClockMHz: of(uint32(2619)),
		Processes: []Process{{PID: 4242, Memory: of(gib)}},
	}}
	if diff := cmp.Diff(want, got.GPUs); diff != "" {
		t.Error(diff)
	}
}

func TestOpenNVMLSaysWhyItCannot(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		library func(t *testing.T) string
		exit    int
		want    string
	}{
		"no library":      {func(t *testing.T) string { return filepath.Join(t.TempDir(), "none.so") }, exitNoGPU, "cannot open shared object file"},
		"no NVML":         {func(t *testing.T) string { return stub(t, "-DNOT_NVML") }, exitBroken, "not a usable NVML library: it has no nvmlInit"},
		"no driver":       {func(t *testing.T) string { return stub(t, "-DINIT=9") }, exitNoGPU, "stub error 9"},
		"no card":         {func(t *testing.T) string { return stub(t, "-DCARDS=0", "-DPLAIN") }, exitNoGPU, "without a card"},
		"driver replaced": {func(t *testing.T) string { return stub(t, "-DINIT=18") }, exitBroken, "initialise: stub error 18"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, exit, complaint := play(t, test.library(t))
			if exit != test.exit || !strings.Contains(complaint, test.want) {
				t.Errorf("exit %d: %s, want %d with %q", exit, complaint, test.exit, test.want)
			}
		})
	}
}

func TestOpenTakesTheLibraryFirst(t *testing.T) {
	library := stub(t, "-DPLAIN", "-DCARDS=8")
	sampler, closeGPUs, err := Open(t.Context(), Options{Library: library, SMI: SMIOptions{Program: "/none"}})
	if err != nil {
		t.Fatal(err)
	}
	if s := checkSampler(t, sampler); s.Source != "nvml" || len(s.GPUs) != 8 {
		t.Errorf("%d cards from %s", len(s.GPUs), s.Source)
	}
	if err := closeGPUs(); err != nil {
		t.Error(err)
	}
}

// The cost of one sample of a node of eight cards, without what the driver takes.
func BenchmarkNVML8(b *testing.B) {
	n, err := OpenNVML(stub(b, "-DPLAIN", "-DCARDS=8"))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if s, err := n.Sample(b.Context()); err != nil || len(s.GPUs) != 8 {
			b.Fatal(len(s.GPUs), err)
		}
	}
	b.StopTimer()
	if err := n.Close(); err != nil {
		b.Error(err)
	}
}
