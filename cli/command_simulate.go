package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/urfave/cli/v2"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/route"
	"github.com/penstock/penstock/scheduler/scale"
	"github.com/penstock/penstock/scheduler/sim"
	"github.com/penstock/penstock/scheduler/sim/picture"
)

func simulateCommand(std IO) *cli.Command {
	return &cli.Command{
		Name: "simulate", Usage: "play a trace of requests on a deployment in virtual time: how many nodes do I ask for?", ArgsUsage: "FILE",
		Description: "Plays the trace on the file's replicas, through the decisions that the gateway makes, and prints what clients would have\n" +
			"seen. --vary asks for several numbers of replicas or sizes of tiers at once; the last line says which is the cheapest\n" +
			"that keeps the file's slo. Traces: JSON lines as the Mooncake project publishes them, the CSV of the Azure LLM traces, a\n" +
			"gateway's usage file; without --trace a chat that is made up. How long an engine's steps take comes from --model (a\n" +
			"file as `penstock simulate --show-model` prints it); without it, it is the simulated engine's. Needs no controller.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "trace", Usage: "the trace's file, - is standard input"},
			&cli.Float64Flag{Name: "speed", Usage: "play the trace so many times as fast", Value: 1},
			&cli.StringSliceFlag{Name: "vary", Usage: "`KEY=VALUES` of the deployment file, such as roles.mixed.replicas=1..8 or kv.host=0,64GiB; may be repeated"},
			&cli.StringFlag{Name: "model", Usage: "performance model of one replica, a YAML file"},
			&cli.BoolFlag{Name: "show-model", Usage: "print the performance model and play nothing"},
			&cli.StringFlag{Name: "route", Usage: "how the gateway chooses: kv, round-robin, random, least-loaded, least-tokens or dynamo", Value: "kv"},
			&cli.IntFlag{Name: "seeds", Usage: "play it so many times, each request moved by up to two seconds, to see how much is chance", Value: 3},
			&cli.Float64Flag{Name: "keep", Usage: "share of the requests that have to keep the slo", Value: 0.9},
			&cli.StringFlag{Name: "plot", Usage: "draw the last combination over time into `FILE`, .svg or .png"},
		},
		Action: action(std, parseSimulate, runSimulate),
	}
}

type simulateOptions struct {
	file, trace, model, plot string
	speed, keep              float64
	vary                     []variation
	mode                     route.Mode
	seeds                    int
	showModel                bool
}

func parseSimulate(c *cli.Context) (o simulateOptions, err error) {
	o = simulateOptions{
		trace: c.String("trace"), model: c.String("model"), plot: c.String("plot"), speed: c.Float64("speed"), keep: c.Float64("keep"),
		seeds: c.Int("seeds"), showModel: c.Bool("show-model"),
	}
	if !o.showModel {
		if o.file, err = one(c, "a deployment file"); err != nil {
			return o, err
		}
	}
	for _, text := range c.StringSlice("vary") {
		v, err := parseVariation(text)
		if err != nil {
			return o, err
		}
		o.vary = append(o.vary, v)
	}
	if o.mode, err = route.ParseMode(c.String("route")); err != nil {
		return o, usageError("--route: %v", err)
	}
	switch ext := filepath.Ext(o.plot); {
	case o.speed <= 0:
		return o, usageError("--speed %g: must be above 0", o.speed)
	case o.seeds < 1 || o.seeds > 1000:
		return o, usageError("--seeds %d: must be from 1 to 1000", o.seeds)
	case o.keep <= 0 || o.keep > 1:
		return o, usageError("--keep %g: must be above 0 and at most 1", o.keep)
	case o.plot != "" && ext != ".svg" && ext != ".png":
		return o, usageError("--plot %s: its name must end in .svg or .png", o.plot)
	}
	return o, nil
}

// simulated is what one combination gave.
type simulated struct {
	variant
	replicas, gpus int
	runs           []sim.Result // one for each seed; the first one has a series
}

