//go:build cgo && linux

package gpu

import "fmt"

// ability is one thing that a version of the library may have or lack.
type ability int

const (
	deviceUUID ability = iota
	deviceName
	memoryInfo
	memoryInfo2
	utilization
	temperature
	powerUsage
	powerLimit
	clocks
	eccErrors
	migMode
	migCount
	migDevice
	migInstanceID
	computeProcesses
	graphicsProcesses
	eventCreate
	eventRegister
	eventWait
	eventFree
	lastAbility
)

// abilities tells which functions may be called.
type abilities [lastAbility]bool

// symbols names the function behind each ability; where several versions are named go-nvml takes the newest it finds,
// and one is enough.
var symbols = [lastAbility][]string{
	deviceUUID:        {"nvmlDeviceGetUUID"},
	deviceName:        {"nvmlDeviceGetName"},
	memoryInfo:        {"nvmlDeviceGetMemoryInfo"},
	memoryInfo2:       {"nvmlDeviceGetMemoryInfo_v2"},
	utilization:       {"nvmlDeviceGetUtilizationRates"},
	temperature:       {"nvmlDeviceGetTemperature"},
	powerUsage:        {"nvmlDeviceGetPowerUsage"},
	powerLimit:        {"nvmlDeviceGetEnforcedPowerLimit"},
	clocks:            {"nvmlDeviceGetClockInfo"},
	eccErrors:         {"nvmlDeviceGetTotalEccErrors"},
	migMode:           {"nvmlDeviceGetMigMode"},
	migCount:          {"nvmlDeviceGetMaxMigDeviceCount"},
	migDevice:         {"nvmlDeviceGetMigDeviceHandleByIndex"},
	migInstanceID:     {"nvmlDeviceGetGpuInstanceId"},
	computeProcesses:  {"nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2", "nvmlDeviceGetComputeRunningProcesses"},
	graphicsProcesses: {"nvmlDeviceGetGraphicsRunningProcesses_v3", "nvmlDeviceGetGraphicsRunningProcesses_v2", "nvmlDeviceGetGraphicsRunningProcesses"},
	eventCreate:       {"nvmlEventSetCreate"},
	eventRegister:     {"nvmlDeviceRegisterEvents"},
	eventWait:         {"nvmlEventSetWait_v2"}, // the first version names no instance
	eventFree:         {"nvmlEventSetFree"},
}

// required are the functions without which nothing works.
var required = [][]string{
	{"nvmlInit_v2", "nvmlInit"},
	{"nvmlShutdown"},
	{"nvmlErrorString"},
	{"nvmlDeviceGetCount_v2", "nvmlDeviceGetCount"},
	{"nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetHandleByIndex"},
}

// abilitiesOf looks a library through. It is an error when it is no NVML.
func abilitiesOf(lookup func(symbol string) error) (abilities, error) {
	has := func(names []string) bool {
		for _, name := range names {
			if lookup(name) == nil {
				return true
			}
		}
		return false
	}
	for _, names := range required {
		if !has(names) {
			return abilities{}, fmt.Errorf("not a usable NVML library: it has no %s", names[len(names)-1])
		}
	}
	var can abilities
	for a, names := range symbols {
		can[a] = has(names)
	}
	return can, nil
}
