// Package gpu reads the state of the GPUs of one node through one small interface, Sampler: NVML through go-nvml where
// cgo and the library are there, the nvidia-smi program else, a recording in tests. It decides nothing and knows neither
// engines nor clusters.
package gpu

import (
	"context"
	"errors"
	"time"
)

// ErrNoGPU means that this node has no GPU that can be asked: no library, no driver, no program. It is normal.
var ErrNoGPU = errors.New("no GPU found")

// Sampler reads all GPUs of the node once. Implementations are safe for use by one goroutine at a time.
type Sampler interface {
	Sample(ctx context.Context) (Sample, error)
}

// Sample is the state of all cards at one time. What a card does not tell is nil: unknown, never zero.
type Sample struct {
	At     time.Time
	Source string // nvml, nvidia-smi, replay
	GPUs   []GPU
}

// GPU is one card, or one MIG instance of a card. A card that has fallen off the bus is still listed, with what is
// known of it from before.
type GPU struct {
	UUID           string // empty where the card has never told it
	Name           string
	Index          int      // valid on this node now; never leaves it as an identity; an instance has its card's
	MIGParent      string   // UUID of the card of an instance
	MemoryTotal    *uint64  // bytes
	MemoryUsed     *uint64  // bytes
	Utilization    *float64 // 0..1
	TemperatureC   *float64
	PowerW         *float64
	PowerLimitW    *float64
	SMClockMHz     *uint32
	MemClockMHz    *uint32
	ECCCorrected   *uint64 // volatile, since the driver was loaded
	ECCUncorrected *uint64
	XIDs           []uint32  // each once, seen since the sampler was opened; nil: cannot be told, empty: none
	Processes      []Process // nil: cannot be told, empty: none
}

// Process is one process with memory on a card.
type Process struct {
	PID    int
	Memory *uint64 // bytes
}
