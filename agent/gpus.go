package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/penstock/penstock/agent/gpu"
	"github.com/penstock/penstock/agent/process"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// smiInterval is how often nvidia-smi is asked, which is a program to start each time.
const smiInterval = 10 * time.Second

// cards are the GPUs of this rank: what they are, what they do, and who else is on them. One goroutine looks; the rest may
// be called from others.
type cards struct {
	sampler gpu.Sampler // nil: none, and err says why
	err     error
	placed  []string // what placement gave: UUIDs or declared names
	visible string   // CUDA_VISIBLE_DEVICES of the job

	mu     sync.Mutex
	last   *gpu.Sample
	engine *process.Process // whose processes are ours
	known  map[int]bool     // processes that were found to be ours
}

// look samples the cards, unless it is too early to do so again.
func (c *cards) look(ctx context.Context, now time.Time) {
	c.mu.Lock()
	last := c.last
	c.mu.Unlock()
	if c.sampler == nil || last != nil && last.Source == "nvidia-smi" && now.Sub(last.At) < smiInterval {
		return
	}
	s, err := c.sampler.Sample(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err = err; err == nil {
		c.last = &s
	}
}

// owner says whose processes are ours from now on; nil = nobody's.
func (c *cards) owner(p *process.Process) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.engine, c.known = p, map[int]bool{}
}

// report is the section for the controller.
func (c *cards) report(now time.Time) *apiv1.GPUs {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := &apiv1.GPUs{At: timestamppb.New(now)}
	if c.err != nil {
		out.Error = c.err.Error()
	}
	if c.last == nil {
		return declared(out, c.placed)
	}
	out.Source, out.At = c.last.Source, timestamppb.New(c.last.At)
	ours := c.oursLocked()
	foreign, _ := gpu.Foreign(*c.last, ours, c.isOursLocked, gpu.Who)
	for _, g := range c.last.GPUs {
		if slices.Contains(ours, g.UUID) {
			out.Gpus = append(out.Gpus, cardReport(g, foreign))
		}
	}
	if len(out.Gpus) == 0 {
		return declared(out, c.placed)
	}
	return out
}

// declared lists cards that are names in a file and nothing more.
func declared(out *apiv1.GPUs, names []string) *apiv1.GPUs {
	if len(names) == 0 || isReal(names[0]) {
		return out
	}
	out.Source, out.Error = "declared", ""
	for _, name := range names {
		out.Gpus = append(out.Gpus, &apiv1.GPU{Uuid: name})
	}
	return out
}

func cardReport(g gpu.GPU, foreign []gpu.ForeignProcess) *apiv1.GPU {
	out := &apiv1.GPU{
		Uuid: g.UUID, Name: g.Name, Index: uint32(max(g.Index, 0)), MigParent: g.MIGParent,
		MemoryTotal: g.MemoryTotal, MemoryUsed: g.MemoryUsed, Utilization: g.Utilization,
		TemperatureC: g.TemperatureC, PowerW: g.PowerW, PowerLimitW: g.PowerLimitW,
		SmClockMhz: g.SMClockMHz, MemoryClockMhz: g.MemClockMHz,
		EccCorrected: g.ECCCorrected, EccUncorrected: g.ECCUncorrected, Xids: g.XIDs,
	}
	for _, f := range foreign {
		if f.GPU != g.UUID {
			continue
		}
		p := &apiv1.GPUProcess{Pid: int64(f.PID), User: f.User, Command: f.Command}
		if f.Memory != nil {
			p.MemoryUsed = *f.Memory
		}
		out.Foreign = append(out.Foreign, p)
	}
	return out
}

// errBusyGPUs: somebody else is on our cards.
var errBusyGPUs = errors.New("other processes hold our GPUs")

// free is nil when nobody else is on our cards, or when that cannot be told.
func (c *cards) free() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last == nil {
		return nil
	}
	foreign, _ := gpu.Foreign(*c.last, c.oursLocked(), c.isOursLocked, gpu.Who)
	if len(foreign) == 0 {
		return nil
	}
	names := make([]string, len(foreign))
	for i, f := range foreign {
		names[i] = f.String()
	}
	return fmt.Errorf("%w: %s", errBusyGPUs, strings.Join(names, "; "))
}

// seen tells whether there is a sample, or never will be.
func (c *cards) seen() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sampler == nil || c.last != nil || c.err != nil
}

// oursLocked are the UUIDs of our cards: those of placement, else those that the job's environment shows, else all.
func (c *cards) oursLocked() []string {
	if len(c.placed) > 0 {
		return slices.DeleteFunc(slices.Clone(c.placed), func(name string) bool { return !isReal(name) })
	}
	var ours []string
	shown := strings.FieldsFunc(c.visible, func(r rune) bool { return r == ',' || r == ' ' })
	for _, g := range c.last.GPUs {
		if len(shown) == 0 || slices.Contains(shown, g.UUID) || slices.Contains(shown, strconv.Itoa(g.Index)) {
			ours = append(ours, g.UUID)
		}
	}
	return ours
}

// isOursLocked looks a process up in the engine's tree. The tree is read anew only for a process not met before.
func (c *cards) isOursLocked(pid int) bool {
	if c.engine == nil {
		return false
	}
	if is, met := c.known[pid]; met {
		return is
	}
	c.known[pid] = false
	if tree, err := c.engine.Tree(); err == nil {
		for _, p := range tree {
			c.known[p.PID] = true
		}
	}
	return c.known[pid]
}

func isReal(name string) bool {
	return strings.HasPrefix(name, "GPU-") || strings.HasPrefix(name, "MIG-")
}
