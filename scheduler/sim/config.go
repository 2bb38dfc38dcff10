package sim

import (
	"errors"
	"fmt"
	"time"

	"github.com/penstock/penstock/scheduler/admit"
	"github.com/penstock/penstock/scheduler/route"
	"github.com/penstock/penstock/scheduler/scale"
)

// Config is what a trace is played on.
type Config struct {
	Model   scale.Model
	Mixed   int // replicas that do both, or else:
	Prefill int
	Decode  int

	Host, Disk Tier // of each replica
	Object     Tier // of all together; its bandwidth is each replica's
	// BytesPerToken is the size of one token's KV, TransferBandwidth how many of them go from prefill to decode in a second.
	BytesPerToken     float64
	TransferBandwidth float64

	Elastic *Elastic // nil = the number of replicas stays

	Mode route.Mode
	SLO  SLO
	// Hold is how long a request may have to wait on the best replica and is still given to it: beyond, it waits at the gateway,
	// which can still choose another one. 0 = the gateway holds nothing.
	Hold  time.Duration
	Line  admit.Bounds  // of who waits at the gateway
	Limit time.Duration // after which a request that still waits at the gateway is refused; 0 = never
	// ReportEvery is the age that an engine's own figures reach before there are new ones.
	ReportEvery time.Duration
	Sample      time.Duration // between two points of Result.Series; 0 = none
}

// SLO is what clients should see. Zero = none.
type SLO struct{ TTFT, ITL time.Duration }

// DefaultConfig is one mixed replica of the simulated engine, chosen for by cost, with no tiers.
func DefaultConfig() Config {
	return Config{
		Model: scale.Simulated, Mixed: 1, BytesPerToken: 131072, TransferBandwidth: 64e9, ReportEvery: time.Second,
	}
}

func (c *Config) validate(t *Trace) error {
	m := &c.Model
	switch {
	case c.Elastic != nil && (c.Prefill > 0 || c.Decode > 0):
		return errors.New("simulate: only the number of mixed replicas can change")
	case c.Mixed < 0 || c.Prefill < 0 || c.Decode < 0 || c.Mixed+c.Prefill+c.Decode == 0 && c.Elastic == nil:
		return errors.New("simulate: there is no replica")
	case (c.Prefill > 0) != (c.Decode > 0) || c.Mixed > 0 && c.Prefill > 0:
		return errors.New("simulate: replicas are mixed, or else prefill and decode together")
	case m.BlockTokens < 1 || m.KVTokens < m.BlockTokens || m.MaxSeqs < 1 || m.MaxBatched < 1:
		return fmt.Errorf("simulate: a performance model needs its sizes (got %+v)", *m)
	case t.BlockTokens%m.BlockTokens != 0 || t.BlockTokens < m.BlockTokens:
		return fmt.Errorf("simulate: blocks of the trace (%d tokens) must be whole numbers of the engine's (%d tokens)", t.BlockTokens, m.BlockTokens)
	}
	return nil
}
