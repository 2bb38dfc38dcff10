//go:build cgo && linux

package gpu

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxa100"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/server"
	"github.com/google/go-cmp/cmp"
)

// everything is what a library of today can do.
func everything() abilities {
	can, _ := abilitiesOf(func(string) error { return nil })
	return can
}

// dgx is a mock of a host with eight cards that answer every question, and the events that wait in it.
func dgx() (*server.Server, *[]nvml.EventData) {
	host := dgxa100.New()
	for _, d := range host.Devices {
		answer(d.(*server.Device))
	}
	waiting := new([]nvml.EventData)
	host.EventSetCreateFunc = func() (nvml.EventSet, nvml.Return) {
		return &mock.EventSet{
			WaitFunc: func(uint32) (nvml.EventData, nvml.Return) {
				if len(*waiting) == 0 {
					return nvml.EventData{}, nvml.ERROR_TIMEOUT
				}
				e := (*waiting)[0]
				*waiting = (*waiting)[1:]
				return e, nvml.SUCCESS
			},
			FreeFunc: func() nvml.Return { return nvml.SUCCESS },
		}, nvml.SUCCESS
	}
	return host, waiting
}

// answer sets the functions that the mock of a device lacks.
func answer(d *server.Device) {
	d.GetMemoryInfo_v2Func = func() (nvml.Memory_v2, nvml.Return) {
		return nvml.Memory_v2{Total: 40 * gib, Used: gib}, nvml.SUCCESS
	}
	d.GetUtilizationRatesFunc = func() (nvml.Utilization, nvml.Return) { return nvml.Utilization{Gpu: 50}, nvml.SUCCESS }
	d.GetTemperatureFunc = func(nvml.TemperatureSensors) (uint32, nvml.Return) { return 33, nvml.SUCCESS }
	d.GetPowerUsageFunc = func() (uint32, nvml.Return) { return 123_400, nvml.SUCCESS }
	d.GetEnforcedPowerLimitFunc = func() (uint32, nvml.Return) { return 400_000, nvml.SUCCESS }
	d.GetClockInfoFunc = func(c nvml.ClockType) (uint32, nvml.Return) { return 1000 + uint32(c), nvml.SUCCESS }
	d.GetTotalEccErrorsFunc = func(e nvml.MemoryErrorType, _ nvml.EccCounterType) (uint64, nvml.Return) {
		return 10 + uint64(e), nvml.SUCCESS
	}
	none := func() ([]nvml.ProcessInfo, nvml.Return) { return nil, nvml.SUCCESS }
	d.GetComputeRunningProcessesFunc, d.GetGraphicsRunningProcessesFunc = none, none
	d.RegisterEventsFunc = func(uint64, nvml.EventSet) nvml.Return { return nvml.SUCCESS }
	d.GetMaxMigDeviceCountFunc = func() (int, nvml.Return) { return 2, nvml.SUCCESS }
}