func runSimulate(_ context.Context, inv *invocation, o simulateOptions) error {
	model, known, err := inv.readModel(o.model)
	if err != nil {
		return err
	}
	if o.showModel {
		text, err := yaml.Marshal(model)
		if err == nil {
			_, err = inv.Out.Write(text)
		}
		return err
	}
	_, d, err := inv.readDeployment(o.file)
	if err != nil {
		return err
	}
	grid, err := variants(d, o.vary)
	if err != nil {
		return err
	}
	trace, err := inv.readRequests(o)
	if err != nil {
		return err
	}
	if !known && d.Engine.Kind != jobspecs.Sim {
		inv.say("no --model: steps take as long as the simulated engine's, an 8B model's on one card, not your %s's", d.Engine.Kind)
	}
	all := make([]simulated, 0, len(grid))
	progress := inv.newBar("simulate", int64(len(grid)*o.seeds*len(trace.Requests)), "requests")
	done := int64(0)
	for _, v := range grid {
		s := simulated{variant: v}
		for seed := range o.seeds {
			c := simConfig(v.Deployment, model, o.mode)
			t := trace
			if seed > 0 {
				t = trace.Jitter(2*time.Second, uint64(seed))
			}
			if seed == 0 {
				c.Sample = max(time.Second, trace.Length()/150)
			}
			res, err := sim.Run(c, t, func(n int) { progress.at(done + int64(n)) })
			if err != nil {
				return err
			}
			done += int64(len(trace.Requests))
			s.runs = append(s.runs, res)
		}
		for _, kind := range jobspecs.RoleKinds {
			r := v.Roles[kind]
			s.replicas += r.Replicas
			s.gpus += r.Replicas * r.Nodes * r.GPUs.Count
		}
		all = append(all, s)
	}
	progress.end()
	if err := inv.printSimulated(o, d, trace, all); err != nil || o.plot == "" {
		return err
	}
	return inv.plotSimulated(o, d, all[len(all)-1])
}

func (inv *invocation) readModel(file string) (m scale.Model, known bool, err error) {
	if file == "" {
		return scale.Simulated, false, nil
	}
	text, err := os.ReadFile(inv.path(file))
	if err != nil {
		return m, false, fmt.Errorf("read the performance model: %w", err)
	}
	if err := yaml.UnmarshalWithOptions(text, &m, yaml.Strict()); err != nil {
		return m, false, fmt.Errorf("read the performance model %s: %w", file, err)
	}
	if err := m.Validate(); err != nil {
		return m, false, fmt.Errorf("the performance model %s: %w", file, err)
	}
	return m, true, nil
}

// readRequests reads the trace, or makes one up.
func (inv *invocation) readRequests(o simulateOptions) (sim.Trace, error) {
	if o.trace == "" {
		inv.say("no --trace: playing ten minutes of a chat that is made up")
		return sim.DefaultChat.Trace(1).Faster(o.speed), nil
	}
	in, _, err := inv.openTrace(o.trace)
	if err != nil {
		return sim.Trace{}, err
	}
	defer in.Close()
	name := filepath.Base(o.trace)
	if o.trace == "-" {
		name = "standard input"
	}
	t, err := sim.ReadTrace(name, in)
	return t.Faster(o.speed), err
}

// Bandwidths of the tiers below the GPU, in bytes per second of one node, where nobody has measured them: PCIe 4.0, one NVMe drive, a
// 25 Gb/s network.
const (
	hostBandwidth   = 20e9
	diskBandwidth   = 3e9
	objectBandwidth = 2.5e9
)

// unbounded stands for a bucket without a size.
const unbounded = 1 << 50

