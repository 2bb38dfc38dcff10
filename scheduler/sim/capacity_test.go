package sim

import (
	"math"
	"testing"
	"time"

	"github.com/penstock/penstock/scheduler/scale"
)

// TestCapacityIsWhatTheSimulatorSees: at nine tenths of the rate that scale.Model.Capacity promises, the SLO is kept in the simulator, and at
// one and a half times it is not.
func TestCapacityIsWhatTheSimulatorSees(t *testing.T) {
	for name, tc := range map[string]struct {
		ask, answer float64
		slo         SLO
	}{
		"prompts decide":      {4000, 20, SLO{TTFT: 2 * time.Second}},
		"answers decide":      {500, 500, SLO{ITL: 20 * time.Millisecond}},
		"the cache decides":   {8000, 400, SLO{TTFT: 5 * time.Second, ITL: 60 * time.Millisecond}},
		"both, short prompts": {1000, 200, SLO{TTFT: time.Second, ITL: 25 * time.Millisecond}},
	} {
		t.Run(name, func(t *testing.T) {
			chat := Chat{Rate: 1, Length: 20 * time.Minute, Turns: 1, Ask: tc.ask, Answer: tc.answer, Block: 128, Think: time.Second}
			l := scale.Load{Rate: 1, Prompt: tc.ask + 1, Output: tc.answer + 1}
			m := scale.Simulated
			capacity := m.Capacity(l, scale.Both, scale.SLO{TTFT: tc.slo.TTFT, ITL: tc.slo.ITL})
			kept := func(times float64) float64 {
				chat.Rate = capacity * times
				chat.Length = time.Duration(math.Min(1200, 3000/chat.Rate)) * time.Second
				c := DefaultConfig()
				c.SLO = tc.slo
				r := mustRun(t, c, chat.Trace(3))
				return float64(r.InSLO) / float64(r.Requests)
			}
			below, above := kept(0.9), kept(1.5)
			t.Logf("capacity %.2f/s: %.3f kept at 0.9 of it, %.3f at 1.5", capacity, below, above)
			if below < 0.8 || above > 0.9 {
				t.Errorf("capacity %.2f/s: the SLO is kept for %.3f at 0.9 of it, and for %.3f at 1.5", capacity, below, above)
			}
		})
	}
}