func open(t *testing.T, lib nvml.Interface, can abilities) *NVML {
	t.Helper()
	n, err := newNVML(lib, can)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func device(s *server.Server, i int) *server.Device { return s.Devices[i].(*server.Device) }

func TestNVMLReadsEveryField(t *testing.T) {
	t.Parallel()
	host, _ := dgx()
	got := checkSampler(t, open(t, host, everything()))
	if len(got.GPUs) != 8 {
		t.Fatalf("%d cards, want 8", len(got.GPUs))
	}
	for i, g := range got.GPUs {
		want := GPU{
			UUID: device(host, i).UUID, Name: "Mock NVIDIA A100-SXM4-40GB", Index: i,
			MemoryTotal: of(40 * gib), MemoryUsed: of(gib), Utilization: of(0.5), TemperatureC: of(33.0),
			PowerW: of(123.4), PowerLimitW: of(400.0), SMClockMHz: of(uint32(1001)), MemClockMHz: of(uint32(1002)),
			ECCCorrected: of(uint64(10)), ECCUncorrected: of(uint64(11)), XIDs: []uint32{}, Processes: []Process{},
		}
		if diff := cmp.Diff(want, g); diff != "" {
			t.Error(diff)
		}
	}
}

func TestNVMLLeavesOutWhatACardDoesNotTell(t *testing.T) {
	t.Parallel()
	host, _ := dgx()
	device(host, 1).GetTemperatureFunc = func(nvml.TemperatureSensors) (uint32, nvml.Return) { return 0, nvml.ERROR_NOT_SUPPORTED }
	device(host, 1).GetComputeRunningProcessesFunc = func() ([]nvml.ProcessInfo, nvml.Return) { return nil, nvml.ERROR_NO_PERMISSION }
	device(host, 1).GetGraphicsRunningProcessesFunc = device(host, 1).GetComputeRunningProcessesFunc
	n := open(t, host, everything())
	lost := device(host, 2)
	lost.GetUtilizationRatesFunc = func() (nvml.Utilization, nvml.Return) { return nvml.Utilization{}, nvml.ERROR_GPU_IS_LOST }
	lost.GetNameFunc = func() (string, nvml.Return) { return "", nvml.ERROR_GPU_IS_LOST }
	got := checkSampler(t, n).GPUs
	if got[1].TemperatureC != nil || got[1].Processes != nil || *got[1].PowerW != 123.4 {
		t.Errorf("card 1: %+v", got[1])
	}
	if got[2].Utilization != nil || got[2].UUID != lost.UUID || got[2].Name == "" {
		t.Errorf("card 2: %+v", got[2])
	}
	if got[3].TemperatureC == nil {
		t.Error("card 3 lost a field because of another card")
	}
}

func TestNVMLListsACardThatWasLostBefore(t *testing.T) {
	t.Parallel()
	host, _ := dgx()
	all := host.DeviceGetHandleByIndexFunc
	host.DeviceGetHandleByIndexFunc = func(i int) (nvml.Device, nvml.Return) {
		if i == 1 {
			return nil, nvml.ERROR_GPU_IS_LOST
		}
		return all(i)
	}
	got := checkSampler(t, open(t, host, everything())).GPUs
	if len(got) != 8 {
		t.Fatalf("%d cards", len(got))
	}
	if diff := cmp.Diff(GPU{Index: 1}, got[1]); diff != "" {
		t.Error(diff)
	}
}

func TestNVMLMergesProcesses(t *testing.T) {
	t.Parallel()
	host, _ := dgx()
	device(host, 0).GetComputeRunningProcessesFunc = func() ([]nvml.ProcessInfo, nvml.Return) {
		return []nvml.ProcessInfo{
			{Pid: 1, UsedGpuMemory: 10, GpuInstanceId: 1},
			{Pid: 2, UsedGpuMemory: 20},
			{Pid: 1, UsedGpuMemory: 5, GpuInstanceId: 2},
			{Pid: 3, UsedGpuMemory: math.MaxUint64},
			{Pid: 3, UsedGpuMemory: 7},
		}, nvml.SUCCESS
	}
	device(host, 0).GetGraphicsRunningProcessesFunc = func() ([]nvml.ProcessInfo, nvml.Return) {
		return []nvml.ProcessInfo{{Pid: 2, UsedGpuMemory: 20}, {Pid: 4, UsedGpuMemory: 40}}, nvml.SUCCESS
	}
	got := checkSampler(t, open(t, host, everything())).GPUs[0].Processes
	want := []Process{{1, of(uint64(15))}, {2, of(uint64(20))}, {3, nil}, {4, of(uint64(40))}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestNVMLCollectsXIDs(t *testing.T) {
	t.Parallel()
	host, waiting := dgx()
	host.Devices = host.Devices[:3]
	device(host, 2).RegisterEventsFunc = func(uint64, nvml.EventSet) nvml.Return { return nvml.ERROR_NOT_SUPPORTED }
	n := open(t, host, everything())
	xid := func(card int, code uint64) nvml.EventData {
		return nvml.EventData{Device: host.Devices[card], EventType: nvml.EventTypeXidCriticalError, EventData: code, GpuInstanceId: wholeCard}
	}
	other := xid(0, 1)
	other.EventType = nvml.EventTypeClock
	unheard := xid(0, 2)
	unheard.Device = dgxa100.NewDevice(7)
	*waiting = []nvml.EventData{xid(0, 63), other, unheard, xid(0, 79), xid(0, 63)}
	if _, err := n.Sample(t.Context()); err != nil {
		t.Fatal(err)
	}
	*waiting = append(*waiting, xid(1, 48))
	got := checkSampler(t, n).GPUs
	for i, want := range [][]uint32{{63, 79}, {48}, nil} {
		if diff := cmp.Diff(want, got[i].XIDs); diff != "" {
			t.Errorf("card %d: %s", i, diff)
		}
	}
}

func TestNVMLTakesInManyEvents(t *testing.T) {
	t.Parallel()
	host, waiting := dgx()
	n := open(t, host, everything())
	for i := range pollMax + 10 {
		*waiting = append(*waiting, nvml.EventData{
			Device: host.Devices[0], EventType: nvml.EventTypeXidCriticalError, EventData: uint64(i), GpuInstanceId: wholeCard,
		})
	}
	for _, want := range []int{pollMax, pollMax + 10} {
		s, err := n.Sample(t.Context())
		if err != nil || len(s.GPUs[0].XIDs) != want {
			t.Errorf("%d XIDs, %v, want %d", len(s.GPUs[0].XIDs), err, want)
		}
	}
}

func TestNVMLListsInstances(t *testing.T) {
	t.Parallel()
	host, waiting := dgx()
	card := device(host, 0)
	card.MigMode = nvml.DEVICE_MIG_ENABLE
	instance := dgxa100.NewDevice(0)
	answer(instance)
	instance.UUID = "MIG-1"
	instance.GetGpuInstanceIdFunc = func() (int, nvml.Return) { return 5, nvml.SUCCESS }
	instance.GetUtilizationRatesFunc = func() (nvml.Utilization, nvml.Return) { return nvml.Utilization{}, nvml.ERROR_NOT_SUPPORTED }
	card.GetMigDeviceHandleByIndexFunc = func(i int) (nvml.Device, nvml.Return) {
		if i == 1 {
			return instance, nvml.SUCCESS
		}
		return nil, nvml.ERROR_NOT_FOUND
	}
	for _, e := range []struct {
		instance uint32
		code     uint64
	}{{5, 94}, {6, 95}, {wholeCard, 79}} {
		*waiting = append(*waiting, nvml.EventData{Device: card, EventType: nvml.EventTypeXidCriticalError, EventData: e.code, GpuInstanceId: e.instance})
	}
	got := checkSampler(t, open(t, host, everything())).GPUs
	if len(got) != 9 || got[1].UUID != "MIG-1" || got[1].MIGParent != card.UUID || got[1].Utilization != nil || *got[1].MemoryUsed != gib {
		t.Fatalf("%d cards and instances, the second %+v", len(got), got[1])
	}
	if diff := cmp.Diff([][]uint32{{94, 95, 79}, {94, 79}}, [][]uint32{got[0].XIDs, got[1].XIDs}); diff != "" {
		t.Error(diff)
	}
}

func TestNVMLSaysWhenTheDriverIsGone(t *testing.T) {
	t.Parallel()
	for _, ret := range []nvml.Return{nvml.ERROR_UNINITIALIZED, nvml.ERROR_DRIVER_NOT_LOADED, nvml.ERROR_LIB_RM_VERSION_MISMATCH} {
		host, _ := dgx()
		n := open(t, host, everything())
		device(host, 4).GetPowerUsageFunc = func() (uint32, nvml.Return) { return 0, ret }
		if _, err := n.Sample(t.Context()); !errors.Is(err, ret) || !strings.Contains(err.Error(), "does not answer") {
			t.Errorf("%d: %v", ret, err)
		}
	}
}

func TestNVMLCallsNothingThatTheLibraryLacks(t *testing.T) {
	t.Parallel()
	// The devices of this mock panic at each function that is not set.
	host := dgxa100.New()
	can, err := abilitiesOf(func(symbol string) error {
		for _, names := range append(required, symbols[deviceUUID], symbols[migMode]) {
			for _, name := range names {
				if symbol == name {
					return nil
				}
			}
		}
		return errors.New("not found")
	})
	if err != nil {
		t.Fatal(err)
	}
	got := checkSampler(t, open(t, host, can)).GPUs
	if diff := cmp.Diff(GPU{UUID: device(host, 3).UUID, Index: 3}, got[3]); diff != "" {
		t.Error(diff)
	}
}

func TestAbilitiesNeedWhatIsRequired(t *testing.T) {
	t.Parallel()
	for _, names := range required {
		_, err := abilitiesOf(func(symbol string) error {
			for _, name := range names {
				if symbol == name {
					return errors.New("not found")
				}
			}
			return nil
		})
		if err == nil || !strings.Contains(err.Error(), names[len(names)-1]) {
			t.Errorf("without %v: %v", names, err)
		}
	}
}

func TestNVMLWithoutEventsKnowsNoXIDs(t *testing.T) {
	t.Parallel()
	host, _ := dgx()
	host.EventSetCreateFunc = func() (nvml.EventSet, nvml.Return) { return nil, nvml.ERROR_NOT_SUPPORTED }
	if got := checkSampler(t, open(t, host, everything())).GPUs[0].XIDs; got != nil {
		t.Errorf("XIDs %v, want unknown", got)
	}
}

func TestNVMLClosesWhatItOpens(t *testing.T) {
	t.Parallel()
	host, _ := dgx()
	shut := 0
	host.ShutdownFunc = func() nvml.Return { shut++; return nvml.SUCCESS }
	host.DeviceGetCountFunc = func() (int, nvml.Return) { return 0, nvml.ERROR_UNKNOWN }
	if _, err := newNVML(host, everything()); !errors.Is(err, nvml.ERROR_UNKNOWN) || errors.Is(err, ErrNoGPU) || shut != 1 {
		t.Errorf("%v, shut down %d times", err, shut)
	}
	host.ShutdownFunc = func() nvml.Return { return nvml.ERROR_UNKNOWN }
	n := &NVML{lib: host}
	if err := n.Close(); !errors.Is(err, nvml.ERROR_UNKNOWN) {
		t.Errorf("close: %v", err)
	}
}

func TestNVMLStopsBetweenCards(t *testing.T) {
	t.Parallel()
	host, _ := dgx()
	n := open(t, host, everything())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	asked := 0
	for i := range host.Devices {
		device(host, i).GetPowerUsageFunc = func() (uint32, nvml.Return) { asked++; cancel(); return 0, nvml.SUCCESS }
	}
	if _, err := n.Sample(ctx); !errors.Is(err, context.Canceled) || asked != 1 {
		t.Errorf("%v after %d cards", err, asked)
	}
}