// simConfig is what a deployment is to the simulator.
func simConfig(d jobspecs.Deployment, m scale.Model, mode route.Mode) sim.Config {
	c := sim.DefaultConfig()
	c.Model, c.Mode = m, mode
	c.Mixed, c.Prefill, c.Decode = d.Roles[jobspecs.Mixed].Replicas, d.Roles[jobspecs.Prefill].Replicas, d.Roles[jobspecs.Decode].Replicas
	c.SLO = sim.SLO{TTFT: time.Duration(d.SLO.TTFT), ITL: time.Duration(d.SLO.ITL)}
	c.Host = sim.Tier{Bytes: int64(d.KV.Host), Bandwidth: hostBandwidth}
	c.Disk = sim.Tier{Bytes: int64(d.KV.Disk.Size), Bandwidth: diskBandwidth}
	if o := d.KV.Object; o != nil {
		c.Object = sim.Tier{Bytes: int64(o.Size), Bandwidth: objectBandwidth}
		if o.Size == 0 && o.URL != "" {
			c.Object.Bytes = unbounded
		}
	}
	return c
}

// over gives the median of a figure of all seeds, with the least and the greatest.
func (s simulated) over(figure func(sim.Result) float64) (median, least, most float64) {
	var v []float64
	for _, r := range s.runs {
		v = append(v, figure(r))
	}
	slices.Sort(v)
	return v[len(v)/2], v[0], v[len(v)-1]
}

func (s simulated) hours() float64 {
	h, _, _ := s.over(func(r sim.Result) float64 { return r.Makespan.Hours() })
	return h
}

func kept(r sim.Result) float64 { return float64(r.InSLO) / float64(max(1, r.Requests)) }

// cheapest is the place of the combination with the fewest GPUs, or replicas where there are no GPUs, that keeps the SLO with every
// seed; -1 where none does.
func cheapest(all []simulated, share float64) int {
	best := -1
	for i, s := range all {
		if _, least, _ := s.over(kept); least < share {
			continue
		}
		if best < 0 || cmp.Or(cmp.Compare(s.gpus, all[best].gpus), cmp.Compare(s.replicas, all[best].replicas)) < 0 {
			best = i
		}
	}
	return best
}

func (inv *invocation) printSimulated(o simulateOptions, d jobspecs.Deployment, trace sim.Trace, all []simulated) error {
	if inv.json() {
		return inv.printJSON("simulation", simulatedDocument(o, trace, all))
	}
	head := []string{}
	for _, v := range o.vary {
		head = append(head, strings.ToUpper(v.path))
	}
	head = append(head, "REPLICAS", "GPUS", "TTFT P50", "P90", "P99", "TOKEN P50", "P99", "CACHED", "IN SLO", "REFUSED", "GPU-HOURS")
	var rows [][]string
	for _, s := range all {
		rows = append(rows, append(slices.Clone(s.values), s.row()...))
	}
	chance := ""
	if o.seeds > 1 {
		chance = fmt.Sprintf("; %d times each, requests moved by up to 2 s", o.seeds)
	}
	inv.say("%s: %d requests over %s, %s%s", trace.Name, len(trace.Requests), trace.Length().Round(time.Second), sloText(d), chance)
	if err := inv.table(head, rows); err != nil {
		return err
	}
	inv.say("%s", whatToAskFor(o, all))
	return nil
}

func (s simulated) row() []string {
	roundTime := func(d time.Duration) string {
		switch {
		case d >= time.Minute:
			return d.Round(time.Second).String()
		case d >= time.Second:
			return fmt.Sprintf("%.2f s", d.Seconds())
		}
		return fmt.Sprintf("%.3g ms", 1000*d.Seconds())
	}
	times := func(f func(sim.Result) time.Duration) string {
		m, _, _ := s.over(func(r sim.Result) float64 { return float64(f(r)) })
		return roundTime(time.Duration(m))
	}
	m, least, most := s.over(func(r sim.Result) float64 { return float64(r.TTFT.P90) })
	p90 := roundTime(time.Duration(m))
	if least < most {
		p90 += fmt.Sprintf(" (%s to %s)", roundTime(time.Duration(least)), roundTime(time.Duration(most)))
	}
	hit, _, _ := s.over(func(r sim.Result) float64 { return r.Hit })
	in, _, _ := s.over(kept)
	refused, _, _ := s.over(func(r sim.Result) float64 { return float64(r.Refused) })
	return []string{
		fmt.Sprint(s.replicas), fmt.Sprint(s.gpus), times(func(r sim.Result) time.Duration { return r.TTFT.P50 }), p90,
		times(func(r sim.Result) time.Duration { return r.TTFT.P99 }), times(func(r sim.Result) time.Duration { return r.ITL.P50 }),
		times(func(r sim.Result) time.Duration { return r.ITL.P99 }), fmt.Sprintf("%.0f %%", 100*hit), fmt.Sprintf("%.1f %%", 100*in),
		fmt.Sprintf("%.0f", refused), fmt.Sprintf("%.1f", float64(s.gpus)*s.hours()),
	}
}

