//go:build cgo && linux

package gpu

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/dl"
	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

const defaultLibrary = "libnvidia-ml.so.1"

// NVML asks the driver's own library. Open one at a time: go-nvml keeps its function table in package variables.
type NVML struct {
	lib    nvml.Interface
	can    abilities
	cards  []card
	events *events
	now    func() time.Time
}

var _ Sampler = (*NVML)(nil)

// card is a physical card: its handle and what was read of it at the start, which does not change.
type card struct {
	nvml.Device // nil where the library gave no handle
	index       int
	uuid, name  string
}

// OpenNVML loads the library, libnvidia-ml.so.1 of the system where libPath is empty, and finds the cards. The error is
// an ErrNoGPU where there is no library, no driver or no card; any other error means that there are cards that cannot
// be asked. Close it.
func OpenNVML(libPath string) (*NVML, error) {
	if libPath == "" {
		libPath = defaultLibrary
	}
	// go-nvml binds functions when they are first called, and a missing one ends the whole process. So the library is
	// looked through before go-nvml gets it.
	lib := dl.New(libPath, dl.RTLD_LAZY|dl.RTLD_LOCAL)
	if err := lib.Open(); err != nil {
		return nil, fmt.Errorf("open NVML: %w: %w", ErrNoGPU, err)
	}
	defer func() { _ = lib.Close() }() // go-nvml holds the library by itself
	can, err := abilitiesOf(lib.Lookup)
	if err != nil {
		return nil, fmt.Errorf("open NVML: %s: %w", libPath, err)
	}
	n, err := newNVML(nvml.New(nvml.WithLibraryPath(libPath)), can)
	if err != nil {
		return nil, fmt.Errorf("open NVML: %s: %w", libPath, err)
	}
	return n, nil
}

// newNVML initialises the library and finds the cards.
func newNVML(lib nvml.Interface, can abilities) (*NVML, error) {
	switch ret := lib.Init(); ret {
	case nvml.SUCCESS:
	case nvml.ERROR_LIBRARY_NOT_FOUND, nvml.ERROR_DRIVER_NOT_LOADED:
		return nil, fmt.Errorf("%w: %w", ErrNoGPU, ret)
	default:
		return nil, fmt.Errorf("initialise: %w", ret)
	}
	n := &NVML{lib: lib, can: can, now: time.Now}
	if err := n.findCards(); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	n.events = n.listen()
	return n, nil
}

func (n *NVML) findCards() error {
	count, ret := n.lib.DeviceGetCount()
	if ret != nvml.SUCCESS {
		return fmt.Errorf("count cards: %w", ret)
	}
	if count == 0 {
		return fmt.Errorf("the driver runs without a card: %w", ErrNoGPU)
	}
	for i := range count {
		c := card{index: i}
		if d, ret := n.lib.DeviceGetHandleByIndex(i); ret == nvml.SUCCESS {
			c.Device = d
			c.uuid = text(n.can[deviceUUID], d.GetUUID)
			c.name = text(n.can[deviceName], d.GetName)
		}
		n.cards = append(n.cards, c)
	}
	return nil
}

// Close gives the library back. The sampler is not used after it.
func (n *NVML) Close() error {
	n.events.close()
	if ret := n.lib.Shutdown(); ret != nvml.SUCCESS {
		return fmt.Errorf("close NVML: %w", ret)
	}
	return nil
}

// Sample asks every card. What a card does not tell is nil; an error means that the driver does not answer at all, for
// one because it was replaced since the library was loaded. The calls cannot be interrupted: ctx is looked at between
// cards.
func (n *NVML) Sample(ctx context.Context) (Sample, error) {
	n.events.poll()
	s := Sample{At: n.now(), Source: "nvml"}
	for _, c := range n.cards {
		if err := ctx.Err(); err != nil {
			return Sample{}, fmt.Errorf("sample GPUs: %w", err)
		}
		r := reader{can: n.can}
		s.GPUs = append(s.GPUs, n.read(&r, c)...)
		if r.broken != nvml.SUCCESS {
			return Sample{}, fmt.Errorf("sample GPUs: the driver does not answer: %w: restart the agent", r.broken)
		}
	}
	return s, nil
}

// read gives a card and the MIG instances on it.
func (n *NVML) read(r *reader, c card) []GPU {
	if c.Device == nil {
		return []GPU{{Index: c.index}}
	}
	g := r.gpu(c.Device)
	g.UUID, g.Name, g.Index, g.XIDs = c.uuid, c.name, c.index, n.events.of(c.index, wholeCard)
	gpus := []GPU{g}
	for _, d := range r.instances(c.Device) {
		instance := r.gpu(d)
		instance.UUID, instance.Name = text(n.can[deviceUUID], d.GetUUID), text(n.can[deviceName], d.GetName)
		instance.Index, instance.MIGParent = c.index, c.uuid
		instance.XIDs = n.events.of(c.index, r.instanceID(d))
		gpus = append(gpus, instance)
	}
	return gpus
}
