package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/penstock/penstock/scheduler/route"
	"github.com/penstock/penstock/scheduler/sim"
)

// What routing modes are compared on: simulated engines (scheduler/sim), in virtual time.
const (
	modesReplicas = 8
	modesSeeds    = 10
	modesShift    = 2 * time.Second // by how much each request's time is moved at random, to either side
)

// modesSLO is what counts as good: half of what an idle replica needs for the trace's longest prompts is no use to anybody.
var modesSLO = sim.SLO{TTFT: 2 * time.Second, ITL: 50 * time.Millisecond}

// benchModes compares ways to choose a replica, each on the same trace at 0.5, 0.8 and 1.1 of round-robin's saturation.
func benchModes(ctx context.Context, o *options, r *report) error {
	trace, err := conversationTrace(o, r)
	if err != nil {
		return err
	}
	speed, rate, err := roundRobinSaturation(trace)
	if err != nil {
		return err
	}
	r.note("modes: %s on %d simulated replicas, SLO %s and %s; round-robin is saturated at %.2f times its speed, %.2f requests/s: above, more than %d requests a replica wait in engines",
		trace.Name, modesReplicas, modesSLO.TTFT, modesSLO.ITL, speed, rate, saturatedWaiting)
	for _, share := range []float64{0.5, 0.8, 1.1} {
		if err := modesAt(ctx, trace.Faster(speed*share), share, r); err != nil {
			return err
		}
	}
	return nil
}

// conversationTrace is the one that -trace names, else one that is made up.
func conversationTrace(o *options, r *report) (sim.Trace, error) {
	if o.trace == "" {
		chat := sim.DefaultChat
		chat.Length, chat.Rate, chat.Ask = time.Hour, 1, 3000
		r.note("modes: without -trace FILE, on a made-up trace")
		return chat.Trace(1), nil
	}
	f, err := os.Open(o.trace)
	if err != nil {
		return sim.Trace{}, err
	}
	defer func() { _ = f.Close() }()
	return sim.ReadTrace(o.trace[max(0, len(o.trace)-30):], f)
}

func modesConfig(mode route.Mode) sim.Config {
	c := sim.DefaultConfig()
	c.Mixed, c.Mode, c.SLO = modesReplicas, mode, modesSLO
	return c
}

// saturatedWaiting is how many requests may wait in an engine, on average over the replicas, at any time.
const saturatedWaiting = 8

// roundRobinSaturation is the highest speed of the trace at which round-robin's queues stay bounded, to 2 %.
func roundRobinSaturation(t sim.Trace) (speed, rate float64, err error) {
	bounded := func(speed float64) bool {
		c := modesConfig(route.RoundRobin)
		c.Sample = time.Second
		var res sim.Result
		if res, err = sim.Run(c, t.Faster(speed), nil); err != nil {
			return false
		}
		most := slices.MaxFunc(res.Series, func(a, b sim.Point) int { return a.Waiting - b.Waiting })
		return most.Waiting <= saturatedWaiting*modesReplicas
	}
	low, high := 0.01, 0.02
	for bounded(high) {
		low, high = high, 2*high
	}
	for high/low > 1.02 && err == nil {
		if mid := (low + high) / 2; bounded(mid) {
			low = mid
		} else {
			high = mid
		}
	}
	return low, float64(len(t.Requests)) / t.Faster(low).Requests[len(t.Requests)-1].At.Seconds(), err
}

// seeded are one mode's figures, one for each seed.
type seeded struct{ ttft, mean, e2e, goodput, hit []float64 }

