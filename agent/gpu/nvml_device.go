//go:build cgo && linux

package gpu

import (
	"math"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// reader reads one card with its instances.
type reader struct {
	can    abilities
	broken nvml.Return // says that not the card but the driver is the matter
}

// ask makes one call if the library has it, and converts what it gives. What is not told is nil.
func ask[T, V any](r *reader, a ability, call func() (T, nvml.Return), convert func(T) V) *V {
	if !r.can[a] {
		return nil
	}
	value, ret := call()
	if !r.ok(ret) {
		return nil
	}
	v := convert(value)
	return &v
}

// ok notes answers that mean that no card can be asked any more.
func (r *reader) ok(ret nvml.Return) bool {
	switch ret {
	case nvml.ERROR_UNINITIALIZED, nvml.ERROR_DRIVER_NOT_LOADED, nvml.ERROR_LIB_RM_VERSION_MISMATCH:
		r.broken = ret
	}
	return ret == nvml.SUCCESS
}

// gpu reads all that a card or an instance tells of itself, except for what names it.
func (r *reader) gpu(d nvml.Device) GPU {
	g := GPU{
		Utilization: ask(r, utilization, d.GetUtilizationRates, func(u nvml.Utilization) float64 { return min(1, float64(u.Gpu)/100) }),
		TemperatureC: ask(r, temperature, func() (uint32, nvml.Return) {
			return d.GetTemperature(nvml.TEMPERATURE_GPU)
		}, func(c uint32) float64 { return float64(c) }),
		PowerW:         ask(r, powerUsage, d.GetPowerUsage, watts),
		PowerLimitW:    ask(r, powerLimit, d.GetEnforcedPowerLimit, watts),
		SMClockMHz:     r.clock(d, nvml.CLOCK_SM),
		MemClockMHz:    r.clock(d, nvml.CLOCK_MEM),
		ECCCorrected:   r.ecc(d, nvml.MEMORY_ERROR_TYPE_CORRECTED),
		ECCUncorrected: r.ecc(d, nvml.MEMORY_ERROR_TYPE_UNCORRECTED),
		Processes:      r.processes(d),
	}
	g.MemoryTotal, g.MemoryUsed = r.memory(d)
	return g
}

func watts(milliwatts uint32) float64 { return float64(milliwatts) / 1000 }

func same[T any](v T) T { return v }

func (r *reader) clock(d nvml.Device, which nvml.ClockType) *uint32 {
	return ask(r, clocks, func() (uint32, nvml.Return) { return d.GetClockInfo(which) }, same)
}

func (r *reader) ecc(d nvml.Device, which nvml.MemoryErrorType) *uint64 {
	return ask(r, eccErrors, func() (uint64, nvml.Return) { return d.GetTotalEccErrors(which, nvml.VOLATILE_ECC) }, same)
}

// memory prefers the newer call: the older one counts what the driver keeps for itself as used.
func (r *reader) memory(d nvml.Device) (total, used *uint64) {
	if m := ask(r, memoryInfo2, d.GetMemoryInfo_v2, same); m != nil {
		return &m.Total, &m.Used
	}
	if m := ask(r, memoryInfo, d.GetMemoryInfo, same); m != nil {
		return &m.Total, &m.Used
	}
	return nil, nil
}

// processes gives each process once. One that computes on several instances of a card counts all its memory there; one
// that draws too is listed by the driver twice with the same memory.
func (r *reader) processes(d nvml.Device) []Process {
	computing := ask(r, computeProcesses, d.GetComputeRunningProcesses, same)
	drawing := ask(r, graphicsProcesses, d.GetGraphicsRunningProcesses, same)
	if computing == nil && drawing == nil {
		return nil
	}
	found := []Process{}
	if computing != nil {
		for _, info := range *computing {
			found = merge(found, processOf(info))
		}
	}
	if drawing != nil {
		for _, info := range *drawing {
			if p := processOf(info); !lists(found, p.PID) {
				found = append(found, p)
			}
		}
	}
	return found
}

// processOf reads a process, of which the driver may not know the memory.
func processOf(info nvml.ProcessInfo) Process {
	const notAvailable = math.MaxUint64
	p := Process{PID: int(info.Pid)}
	if info.UsedGpuMemory != notAvailable {
		p.Memory = &info.UsedGpuMemory
	}
	return p
}

// instances gives the MIG instances of a card, none where it has none or cannot tell.
func (r *reader) instances(d nvml.Device) []nvml.Device {
	mode := ask(r, migMode, func() (int, nvml.Return) {
		current, _, ret := d.GetMigMode()
		return current, ret
	}, same)
	if mode == nil || *mode != nvml.DEVICE_MIG_ENABLE || !r.can[migDevice] {
		return nil
	}
	count := ask(r, migCount, d.GetMaxMigDeviceCount, same)
	if count == nil {
		return nil
	}
	var found []nvml.Device
	for i := range *count {
		if instance, ret := d.GetMigDeviceHandleByIndex(i); r.ok(ret) { // places in between may be empty
			found = append(found, instance)
		}
	}
	return found
}

// instanceID is how events name the instance.
func (r *reader) instanceID(d nvml.Device) uint32 {
	if id := ask(r, migInstanceID, d.GetGpuInstanceId, same); id != nil {
		return uint32(*id)
	}
	return wholeCard
}

// text makes one call for a string, empty where it is not told.
func text(can bool, call func() (string, nvml.Return)) string {
	if !can {
		return ""
	}
	s, ret := call()
	if ret != nvml.SUCCESS {
		return ""
	}
	return s
}
