package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

const engines = 2 // replicas behind the gateway

// benchGateway measures what the gateway adds, and what a request costs it.
func benchGateway(ctx context.Context, o *options, r *report) (err error) {
	w, err := newWorld(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.stop()) }()
	if err := w.deploy(ctx, pacedDeployment(o.self, engines), engines); err != nil {
		return err
	}
	if err := w.serveClients(ctx); err != nil {
		return err
	}
	clients, err := startHelper(o, roleClients)
	if err != nil {
		return err
	}
	defer clients.end()
	defer clients.endWith(ctx)()
	bare, err := startBare(o, w.State(), w.sockets())
	if err != nil {
		return err
	}
	defer bare.end()
	g := &gatewayBench{world: w, report: r, clients: clients, bare: bare}
	if err := g.warm(ctx); err != nil {
		return err
	}
	for _, row := range latencies {
		if !o.wants(row.name()) {
			continue
		}
		if err := g.latency(row); err != nil {
			return err
		}
	}
	return g.cost(ctx, o)
}

// gatewayBench is what the gateway's figures are taken from.
type gatewayBench struct {
	*world
	report  *report
	clients *helper
	bare    *bareWay
}

// direct and through are the two ways to the engines.
func (g *gatewayBench) direct(l load) load {
	l.Network, l.Addresses = "unix", g.sockets()
	return l
}

func (g *gatewayBench) through(l load) load {
	l.Network, l.Addresses, l.Key = "tcp", []string{g.address}, g.key
	return l
}

// barely is the way over the relays that only copy.
func (g *gatewayBench) barely(l load) load {
	l.Network, l.Addresses = "tcp", []string{g.bare.address}
	return l
}

// do makes a load.
func (g *gatewayBench) do(l load) (outcome, error) {
	var out outcome
	if err := g.clients.ask(l, &out); err != nil {
		return out, err
	}
	if out.Error != "" {
		return out, fmt.Errorf("%d clients at %s: %s", l.Clients, l.Addresses[0], out.Error)
	}
	if out.Tokens == 0 && l.Pace.Every == 0 || out.Token == (quantiles{}) && l.Pace.Every > 0 {
		return out, fmt.Errorf("%d clients at %s: nothing came", l.Clients, l.Addresses[0])
	}
	return out, nil
}

// warm waits until the gateway routes to the replicas.
func (g *gatewayBench) warm(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		_, err := g.do(g.through(load{Clients: 8, Tokens: 8, Stream: true, For: 0.5}))
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the gateway does not serve: %w", err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// latencyRow is one row of what is added.
type latencyRow struct {
	streams   int
	step      bool // all streams of an engine at the same instants
	tokens    int  // of each answer
	rounds    int
	ramp, len float64 // seconds
	goal      float64 // ms added to a token, at the 99th percentile; 0 = none
}

// name is the end of the row's figures' names.
func (r latencyRow) name() string {
	if r.step {
		return fmt.Sprintf("%d_step", r.streams)
	}
	return fmt.Sprint(r.streams)
}

const rounds = 3 // of everything that is measured side by side, unless it says otherwise

var latencies = []latencyRow{
	{streams: 1, tokens: 4, rounds: 5, ramp: 0.5, len: 3},
	{streams: 64, tokens: 40, rounds: 5, ramp: 1, len: 2.5, goal: 1},
	{streams: 1000, tokens: 60, rounds: 3, ramp: 4, len: 3, goal: 5},
	{streams: 64, step: true, tokens: 40, rounds: 3, ramp: 1, len: 2.5},
}

// threeWays are the outcomes of one round.
type threeWays struct {
	direct, through, bare outcome
	cores, bareCores      map[string]float64 // used on the way through, and on the bare one
}

// latency measures one row, alternating the ways.
func (g *gatewayBench) latency(row latencyRow) error {
	l := load{
		Clients: row.streams, Stream: true, Tokens: row.tokens, Ramp: row.ramp, For: row.len,
		Pace: pace{First: 100_000, Every: 50_000, Step: row.step},
	}
	pids := g.pids()
	pids["client"], pids["relays"] = []int{g.clients.pid()}, g.bare.pids()
	var outcomes []threeWays
	for round := range row.rounds {
		var p threeWays
		var err error
		ways := []func(){
			func() { p.direct, err = g.do(g.direct(l)) },
			func() { p.through, p.cores, err = g.watched(g.through(l), pids) },
			func() { p.bare, p.bareCores, err = g.watched(g.barely(l), pids) },
		}
		for i := range ways {
			if ways[(round+i)%len(ways)](); err != nil {
				return err
			}
		}
		outcomes = append(outcomes, p)
	}
	g.print(row, outcomes)
	return nil
}

// watched is do, and the cores that processes used in the time that counts.
func (g *gatewayBench) watched(l load, pids map[string][]int) (out outcome, cores map[string]float64, err error) {
	done := make(chan error, 1)
	go func() {
		var err error
		out, err = g.do(l)
		done <- err
	}()
	time.Sleep(seconds(l.Ramp))
	before, busy, begin := usageOf(pids), busyTime(), time.Now()
	time.Sleep(seconds(l.For))
	now, others, took := usageOf(pids), busyTime()-busy, time.Since(begin)
	cores = map[string]float64{}
	for name := range pids {
		cores[name] = now.cores(before, name, took)
		others -= now[name] - before[name]
	}
	cores["others"] = others.Seconds() / took.Seconds()
	return out, cores, <-done
}

// print tells the medians over the rounds.
func (g *gatewayBench) print(row latencyRow, outcomes []threeWays) {
	over := func(f func(threeWays) float64) float64 {
		var v []float64
		for _, p := range outcomes {
			v = append(v, f(p))
		}
		return median(v)
	}
	for _, p99 := range []bool{false, true} {
		q := map[bool]string{false: "p50", true: "p99"}[p99]
		ttft := over(func(p threeWays) float64 { return p.through.Way.of(p99) - p.direct.Way.of(p99) })
		g.report.added("gateway_ttft_"+q+"_added_"+row.name(), ttft, "ms", "direct", over(func(p threeWays) float64 { return p.direct.TTFT.of(p99) }))
		token := over(func(p threeWays) float64 { return p.through.Token.of(p99) - p.direct.Token.of(p99) })
		name := "gateway_token_" + q + "_added_" + row.name()
		if p99 && row.goal > 0 {
			g.report.figure(name, token, "ms", "goal", row.goal, less)
		} else {
			g.report.added(name, token, "ms", "direct", over(func(p threeWays) float64 { return p.direct.Gap.P50 }))
		}
		bare := over(func(p threeWays) float64 { return p.bare.Token.of(p99) - p.direct.Token.of(p99) })
		g.report.figure("gateway_token_"+q+"_beside_relays_"+row.name(), token, "ms", "bare_relays", bare, less)
	}
	var used []string
	for _, name := range []string{"gateway", "agents", "engines", "client", "others"} {
		used = append(used, fmt.Sprintf("%s %.2f", name, over(func(p threeWays) float64 { return p.cores[name] })))
	}
	g.report.note("%s streams: cores used: %s; bare relays in place of gateway and agents %.2f", row.name(), strings.Join(used, ", "),
		over(func(p threeWays) float64 { return p.bareCores["relays"] }))
}