func sloText(d jobspecs.Deployment) string {
	if d.SLO.TTFT == 0 && d.SLO.ITL == 0 {
		return "no slo in the file: every answer counts"
	}
	var parts []string
	if d.SLO.TTFT > 0 {
		parts = append(parts, "first token within "+d.SLO.TTFT.String())
	}
	if d.SLO.ITL > 0 {
		parts = append(parts, d.SLO.ITL.String()+" for each other one")
	}
	return "slo: " + strings.Join(parts, ", ")
}

// whatToAskFor says what to ask for.
func whatToAskFor(o simulateOptions, all []simulated) string {
	at := cheapest(all, o.keep)
	if at < 0 {
		return fmt.Sprintf("none of these keeps the slo for %.0f %% of the requests: try more replicas", 100*o.keep)
	}
	best := all[at]
	what := []string{}
	for i, v := range o.vary {
		what = append(what, v.path+"="+best.values[i])
	}
	if len(what) == 0 {
		what = append(what, "the file as it is")
	}
	return fmt.Sprintf("ask for %s: %d replicas with %d GPUs in all, for %s. It is the least of these that keeps the slo for %.0f %% of the requests every time",
		strings.Join(what, ", "), best.replicas, best.gpus, time.Duration(best.hours()*float64(time.Hour)).Round(time.Second), 100*o.keep)
}

func simulatedDocument(o simulateOptions, trace sim.Trace, all []simulated) map[string]any {
	quantiles := func(q sim.Quantiles) map[string]any {
		return map[string]any{"p50": q.P50.Seconds(), "p90": q.P90.Seconds(), "p99": q.P99.Seconds(), "mean": q.Mean.Seconds()}
	}
	var rows []map[string]any
	for _, s := range all {
		var runs []map[string]any
		for _, r := range s.runs {
			runs = append(runs, map[string]any{
				"requests": r.Requests, "refused": r.Refused, "too_long": r.TooLong, "seconds": r.Makespan.Seconds(), "ttft": quantiles(r.TTFT), "e2e": quantiles(r.E2E),
				"itl": quantiles(r.ITL), "cached": r.Hit, "in_slo": r.InSLO, "goodput": r.Goodput(), "preempted": r.Preempted, "output_tokens": r.Tokens,
			})
		}
		values := map[string]any{}
		for i, v := range o.vary {
			values[v.path] = s.values[i]
		}
		rows = append(rows, map[string]any{"values": values, "replicas": s.replicas, "gpus": s.gpus, "gpu_hours": float64(s.gpus) * s.hours(), "runs": runs})
	}
	doc := map[string]any{"trace": trace.Name, "requests": len(trace.Requests), "keep": o.keep, "combinations": rows, "cheapest": nil}
	if best := cheapest(all, o.keep); best >= 0 {
		doc["cheapest"] = best
	}
	return doc
}

func (inv *invocation) plotSimulated(o simulateOptions, d jobspecs.Deployment, s simulated) error {
	f, err := os.OpenFile(inv.path(o.plot), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return fmt.Errorf("draw the picture: %w", err)
	}
	title := d.Name
	for i, v := range o.vary {
		title += "  " + v.path + "=" + s.values[i]
	}
	err = picture.Draw(f, strings.TrimPrefix(filepath.Ext(o.plot), "."), title, s.runs[0])
	if err = errors.Join(err, f.Close()); err == nil {
		inv.say("picture: %s", o.plot)
	}
	return err
}
