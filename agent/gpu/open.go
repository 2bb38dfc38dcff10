package gpu

import (
	"context"
	"errors"
	"fmt"
)

// Options say where to look for GPUs.
type Options struct {
	Library string // path of libnvidia-ml.so.1; default: the system's
	SMI     SMIOptions
}

// Open finds what can be asked about the GPUs of this node: NVML, else nvidia-smi. The samples name the source. Call
// close at the end. The error is an ErrNoGPU when there is nothing to ask, which is normal; any other error means that
// there seem to be GPUs that do not answer, and says why for each source.
func Open(ctx context.Context, opts Options) (sampler Sampler, close func() error, err error) {
	n, nvmlErr := OpenNVML(opts.Library)
	if nvmlErr == nil {
		return n, n.Close, nil
	}
	s, smiErr := NewSMI(opts.SMI)
	if smiErr == nil {
		_, smiErr = s.Sample(ctx)
	}
	if smiErr == nil {
		return s, func() error { return nil }, nil
	}
	return nil, nil, fmt.Errorf("open GPUs: %w", worse(nvmlErr, smiErr))
}

// worse leaves out what is normal when there is something that is not.
func worse(a, b error) error {
	switch {
	case errors.Is(a, ErrNoGPU) == errors.Is(b, ErrNoGPU):
		return errors.Join(a, b)
	case errors.Is(a, ErrNoGPU):
		return b
	}
	return a
}
