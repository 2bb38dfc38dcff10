//go:build !cgo || !linux

package gpu

import (
	"context"
	"fmt"
)

// NVML asks the driver's own library. This binary was built without cgo, which loading it needs.
type NVML struct{}

// OpenNVML gives an ErrNoGPU: this binary cannot load the library.
func OpenNVML(string) (*NVML, error) {
	return nil, fmt.Errorf("open NVML: %w: this binary was built without cgo", ErrNoGPU)
}

// Close does nothing.
func (*NVML) Close() error { return nil }

// Sample gives an ErrNoGPU.
func (*NVML) Sample(context.Context) (Sample, error) {
	return Sample{}, fmt.Errorf("sample GPUs: %w: this binary was built without cgo", ErrNoGPU)
}