func modesAt(ctx context.Context, t sim.Trace, share float64, r *report) error {
	all := map[route.Mode]*seeded{}
	modes := []route.Mode{route.RoundRobin, route.LeastLoaded, route.LeastTokens, route.DynamoCost, route.ByCost}
	for _, mode := range modes {
		s := &seeded{}
		all[mode] = s
		for seed := range uint64(modesSeeds) {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			res, err := sim.Run(modesConfig(mode), t.Jitter(modesShift, seed), nil)
			if err != nil {
				return err
			}
			s.ttft = append(s.ttft, ms(res.TTFT.P90))
			s.mean = append(s.mean, ms(res.TTFT.Mean))
			s.e2e = append(s.e2e, ms(res.E2E.P90))
			s.goodput = append(s.goodput, res.Goodput())
			s.hit = append(s.hit, res.Hit)
		}
		name := string(mode)
		if mode == route.ByCost {
			name = "cost"
		}
		r.note("%.1f %-12s TTFT p90 %s ms, mean %s ms, whole answer p90 %s ms, goodput %s/s, cached %s", share, name,
			interval(s.ttft), interval(s.mean), interval(s.e2e), interval(s.goodput), interval(s.hit))
	}
	ours := all[route.ByCost]
	for _, mode := range modes[:len(modes)-1] {
		r.figure(fmt.Sprintf("modes_ttft_p90_at_%.1f", share), median(ours.ttft), "ms", string(mode), median(all[mode].ttft), less)
		r.figure(fmt.Sprintf("modes_e2e_p90_at_%.1f", share), median(ours.e2e), "ms", string(mode), median(all[mode].e2e), less)
		r.figure(fmt.Sprintf("modes_goodput_at_%.1f", share), median(ours.goodput), "1/s", string(mode), median(all[mode].goodput), more)
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// interval is the median of some values with the least and the greatest.
func interval(v []float64) string {
	return fmt.Sprintf("%s (%s to %s)", number(median(v)), number(slices.Min(v)), number(slices.Max(v)))
}

// benchSim measures the simulator itself.
func benchSim(_ context.Context, o *options, r *report) error {
	trace, err := conversationTrace(o, r)
	if err != nil {
		return err
	}
	c := modesConfig(route.ByCost)
	c.Host, c.Disk, c.Object = sim.Tier{Bytes: 64 << 30, Bandwidth: 20e9}, sim.Tier{Bytes: 512 << 30, Bandwidth: 3e9}, sim.Tier{Bytes: 4 << 40, Bandwidth: 1e9}
	begin := cpuNow()
	res, err := sim.Run(c, trace, nil)
	if err != nil {
		return err
	}
	r.figure("sim_hour_8_replicas", (cpuNow() - begin).Seconds(), "CPU_s", "goal", 5, less)
	r.note("an hour with tiers: %d requests, %d tokens, cached %.3f", res.Requests, res.Tokens, res.Hit)
	return simLarge(trace, r)
}

// simLarge plays a million requests on a thousand replicas: the trace over and over, with prompts of its own each time.
func simLarge(t sim.Trace, r *report) error {
	const requests, replicas, goal = 1_000_000, 1000, 120.0
	big := sim.Trace{Name: t.Name, BlockTokens: t.BlockTokens, Requests: make([]sim.Request, 0, requests)}
	for copyOf := uint64(0); len(big.Requests) < requests; copyOf++ {
		for _, q := range t.Requests {
			if len(big.Requests) == requests {
				break
			}
			q.Blocks = slices.Clone(q.Blocks)
			for i := range q.Blocks {
				q.Blocks[i] ^= copyOf << 40
			}
			big.Requests = append(big.Requests, q)
		}
	}
	slices.SortStableFunc(big.Requests, func(a, b sim.Request) int { return cmp.Compare(a.At, b.At) })
	c := modesConfig(route.ByCost)
	c.Mixed = replicas
	begin := cpuNow()
	res, err := sim.Run(c, big, nil)
	if err != nil {
		return err
	}
	r.figure("sim_million_requests_1000_replicas", (cpuNow() - begin).Seconds(), "CPU_s", "goal", goal, less)
	peak, err := peakMemory()
	if err != nil {
		return err
	}
	r.figure("sim_million_requests_memory", peak/(1<<20), "MiB", "goal", 2048, less)
	if res.Requests != requests || res.Refused > 0 {
		return errors.New("not all requests were answered")
	}
	return nil
}

// peakMemory is the most that this process has had in memory, in bytes.
func peakMemory() (float64, error) {
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		return 0, err
	}
	return float64(use.Maxrss) * 1024, nil
}
