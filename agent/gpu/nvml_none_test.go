//go:build !cgo || !linux

package gpu

import (
	"errors"
	"testing"
)

const envStub = "GPU_TEST_NVML"

func playStub(string) int { return 1 }

func TestWithoutCgoThereIsNoNVML(t *testing.T) {
	t.Parallel()
	if _, err := OpenNVML(""); !errors.Is(err, ErrNoGPU) {
		t.Errorf("open: %v", err)
	}
	if _, err := new(NVML).Sample(t.Context()); !errors.Is(err, ErrNoGPU) {
		t.Errorf("sample: %v", err)
	}
	if err := new(NVML).Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}
